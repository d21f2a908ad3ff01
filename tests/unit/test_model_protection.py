"""`capshm.model.protection`: mprotect, rows B1 to B7."""

import pytest

from capshm.model import constants as c
from capshm.model.pointer import Address, Pointer
from tests.unit.model_scene import ANON, PAGE, RW, RWC, RWN, Process, moved, refused, untagged, without_vmem


def mixed(process: Process) -> Pointer:
    """Two pages of one reservation; only the first has capability permission in its maximum."""
    pointer = process.mmap(length=2 * PAGE)
    process.mmap(moved(pointer, PAGE), PAGE, RWN, ANON | c.MAP_FIXED)
    return pointer


@pytest.mark.parametrize("before", [RW, c.PROT_NONE, c.PROT_READ])
def test_b1_implied_from_the_maximum(before: int) -> None:
    """B1: capability permission comes back with READ and WRITE, also after PROT_NONE."""
    process = Process()
    pointer = process.mmap()
    process.mprotect(pointer, before)
    process.mprotect(pointer, RW)
    assert process.letters(pointer) == "rwRW/rwRW"


def test_b1_only_what_goes_with_the_rights() -> None:
    """B1: PROT_READ alone implies load-capability permission alone."""
    process = Process()
    pointer = process.mmap()
    process.mprotect(pointer, c.PROT_READ)
    assert process.letters(pointer) == "rR/rwRW"


def test_b2_a_range_is_judged_as_a_whole() -> None:
    """B2: implied for all and refused where it is lacking; nothing is changed anywhere."""
    process = Process()
    pointer = mixed(process)
    with refused("B2", "EACCES"):
        process.mprotect(pointer, c.PROT_READ, 2 * PAGE)
    assert [process.letters(pointer.base + n * PAGE) for n in (0, 1)] == ["rwRW/rwRW", "rw/rw"]
    process.mprotect(pointer, c.PROT_READ | c.PROT_NO_CAP, 2 * PAGE)
    assert [process.letters(pointer.base + n * PAGE) for n in (0, 1)] == ["r/rwRW", "r/rw"]


def test_b3_what_the_maximum_lacks() -> None:
    """B3: PROT_CAP where the maximum has none."""
    process = Process()
    pointer = process.mmap(prot=RWN)
    with refused("B3", "EACCES"):
        process.mprotect(pointer, RWC)
    with refused("B3", "EACCES"):
        process.mprotect(pointer, RWN | c.PROT_MAX(RWC))


def test_b4_no_cap_takes_it_away() -> None:
    """B4: PROT_NO_CAP removes it now; the maximum keeps it."""
    process = Process()
    pointer = process.mmap()
    process.mprotect(pointer, RWN)
    assert process.letters(pointer) == "rw/rwRW"


def test_b5_the_new_maximum_contains_what_is_asked() -> None:
    """B5: a maximum that lacks what is asked for now; a smaller one that contains it is for ever."""
    process = Process()
    pointer = process.mmap()
    with refused("B5", "ENOTSUP"):
        process.mprotect(pointer, RW | c.PROT_MAX(c.PROT_READ))
    process.mprotect(pointer, c.PROT_READ | c.PROT_MAX(c.PROT_READ))
    assert process.letters(pointer) == "rR/rR"
    with refused("B6", "EACCES"):
        process.mprotect(pointer, RW)


def test_b6_no_further_than_the_maximum() -> None:
    """B6: neither now nor as a new maximum."""
    process = Process()
    pointer = process.mmap(prot=c.PROT_READ)
    for prot in (RW, c.PROT_READ | c.PROT_MAX(RW), c.PROT_EXEC):
        with refused("B6", "EACCES") as caught:
            process.mprotect(pointer, prot)
    assert "the maximum permission there is rR" in caught.value.message


def test_b7_needs_the_pointer() -> None:
    """B7: no tag, a neighbour's pointer, too long, no SW_VMEM, a number; then the right one succeeds."""
    process = Process()
    first = process.mmap()
    second = process.mmap(first.top, flags=ANON | c.MAP_FIXED)
    wrong: list[Address] = [untagged(first), moved(second, -PAGE), without_vmem(first), first.address]
    for one in [*wrong, first._replace(is_sealed=True)]:
        with refused("B7", "EPROT"):
            process.mprotect(one, c.PROT_READ)
    with refused("B7", "EPROT"):
        process.mprotect(first, c.PROT_READ, 2 * PAGE)
    assert process.letters(first) == "rwRW/rwRW" == process.letters(second)
    process.mprotect(first, c.PROT_READ)
    assert process.letters(first) == "rR/rwRW"


def test_b7_a_stale_pointer() -> None:
    """B7: what the pointer was made for has been unmapped."""
    process = Process()
    pointer = process.mmap()
    process.munmap(pointer)
    with refused("B7", "EPROT"):
        process.mprotect(pointer, RW)


def test_guards_and_holes_stay() -> None:
    """mprotect over a guard, a hole and the padding changes the rest only; of no bytes, nothing."""
    process = Process()
    pointer = process.mmap(length=3 * PAGE)
    process.mmap(moved(pointer, PAGE), PAGE, c.PROT_NONE, c.MAP_GUARD | c.MAP_FIXED)
    process.munmap(moved(pointer, 2 * PAGE))
    process.mprotect(pointer, c.PROT_READ, 0)
    process.mprotect(moved(pointer, PAGE), c.PROT_READ, 0)
    process.mprotect(pointer, c.PROT_READ, 3 * PAGE)
    assert [process.letters(pointer.base + n * PAGE) for n in range(3)] == ["rR/rwRW", "/", ""]


def test_no_bytes_inside_an_entry() -> None:
    """A call about no bytes in the middle of an entry splits nothing."""
    process = Process()
    pointer = process.mmap(length=3 * PAGE)
    process.mprotect(moved(pointer, PAGE), c.PROT_READ, 0)
    process.minherit(moved(pointer, PAGE), c.INHERIT_ZERO, 0)
    assert (process.at(pointer).length, process.letters(pointer)) == (3 * PAGE, "rwRW/rwRW")


def test_a_mapping_without_rights_is_no_guard() -> None:
    """PROT_NONE without PROT_MAX can never be made more, and mprotect says so."""
    process = Process()
    pointer = process.mmap(prot=c.PROT_NONE)
    with refused("B6", "EACCES"):
        process.mprotect(pointer, RW)


def test_parts_keep_their_place_in_the_object() -> None:
    """What is split off begins in the object where it did."""
    process = Process()
    pointer = process.mmap(None, 3 * PAGE, RW, c.MAP_SHARED, process.shm(), offset=5 * PAGE)
    process.mprotect(moved(pointer, PAGE + 1), c.PROT_READ, 1)
    assert [(e.offset // PAGE, e.length // PAGE) for e in process.space.entries.values()] == [(5, 1), (6, 1), (7, 1)]
