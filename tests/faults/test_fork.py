"""Processes that came by a fork without hooks, and forks beside other threads."""

import os
import threading
import warnings
from collections.abc import Callable

import pytest

from capshm import Capability, CapabilityArray, NotAttached, Permissions, sealing_root
from capshm.testing import Segment, Shadow, closed_gate
from capshm.testing.stepping import Stepper
from tests.faults.forks import FORKS, fork_by_libc
from tests.faults.isolation import isolated
from tests.faults.processes import Child, Event, ask_child, join, wait_until_parked
from tests.faults.scene import GRANULE, assert_unlocked, words


def _calls(segment: Segment) -> dict[str, Callable[[], object]]:
    """Everything that a program can ask for with a segment and what it has already got from it."""
    root = segment.root
    array = root.load_capabilities(0, 4)
    sealing = sealing_root()
    sealed = root.seal(sealing)
    return {
        "load": lambda: root.load_capability(0),
        "store": lambda: root.store_capability(0, root),
        "load many": lambda: root.load_capabilities(0, 4),
        "store many": lambda: root.store_capabilities(0, array),
        "fill": lambda: root.fill_capabilities(0, 4, root),
        "read": lambda: root.read(0, 16),
        "write": lambda: root.write(0, b"data"),
        "copy": lambda: root.copy_to(root + 1024, 16),
        "view": lambda: root.view(0, 16),
        "tag": lambda: root.tag,
        "tags": lambda: array.tags,
        "equal": lambda: root == sealed,
        "address": lambda: root.address,
        "bounds": lambda: root.length,
        "permissions": lambda: root.permissions,
        "text": lambda: str(root),
        "with address": lambda: root.with_address(root.address),
        "increment": lambda: root + 16,
        "with bounds": lambda: root.with_bounds(16),
        "with permissions": lambda: root.with_permissions(Permissions.LOAD),
        "without tag": lambda: root.without_tag(),
        "seal": lambda: root.seal(sealing),
        "unseal": lambda: sealed.unseal(sealing),
        "seal entry": lambda: root.seal_entry(),
        "gather": lambda: CapabilityArray.of([root]),
        "sealing root": sealing_root,
        "map": lambda: segment.map(),
        "new segment": lambda: Segment(4096),
        "paint": lambda: Shadow().paint(root),
        "close the gate": lambda: closed_gate().__enter__(),
    }


@pytest.mark.slow
@pytest.mark.parametrize("fork", FORKS)
@isolated()
def test_unhooked_child_is_refused_everywhere(fork: str) -> None:
    """In a child that came without the hooks each call raises NotAttached; its parent does not notice."""
    with Segment(4096) as segment:
        calls = _calls(segment)

        def body() -> None:
            wrong = {}
            for name, call in calls.items():
                try:
                    wrong[name] = f"returned {call()!r}"
                except NotAttached:
                    pass
                except Exception as error:
                    wrong[name] = repr(error)
            assert not wrong

        segment.root.store_capability(0, segment.root)
        with Child(body, fork=FORKS[fork]) as child:
            assert child.wait() == 0
        assert segment.root.load_capability(0).tag
        segment.root.store_capability(16, segment.root)
        assert segment.root.load_capability(16).tag
        with closed_gate(timeout=0):
            pass
        assert_unlocked(segment)


@pytest.mark.slow
@isolated()
def test_fork_from_an_unhooked_child() -> None:
    """A process that an unhooked child forks, with hooks, has no more rights than it: NotAttached."""
    with Segment(4096) as segment:
        root = segment.root

        def refused() -> None:
            with pytest.raises(NotAttached):
                root.store_capability(0, root)

        def body() -> None:
            ask_child(refused)

        with Child(body, fork=fork_by_libc) as child:
            assert child.wait() == 0


@pytest.mark.slow
@isolated()
def test_fork_beside_threads() -> None:
    """One thread forks while others store and load in one tag line: parent and children go on, and no lock is left."""
    with Segment(4096) as segment:
        root = segment.root
        values = [(root + i).with_bounds(1) for i in range(4)]
        end = threading.Event()
        failures: list[BaseException] = []

        def work(number: int) -> None:
            try:
                while not end.is_set():
                    _store_and_load(root, number, values[number])
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(40):
                with Child(lambda: _store_and_load(root, 3, values[3]), fork=_fork_among_threads) as child:
                    assert child.wait() == 0
        finally:
            end.set()
            for thread in threads:
                join(thread)
        assert not failures
        assert_unlocked(segment)


@pytest.mark.slow
@isolated(bound=60)
def test_fork_beside_a_new_mapping() -> None:
    """A thread that forks and one that maps a segment do not wait for each other for ever."""
    numbers, number = os.pipe()
    is_known, begin = threading.Event(), Event()
    ended: list[int] = []

    def fork() -> None:
        assert segment.root.tag  # from its first operation on the thread has a slot of its own
        is_known.set()
        begin.wait()
        with Child(lambda: None, fork=_fork_among_threads) as child:
            ended.append(child.wait())

    forking = threading.Thread(target=fork)

    def prepare() -> None:
        forking.start()
        is_known.wait()
        os.write(number, str(forking.native_id).encode())

    def map_and_join() -> None:
        Segment(4096).close()
        join(forking)
        assert ended == [0]

    with Segment(4096) as segment:
        segment.root.store_capability(0, segment.root)
        # The first thread has the right to change the mappings, and will now wait until nobody is inside an operation.
        with Stepper(map_and_join, at="keep_others_out", prepare=prepare) as child:
            begin.set()
            wait_until_parked(child.pid, int(os.read(numbers, 16)))
            child.resume()
            assert child.wait() == 0


@pytest.mark.slow
@isolated()
def test_forks_from_several_threads() -> None:
    """Several threads fork, and make segments, at the same time: none waits for another for ever."""
    with Segment(4096) as segment:
        root = segment.root
        failures: list[BaseException] = []

        def work(number: int) -> None:
            try:
                for _ in range(20):
                    with Child(lambda: _store_and_load(root, number, root), fork=_fork_among_threads) as child:
                        assert child.wait() == 0
                    Segment(4096).close()
                    _store_and_load(root, number, root)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            join(thread)
        assert not failures
        assert_unlocked(segment)


def _fork_among_threads() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on: what this test is about
        return os.fork()


def _store_and_load(root: Capability, granule: int, value: Capability) -> None:
    root.store_capability(granule * GRANULE, value)
    loaded = root.load_capability(granule * GRANULE)
    assert loaded.tag
    assert words(loaded) == words(value)
