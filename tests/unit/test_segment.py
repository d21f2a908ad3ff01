"""`capshm.testing`: segments with their aliases and descriptors, the shadow, the gate and sweeps."""

import collections
import contextlib
import gc
import itertools
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from capshm import (
    BoundsViolation,
    Capability,
    CapshmError,
    PageViolation,
    Permissions,
    PermissionViolation,
    RevocationIncomplete,
    StoreTagViolation,
    TagViolation,
    sealing_root,
)
from capshm._native import lib
from capshm.model.constants import ARENA_SIZE, ARENA_START
from capshm.testing import Segment, Shadow, SweepCounts, closed_gate, sweep_registers
from capshm.testing import segment as module
from tests.faults.isolation import isolated
from tests.faults.processes import Child, Event

P = Permissions
GRANULE = 16
PAGE = 4096
LARGEST = 16 << 30
shadow = Shadow()


@pytest.fixture
def segment() -> Iterator[Segment]:
    """Four pages."""
    with Segment(4 * PAGE) as made:
        yield made


@pytest.fixture
def root(segment: Segment) -> Capability:
    """A capability over all of it."""
    return segment.root


@pytest.fixture
def painted(root: Capability) -> Iterator[Capability]:
    """A painted capability to the second page."""
    with paint((root + PAGE).with_bounds(256)) as capability:
        yield capability


@contextlib.contextmanager
def paint(capability: Capability) -> Iterator[Capability]:
    """Paint it meanwhile: the shadow belongs to the process and outlives every segment."""
    shadow.paint(capability)
    try:
        yield capability
    finally:
        shadow.clear(capability)


# Sizes


@pytest.mark.parametrize("size", [1, 15, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE, 12345, (1 << 20) + 1, (1 << 30) + 1])
def test_sizes(size: int) -> None:
    """A segment has at least the bytes that were asked for, in whole pages, and a root that covers them exactly."""
    with Segment(size) as segment:
        assert segment.size == size
        assert segment.length >= size
        assert segment.length % PAGE == 0
        assert (segment.root.base, segment.root.length) == (segment.root.address, segment.length)
        assert segment.root.tag
        segment.root.write(size - 1, b"x")
        last = segment.length - GRANULE
        segment.root.store_capability(last, segment.root)
        assert segment.root.load_capability(last) == segment.root
        with pytest.raises(BoundsViolation):
            segment.root.read(segment.length, 1)


def test_the_largest() -> None:
    """The largest segment has 16 GiB, of which only what is used takes memory."""
    with Segment(LARGEST) as segment:
        assert segment.root.length == LARGEST
        segment.root.store_capability(LARGEST - GRANULE, segment.root)
        assert segment.root.load_capability(LARGEST - GRANULE).tag


@pytest.mark.parametrize("size", [0, -1, LARGEST + 1, 1 << 64, -(1 << 64)])
def test_sizes_that_are_refused(size: int) -> None:
    """A size outside the range is a ValueError."""
    with pytest.raises(ValueError, match="a segment has 1 to"):
        Segment(size)


@pytest.mark.parametrize("size", [None, "4096", 4096.0, b"1", [1]], ids=repr)
def test_sizes_that_are_no_ints(size: Any) -> None:
    """What is no int is a TypeError."""
    with pytest.raises(TypeError):
        Segment(size)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"isa": "v8"}, ValueError),
        ({"isa": b"v9"}, ValueError),
        ({"lock_timeout": -1}, ValueError),
        ({"lock_timeout": float("nan")}, ValueError),
        ({"lock_timeout": float("inf")}, ValueError),
        ({"lock_timeout": "1"}, TypeError),
        ({"fd": -1}, OSError),
        ({"fd": 1 << 30}, OSError),
        ({"fd": 1 << 64}, (ValueError, OSError)),
        ({"fd": "0"}, TypeError),
        ({"fd": 1.0}, TypeError),
    ],
    ids=str,
)
def test_other_arguments(arguments: dict[str, Any], error: type[Exception]) -> None:
    """Other arguments are checked, too."""
    with pytest.raises(error):
        Segment(PAGE, **arguments)


# Descriptors


def test_the_descriptor_is_the_data(segment: Segment, root: Capability) -> None:
    """Whoever has the descriptor sees the plain bytes, and what it writes is seen."""
    root.write(5, b"hello")
    assert os.pread(segment.fd, 5, 5) == b"hello"
    os.pwrite(segment.fd, b"bye", PAGE)
    assert root.read(PAGE, 3) == b"bye"
    assert os.fstat(segment.fd).st_size == segment.length
    assert not os.get_inheritable(segment.fd)


def test_adopting_shared_memory() -> None:
    """The descriptor of another library's shared memory can be used; it stays that library's."""
    memory = SharedMemory(create=True, size=2 * PAGE)
    fd, theirs = memory._fd, memory.buf  # type: ignore[attr-defined]
    assert theirs is not None
    try:
        with Segment(2 * PAGE, fd=fd) as segment:
            assert segment.fd == fd
            theirs[:5] = b"hello"
            assert segment.root.read(0, 5) == b"hello"
            segment.root.store_capability(PAGE, segment.root)
            assert segment.root.load_capability(PAGE) == segment.root
            theirs[PAGE] ^= 1
            assert not segment.root.load_capability(PAGE).tag
        assert os.fstat(fd).st_size == 2 * PAGE
        theirs[:5] = b"still"
    finally:
        del theirs
        memory.close()
        memory.unlink()


def memory_file(size: int) -> int:
    """A descriptor of a file in memory."""
    fd = os.memfd_create("test")
    os.truncate(fd, size)
    return fd


def test_adopting_a_file_that_is_too_small() -> None:
    """A file with fewer bytes than the segment is refused, and its descriptor left alone."""
    fd = memory_file(PAGE)
    try:
        with pytest.raises(ValueError, match=f"{PAGE} bytes, fewer than {PAGE + 1}"):
            Segment(PAGE + 1, fd=fd)
        assert os.fstat(fd).st_size == PAGE
    finally:
        os.close(fd)


def test_adopting_a_file_without_padding() -> None:
    """A file that has the bytes asked for, and not the padding, can be used up to its last page."""
    size = (1 << 22) + 1  # bounds of this length come in steps of two pages
    fd = memory_file(size)
    try:
        with Segment(size, fd=fd) as segment:
            segment.root.write(size - 1, b"x")
            with pytest.raises(PageViolation) as caught:
                segment.root.read(segment.length - 1, 1)
            assert caught.value.signal == "SIGBUS"
    finally:
        os.close(fd)


def test_adopting_what_cannot_be_mapped(tmp_path: Path) -> None:
    """A descriptor that is not for reading and writing is an OSError."""
    path = tmp_path / "file"
    path.write_bytes(bytes(PAGE))
    fd = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(PermissionError):
            Segment(PAGE, fd=fd)
    finally:
        os.close(fd)


# Aliases

ALIASES = ["r", "rw", "rR", "rwR", "rwW", "rwRW", "WRwr", "rr"]


@pytest.mark.parametrize("permissions", ALIASES)
def test_aliases_share_memory_and_tags(segment: Segment, root: Capability, permissions: str) -> None:
    """An alias is another address for the same bytes and tags, with page permissions of its own."""
    alias = segment.map(permissions)
    assert alias.base != root.base
    assert alias.length == root.length
    assert alias.permissions == root.permissions
    root.store_capability(0, root)
    root.write(64, b"data")
    assert alias.read(64, 4) == b"data"
    assert alias.load_capability(0) == (root if "R" in permissions else root.without_tag())
    with contextlib.nullcontext() if "w" in permissions else pytest.raises(PageViolation, match="does not permit"):
        alias.write(64, b"DATA")
    assert root.read(64, 4) == (b"DATA" if "w" in permissions else b"data")
    expected = contextlib.nullcontext() if "W" in permissions else pytest.raises((StoreTagViolation, PageViolation))
    with expected:
        alias.store_capability(GRANULE, alias)
    assert root.load_capability(GRANULE).tag is ("W" in permissions)


@pytest.mark.parametrize("permissions", ["", "w", "R", "W", "wRW", "rW", "rRW", "x", "rwx", "r w", "RW"])
def test_permissions_that_cannot_be_mapped(segment: Segment, permissions: str) -> None:
    """Without "r", with "W" but not "w", or with other letters there is no mapping."""
    with pytest.raises(ValueError, match="permissions"):
        segment.map(permissions)


@pytest.mark.parametrize("permissions", [None, 7, 1.5, object], ids=repr)
def test_permissions_of_a_wrong_type(segment: Segment, permissions: Any) -> None:
    """Permissions are letters."""
    with pytest.raises(TypeError):
        segment.map(permissions)


# Closing


def test_use_after_close(segment: Segment, root: Capability) -> None:
    """Capabilities to a closed segment stay tagged, and every use of them faults: nothing is mapped there."""
    alias = segment.map("rwRW")
    root.store_capability(0, root)
    segment.close()
    for authority in root, alias:
        assert authority.tag
        for use in (
            lambda: authority.read(0, 1),  # noqa: B023 - called in this turn
            lambda: authority.write(0, b"x"),  # noqa: B023
            lambda: authority.load_capability(0),  # noqa: B023
            lambda: authority.store_capability(0, root),  # noqa: B023
            lambda: authority.load_capabilities(0, 2),  # noqa: B023
            lambda: authority.fill_capabilities(0, 2, root),  # noqa: B023
            lambda: authority.copy_to(authority + 64, 16),  # noqa: B023
            lambda: authority.view(0, 16),  # noqa: B023
        ):
            with pytest.raises(PageViolation) as caught:
                use()
            assert (caught.value.signal, caught.value.code) == ("SIGSEGV", "SEGV_MAPERR")
    assert segment.fd == -1


def test_closing_twice(segment: Segment) -> None:
    """A second close does nothing; a closed segment can be neither mapped nor swept."""
    segment.close()
    segment.close()
    with pytest.raises(ValueError, match="closed"):
        segment.map()
    with closed_gate(), pytest.raises(ValueError, match="closed"):
        segment.sweep()


def test_the_context_manager_closes() -> None:
    """Leaving the block closes it, also by an exception."""
    with pytest.raises(KeyError), Segment(PAGE) as segment:
        raise KeyError
    with pytest.raises(PageViolation):
        segment.root.read(0, 1)


def test_a_place_is_not_used_again_soon() -> None:
    """A new segment lies elsewhere than one that was closed, and what was a capability to that faults."""
    with Segment(PAGE) as first:
        old = first.root
    with Segment(PAGE) as second:
        assert second.root.base >= old.top + PAGE
        with pytest.raises(PageViolation):
            old.read(0, 1)


@pytest.mark.slow
@isolated()
def test_a_place_is_used_again_once_round_the_arena() -> None:
    """Then a new segment begins empty, whatever an old capability to its place says."""
    with Segment(PAGE) as first:
        old = first.root
        old.store_capability(0, old)
        old.write(64, b"old")
    module._next = ARENA_START + ARENA_SIZE - PAGE // 2
    with Segment(PAGE) as second:
        assert second.root.base == old.base
        assert old.read(0, PAGE) == bytes(PAGE)
        assert not old.load_capability(0).tag


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
    """How many descriptors and mappings this process has."""
    return len(list(Path("/proc/self/fd").iterdir())), Path("/proc/self/maps").read_text().count("\n")


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


# Capability-dirty pages


def dirty(segment: Segment, root: Capability) -> list[bool]:
    """Which pages of this mapping are capability-dirty."""
    pages = range(root.base, root.base + segment.length, PAGE)
    return [bool(lib.capshm_page_entry(page) & lib.PAGE_CAPABILITY_DIRTY) for page in pages]


def test_a_tagged_store_makes_its_page_dirty(segment: Segment, root: Capability) -> None:
    """The bit is set by the first tagged value, in the mapping through which it was stored, and by nothing else."""
    alias = segment.map()
    root.write(0, b"data")
    root.store_capability(0, root.without_tag())
    root.fill_capabilities(0, 4 * PAGE // GRANULE, root.without_tag())
    root.load_capability(0)
    assert dirty(segment, root) == [False] * 4
    root.store_capability(PAGE + 64, root)
    assert dirty(segment, root) == [False, True, False, False]
    root.write(PAGE, bytes(PAGE))
    root.store_capabilities(3 * PAGE - GRANULE, [root, root])
    assert dirty(segment, root) == [False, True, True, True]
    assert dirty(segment, alias) == [False] * 4
    root.load_capability(PAGE)
    (root + 3 * PAGE).copy_to(alias, 64)
    assert dirty(segment, alias) == [True, False, False, False]


def test_a_refused_store_leaves_the_page_clean(segment: Segment) -> None:
    """A store that faults does not make a page dirty."""
    alias = segment.map("rwR")
    with pytest.raises(StoreTagViolation):
        alias.store_capability(0, alias)
    assert dirty(segment, alias) == [False] * 4
    assert lib.capshm_page_entry(0) == 0


# Shadow


@pytest.mark.parametrize(
    ("start", "length", "granules"),
    [
        (0, 16, range(1)),
        (0, 1, range(1)),
        (8, 16, range(2)),
        (15, 2, range(2)),
        (16, 4096, range(1, 257)),
        (0, 0, range(0)),
        (8, 0, range(0)),
    ],
)
def test_painting(root: Capability, start: int, length: int, granules: range) -> None:
    """Every granule that the bounds touch is painted, wherever the address is, and cleared again; no other is."""
    capability = (root + start).with_bounds(length) + 5
    everywhere = range(300)
    with paint(capability):
        assert {number for number in everywhere if shadow.is_painted(root.base + number * GRANULE)} == set(granules)
        assert all(shadow.is_painted(root.base + number * GRANULE + 15) for number in granules)
        assert Shadow().is_painted(root.base) is (0 in granules)  # there is one shadow
    assert not any(shadow.is_painted(root.base + number * GRANULE) for number in everywhere)


def test_painting_needs_no_tag(root: Capability) -> None:
    """What was revoked can be cleared: neither tag nor seal nor permission is looked at."""
    for capability in root.without_tag(), root.seal_entry(), root.with_permissions(P(0)):
        with paint(capability):
            assert shadow.is_painted(root.base)


@pytest.mark.parametrize("action", [shadow.paint, shadow.clear])
def test_painting_outside_the_arena(root: Capability, action: Callable[[Capability], None]) -> None:
    """Bounds that are not inside the arena are refused whole."""
    null = root.load_capability(0)
    for capability in sealing_root(), null:
        with pytest.raises(BoundsViolation):
            action(capability)


@pytest.mark.parametrize("action", [shadow.paint, shadow.clear])
@pytest.mark.parametrize("wrong", [None, 0, "all"], ids=repr)
def test_painting_what_is_no_capability(action: Any, wrong: object) -> None:
    """Only capabilities are painted."""
    with pytest.raises(TypeError):
        action(wrong)


@pytest.mark.parametrize("address", [0, -1, 1 << 63, (1 << 64) - 1])
def test_nothing_outside_the_arena_is_painted(address: int) -> None:
    """Any other address is not painted."""
    assert shadow.is_painted(address) is False


@pytest.mark.parametrize("address", [None, "0", 1.5], ids=repr)
def test_an_address_is_an_int(address: Any) -> None:
    """An address of a wrong type is a TypeError."""
    with pytest.raises(TypeError):
        shadow.is_painted(address)


# Gate and sweep

KERNELS = ["automatic", "portable", "avx2", "avx512"]


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_sweep_takes_what_is_painted(segment: Segment, root: Capability, painted: Capability, kernel: str) -> None:
    """Tags of capabilities whose base is painted go, from memory and registers; everything else stays."""
    number = {"automatic": lib.SWEEP_AUTOMATIC, "portable": lib.SWEEP_PORTABLE, "avx2": lib.SWEEP_AVX2}
    if not lib.sweep_kernel_is_available(number.get(kernel, lib.SWEEP_AVX512)):
        pytest.skip(f"this processor has no {kernel}")
    inside = (root + PAGE + 240).with_bounds(64)
    kept = [root, (root + PAGE - 16).with_bounds(64), (root + PAGE + 256).with_bounds(16)]
    gone = [painted, painted.seal_entry(), inside, painted + 4000]
    no_memory = painted.with_permissions(P.GLOBAL)
    root.store_capabilities(0, [*kept, *gone, no_memory])
    with closed_gate():
        assert segment.sweep(kernel=kernel) == SweepCounts(lines=16, found=8, cleared=4)
        assert segment.sweep(kernel=kernel) == SweepCounts(lines=16, found=4, cleared=0)
    assert root.load_capabilities(0, 8).tags == b"\1\1\1\0\0\0\0\1"
    assert [value.tag for value in [*kept, *gone, no_memory]] == [True] * 3 + [False] * 4 + [True]
    assert not painted.tag
    with pytest.raises(TagViolation):
        painted.read(0, 1)


def test_registers_are_swept_after_an_epoch(painted: Capability) -> None:
    """A new epoch reaches registers by itself; without one they are swept only where they are asked to be."""
    array = [painted, painted.seal_entry()]
    with closed_gate(new_epoch=False):
        pass
    assert all(value.tag for value in array)
    with closed_gate(new_epoch=False):
        counts = sweep_registers()
        assert counts.found >= counts.cleared >= 2
        assert counts.lines == 0
    assert not any(value.tag for value in array)


def test_sw_vmem_is_out_of_reach() -> None:
    """cheribsd:2.3: a capability with SW_VMEM, such as mmap returns, survives."""
    from capshm.capability import make

    with Segment(PAGE) as segment, paint(segment.root):
        almighty = make(segment.root.base, int(lib.METADATA_ROOT), tag=True).with_bounds(PAGE)
        kept = almighty.with_permissions(P.LOAD | P.SW_VMEM)
        with closed_gate():
            pass
        assert kept.tag
        assert not segment.root.tag


@pytest.mark.parametrize("sweep", [Segment.sweep, lambda _: sweep_registers()], ids=["memory", "registers"])
def test_a_sweep_needs_the_gate(segment: Segment, sweep: Callable[[Segment], SweepCounts]) -> None:
    """Outside the gate, before and after, a sweep is refused."""
    for _ in range(2):
        with pytest.raises(CapshmError, match="closed_gate"):
            sweep(segment)
        with closed_gate():
            sweep(segment)


@pytest.mark.parametrize("kernel", ["fast", "", None, 1, "AVX2"])
def test_kernels_that_do_not_exist(segment: Segment, kernel: Any) -> None:
    """An unknown kernel is refused, with the names of those that this machine has."""
    with pytest.raises(ValueError, match="portable"):
        segment.sweep(kernel=kernel)


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt, GeneratorExit])
def test_exceptions_open_the_gate(root: Capability, error: type[BaseException]) -> None:
    """However the block is left, the gate is open behind it."""
    with pytest.raises(error), closed_gate():
        raise error
    assert not lib.capshm_gate_is_mine()
    assert root.load_capability(0).tag is False


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf"), 1e30, "1", None], ids=repr)
def test_timeouts_that_are_refused(root: Capability, timeout: Any) -> None:
    """A timeout is a number of seconds; a refused one leaves the gate open."""
    with pytest.raises((ValueError, TypeError)), closed_gate(timeout=timeout):
        pass
    assert not lib.capshm_gate_is_mine()
    assert root.tag


@pytest.mark.slow
@isolated()
def test_a_wrong_epoch_argument_does_not_leave_the_gate_closed() -> None:
    """Whatever is given for `new_epoch`: the call is refused before the gate closes, or it is open afterwards."""
    wrong: Any
    for wrong in (None, 2, "yes", (), 1.0):
        with contextlib.suppress(ValueError, TypeError), closed_gate(new_epoch=wrong):
            pass
        assert not lib.capshm_gate_is_mine(), wrong


@pytest.mark.slow
@isolated(bound=30)
def test_a_gate_that_is_closed_already() -> None:
    """Closing it again in the same thread is an error at once: nobody else could open it."""
    with Segment(PAGE) as segment, closed_gate(timeout=0.01):
        with pytest.raises(CapshmError), closed_gate(timeout=0.01):
            pass
        assert lib.capshm_gate_is_mine()
        segment.sweep()


@pytest.mark.slow
@isolated(bound=30)
def test_an_operation_of_the_closer() -> None:
    """An operation by the thread that has closed the gate is an error at once: it would wait for itself for ever."""
    with Segment(PAGE) as segment:
        root = segment.root
        for operation in (
            lambda: root.load_capability(0),
            lambda: root.read(0, 1),
            lambda: root.tag,
            lambda: root + 1,
            lambda: str(root),
            lambda: shadow.paint(root),
        ):
            with closed_gate(), pytest.raises(CapshmError):
                operation()
        assert root.tag


@pytest.mark.slow
@isolated(bound=30)
def test_somebody_else_has_closed_it() -> None:
    """A second closer waits for its timeout and names the first; after the opening it succeeds."""
    with Segment(PAGE) as segment:
        closed, open_it = Event(), Event()

        def body() -> None:
            with closed_gate():
                closed.set()
                open_it.wait()

        with Child(body) as child:
            closed.wait()
            with pytest.raises(RevocationIncomplete) as caught, closed_gate(timeout=0.01):
                pass
            assert [pid for pid, _ in caught.value.processes] == [child.pid]
            open_it.set()
            assert child.wait() == 0
            with closed_gate(timeout=0.01):
                segment.sweep()


@pytest.mark.slow
@isolated()
def test_an_epoch_reaches_other_processes() -> None:
    """A child's registers are swept before its next operation, and what went from memory is gone for it, too."""
    with Segment(PAGE) as segment:
        root = segment.root
        value = (root + 256).with_bounds(16)
        root.store_capability(0, value)
        ready, swept = Event(), Event()

        def body() -> None:
            own = value + 1
            assert own.tag is True
            ready.set()
            swept.wait()
            assert [own.tag] == [False]
            assert not root.load_capability(0).tag

        with Child(body) as child:
            ready.wait()
            shadow.paint(value)
            with closed_gate():
                assert segment.sweep().cleared == 1
            swept.set()
            assert child.wait() == 0
        assert value.tag is False


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
