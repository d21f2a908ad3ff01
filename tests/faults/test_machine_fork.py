"""Forks in a machine: many at once, from several threads, ones that fail, and ones that nobody was told of."""

import ctypes
import errno
import os
import resource
import sys
import threading
from collections.abc import Callable

import pytest

from capshm import Capability, CapshmError, Machine, NotAttached, client, current
from capshm import cheribsd as bsd
from tests.faults.forks import FORKS, fork_among_threads
from tests.faults.isolation import isolated
from tests.faults.machines import SIZE, new_machine, own, share, wait_until_alone
from tests.faults.plain_user import become_plain
from tests.faults.processes import Child, ask_child, join
from tests.faults.residue import descriptors, maps
from tests.faults.test_attach import _forbid_system_call


def _check_member(area: Capability) -> None:
    """This process can do what a process of the machine can do."""
    assert current().pid == os.getpid()
    area.store_capability(0, area.with_bounds(64))
    assert area.load_capability(0).tag
    mine = own()
    mine.store_capability(0, mine)
    assert mine.load_capability(0).tag
    bsd.munmap(mine, SIZE)


def _in_threads(*bodies: Callable[[], object]) -> None:
    """Run them at the same time; raises what one of them has raised."""
    failures: list[BaseException] = []

    def run(body: Callable[[], object]) -> None:
        try:
            body()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        join(thread)
    if failures:
        raise failures[0]


@pytest.mark.slow
@isolated()
def test_concurrent_forks() -> None:
    """Two threads that fork again and again: every child is a process of its own in the machine."""
    with new_machine() as machine:
        area = share()

        def work() -> None:
            for _ in range(15):
                with Child(lambda: _check_member(area), fork=fork_among_threads) as child:
                    assert child.wait() == 0

        _in_threads(work, work)
        wait_until_alone(machine)
        serials = [each.vmspace for each in machine.audit() if each.event == "forked"]
        assert len(serials) == len(set(serials)) == 30
        _check_member(area)


@pytest.mark.slow
@isolated()
def test_fork_of_a_fork_of_a_fork() -> None:
    """Each generation is attached, knows its parent, and has an address space that was never there before."""
    with new_machine() as machine:
        area = share()

        def generation(left: int) -> list[tuple[int, int, int]]:
            _check_member(area)
            me = (os.getppid(), current().pid, current().vmspace)
            return [me] + (ask_child(lambda: generation(left - 1)) if left else [])

        rows = generation(4)
        assert len({vmspace for _, _, vmspace in rows}) == 5
        assert [parent for parent, _, _ in rows[1:]] == [pid for _, pid, _ in rows[:-1]]
        wait_until_alone(machine)


@pytest.mark.slow
@isolated()
def test_owner_bound_tags_end_at_each_generation() -> None:
    """What a child owns its own child cannot reach, and the grandparent's stays out of reach for all of them."""
    with new_machine() as machine:

        def generation(left: int, older: list[Capability]) -> None:
            for area in older:
                assert not area.load_capability(0).tag
                with pytest.raises(CapshmError):
                    area.store_capability(16, area)
            mine = own()
            mine.store_capability(0, mine)
            assert mine.load_capability(0).tag
            if left:
                ask_child(lambda: generation(left - 1, [*older, mine]))
            assert mine.load_capability(0).tag

        generation(3, [])
        wait_until_alone(machine)


@pytest.mark.slow
@isolated()
def test_fork_beside_busy_threads() -> None:
    """Forks while other threads are inside operations and inside requests: neither waits for the other for ever."""
    with new_machine() as machine:
        area = share()
        end = threading.Event()

        def store() -> None:
            while not end.is_set():
                area.store_capability(32, area)
                assert area.load_capability(32).tag

        def ask() -> None:
            while not end.is_set():
                bsd.munmap(share(), SIZE)

        def fork() -> None:
            try:
                for _ in range(25):
                    with Child(lambda: _check_member(area), fork=fork_among_threads) as child:
                        assert child.wait() == 0
            finally:
                end.set()

        _in_threads(store, ask, fork)
        wait_until_alone(machine)
        _check_member(area)


@pytest.mark.slow
@isolated()
def test_fork_that_the_limit_refuses() -> None:
    """A fork that fails for the number of processes changes nothing here, and the broker forgets its plan."""
    become_plain()  # the limit does not bind root
    with new_machine() as machine:
        area = share()
        _check_member(area)
        held, mine = len(descriptors(machine.broker_pid)), descriptors(os.getpid())
        _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
        resource.setrlimit(resource.RLIMIT_NPROC, (1, hard))
        for _ in range(3):
            with pytest.raises(OSError, match="temporarily unavailable") as caught:
                os.fork()
            assert caught.value.errno == errno.EAGAIN
        resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
        assert descriptors(os.getpid()) == mine
        events: list[str] = []
        while events.count("fork failed") < 3:  # the ends of the children's connections are on their way
            events = [each.event for each in machine.audit()]
        assert events.count("fork failed") == events.count("fork") == 3
        while len(descriptors(machine.broker_pid)) > held:  # recorded first, and closed then
            os.sched_yield()
        _check_member(area)
        ask_child(lambda: _check_member(area))
        wait_until_alone(machine)


@pytest.mark.slow
@isolated()
def test_fork_that_a_filter_refuses() -> None:
    """A fork that a seccomp filter forbids leaves process and machine as they were."""

    def body() -> None:
        with Machine() as machine:
            area = share()
            _forbid_system_call(56)  # clone, on x86-64
            with pytest.raises(PermissionError):
                os.fork()
            _check_member(area)
            assert [each.event for each in machine.audit()].count("fork failed") == 1

    if os.uname().machine != "x86_64":
        pytest.skip("the number of clone is known for x86-64 only")
    ask_child(body)


@pytest.mark.slow
@pytest.mark.parametrize("fork", FORKS)
@isolated()
def test_fork_without_hooks(fork: str) -> None:
    """A child that came by a raw fork is refused everywhere and disturbs nobody's connection, not even when it ends."""
    with new_machine() as machine:
        area, mine = share(), own()
        mine.store_capability(0, mine)

        def body() -> None:
            requests: list[Callable[[], object]] = [
                share,
                lambda: area.load_capability(0),
                lambda: area.store_capability(0, area),
                lambda: bsd.munmap(area, SIZE),
                lambda: bsd.shm_open("/raw", os.O_RDWR | os.O_CREAT),
                machine.processes,
                machine.audit,
                lambda: mine.load_capability(0),
            ]
            for request in requests:
                with pytest.raises(NotAttached):
                    request()

            def refused() -> None:
                with pytest.raises(NotAttached):
                    share()

            ask_child(refused)
            machine.__exit__(None, None, None)

        with Child(body, fork=FORKS[fork]) as child:
            assert child.wait() == 0
        assert mine.load_capability(0).tag
        assert [each.pid for each in machine.processes()] == [os.getpid()]
        _check_member(area)
        ask_child(lambda: _check_member(area))
        wait_until_alone(machine)


@pytest.mark.slow
@isolated()
def test_hook_of_the_user_that_raises() -> None:
    """Hooks that raise before, in the parent and in the child stop neither the fork nor the child's attachment."""
    with new_machine() as machine:
        area = share()
        is_on = True

        def hook() -> None:
            if is_on:
                raise RuntimeError("a hook of the user")

        os.register_at_fork(before=hook, after_in_parent=hook, after_in_child=hook)
        for _ in range(3):
            ask_child(lambda: _check_member(area))
        is_on = False
        _check_member(area)
        wait_until_alone(machine)


@pytest.mark.slow
@isolated()
def test_hook_of_the_user_that_uses_the_machine() -> None:
    """Hooks that ask the broker and use capabilities work in the parent and in the child, and do not wait for ever."""
    with new_machine() as machine:
        area = share()

        def hook() -> None:
            area.store_capability(48, area)
            bsd.munmap(share(), SIZE)

        os.register_at_fork(before=hook, after_in_parent=hook, after_in_child=hook)
        ask_child(lambda: _check_member(area))
        _check_member(area)
        wait_until_alone(machine)
        area = area.with_bounds(SIZE)


@pytest.mark.slow
@isolated()
def test_leaving_in_a_child_only_detaches_it() -> None:
    """A child that leaves the machine loses its part in it; the machine, its parent and its siblings go on."""
    read, write = os.pipe()
    with new_machine() as machine:
        area = share()
        pid = os.fork()
        if pid:
            assert os.read(read, 1) == b"!"
            assert [each.pid for each in machine.processes()] == [os.getpid()]
            assert os.waitpid(pid, 0)[1] == 0
            ask_child(lambda: _check_member(area))
            _check_member(area)
            wait_until_alone(machine)
    if pid == 0:
        status = 1
        try:
            _check_left(area)
            os.write(write, b"!")
            status = 0
        finally:
            os._exit(status)


def _check_left(area: Capability) -> None:
    with pytest.raises(NotAttached):
        area.load_capability(0)
    with pytest.raises(NotAttached):
        share()
    with pytest.raises(NotAttached):
        current()
    assert not [line for line in maps(os.getpid()) if "capshm-" in line]


@pytest.mark.slow
@isolated()
def test_machine_of_a_child() -> None:
    """After leaving its parent's machine a child can make one of its own, which ends without disturbing the first."""
    with new_machine() as machine:
        area = share()

        def body() -> None:
            with pytest.raises(CapshmError, match="one at a time"):
                Machine().__enter__()
            machine.__exit__(None, None, None)
            _check_left(area)
            with Machine() as second:
                assert second.broker_pid != machine.broker_pid
                mine = share()
                ask_child(lambda: _check_member(mine))
                _check_member(mine)
                with pytest.raises(CapshmError):
                    area.store_capability(0, area)
            _check_left(area)

        ask_child(body)
        _check_member(area)
        wait_until_alone(machine)


@pytest.mark.slow
@isolated()
def test_fork_by_libc_beside_a_thread_that_asks() -> None:
    """A raw fork between a request and its answer takes nothing away from the thread that waits for the answer."""
    libc = ctypes.PyDLL(None)
    sys.setswitchinterval(1000)  # a child that was told to hand the interpreter over would wait for threads it has not
    with new_machine() as machine:
        area = share()
        end = threading.Event()

        def ask() -> None:
            while not end.is_set():
                machine.processes()
                bsd.munmap(share(), SIZE)

        def fork() -> None:
            try:
                for _ in range(20):
                    with Child(lambda: None, fork=lambda: int(libc.fork())) as child:
                        assert child.wait() == 0
            finally:
                end.set()

        _in_threads(ask, ask, fork)
        _check_member(area)


@pytest.mark.slow
@isolated()
def test_a_child_past_the_hooks_has_no_connection() -> None:
    """What fork(3) makes without Python's hooks cannot take its parent's answers; what it opens itself it keeps."""
    libc = ctypes.CDLL(None)
    with Machine():
        area = share()
        link = client.current()._connection
        assert link is not None
        assert link._socket is not None
        number = link._socket.fileno()
        with Child(lambda: _is_closed(number), fork=lambda: int(libc.fork())) as child:
            _check_member(area)
            assert child.wait() == 0
        link._socket.detach()  # behind its back, and the number is used again
        os.close(number)
        assert os.dup2(os.open("/dev/null", os.O_RDONLY), number) == number
        with Child(lambda: os.fstat(number), fork=lambda: int(libc.fork())) as child:
            assert child.wait() == 0


def _is_closed(number: int) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
