"""cheribsd:1.C, 3.5: addresses, reservations, and the pointers that authorise changes to them."""

import errno
import os

import pytest

from capshm import Capability, Machine, PageViolation, Permissions, PermissionViolation, encoding
from capshm import cheribsd as bsd
from tests.conformance.cheribsd.support import (
    OWNED_KINDS,
    PADDED,
    PAGE,
    PRIVATE_ANON,
    RW,
    RWC,
    UNREPRESENTABLE,
    R,
    anonymous,
    check_absent,
    check_tagged,
    emulated,
    free_address,
    guard,
    new_object,
    refused,
    shared,
    store,
    without_vmem,
)

FIXED = bsd.MAP_FIXED
ALIGNMENT = (1 << 64) - encoding.representable_mask(UNREPRESENTABLE)


def replace(place: Capability | int, length: int = PAGE, prot: int = RW, flags: int = FIXED) -> Capability:
    """Map anonymous private memory there."""
    return bsd.mmap(place, length, prot, PRIVATE_ANON | flags)


def reservations(machine: Machine) -> set[int]:
    """Those of this process."""
    return {each.reservation for each in machine.mappings(os.getpid())}


@emulated()
def test_C1_bounds_are_representable() -> None:
    """C1: the base is aligned and the length padded so that the bounds can be represented; they cover the padding."""
    for length in (1, PAGE, PAGE + 1, 3 * PAGE, (4 << 20) + PAGE, UNREPRESENTABLE, (1 << 32) + 1):
        memory = anonymous(RW, length)
        whole = encoding.representable_length(-(-length // PAGE) * PAGE)
        assert memory.tag
        assert (memory.address, memory.length) == (memory.base, whole)
        assert memory.base % max(PAGE, (1 << 64) - encoding.representable_mask(whole)) == 0
        memory.write(length - 1, b"x")


@emulated()
def test_C2_padding_faults() -> None:
    """C2: what was padded is in the bounds, and every access to it faults with SEGV_ACCERR."""
    memory = anonymous(RW, UNREPRESENTABLE)
    memory.write(UNREPRESENTABLE - 1, b"x")
    for offset in (UNREPRESENTABLE, PADDED - 4):
        check_absent(memory, "SEGV_ACCERR", offset)
        with pytest.raises(PageViolation):
            memory.write(offset, b"x")


@emulated()
def test_C3_number_is_a_hint() -> None:
    """C3: a number without MAP_FIXED is only a hint: a taken one gives a new reservation elsewhere."""
    first = anonymous()
    value = store(first)
    second = replace(first.address, flags=0)
    assert second.tag
    assert second.base != first.base
    assert not second.load_capability().tag
    check_tagged(first, value)
    hint = free_address()
    assert replace(hint, flags=0).tag


@emulated()
def test_C4_number_with_fixed_in_free_space(machine: Machine) -> None:
    """C4: a number with MAP_FIXED where nothing is makes a new reservation exactly there, and only once."""
    address = free_address()
    before = reservations(machine)
    memory = replace(address)
    assert (memory.address, memory.base, memory.length) == (address, address, PAGE)
    assert reservations(machine) == before | {address}
    value = store(memory)
    with refused("cheribsd:C5", errno.ENOMEM):
        replace(address)
    check_tagged(memory, value)


@pytest.mark.parametrize("what", ["mapping", "guard", "padding", "end"])
@emulated()
def test_C5_number_with_fixed_over_a_reservation(what: str, machine: Machine) -> None:
    """C5: a number with MAP_FIXED that overlaps a reservation, be it a guard, is refused; what is there stays."""
    memory = guard() if what == "guard" else anonymous(RW, UNREPRESENTABLE if what == "padding" else 2 * PAGE)
    place = {"padding": PADDED - PAGE, "end": PAGE}.get(what, 0)
    before = machine.mappings(os.getpid())
    with refused("cheribsd:C5", errno.ENOMEM):
        replace(memory.address + place, 2 * PAGE)
    assert machine.mappings(os.getpid()) == before


@emulated()
def test_C6_pointer_with_fixed_replaces_inside_its_reservation(machine: Machine) -> None:
    """C6: a pointer with SW_VMEM and MAP_FIXED replaces that part of its reservation, and nothing beside it."""
    memory = anonymous(RW, 3 * PAGE)
    values = [store(memory, page * PAGE) for page in range(3)]
    before = reservations(machine)
    middle = replace(memory + PAGE)
    assert middle.address == memory.address + PAGE
    assert reservations(machine) == before
    assert memory.read(PAGE, PAGE) == bytes(PAGE)
    check_tagged(memory, values[0])
    check_tagged(memory, values[2], 2 * PAGE)
    store(middle)


@emulated()
def test_C7_pointer_without_vmem() -> None:
    """C7: the same pointer without SW_VMEM is refused."""
    memory = anonymous()
    value = store(memory)
    with refused("cheribsd:C7", errno.EACCES):
        replace(without_vmem(memory))
    check_tagged(memory, value)
    replace(memory)
    assert not memory.load_capability().tag


@emulated()
def test_C8_pointer_without_fixed() -> None:
    """C8: a tagged pointer is no hint: without MAP_FIXED it is refused."""
    memory = anonymous()
    value = store(memory)
    with refused("cheribsd:C8", bsd.EPROT):
        replace(memory, flags=0)
    check_tagged(memory, value)


@pytest.mark.parametrize("flags", [0, FIXED])
@emulated()
def test_C9_untagged_pointer(flags: int) -> None:
    """C9: an untagged pointer that is no number is refused, with MAP_FIXED and without."""
    memory = anonymous()
    value = store(memory)
    with refused("cheribsd:C9", errno.EINVAL):
        replace(memory.without_tag(), flags=flags)
    check_tagged(memory, value)


@emulated()
def test_C10_range_outside_the_bounds() -> None:
    """C10: a range that leaves the pointer's bounds is refused, also inside its reservation."""
    memory = anonymous(RW, 3 * PAGE)
    values = [store(memory, page * PAGE) for page in range(3)]
    middle = (memory + PAGE).with_bounds(PAGE)
    for pointer, length in ((middle, 2 * PAGE), (middle - 16, PAGE), (middle + PAGE, PAGE), (memory, 4 * PAGE)):
        with refused("cheribsd:C10", bsd.EPROT):
            replace(pointer, length)
    for page, value in enumerate(values):
        check_tagged(memory, value, page * PAGE)
    replace(middle)


@emulated()
def test_C10_permissions_beyond_the_pointer() -> None:
    """C10: a mapping that permits more than the pointer does is refused, and no wider pointer comes back."""
    memory = anonymous(R)
    with refused("cheribsd:C10", bsd.EPROT):
        replace(memory, prot=RW)
    for prot in (R, R | bsd.PROT_MAX(R)):
        pointer = replace(memory, prot=prot)
        assert memory.permissions.contains(pointer.permissions)
        with pytest.raises(PermissionViolation):
            pointer.write(0, b"x")


@emulated()
def test_C11_hole_in_a_reservation() -> None:
    """C11: what was unmapped stays reserved, for numbers, until the whole reservation is gone."""
    memory = anonymous(RW, 3 * PAGE)
    bsd.munmap(memory + PAGE, PAGE)
    with pytest.raises(PageViolation):
        memory.read(PAGE, 1)
    with refused("cheribsd:C11", errno.ENOMEM):
        replace(memory.address + PAGE)
    with refused("cheribsd:C5", errno.ENOMEM):  # 6.3: it overlaps what lives, too
        replace(memory.address + PAGE, 2 * PAGE)
    bsd.munmap(memory, PAGE)
    bsd.munmap(memory + 2 * PAGE, PAGE)
    assert replace(memory.address + PAGE).address == memory.address + PAGE


@emulated()
def test_C15_munmap_by_a_wrong_pointer(machine: Machine) -> None:
    """C15: munmap by a pointer without tag, bounds or SW_VMEM for the range is refused, and nothing is unmapped."""
    memory = anonymous(RW, 2 * PAGE)
    value = store(memory, PAGE)
    before = machine.mappings(os.getpid())
    for pointer in (
        memory.without_tag(),
        memory.with_bounds(PAGE),
        memory + PAGE,
        without_vmem(memory),
        memory.address,
    ):
        with refused("cheribsd:C15", bsd.EPROT):
            bsd.munmap(pointer, 2 * PAGE)
    assert machine.mappings(os.getpid()) == before
    check_tagged(memory, value, PAGE)
    bsd.munmap(memory, 2 * PAGE)
    check_absent(memory)


@emulated()
def test_C16_fixed_stack(machine: Machine) -> None:
    """C16: MAP_STACK|MAP_FIXED into a reservation is refused, and the map stays as it was."""
    memory = anonymous(RW, 4 * PAGE)
    value = store(memory)
    before = machine.mappings(os.getpid())
    with refused("cheribsd:C16", errno.ENOMEM):
        bsd.mmap(memory, 4 * PAGE, RW, bsd.MAP_STACK | FIXED)
    assert machine.mappings(os.getpid()) == before
    check_tagged(memory, value)
    bsd.munmap(memory, 4 * PAGE)


@pytest.mark.parametrize("size", [PAGE, 1 << 20])
@emulated()
def test_C17_pointers_of_malloc_change_no_mappings(size: int) -> None:
    """C17: pointers from malloc lack SW_VMEM, so no call that changes mappings takes them."""
    pointer = bsd.malloc(size)
    assert pointer.tag
    assert not pointer.permissions.contains(Permissions.SW_VMEM)
    value = store(pointer)
    with refused("cheribsd:C7", errno.EACCES):
        replace(pointer)
    with refused("cheribsd:C15", bsd.EPROT):
        bsd.munmap(pointer, PAGE)
    with refused("cheribsd:B7", bsd.EPROT):
        bsd.mprotect(pointer, PAGE, R)
    with refused("cheribsd:I13", bsd.EPROT):
        bsd.minherit(pointer, PAGE, bsd.INHERIT_NONE)
    check_tagged(pointer, value)


# 3.5


@emulated()
def test_row_48_vm_sw_perm_on_capreloc() -> None:
    """Row 48: a pointer that a program gets without asking for a mapping is tagged and lacks SW_VMEM.

    A Python program has no globals with capabilities; its allocator's pointers are what it has instead.
    """
    for pointer in (bsd.malloc(1), bsd.calloc(2, 8), bsd.realloc(None, 64)):
        assert pointer.tag
        assert not pointer.permissions.contains(Permissions.SW_VMEM)


@emulated()
def test_row_96_malloc_zero_size() -> None:
    """Row 96: every allocator returns a pointer for size 0, each another."""
    pointers = [bsd.malloc(0), bsd.calloc(0, 8), bsd.calloc(8, 0), bsd.realloc(None, 0), bsd.realloc(bsd.malloc(8), 0)]
    assert all(pointer.tag for pointer in pointers)
    assert len({pointer.base for pointer in pointers}) == len(pointers)


@emulated()
def test_row_49_vm_reservation_access_fault() -> None:
    """Row 49: the last int of the padding faults with SIGSEGV, SEGV_ACCERR."""
    memory = anonymous(RW, UNREPRESENTABLE)
    assert memory.length == PADDED > UNREPRESENTABLE
    with pytest.raises(PageViolation) as caught:
        memory.read(PADDED - 4, 4)
    assert (caught.value.signal, caught.value.code) == ("SIGSEGV", "SEGV_ACCERR")
    assert caught.value.address == memory.base + PADDED - 4


@emulated()
def test_row_51_vm_reservation_align() -> None:
    """Row 51: an unrepresentable length is aligned for its bounds, or as MAP_ALIGNED asks where that is more."""
    anonymous()  # so that the next free address is not aligned anyway
    for power in (0, 12, ALIGNMENT.bit_length() - 2, ALIGNMENT.bit_length() + 3, 30):
        memory = anonymous(RW, UNREPRESENTABLE, PRIVATE_ANON | (bsd.MAP_ALIGNED(power) if power else 0))
        assert memory.tag
        assert memory.base % max(ALIGNMENT, 1 << power) == 0
        assert memory.length == PADDED
        anonymous()


@OWNED_KINDS
@emulated()
def test_row_54_and_55_vm_reservation_mmap_shared(kind: str) -> None:
    """Rows 54, 55: an unrepresentable length of an object gets aligned and padded bounds, like anonymous memory."""
    memory = shared(new_object(kind, UNREPRESENTABLE), RWC, UNREPRESENTABLE)
    assert memory.base % ALIGNMENT == 0
    assert memory.length == PADDED
    store(memory, UNREPRESENTABLE - 16)
    check_absent(memory, "SEGV_ACCERR", PADDED - 4)


@pytest.mark.parametrize("flags", [0, FIXED])
@emulated()
def test_row_56_and_57_vm_mmap_invalid_cap(flags: int) -> None:
    """Rows 56, 57: an untagged pointer derived from code is no address for mmap, with MAP_FIXED or without."""
    code = anonymous(R | bsd.PROT_EXEC).seal_entry()
    with refused("cheribsd:C9", errno.EINVAL):
        replace(code.without_tag(), flags=flags)


@emulated()
def test_row_59_vm_reservation_mmap() -> None:
    """Row 59: a number as hint into a gap gives a tagged capability."""
    gap = anonymous(RW, 4 * PAGE)
    bsd.munmap(gap, 4 * PAGE)
    memory = replace(gap.address, flags=0)
    assert memory.tag
    store(memory)


@emulated()
def test_row_61_vm_reservation_mmap_insert_null_derived() -> None:
    """Row 61: a number with MAP_FIXED does not go into a guard."""
    place = guard(3)
    for page in range(3):
        with refused("cheribsd:C5", errno.ENOMEM):
            replace(place.address + page * PAGE)
        check_absent(place, "SEGV_ACCERR", page * PAGE)


@emulated()
def test_row_62_vm_reservation_mmap_fixed_insert(machine: Machine) -> None:
    """Row 62: the guard's own pointer with MAP_FIXED goes into it, and what is beside stays guarded."""
    for page in range(3):
        check_insertion(machine, page)


def check_insertion(machine: Machine, page: int) -> None:
    """Map a page of a guard of three."""
    place = guard(3)
    check_absent(place, "SEGV_ACCERR", page * PAGE)
    memory = replace(place + page * PAGE)
    assert memory.address == place.address + page * PAGE
    value = store(memory)
    check_tagged(place, value, page * PAGE)
    assert place.base in reservations(machine)
    assert memory.base not in reservations(machine) - {place.base}
    check_absent(place, "SEGV_ACCERR", (page + 1) % 3 * PAGE)


@emulated()
def test_row_65_cheriabi_mmap_unrepresentable() -> None:
    """Row 65: the capability to an unrepresentable length has the rounded length."""
    assert anonymous(RW, UNREPRESENTABLE).length == encoding.representable_length(UNREPRESENTABLE) != UNREPRESENTABLE


@emulated()
def test_row_66_cheriabi_mmap_fixed(machine: Machine) -> None:
    """Row 66: fixed over one, then over two entries of one reservation returns the same pointer both times."""
    memory = anonymous(RW, 2 * PAGE)
    before = reservations(machine)
    one = replace(memory)
    two = replace(memory, 2 * PAGE)
    assert one.tag
    assert two.tag
    assert one.address == two.address == memory.address
    assert reservations(machine) == before
    store(two, PAGE)


@emulated()
def test_row_68_cheriabi_mprotect_invalid_ptr() -> None:
    """Row 68: of three neighbours the middle one is protected only by its own pointer, and the others never change."""
    place = guard(3)
    mapped = [replace(place + page * PAGE) for page in range(3)]
    first, middle, last = (memory.with_bounds(PAGE) for memory in mapped)
    for pointer, length in (
        (middle, 2 * PAGE),
        (middle.without_tag(), PAGE),
        (middle - PAGE, PAGE),
        (middle + PAGE, PAGE),
    ):
        with refused("cheribsd:B7", bsd.EPROT):
            bsd.mprotect(pointer, length, bsd.PROT_NONE)
        for memory in (first, middle, last):
            store(memory)
    bsd.mprotect(middle, PAGE, bsd.PROT_NONE)
    check_absent(middle, "SEGV_ACCERR")
    store(first)
    store(last)
