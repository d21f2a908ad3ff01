"""`capshm.testing.Segment`: sizes, descriptors, aliases, closing, and the pages that capabilities make dirty."""

import contextlib
import os
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import pytest

from capshm import (
    BoundsViolation,
    Capability,
    PageViolation,
    StoreTagViolation,
)
from capshm._native import lib
from capshm.model.constants import ARENA_SIZE, ARENA_START
from capshm.testing import Segment, closed_gate
from capshm.testing import segment as module
from tests.faults.isolation import isolated

GRANULE = 16
PAGE = 4096
LARGEST = 16 << 30


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
