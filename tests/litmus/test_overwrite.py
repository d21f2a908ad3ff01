"""Stores that capshm never sees, and bytes that are written through it: a changed granule is never tagged."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from capshm import Capability, PageViolation, StoreTagViolation
from capshm.testing import Segment
from tests.faults.isolation import isolated
from tests.faults.processes import Child, Event, ask_child

GRANULE = 16
LINE = 64  # granules
GRANULES = 4 * LINE  # of a page

# What any program can do that was given a descriptor, or that may open one of another process.
STRANGER = """
import mmap, os, sys
path, offset, data = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3])
with mmap.mmap(os.open(path, os.O_RDWR), 0) as memory:
    memory[offset : offset + len(data)] = data
"""


def _run_stranger(path: str, offset: int, data: bytes, descriptors: tuple[int, ...] = ()) -> None:
    command = [sys.executable, "-I", "-S", "-c", STRANGER, path, str(offset), data.hex()]
    subprocess.run(command, pass_fds=descriptors, check=True, timeout=60)


def _overwrite_by_numpy(segment: Segment, offset: int, data: bytes) -> None:
    import numpy as np  # here, because it starts threads, and tests in this file fork

    memory = np.frombuffer(segment.root.view(0, segment.size, writable=True), np.uint8)
    memory[offset : offset + len(data)] = np.frombuffer(data, np.uint8)


def _overwrite_by_pwrite(segment: Segment, offset: int, data: bytes) -> None:
    assert os.pwrite(segment.fd, data, offset) == len(data)


def _overwrite_by_heir(segment: Segment, offset: int, data: bytes) -> None:
    _run_stranger(f"/proc/self/fd/{segment.fd}", offset, data, (segment.fd,))


def _overwrite_by_stranger(segment: Segment, offset: int, data: bytes) -> None:
    _run_stranger(f"/proc/{os.getpid()}/fd/{segment.fd}", offset, data)


Overwrite = Callable[[Segment, int, bytes], None]
OVERWRITES: dict[str, Overwrite] = {
    "NumPy view": _overwrite_by_numpy,
    "os.pwrite": _overwrite_by_pwrite,
    "program with the descriptor": _overwrite_by_heir,
    "program that attached itself": _overwrite_by_stranger,
}
RANGES = [  # offset and length: inside a granule, across two, one, many with ragged ends, a line with ragged ends, all
    (5, 1),
    (31, 2),
    (48, 16),
    (100, 300),
    (LINE * GRANULE - 3, LINE * GRANULE + 5),
    (0, GRANULES * GRANULE),
]
LOOKS: dict[str, Callable[[Capability, int], bool]] = {
    "load_capability": lambda authority, granule: authority.load_capability(granule * GRANULE).tag,
    "load_capabilities": lambda authority, granule: authority.load_capabilities(0, GRANULES)[granule].tag,
}

overwrites = pytest.mark.parametrize("overwrite", OVERWRITES.values(), ids=OVERWRITES)
looks = pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
ranges = pytest.mark.parametrize(("offset", "length"), RANGES)


@pytest.fixture
def segment() -> Iterator[Segment]:
    """A page, in each granule of which lies a capability of its own."""
    with _page() as made:
        yield made


def _page() -> Segment:
    segment = Segment(GRANULES * GRANULE)
    segment.root.store_capabilities(0, [_stored(segment, granule) for granule in range(GRANULES)])
    return segment


def _stored(segment: Segment, granule: int) -> Capability:
    return (segment.root + granule * GRANULE).with_bounds(GRANULE)


def _touched(offset: int, length: int) -> set[int]:
    return set(range(offset // GRANULE, (offset + length - 1) // GRANULE + 1))


def _assert_untagged(segment: Segment, touched: set[int], *, through: Capability | None = None) -> None:
    """Exactly these granules are untagged, whether they are loaded one by one or together; the others are as stored."""
    authority = through or segment.root
    singly = [authority.load_capability(granule * GRANULE) for granule in range(GRANULES)]
    together = authority.load_capabilities(0, GRANULES)
    assert {granule for granule, loaded in enumerate(singly) if not loaded.tag} == touched
    assert {granule for granule, tag in enumerate(together.tags) if not tag} == touched
    for granule in set(range(GRANULES)) - touched:
        assert singly[granule] == together[granule] == _stored(segment, granule)


@overwrites
@ranges
def test_changed_granules_are_untagged(segment: Segment, overwrite: Overwrite, offset: int, length: int) -> None:
    """Bytes changed past capshm untag the granules they lie in, and no other, and are there to be read."""
    changed = bytes(byte ^ 0xFF for byte in segment.root.read(offset, length))
    overwrite(segment, offset, changed)
    _assert_untagged(segment, _touched(offset, length))
    assert segment.root.read(offset, length) == changed


@overwrites
def test_bytes_of_a_capability_are_none(segment: Segment, overwrite: Overwrite) -> None:
    """The bytes of a capability, written past capshm, are no capability; not even where it was stored earlier."""
    earlier = segment.root.read(0, GRANULE)
    segment.root.store_capability(0, _stored(segment, 1))
    overwrite(segment, 0, earlier)
    overwrite(segment, 2 * GRANULE, earlier)
    assert segment.root.read(0, GRANULE) == segment.root.read(2 * GRANULE, GRANULE) == earlier
    _assert_untagged(segment, {0, 2})


@pytest.mark.parametrize("permissions", ["rwRW", "rwR", "rw"])
@ranges
def test_write_of_the_same_bytes_untags(segment: Segment, permissions: str, offset: int, length: int) -> None:
    """A write through capshm untags what it touches, also if it changes nothing and whatever the mapping permits."""
    alias = segment.map(permissions)
    alias.write(offset, segment.root.read(offset, length))
    for reader in (segment.root, segment.map("rR")):
        _assert_untagged(segment, _touched(offset, length), through=reader)


@pytest.mark.parametrize("permissions", ["rwRW", "rwR", "rw"])
def test_write_of_nothing_untags_nothing(segment: Segment, permissions: str) -> None:
    """A write of no bytes touches no granule."""
    segment.map(permissions).write(8, b"")
    _assert_untagged(segment, set())


@pytest.mark.parametrize("permissions", ["rwRW", "rwR", "rw"])
@overwrites
def test_written_granule_stays_untagged(segment: Segment, permissions: str, overwrite: Overwrite) -> None:
    """What a write through capshm has untagged is not tagged again by restoring the bytes, but by a store."""
    before = segment.root.read(0, GRANULE)
    segment.map(permissions).write(4, b"changed")
    overwrite(segment, 0, before)
    _assert_untagged(segment, {0})
    segment.root.store_capability(0, _stored(segment, 0))
    _assert_untagged(segment, set())


@overwrites
def test_deviation_equal_bytes_are_invisible(segment: Segment, overwrite: Overwrite) -> None:
    """The deviation from D10/F7: a raw store of equal bytes leaves the tag, over exactly the last stored capability."""
    overwrite(segment, 40, segment.root.read(40, 100))
    _assert_untagged(segment, set())


@overwrites
def test_deviation_restored_bytes_are_invisible(segment: Segment, overwrite: Overwrite) -> None:
    """The same for raw stores that change bytes and restore them before anybody has looked."""
    before = segment.root.read(40, 100)
    overwrite(segment, 40, bytes(100))
    overwrite(segment, 40, before)
    _assert_untagged(segment, set())


@looks
@overwrites
def test_a_look_ends_the_deviation(
    segment: Segment, overwrite: Overwrite, look: Callable[[Capability, int], bool]
) -> None:
    """Once somebody who may write tags has seen the change, restoring the bytes does not bring the tag back."""
    before = segment.root.read(5 * GRANULE, GRANULE)
    overwrite(segment, 5 * GRANULE, b"changed")
    assert not look(segment.root, 5)
    overwrite(segment, 5 * GRANULE, before)
    _assert_untagged(segment, {5})


@looks
@pytest.mark.parametrize("permissions", ["rR", "rwR", "r", "rw"])
def test_a_look_without_right_to_write_tags_changes_nothing(
    segment: Segment, permissions: str, look: Callable[[Capability, int], bool]
) -> None:
    """Who may not write tags sees no tag either, but cannot end the deviation."""
    before = segment.root.read(5 * GRANULE, GRANULE)
    os.pwrite(segment.fd, b"changed", 5 * GRANULE)
    assert not look(segment.map(permissions), 5)
    os.pwrite(segment.fd, before, 5 * GRANULE)
    _assert_untagged(segment, set())


def test_aliases_share_tags_and_not_permissions(segment: Segment) -> None:
    """What one mapping stores another loads, as far as it is permitted to."""
    data, loading, storing = (segment.map(permissions) for permissions in ("rw", "rwR", "rwRW"))
    value = segment.root.with_bounds(77)
    storing.store_capability(0, value)
    assert segment.root.load_capability(0) == loading.load_capability(0) == value
    assert data.load_capability(0) == value.without_tag()
    for alias in (data, loading):
        with pytest.raises(StoreTagViolation):
            alias.store_capability(0, value)
        assert segment.root.load_capability(0) == value
        alias.store_capability(0, value.without_tag())
        assert segment.root.load_capability(0) == value.without_tag()
        storing.store_capability(0, value)
    with pytest.raises(PageViolation):
        segment.map("rR").write(0, b"x")


@pytest.mark.slow
@isolated()
def test_tags_cross_a_fork_in_both_directions() -> None:
    """A child finds its parent's tags, and the parent finds what the child stored, wrote and overwrote."""
    stored = Event()
    with _page() as segment:

        def body() -> None:
            stored.wait()
            loaded = segment.root.load_capabilities(0, GRANULES)
            assert list(loaded) == [segment.root, *(_stored(segment, granule) for granule in range(1, GRANULES))]
            segment.root.store_capability(1 * GRANULE, segment.root)
            segment.map("rw").write(2 * GRANULE, segment.root.read(2 * GRANULE, GRANULE))
            os.pwrite(segment.fd, b"changed", 3 * GRANULE)

        with Child(body) as child:
            segment.root.store_capability(0, segment.root)
            stored.set()
            assert child.wait() == 0
        loaded = segment.root.load_capabilities(0, GRANULES)
        assert loaded[0] == loaded[1] == segment.root
        assert [granule for granule, tag in enumerate(loaded.tags) if not tag] == [2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("looks_first", [False, True])
@isolated()
def test_deviation_between_processes(looks_first: bool) -> None:
    """One process changes and restores the bytes; whether another has looked between decides, and nothing else."""
    with _page() as segment:
        before = segment.root.read(0, GRANULE)
        with Child(lambda: os.pwrite(segment.fd, b"changed", 0)) as child:
            assert child.wait() == 0
        if looks_first:
            assert not ask_child(lambda: segment.root.load_capability(0).tag)
        with Child(lambda: os.pwrite(segment.fd, before, 0)) as child:
            assert child.wait() == 0
        _assert_untagged(segment, {0} if looks_first else set())
