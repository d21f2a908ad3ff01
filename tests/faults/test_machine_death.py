"""Deaths in a machine, at any system call and at any moment: what is promised as P1 to P6.

Each body runs within a `Residue`, which looks at the end for whatever the machine could have left behind, and reads the
whole audit.
"""

import errno
import os
import random
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from capshm import BrokerGone, Capability, Machine, NotAttached, Refused
from capshm import cheribsd as bsd
from capshm._children import fork_to_run
from capshm.testing.system_calls import CallStepper
from tests.faults.isolation import isolated
from tests.faults.machines import wait_until_alone
from tests.faults.processes import Child, Event, ask_child
from tests.faults.residue import Residue, descriptors, maps, others_in_session, wait_for_end

_DATA = bsd.PROT_READ | bsd.PROT_WRITE
_ALL = _DATA | bsd.PROT_CAP
_PAGE = 4096
_SIZE = 2 * _PAGE


@contextmanager
def _machine(*, is_tail_allowed: bool = False, **settings: object) -> Iterator[Machine]:
    """A machine with an audit file, and the check that nothing of it is left."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "audit"
        machine = Machine(audit=log, **settings)  # type: ignore[arg-type]
        with Residue(machine.name, log, is_tail_allowed=is_tail_allowed), machine:
            yield machine


def _share() -> Capability:
    """Memory that this process and its children share, capabilities included."""
    return bsd.mmap(None, _SIZE, _ALL, bsd.MAP_ANON | bsd.MAP_SHARED)


def _own() -> Capability:
    """Memory of an object of this process, with its tags."""
    fd = bsd.shm_open(bsd.SHM_ANON, os.O_RDWR)
    try:
        os.ftruncate(fd, _SIZE)
        return bsd.mmap(None, _SIZE, _ALL, bsd.MAP_SHARED, fd)
    finally:
        os.close(fd)


def _map_own() -> None:
    _own().store_capability(0, _share())


def _fork_and_wait() -> None:
    with Child(lambda: None) as child:
        assert child.wait() == 0


def _open_and_unlink() -> None:
    fd = bsd.shm_open("/death", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, _SIZE)
    os.close(fd)
    bsd.shm_unlink("/death")


_OPERATIONS: dict[str, Callable[[], object]] = {
    "mmap": lambda: bsd.mmap(None, _SIZE, _ALL, bsd.MAP_ANON | bsd.MAP_SHARED),
    "fork": _fork_and_wait,
    "shm_open": _open_and_unlink,
}


def _check_works(area: Capability) -> None:
    """The machine, and a capability in shared memory, are as good as before."""
    value = area.with_bounds(64)
    area.store_capability(16, value)
    assert ask_child(lambda: area.load_capability(16).tag)
    _map_own()


def _check_gone(area: Capability, *, may_be_unattached: bool = False) -> None:
    """Whoever needs the broker is told that it is gone, and has gained nothing."""
    gone = (BrokerGone, NotAttached) if may_be_unattached else BrokerGone
    here = [line for line in maps(os.getpid()) if "capshm-" in line]
    requests: list[Callable[[], object]] = [
        lambda: bsd.mmap(None, _PAGE, _ALL, bsd.MAP_ANON | bsd.MAP_SHARED),
        lambda: bsd.mmap(None, _PAGE, _DATA, bsd.MAP_ANON | bsd.MAP_PRIVATE),
        lambda: bsd.mprotect(area, _PAGE, _DATA),
        lambda: bsd.minherit(area, _SIZE, bsd.INHERIT_NONE),
        lambda: bsd.munmap(area, _SIZE),
        lambda: bsd.shm_open("/gone", os.O_RDWR | os.O_CREAT),
        lambda: bsd.memfd_create("gone"),
        lambda: bsd.shm_unlink("/gone"),
        lambda: bsd.shmget(1, _PAGE, bsd.IPC_CREAT),
        lambda: bsd.procctl(bsd.PROC_SHARECAP_CTL, bsd.PROC_SHARECAP_ENABLE),
    ]
    for request in requests:
        with pytest.raises(gone):
            request()
    assert [line for line in maps(os.getpid()) if "capshm-" in line] == here


# A client dies


@pytest.mark.slow
@pytest.mark.parametrize("operation", _OPERATIONS)
@isolated()
def test_client_killed_at_each_system_call(operation: str) -> None:
    """A process that dies at any system call of an operation is gone for the broker, and the others go on."""
    with _machine() as machine:
        area = _share()
        _check_works(area)
        wait_until_alone(machine)
        objects = machine.objects()
        held = len(descriptors(machine.broker_pid))
        number = 1
        while True:
            with CallStepper.run(_OPERATIONS[operation]) as child:
                is_killed = child.run_to_call(number)
                if is_killed:
                    child.kill()
                    assert child.status() == -signal.SIGKILL
                else:
                    assert child.wait() == 0
            wait_until_alone(machine)  # the death, or that of its own child, is on its way to the broker
            assert machine.processes()[0].pid == os.getpid()
            with suppress(Refused):
                bsd.shm_unlink("/death")  # a name is the machine's, and outlives whoever gave it
            while machine.objects() != objects:
                os.sched_yield()
            wait_until_alone(machine, held)
            if not is_killed:
                break
            number += 1
        assert number > 8
        _check_works(area)


@pytest.mark.slow
@isolated()
def test_forked_child_killed_at_each_system_call() -> None:
    """A child that dies at any system call of its way into the machine leaves neither a process nor its plan."""
    with _machine() as machine:
        area = _share()
        number = 1
        while _fork_and_kill_at(number):
            number += 1
            wait_until_alone(machine)
        assert number > 4
        _check_works(area)
        events = [each.event for each in machine.audit()]
        assert "fork failed" in events
        assert events.count("fork") == events.count("forked") + events.count("fork failed")


def _fork_and_kill_at(number: int) -> bool:
    """Kill the child of a fork at its system call of that number. False: it has ended by itself before."""
    with CallStepper.run(_fork_and_reap) as parent, parent.run_to_fork() as child:
        is_killed = child.run_to_call(number)
        child.kill()
        assert parent.wait() == (1 if is_killed else 0)
    return is_killed


def _fork_and_reap() -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    return int(os.waitpid(pid, 0)[1] != 0)


@pytest.mark.slow
@isolated()
def test_parent_that_dies_before_its_child_attaches() -> None:
    """A child whose parent dies between the fork and the child's first packet becomes a process of the machine."""
    with _machine() as machine:
        area = _share()
        area.store_capability(0, area)

        def body() -> int:
            if os.fork():
                signal.pause()
            _check_works(area)
            os._exit(0 if area.load_capability(0).tag else 1)

        with CallStepper.run(body) as parent, parent.run_to_fork() as child:
            child.run_to_call(1)
            os.kill(parent.pid, signal.SIGKILL)
            assert parent.wait() == -signal.SIGKILL
            while parent.pid in [each.pid for each in machine.processes()]:
                os.sched_yield()
            while child.run_to_call(1):  # to its end
                pass
            assert child.status() == 0
        wait_until_alone(machine)
        _check_works(area)


_ENDS: dict[str, tuple[Callable[[], object], int]] = {
    "os._exit": (lambda: os._exit(3), 3),
    "exit": (lambda: sys.exit(3), 1),  # caught by Child, which says so
    "SIGKILL": (lambda: os.kill(os.getpid(), signal.SIGKILL), -signal.SIGKILL),
    "SIGSEGV": (lambda: os.kill(os.getpid(), signal.SIGSEGV), -signal.SIGSEGV),
    "exec": (lambda: os.execv("/bin/sh", ["sh", "-c", "exit 3"]), 3),
}


@pytest.mark.slow
@pytest.mark.parametrize("end", _ENDS)
@isolated()
def test_ways_to_end(end: str) -> None:
    """However a process ends, by exec too, its part in the machine, its objects and their tags end with it."""
    how, status = _ENDS[end]
    with _machine() as machine:
        area = _share()
        count = len(machine.objects())
        held = len(descriptors(machine.broker_pid))

        def body() -> None:
            _map_own()
            area.store_capability(0, area)
            how()

        with Child(body) as child:
            assert child.wait() == status
        while len(machine.processes()) > 1 or len(machine.objects()) > count:
            os.sched_yield()
        assert len(descriptors(machine.broker_pid)) == held
        assert area.load_capability(0).tag
        _check_works(area)


@pytest.mark.slow
@isolated()
def test_exec_has_nothing_of_the_machine() -> None:
    """After exec a process is another program: nothing of the machine is open or mapped in it."""
    with _machine() as machine:
        _map_own()
        text = "import os; os.execv('/bin/sh', ['sh', '-c', 'ls -l /proc/$$/fd; cat /proc/$$/maps'])"
        read, write = os.pipe()

        def body() -> None:
            assert any("socket:" in each for each in descriptors(os.getpid()))
            assert any("memfd:capshm-gate" in line for line in maps(os.getpid()))
            os.dup2(write, 1)
            exec(text)

        with Child(body) as child:
            os.close(write)
            with os.fdopen(read, encoding="utf-8") as pipe:
                shown = pipe.read()
            assert child.wait() == 0
        links = [line.partition(" -> ")[2] for line in shown.splitlines() if re.search(r" [3-9]\d* -> ", line)]
        assert any(re.search(r" 1 -> pipe:", line) for line in shown.splitlines())  # the descriptors were listed,
        assert "[stack]" in shown  # and the mappings
        assert not [link for link in links if link.startswith("socket:")]
        assert "memfd:" not in shown
        assert "/dev/shm/" not in shown
        wait_until_alone(machine)


# The broker dies


@pytest.mark.slow
@pytest.mark.parametrize("operation", _OPERATIONS)
@isolated(bound=240)
def test_broker_killed_at_each_system_call(operation: str) -> None:
    """Whoever asks a broker that dies at any system call is told BrokerGone, gains nothing, and nothing is left."""
    number = 1
    while _kill_broker_at(number, _OPERATIONS[operation]):
        number += 1
    assert number > 8


def _kill_broker_at(number: int, operation: Callable[[], object]) -> bool:
    """False: the operation needs fewer system calls of the broker."""
    with _machine(is_tail_allowed=True) as machine:
        area = _share()
        begin = Event()

        def ask() -> None:
            begin.wait()
            try:
                operation()
            except (BrokerGone, AssertionError):  # a fork is not refused: its child is unattached, and has failed
                _check_gone(area)

        pid = fork_to_run(ask)
        while len(machine.processes()) < 2:
            os.sched_yield()
        with CallStepper(machine.broker_pid) as broker:
            begin.set()
            is_killed = broker.run_to_call(number, beside=pid)
            if is_killed:
                os.kill(broker.pid, signal.SIGKILL)
        if is_killed:
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            _check_gone(area)
        else:
            assert broker.status(pid) == 0
        begin.close()
    return is_killed


@pytest.mark.slow
@isolated()
def test_fork_after_the_death_of_the_broker() -> None:
    """A child that is forked when the broker is gone can use no capability, and is told BrokerGone by every request."""
    with _machine(is_tail_allowed=True) as machine:
        area, own = _share(), _own()
        own.store_capability(0, own)
        os.kill(machine.broker_pid, signal.SIGKILL)
        wait_for_end(machine.broker_pid)

        def body() -> None:
            with pytest.raises(NotAttached):
                area.load_capability(0)
            with pytest.raises(NotAttached):
                own.load_capability(0)
            _check_gone(area, may_be_unattached=True)

        with Child(body) as child:
            assert child.wait() == 0
        assert own.load_capability(0).tag
        _check_gone(area)


@pytest.mark.slow
@isolated()
def test_broker_killed_under_load() -> None:
    """At a random moment under load the broker's death reaches all processes, and the audit has no gap."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    chance = random.Random(seed)
    for _ in range(5):
        with _machine(is_tail_allowed=True) as machine:
            area = _share()
            workers = [Child(partial(_work_until_gone, area)) for _ in range(3)]
            for _ in range(chance.randrange(100)):
                machine.processes()
            os.kill(machine.broker_pid, signal.SIGKILL)
            assert [worker.wait() for worker in workers] == [0, 0, 0]
            _check_gone(area)


def _work_until_gone(area: Capability) -> None:
    try:
        while True:
            for operation in _OPERATIONS.values():
                mapped = operation()
                if isinstance(mapped, Capability):
                    area.store_capability(0, mapped)
                    bsd.munmap(mapped, _SIZE)
    except (BrokerGone, AssertionError, Refused) as error:
        if isinstance(error, Refused):  # another worker has taken the name away meanwhile
            if error.errno != errno.ENOENT:
                raise
            _work_until_gone(area)
            return
        _check_gone(area)


# The creator dies


@pytest.mark.slow
@pytest.mark.parametrize("is_broker_first", [False, True])
@isolated()
def test_creator_killed(is_broker_first: bool) -> None:
    """When the creator dies the broker ends the other processes and itself; without a broker they are left alone."""
    read, write = os.pipe()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "audit"
        machine = Machine(audit=log)

        def create() -> None:
            with machine:
                _map_own()
                waiting = Event()
                for _ in range(2):
                    Child(waiting.wait)
                os.write(write, str(machine.broker_pid).encode())
                waiting.wait()

        with Residue(machine.name, log, is_tail_allowed=is_broker_first):
            with Child(create) as creator:
                broker = int(os.read(read, 100))
                others = [pid for pid in others_in_session() if pid not in (broker, creator.pid)]
                assert len(others) >= 2
                if is_broker_first:
                    os.kill(broker, signal.SIGKILL)
                creator.kill()
            wait_for_end(broker)
            if is_broker_first:
                for pid in others:
                    os.kill(pid, signal.SIGKILL)


# Everything at once


@pytest.mark.slow
@pytest.mark.parametrize("round", range(3))
@isolated(bound=240)
def test_nemesis(round: int) -> None:
    """Processes map, share, fork and die at random; the survivors and the machine are as good as new."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    chance = random.Random(seed)
    with _machine() as machine:
        area = _share()
        count = len(machine.objects())
        held = len(descriptors(machine.broker_pid))
        children: list[Child] = []
        for _ in range(60):
            if len(children) < 6:
                number = chance.randrange(1 << 32)
                children.append(Child(lambda number=number: _misbehave(random.Random(number), area)))  # type: ignore[misc]
            victim = chance.choice(children)
            match chance.randrange(4):
                case 0:
                    victim.kill()
                    children.remove(victim)
                case 1:
                    os.kill(victim.pid, signal.SIGSTOP)
                case 2:
                    os.kill(victim.pid, signal.SIGCONT)
                case _:
                    with Child(lambda: None) as child:
                        assert child.wait() == 0
            with suppress(Refused):
                bsd.munmap(_share(), _SIZE)
        for victim in children:
            victim.kill()
        for each in machine.processes():  # those whose parents were killed
            if each.pid != os.getpid():
                with suppress(ProcessLookupError):
                    os.kill(each.pid, signal.SIGKILL)
        while len(machine.processes()) > 1:
            for each in machine.processes():
                if each.pid != os.getpid():
                    with suppress(ProcessLookupError):
                        os.kill(each.pid, signal.SIGKILL)
        with suppress(Refused):
            bsd.shm_unlink("/death")
        while len(machine.objects()) > count:
            os.sched_yield()
        wait_until_alone(machine, held)
        _check_works(area)
        numbers = [each.number for each in machine.audit()]
        assert numbers == list(range(1, len(numbers) + 1))


def _misbehave(chance: random.Random, area: Capability, depth: int = 0) -> None:
    for _ in range(chance.randrange(200) if depth else 1 << 30):
        with suppress(Refused):
            match chance.randrange(6):
                case 0:
                    _map_own()
                case 1:
                    area.store_capability(16 * chance.randrange(64), area)
                case 2:
                    fd = bsd.shm_open("/death", os.O_RDWR | os.O_CREAT, 0o600)
                    os.close(fd)
                case 3:
                    bsd.shm_unlink("/death")
                case 4:
                    if os.fork() == 0:
                        if depth == 2 or chance.randrange(2):
                            os._exit(0)
                        _misbehave(chance, area, depth + 1)
                    os.wait()
                case _:
                    bsd.munmap(bsd.mmap(None, _SIZE, _ALL, bsd.MAP_ANON | bsd.MAP_PRIVATE), _SIZE)
    os._exit(0)
