"""`capshm.testing.Segment` in its process: what it leaves as it is, what may run out, and what a fork shares."""

import collections
import contextlib
import gc
import itertools
import os
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from capshm import (
    PageViolation,
    Permissions,
    PermissionViolation,
)
from capshm._native import lib
from capshm.testing import Segment
from capshm.testing import segment as module
from tests.faults.isolation import isolated
from tests.faults.processes import Child, Event

P = Permissions
GRANULE = 16
PAGE = 4096
LARGEST = 16 << 30


# What belongs to the process


@pytest.mark.slow
@isolated()
def test_a_segment_leaves_the_process_as_it_is() -> None:
    """Profile and lock timeout stay unless they are given; a profile that living segments do not have is refused."""

    def stores_untagged(segment: Segment) -> bool:
        """What only the profile "rvy" does."""
        authority = segment.root.with_permissions(P.LOAD | P.STORE | P.LOAD_CAP | P.STORE_CAP)
        with contextlib.suppress(PermissionViolation):
            authority.store_capability(0, authority)
            return True
        return False

    with Segment(PAGE) as segment:
        assert not stores_untagged(segment)
        with pytest.raises(ValueError, match="'rvy' needs all segments of 'v9' closed"):
            Segment(PAGE, isa="rvy")
        with Segment(PAGE, isa="v9"):
            assert not stores_untagged(segment)
    with Segment(PAGE, isa="rvy", lock_timeout=0.5) as segment:
        with Segment(PAGE), Segment(PAGE, lock_timeout=2):
            assert stores_untagged(segment)
        with pytest.raises(ValueError, match="'v9' needs all segments of 'rvy' closed"):
            Segment(PAGE, isa="v9")


@pytest.mark.slow
@isolated()
def test_two_segments_over_one_descriptor() -> None:
    """They share the bytes, and each has tags of its own."""
    with Segment(PAGE) as one, Segment(PAGE, fd=one.fd) as other:
        one.root.store_capability(0, one.root)
        assert other.root.load_capability(0) == one.root.without_tag()
        assert one.root.load_capability(0).tag


@pytest.mark.slow
@isolated()
def test_threads_map_and_close_at_once() -> None:
    """Whatever several threads do with the same segments, each mapping is whole or refused, and all is given back."""
    Segment(PAGE).close()
    before = possessions()
    for _ in range(20):
        segment = Segment(PAGE)
        start = threading.Barrier(4)

        def use(segment: Segment = segment, start: threading.Barrier = start) -> None:
            start.wait()
            with contextlib.suppress(ValueError):  # closed
                for _ in range(3):
                    segment.map("rR")
            segment.close()

        with ThreadPoolExecutor(4) as threads:
            for done in [threads.submit(use) for _ in range(4)]:
                done.result()
    gc.collect()
    assert possessions()[0] == before[0]
    assert not module._taken


@pytest.mark.slow
@isolated()
def test_an_interrupt_leaves_nothing_behind() -> None:
    """Interrupted anywhere in the making, at any line of Python, a segment gives back all that it had."""
    warnings.simplefilter("ignore", ResourceWarning)  # an interrupt after the last line finds it made
    Segment(PAGE).close()
    before = possessions()
    making = {"__init__", "_map", "_take_place", "_map_memory"}

    def interrupt_at(line: int) -> bool:
        """Make a segment, and interrupt it at this line. False: it had fewer."""
        lines = itertools.count()

        def trace(frame: FrameType, event: str, argument: object) -> Any:
            if (frame.f_code.co_name in making and event == "line") and next(lines) == line:
                sys.settrace(None)
                raise KeyboardInterrupt
            return trace

        sys.settrace(trace)
        try:
            Segment(PAGE).close()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(None)
        return False

    number = 0
    while interrupt_at(number):
        gc.collect()
        assert possessions() == before, number
        number += 1
        assert number < 1000
    assert number > 30


def possessions() -> tuple[int, int]:
    """How many descriptors this process has, and mappings of files: those of anonymous memory are malloc's, too."""
    mapped = [line.split() for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()]
    return len(list(Path("/proc/self/fd").iterdir())), sum(fields[4] != "0" for fields in mapped)


REFUSALS: list[Callable[[], object]] = [
    lambda: Segment(0),
    lambda: Segment(LARGEST + 1),
    lambda: Segment(PAGE, isa="no"),
    lambda: Segment(PAGE, fd=-1),
    lambda: Segment(PAGE, fd=0),
]


@pytest.mark.slow
@isolated()
def test_nothing_leaks() -> None:
    """200 segments with aliases, and as many refused ones, leave no descriptor and no mapping behind."""
    Segment(PAGE).close()  # attaches the process
    gc.collect()
    before = possessions()
    for number in range(200):
        with Segment(PAGE * (1 + number % 7)) as segment:
            segment.map("rw")
            segment.map("rR")
            segment.root.store_capability(0, segment.root)
        with contextlib.suppress(ValueError, OSError):
            REFUSALS[number % len(REFUSALS)]()
    gc.collect()
    assert possessions() == before


@pytest.mark.slow
@isolated()
def test_many_at_once() -> None:
    """Hundreds of segments live side by side, apart from each other by an unmapped page."""
    with contextlib.ExitStack() as stack:
        segments = [stack.enter_context(Segment(1 + PAGE * (number % 5))) for number in range(300)]
        for number, segment in enumerate(segments):
            segment.root.store_capability(0, segments[number - 1].root)
            segment.root.write(64, number.to_bytes(2))
        for number, segment in enumerate(segments):
            assert segment.root.load_capability(0) == segments[number - 1].root
            assert segment.root.read(64, 2) == number.to_bytes(2)
        ends = sorted((segment.root.base, segment.root.top) for segment in segments)
        assert all(top + PAGE <= base for (_, top), (base, _) in itertools.pairwise(ends))
        for segment in segments[::2]:
            segment.close()
        for number in range(1, 300, 2):
            assert segments[number].root.load_capability(0) == segments[number - 1].root


@pytest.mark.slow
@isolated()
def test_too_many_descriptors() -> None:
    """A segment for which there is no descriptor is an OSError that leaves nothing behind."""
    import resource

    Segment(PAGE).close()
    before = possessions()
    for room in range(3):
        free = os.open("/dev/null", os.O_RDONLY)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + room, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        try:
            Segment(PAGE)
        except OSError:
            pass
        else:
            raise AssertionError("there was a descriptor")
        finally:
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
    assert possessions() == before
    Segment(PAGE).close()


@pytest.mark.slow
@isolated()
def test_numbers_of_segments_run_out() -> None:
    """They are 24 bits wide and name a segment for ever: when all have been given out, no more segments are made."""
    with Segment(PAGE) as last:
        last.root.store_capability(0, last.root)
        numbers = itertools.starmap(lib.capshm_new_object, itertools.repeat((), (1 << 24) - 2))
        assert collections.deque(numbers, maxlen=1).pop() == (1 << 24) - 1
        for _ in range(2):
            with pytest.raises(MemoryError, match="segments"):
                Segment(PAGE)
        assert last.root.load_capability(0).tag


# Alone and shared


def lock_word(segment: Segment) -> int:
    """The lock of the first tag line: its version moves with every store that locks."""
    return int.from_bytes(os.pread(segment._descriptors[0], 8, 8), "little")


@pytest.mark.slow
@isolated()
def test_a_segment_is_alone_until_a_fork() -> None:
    """While one thread alone reaches the tags, stores take no lock; after a fork they do, in both processes."""
    with Segment(PAGE) as segment:
        root, alias = segment.root, segment.map()
        root.store_capability(0, root)
        alias.store_capabilities(0, [root] * 4)
        assert lock_word(segment) == 0
        done = Event()

        def body() -> None:
            assert root.load_capability(GRANULE) == root
            alias.store_capability(2 * GRANULE, alias)
            done.set()

        with Child(body) as child:
            done.wait()
            assert child.wait() == 0
        after_child = lock_word(segment)
        assert after_child > 0
        assert root.load_capability(2 * GRANULE) == alias
        root.store_capability(0, root)
        assert lock_word(segment) > after_child
        with Segment(PAGE) as later:
            later.root.store_capability(0, root)
            assert lock_word(later) == 0


@pytest.mark.slow
@isolated()
def test_a_fork_shares_memory_and_tags() -> None:
    """A child has the parent's capabilities; what either stores the other loads, and what either writes untags."""
    with Segment(PAGE) as segment:
        root = segment.root
        root.store_capability(0, root)
        root.store_capability(GRANULE, root)
        first, second = Event(), Event()

        def body() -> None:
            assert root.load_capability(0) == root
            root.write(0, b"x")
            root.store_capability(2 * GRANULE, root + 5)
            first.set()
            second.wait()
            assert not root.load_capability(GRANULE).tag
            with Segment(PAGE) as own:
                own.root.store_capability(0, root)
                assert own.root.load_capability(0) == root

        with Child(body) as child:
            first.wait()
            assert not root.load_capability(0).tag
            assert root.load_capability(2 * GRANULE) == root + 5
            root.write(GRANULE, b"y")
            second.set()
            assert child.wait() == 0


@pytest.mark.slow
@isolated()
def test_closing_in_one_process() -> None:
    """Closing unmaps in the calling process only: the other still has it."""
    with Segment(PAGE) as segment:
        root = segment.root
        closed = Event()

        def body() -> None:
            segment.close()
            closed.set()
            with pytest.raises(PageViolation):
                root.read(0, 1)

        with Child(body) as child:
            closed.wait()
            root.store_capability(0, root)
            assert root.load_capability(0) == root
            assert child.wait() == 0
