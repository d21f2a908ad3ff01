"""Prints what workers have done as a program that can be run.

Every process runs the whole program and does the lines that are its own; a counter in shared memory says whose turn it
is. So the lines happen in the order in which they stand, in the processes that they name, and a fork is a fork.
"""

from typing import NamedTuple

from capshm import cheribsd as bsd
from tests.properties.machine_workers import Outcome

_ACCESS = ("READ", "WRITE", "EXEC", "CAP", "NO_CAP")
_FLAGS = ("SHARED", "PRIVATE", "FIXED", "STACK", "ANON", "GUARD", "EXCL", "PREFAULT_READ")
_INHERIT = ("SHARE", "COPY", "NONE", "ZERO")


class Step(NamedTuple):
    """A line. expression: what is looked at afterwards. expected: by the reference."""

    process: str
    statement: str
    expression: str
    expected: Outcome


def prot(value: int) -> str:
    """A protection argument as source."""
    parts = _names(value & 0xFFFF, "PROT_", _ACCESS)
    most = _names(value >> 16, "PROT_", _ACCESS)
    if most:
        parts.append(f"bsd.PROT_MAX({' | '.join(most)})")
    return " | ".join(parts) or "bsd.PROT_NONE"


def flags(value: int) -> str:
    """The flags of mmap as source."""
    return " | ".join(_names(value, "MAP_", _FLAGS)) or "0"


def inherit(value: int) -> str:
    """An inheritance as source."""
    return f"bsd.INHERIT_{_INHERIT[value]}" if 0 <= value < len(_INHERIT) else str(value)


def _names(value: int, prefix: str, names: tuple[str, ...]) -> list[str]:
    found = []
    for name in names:
        bit: int = getattr(bsd, prefix + name)
        if value & bit == bit:
            found.append(f"bsd.{prefix}{name}")
            value &= ~bit
    return found + ([hex(value)] if value else [])


_HEAD = '''\
"""Found by tests/properties/test_machine.py, seed {seed}. Run it with the Python of .venv, in the project's folder."""

import contextlib
import ctypes
import mmap
import os
import signal
import socket
import struct
import sys
import traceback

import capshm
from capshm import cheribsd as bsd
from tests.properties.machine_workers import granule, said

me, done, is_exec, baton_fd, *ends = sys.argv[1:6] if len(sys.argv) > 1 else ("main", 0, 0, 0)
done, is_exec, baton_fd = int(done), int(is_exec), int(baton_fd)
mine, line = False, 0
if me == "main":
    baton_fd = os.memfd_create("baton", 0)
    os.ftruncate(baton_fd, 4096)
else:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
baton = memoryview(mmap.mmap(baton_fd, 4096)).cast("Q")  # how many lines are done; then the pids
left, right = (socket.socket(fileno=int(end)) for end in ends[0].split(",")) if ends else socket.socketpair()
for end in (left, right):
    os.set_inheritable(end.fileno(), True)
FAILED = 1 << 60


def turn(who):
    """Wait until all lines before are done; whether this one is ours."""
    global mine, line
    baton[0] += mine
    line += 1
    while line > done and baton[0] < line - 1:
        os.sched_yield()
    if baton[0] >= FAILED:
        sys.exit(1)
    mine = line > done and who == me or bool(line == done and is_exec)
    return mine and line > done


def pid_of(who):
    while not baton[int(who[1:]) + 1]:
        os.sched_yield()
    return baton[int(who[1:]) + 1]


def begin():
    baton[int(me[1:]) + 1] = os.getpid()


def fork(child):
    global me, mine
    if os.fork() == 0:
        me, mine = child, False
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        begin()


def command(who, is_exec, descriptors=()):
    sockets = f"{{left.fileno()}},{{right.fileno()}}"
    kept = ",".join(str(each) for each in descriptors)
    return [sys.executable, __file__, who, str(line), str(is_exec), str(baton_fd), sockets, kept]


def exec_again(*descriptors):
    os.set_inheritable(baton_fd, True)
    os.execv(sys.executable, command(me, 1, descriptors))


def kept_descriptors():
    return [int(each) for each in sys.argv[6].split(",") if each]


def spawn(machine, who):
    machine.spawn(command(who, 0), pass_fds=[baton_fd, left.fileno(), right.fileno()])
    pid_of(who)


def wait_until_gone(machine, who):
    while any(each.pid == pid_of(who) for each in machine.processes()):
        os.sched_yield()


def same(value, expected):
    if value != expected:
        print(f"{{me}}, line {{line}}: {{value}}, not {{expected}}")


@contextlib.contextmanager
def expect(what):
    try:
        yield
        print(f"{{me}}, line {{line}}: went well, not {{what}}")
    except (capshm.CapshmError, OSError) as error:
        if what not in (getattr(error, "rule", ""), type(error).__name__):
            print(f"{{me}}, line {{line}}: {{error!r}}, not {{what}}")


def program(machine):
'''

_TAIL = '''\
    turn("")


try:
    if me == "main":
        with capshm.Machine(policy="{policy}") as machine:
            os.environ["CAPSHM_MACHINE"] = machine.name
            program(machine)
            if me != "main":
                os._exit(0)
    else:
        capshm.attach()
        begin()
        program(None)
except BaseException:
    baton[0] = FAILED
    raise
'''


def text(policy: str, seed: int, steps: list[Step]) -> str:
    """The whole program."""
    lines = []
    for step in steps:
        lines += [f'    if turn("{step.process}"):', *_body(step)]
    return _HEAD.format(seed=seed) + "\n".join(lines) + "\n" + _TAIL.format(policy=policy)


def _body(step: Step) -> list[str]:
    expected = step.expected
    if expected.kind == "refused" or expected.kind in ("fault", "error"):
        what = expected.value[1] if expected.kind == "refused" else expected.value
        what = what[0] if isinstance(what, tuple) else what
        return [f'        with expect("{what}"):', f"            {step.statement or step.expression}"]
    body = [f"        {step.statement}"] if step.statement else []
    if step.expression and not step.expression.startswith("said("):
        body.append(f"        same({step.expression}, {expected.value!r})")
    if expected.kind == "death":
        body[-1] += "  # must end the process"
    return body
