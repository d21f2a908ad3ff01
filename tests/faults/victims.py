"""Processes for passes to catch: with a freed value in all places, and held up where passes must not meet them."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from capshm import Capability, Machine, RevocationIncomplete
from capshm import cheribsd as bsd
from capshm._native import lib
from capshm.testing import steps
from capshm.testing.stepping import _ptrace
from tests.conformance.cheribsd.revocation import as_freed, shadow_of
from tests.faults.processes import Child, stop_here
from tests.faults.residue import Residue

PAGE = 4096
RW = bsd.PROT_READ | bsd.PROT_WRITE
OPERATIONS = ["store", "load", "fill", "copy"]

_SEIZE = 0x4206


def anonymous(length: int = PAGE) -> Capability:
    """Memory of this process's own."""
    return bsd.mmap(None, length, RW, bsd.MAP_ANON | bsd.MAP_PRIVATE)


def owned() -> Capability:
    """A page of an object of this process's own."""
    descriptor = bsd.shm_open(bsd.SHM_ANON, os.O_RDWR)
    os.ftruncate(descriptor, PAGE)
    try:
        return bsd.mmap(None, PAGE, RW | bsd.PROT_CAP, bsd.MAP_SHARED, descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def clean_machine(*names: str, **settings: object) -> Iterator[Machine]:
    """A machine, of which nothing is left afterwards."""
    machine = Machine(*names, **settings)  # type: ignore[arg-type]
    with Residue(machine.name), machine:
        yield machine


class Freed:
    """A painted value of this process, in its registers, its memory and an object of its own."""

    def __init__(self) -> None:
        self._object, self._memory = owned(), anonymous()
        self._value = as_freed(self._object)
        for place in (self._object, self._memory):
            place.store_capability(16, self._value)
        self._loaded = [self._value, self._memory.load_capability(16)]
        shadow_of(self._object).paint(self._value)

    def use(self, name: str) -> None:
        """Do one of OPERATIONS to it."""
        if name == "store":
            self._object.store_capability(0, self._value)
        elif name == "load":
            self._loaded.append(self._object.load_capability(16))
        elif name == "fill":
            self._object.fill_capabilities(512, 8, self._value)
        else:
            (self._object + 16).copy_to(self._memory + 1024, 16)

    def check(self) -> None:
        """It was revoked: no tag is left."""
        assert [each.tag for each in self._loaded if each.tag] == []
        for place in (self._object, self._memory):
            assert [offset for offset in range(0, PAGE, 16) if place.load_capability(offset).tag] == []


def finish(victim: Child) -> None:
    """Being stopped, it goes on, finds no tag, and ends well."""
    victim.resume()
    while victim.wait_stopped():
        victim.resume()
    assert victim.wait() == 0


def stragglers_of(machine: Machine) -> list[tuple[int, str]]:
    """Make a pass, and return who has kept it from being complete."""
    try:
        machine.revoke()
    except RevocationIncomplete as error:
        return error.processes
    return []


def stop_inside(operation: Callable[[], object], step: str = "LOAD_BEGUN", action: str = "stop") -> None:
    """Carry the operation out; at that step of it this process stops or kills itself."""
    with steps.armed(step, action=action):
        operation()


def stop_amid_fork() -> None:
    """Stop where nobody runs this process out of its operation: as if it had been about to fork."""
    lib.capshm_fork_before()
    stop_here()
    lib.capshm_fork_in_parent()


def state_of(pid: int) -> str:
    """The letter of a process's state."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]


def assert_still_stopped(pid: int) -> None:
    """A child whose stop was waited for is still in that stop, or on its way back into it."""
    while state_of(pid) != "T":
        os.sched_yield()
    assert os.waitpid(pid, os.WNOHANG | os.WUNTRACED | os.WCONTINUED) == (0, 0), "it went on, and has stopped again"


def field_of(pid: int, title: str) -> str:
    """A line of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(line.split(":")[1].strip() for line in lines if line.startswith(f"{title}:"))


def skip_without_tracing() -> None:
    """Skip the test where a process may not trace one that is neither its child nor another user's."""

    def seize(pid: int) -> None:
        try:
            _ptrace(_SEIZE, pid)
        except OSError:
            os._exit(2)

    with Child(stop_here) as stopped:
        assert stopped.wait_stopped()
        with Child(lambda: seize(stopped.pid)) as tracer:
            if tracer.wait():
                pytest.skip("this machine does not let a process trace another (ptrace)")
