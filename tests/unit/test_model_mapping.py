"""`capshm.model.mapping` and `placing`: mmap and munmap, rows A1 to A19 and C1 to C17."""

import pytest

from capshm import encoding
from capshm.model import constants as c
from capshm.model.objects import Kind, MemoryObject
from capshm.model.pointer import Address, Pointer
from capshm.permissions import Permissions
from capshm.policies.isolated import Isolated
from capshm.policies.open import Open
from tests.unit.model_scene import (
    ANON,
    ANON_SHARED,
    PAGE,
    RW,
    RWC,
    RWN,
    Process,
    moved,
    refused,
    untagged,
    without_vmem,
)

FIXED = ANON | c.MAP_FIXED
UNREPRESENTABLE = (1 << 30) + PAGE
NULL = Pointer(0, 0, 1 << 64, 0, tag=False, is_sealed=False)


def object_of(process: Process, kind: Kind) -> MemoryObject:
    """An object of a kind, the process's own."""
    return process.objects.add(process.objects.prepare(kind, owner=process.space.serial))


# A: capability permission of pages


def test_a1_private_anonymous_memory() -> None:
    """A1: capability permission is implied."""
    process = Process()
    assert process.letters(process.mmap()) == "rwRW/rwRW"


@pytest.mark.parametrize("kind", [Kind.FILE, Kind.ZERO, Kind.SHM, Kind.MEMFD])
def test_a2_private_mappings(kind: Kind) -> None:
    """A2: capability permission is implied for a private mapping of anything."""
    process = Process()
    pointer = process.mmap(flags=c.MAP_PRIVATE, memory=object_of(process, kind))
    assert process.letters(pointer) == "rwRW/rwRW"


@pytest.mark.parametrize(("kind", "row"), [(Kind.FILE, "A3"), (Kind.SHM, "A4"), (Kind.MEMFD, "A4"), (Kind.ZERO, "A6")])
def test_a3_a4_a6_shared_mappings(kind: Kind, row: str) -> None:
    """A3, A4, A6: nothing is implied for shared memory; under open it is, but for files."""
    for policy, expected in ((None, "rw/rw"), (Isolated(), "rw/rw"), (Open(), "rw/rw" if row == "A3" else "rwRW/rwRW")):
        process = Process(policy)
        pointer = process.share(object_of(process, kind), RW)
        assert process.letters(pointer) == expected


def test_a5_anonymous_shared_memory() -> None:
    """A5: nothing is implied for MAP_ANON|MAP_SHARED, and the object is not share-cap."""
    process = Process()
    pointer = process.mmap(flags=ANON_SHARED)
    memory = process.at(pointer).object
    assert memory is not None
    assert (process.letters(pointer), memory.kind, memory.is_share_cap) == ("rw/rw", Kind.ANONYMOUS, False)


def test_a6_each_mapping_of_dev_zero_is_its_own() -> None:
    """A6: two shared mappings of /dev/zero are two objects, share-cap with PROT_CAP; private ones are anonymous."""
    process = Process()
    zero = object_of(process, Kind.ZERO)
    one, two = (process.at(process.share(zero)).object for _ in range(2))
    assert one is not None
    assert one.is_share_cap
    assert one is not two
    assert process.at(process.mmap(flags=c.MAP_PRIVATE, memory=zero, offset=PAGE)).object is None


def test_a15_shared_file() -> None:
    """A15: a shared file cannot have capability permission, now or later; a private mapping can."""
    process = Process()
    file = object_of(process, Kind.FILE)
    for prot in (RWC, RWN | c.PROT_MAX(RWC)):
        with refused("A15", "EACCES"):
            process.share(file, prot)
    assert process.letters(process.mmap(prot=RWC, flags=c.MAP_PRIVATE, memory=file)) == "rwRW/rwRW"


@pytest.mark.parametrize(
    ("prot", "expected"),
    [
        (c.PROT_NONE, ""),
        (c.PROT_READ, "rR"),
        (RWN, "rwRW"),
        (c.PROT_READ | c.PROT_MAX(RW), "rwRW"),
        (c.PROT_NONE | c.PROT_MAX(RWC | c.PROT_EXEC), "rwxRW"),
    ],
)
def test_a19_permissions_of_the_returned_capability(prot: int, expected: str) -> None:
    """A19: they come from PROT_MAX if it was given, and keep what the page may lack."""
    permissions = Permissions.from_raw(Process().mmap(prot=prot).permissions)
    assert permissions.letters == expected
    assert permissions.contains(Permissions.SW_VMEM | Permissions.GLOBAL)
    assert permissions.contains(Permissions.STORE_LOCAL) == ("w" in expected)


# C: addresses


@pytest.mark.parametrize("length", [1, PAGE, PAGE + 1, UNREPRESENTABLE, (3 << 30) + 5 * PAGE])
def test_c1_bounds_are_representable(length: int) -> None:
    """C1: the base is aligned, and the capability covers the padded length."""
    process = Process()
    pointer = process.mmap(length=length)
    pages = -(-length // PAGE) * PAGE
    assert pointer.top - pointer.base == encoding.representable_length(pages)
    assert not pointer.base & ~encoding.representable_mask(pages)
    assert process.at(pointer).length == pages


def test_c1_alignment_may_be_larger() -> None:
    """C1: MAP_ALIGNED asks for more than the length needs, and nonsense is refused."""
    process = Process()
    process.mmap()
    assert process.mmap(flags=ANON | c.MAP_ALIGNED(24)).base % (1 << 24) == 0
    assert process.mmap(length=UNREPRESENTABLE, flags=ANON | c.MAP_ALIGNED(12)).base % (1 << 21) == 0
    for power in (4, 11, 64):
        with refused("MAN", "EINVAL"):
            process.mmap(flags=ANON | c.MAP_ALIGNED(power))


def test_c2_padding_has_no_entry() -> None:
    """C2: nothing is mapped behind the pages that were asked for, up to the end of the reservation."""
    process = Process()
    pointer = process.mmap(length=UNREPRESENTABLE)
    assert process.letters(pointer.base + UNREPRESENTABLE - 1) == "rwRW/rwRW"
    assert process.letters(pointer.base + UNREPRESENTABLE) == "" == process.letters(pointer.top - 1)


def test_c3_a_number_is_a_hint() -> None:
    """C3: a free place is taken where one would like it, another one where it is not free."""
    process = Process()
    wish = c.ARENA_START + 64 * PAGE
    assert process.mmap(wish).base == wish
    assert process.mmap(wish).base != wish
    assert process.mmap(NULL._replace(address=wish + 16 * PAGE)).base == wish + 16 * PAGE
    assert process.mmap(5).base != 5


def test_c4_a_number_takes_what_is_free() -> None:
    """C4: MAP_FIXED at a number maps there, right beside another reservation, too."""
    process = Process()
    first = process.mmap()
    assert process.mmap(first.top, flags=FIXED).base == first.top


def test_c4_places_that_cannot_be() -> None:
    """C4: outside the arena, or where bounds could not start."""
    process = Process()
    for place in (0, PAGE, c.ARENA_START - PAGE, c.ARENA_START + c.ARENA_SIZE):
        with refused("MAN", "EINVAL"):
            process.mmap(place, flags=FIXED)
    with refused("C1", "EINVAL"):
        process.mmap(c.ARENA_START + PAGE, UNREPRESENTABLE, flags=FIXED)


@pytest.mark.parametrize("flags", [ANON, c.MAP_GUARD])
def test_c5_a_number_cannot_overlap(flags: int) -> None:
    """C5: not even a guard, from either side."""
    process = Process()
    there = process.mmap(c.ARENA_START + 8 * PAGE, 3 * PAGE, c.PROT_NONE, flags)
    for start in (there.base, there.base + 2 * PAGE, there.base - PAGE):
        with refused("C5", "ENOMEM"):
            process.mmap(start, 2 * PAGE, flags=FIXED)


def test_c5_padding_is_taken() -> None:
    """C5: a number cannot take the padding of a reservation."""
    process = Process()
    pointer = process.mmap(length=UNREPRESENTABLE)
    with refused("C5", "ENOMEM"):
        process.mmap(pointer.top - PAGE, flags=FIXED)


def test_c6_a_pointer_replaces() -> None:
    """C6: over one, then over two entries of one reservation, which stays."""
    process = Process()
    whole = process.mmap(length=4 * PAGE)
    for length in (PAGE, 2 * PAGE):
        again = process.mmap(whole, length, c.PROT_READ, FIXED)
        assert (again.address, again.top) == (whole.base, whole.base + length)
    assert [process.letters(whole.base + n * PAGE) for n in range(4)] == ["rR/rR", "rR/rR", "rwRW/rwRW", "rwRW/rwRW"]
    assert process.at(moved(whole, 3 * PAGE)).reservation == whole.base
    assert list(process.space.reservations) == [whole.base]


def test_c6_into_a_guard() -> None:
    """C6, test 62: a guard's own pointer, which PROT_MAX made wide enough, maps into it."""
    process = Process()
    guard = process.mmap(length=3 * PAGE, prot=c.PROT_MAX(RW), flags=c.MAP_GUARD)
    assert process.at(guard).is_guard
    process.mmap(moved(guard, PAGE), flags=FIXED)
    assert [process.letters(guard.base + n * PAGE) for n in range(3)] == ["/", "rwRW/rwRW", "/"]


def test_c6_into_a_hole() -> None:
    """C6: what was unmapped can be mapped again by the reservation's pointer, with MAP_EXCL only there."""
    process = Process()
    whole = process.mmap(length=2 * PAGE)
    process.munmap(whole)
    process.mmap(whole, flags=FIXED | c.MAP_EXCL)
    with refused("MAN", "ENOMEM"):
        process.mmap(whole, flags=FIXED | c.MAP_EXCL)


def test_c7_needs_vmem() -> None:
    """C7, C17: a pointer as malloc hands it out replaces nothing."""
    process = Process()
    pointer = without_vmem(process.mmap())
    with refused("C7", "EACCES"):
        process.mmap(pointer, flags=FIXED)


def test_c8_a_pointer_is_no_hint() -> None:
    """C8: a tagged pointer needs MAP_FIXED, with SW_VMEM or without."""
    process = Process()
    pointer = process.mmap()
    for one in (pointer, without_vmem(pointer)):
        with refused("C8", "EPROT"):
            process.mmap(one)


@pytest.mark.parametrize("flags", [ANON, FIXED])
def test_c9_a_dead_pointer_is_no_number(flags: int) -> None:
    """C9: an untagged pointer that is not derived from NULL."""
    process = Process()
    pointer = process.mmap()
    for dead in (untagged(pointer), NULL._replace(base=PAGE), NULL._replace(permissions=1)):
        with refused("C9", "EINVAL"):
            process.mmap(dead, flags=flags)


def test_c10_no_more_than_the_pointer() -> None:
    """C10: neither its bounds nor its permissions are exceeded, and it is not sealed."""
    process = Process()
    pointer = process.mmap(length=2 * PAGE, prot=c.PROT_READ)
    half = pointer._replace(top=pointer.base + PAGE)
    for one, length, prot in (
        (half, PAGE + 1, c.PROT_READ),
        (moved(half, -PAGE), PAGE, c.PROT_READ),
        (pointer, PAGE, RW),
        (pointer._replace(is_sealed=True), PAGE, c.PROT_READ),
    ):
        with refused("C10", "EPROT"):
            process.mmap(one, length, prot, FIXED)


def test_c10_bounds_that_would_grow() -> None:
    """C10: no mapping whose returned bounds would have to be rounded beyond the pointer's."""
    process = Process()
    pointer = process.mmap(length=2 << 30)
    narrow = pointer._replace(address=pointer.base + PAGE, base=pointer.base + PAGE)
    with refused("C10", "EPROT"):
        process.mmap(narrow, UNREPRESENTABLE, flags=FIXED)


def test_a19_c6_permissions_never_grow() -> None:
    """A19, C6: what is returned has no permission that the pointer lacked."""
    process = Process()
    pointer = process.mmap(length=PAGE, prot=c.PROT_READ)
    again = process.mmap(pointer, PAGE, c.PROT_READ | c.PROT_MAX(RW), FIXED)
    assert again.permissions == pointer.permissions


def test_c11_a_hole_is_not_free() -> None:
    """C11: a number takes the hole only when the whole reservation is gone."""
    process = Process()
    whole = process.mmap(length=3 * PAGE)
    process.munmap(moved(whole, PAGE))
    with refused("C11", "ENOMEM"):
        process.mmap(whole.base + PAGE, flags=FIXED)
    with refused("C5", "ENOMEM"):
        process.mmap(whole.base + PAGE, 2 * PAGE, flags=FIXED)
    process.munmap(whole, 3 * PAGE)
    assert process.mmap(whole.base + PAGE, flags=FIXED).base == whole.base + PAGE


def test_c13_a_stale_pointer_maps_nothing() -> None:
    """C13, and C8 for C14: the reservation that the pointer was made for is gone."""
    process = Process()
    stale = process.mmap()
    process.munmap(stale)
    with refused("C13", "EPROT"):
        process.mmap(stale, flags=FIXED)
    with refused("C8", "EPROT"):
        process.mmap(stale)


def test_c15_munmap_needs_the_pointer() -> None:
    """C15: wrong bounds, no tag, a seal, no SW_VMEM, a number, a stale pointer; nothing is unmapped."""
    process = Process()
    pointer = process.mmap(length=2 * PAGE)
    wrong: list[Address] = [
        untagged(pointer),
        without_vmem(pointer),
        moved(pointer, PAGE),
        moved(pointer, -1),
        pointer.address,
        None,
    ]
    for one in [*wrong, pointer._replace(is_sealed=True)]:
        with refused("C15", "EPROT"):
            process.munmap(one, 2 * PAGE)
    with refused("MAN", "EINVAL"):
        process.munmap(pointer, 0)
    assert process.at(pointer).length == 2 * PAGE
    process.munmap(pointer, 2 * PAGE)
    with refused("C15", "EPROT"):
        process.munmap(pointer)
    assert not process.space.entries
    assert not process.space.reservations


def test_c16_a_stack_in_a_reservation() -> None:
    """C16: refused, and the map stays as it was; a stack of its own is allowed."""
    process = Process()
    pointer = process.mmap(length=2 * PAGE)
    before = list(process.space.entries.values())
    with refused("C16", "ENOMEM"):
        process.mmap(pointer, flags=c.MAP_STACK | c.MAP_FIXED)
    assert list(process.space.entries.values()) == before
    assert process.letters(process.mmap(flags=c.MAP_STACK)) == "rwRW/rwRW"


# The manual page


@pytest.mark.parametrize(
    "arguments",
    [
        {"length": 0},
        {"length": -1},
        {"flags": c.MAP_ANON | c.MAP_EXCL},
        {"flags": c.MAP_ANON | c.MAP_SHARED | c.MAP_PRIVATE},
        {"flags": ANON | 0x40},
        {"flags": ANON | c.MAP_32BIT},
        {"offset": PAGE},
        {"flags": c.MAP_GUARD},
        {"flags": c.MAP_GUARD | c.MAP_SHARED, "prot": c.PROT_NONE},
        {"flags": c.MAP_STACK, "prot": c.PROT_READ},
    ],
    ids=str,
)
def test_arguments_of_anonymous_memory(arguments: dict[str, int]) -> None:
    """What the manual page refuses is EINVAL, and maps nothing."""
    process = Process()
    with refused("MAN", "EINVAL"):
        process.mmap(**arguments)  # type: ignore[arg-type]
    assert not process.space.entries


def test_arguments_of_objects() -> None:
    """An object needs a kind of sharing, whole pages as offset, and an end; what is not anonymous, a descriptor."""
    process = Process()
    memory = process.shm()
    for flags, offset in (
        (0, 0),
        (c.MAP_SHARED, 8),
        (c.MAP_SHARED, -PAGE),
        (c.MAP_SHARED, c.OBJECT_SIZE_MAX),
        (ANON, 0),
    ):
        with refused("MAN", "EINVAL"):
            process.mmap(flags=flags, memory=memory, offset=offset)
    with refused("MAN", "EBADF"):
        process.mmap(flags=c.MAP_SHARED)


@pytest.mark.parametrize("length", [c.ARENA_SIZE + 1, 1 << 63, (1 << 64) - 1])
def test_no_room(length: int) -> None:
    """What does not fit into the arena is ENOMEM, however large."""
    with refused("MAN", "ENOMEM"):
        Process().mmap(length=length)


def test_places_are_used_again() -> None:
    """The next place is behind the last; when the end is reached, what was freed is found."""
    process = Process()
    first = process.mmap(length=1 << 30)
    second = process.mmap(length=1 << 30)
    assert second.base >= first.top + PAGE
    process.munmap(first, 1 << 30)
    for _ in range(61):
        assert process.mmap(length=1 << 30).base > second.base
    assert process.mmap(length=1 << 30).base == first.base
    with refused("MAN", "ENOMEM"):
        process.mmap(length=2 << 30)


def test_neighbours_that_are_alike_are_one_entry() -> None:
    """What is mapped, protected and protected back is one entry again, also in an object."""
    process = Process()
    for pointer in (process.mmap(length=4 * PAGE), process.mmap(None, 4 * PAGE, RW, c.MAP_SHARED, process.shm())):
        process.mprotect(moved(pointer, PAGE), c.PROT_READ)
        assert process.at(pointer).length == PAGE
        process.mprotect(moved(pointer, PAGE), RW)
        assert process.at(pointer).length == 4 * PAGE
        assert process.at(pointer).offset == 0
