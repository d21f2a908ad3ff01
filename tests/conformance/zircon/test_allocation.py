"""vmar:3.A, 3.M, 3.I: allocation and placement, mapping, and arguments that are wrong."""

from collections.abc import Callable

import pytest

from capshm import Machine
from capshm import zircon as zx
from tests.conformance.zircon.support import (
    ABSENT,
    BEYOND,
    CAN_ALL,
    CAN_MAP,
    PAGE,
    RW,
    RWX,
    RX,
    SPECIFIC,
    TOP,
    WRITABLE,
    Calls,
    R,
    emulated,
    probes,
    refused,
    rights_of,
)

INVALID = zx.ERR_INVALID_ARGS
DENIED = zx.ERR_ACCESS_DENIED
EXISTS = zx.ERR_ALREADY_EXISTS
CAN = {R: zx.VM_CAN_MAP_READ, zx.VM_PERM_WRITE: zx.VM_CAN_MAP_WRITE, zx.VM_PERM_EXECUTE: zx.VM_CAN_MAP_EXECUTE}


@emulated()
def test_A01_basic_allocation(machine: Machine) -> None:
    """A01: a VMAR of one page in one of ten."""
    k = Calls(machine)
    parent, base = k.allocate(pages=10)
    _, address = k.allocate(parent, pages=1)
    assert base <= address <= base + 9 * PAGE


@emulated()
def test_A02_specific_behind_the_end(machine: Machine) -> None:
    """A02: SPECIFIC at offset = size of the parent."""
    k = Calls(machine)
    parent, _ = k.allocate(pages=4)
    with refused("1.1/13", INVALID):
        k.allocate(parent, 1, CAN_ALL | SPECIFIC, page=4)


@emulated()
def test_A04_larger_than_the_parent(machine: Machine) -> None:
    """A04: larger than the parent is INVALID_ARGS, and not a lack of room."""
    k = Calls(machine)
    parent, _ = k.allocate(pages=4)
    with refused("1.1/13", INVALID):
        k.allocate(parent, 5)


@emulated()
def test_A07_alignment_of_a_chosen_place(machine: Machine) -> None:
    """A07: 8 GiB on a 512 MiB boundary; in it SPECIFIC with ALIGN_64KB at 4096, then at 64 KiB."""
    k = Calls(machine)
    parent, base = k.vmar_allocate(k.root, CAN_ALL | zx.VM_ALIGN_512MB, 0, 8 << 30)
    assert base % (512 << 20) == 0
    with refused("1.1/14", INVALID):
        k.vmar_allocate(parent, SPECIFIC | zx.VM_ALIGN_64KB, 4096, PAGE)
    assert k.vmar_allocate(parent, SPECIFIC | zx.VM_ALIGN_64KB, 1 << 16, PAGE)[1] == base + (1 << 16)


@emulated()
def test_A09_every_alignment(machine: Machine) -> None:
    """A09: 1 KiB to 4 GiB, 16 pages each, destroyed again."""
    k = Calls(machine)
    parent, _ = k.vmar_allocate(k.root, CAN_ALL | zx.VM_ALIGN_4GB, 0, 8 << 30)
    for power in range(10, 33):
        child, address = k.vmar_allocate(parent, power << 24, 0, 16 * PAGE)
        assert address % (1 << power) == 0
        k.vmar_destroy(child)
    small, _ = k.allocate(pages=17)
    k.map(small, 0)
    with refused("1.1/16", zx.ERR_NO_RESOURCES):
        k.vmar_map(small, RW | zx.VM_ALIGN_4GB, 0, k.vmo(), 0, PAGE)


@pytest.mark.parametrize("missing", [R, zx.VM_PERM_WRITE, zx.VM_PERM_EXECUTE])
@emulated()
def test_A10_more_than_the_parent_has(machine: Machine, missing: int) -> None:
    """A10: a VMAR that lacks one of the three permissions cannot give all of them."""
    k = Calls(machine)
    parent, _ = k.allocate(options=CAN_ALL & ~CAN[missing])
    with refused("1.1/1", DENIED):
        k.allocate(parent, 1, CAN_MAP)


@pytest.mark.parametrize("missing", [R, zx.VM_PERM_WRITE, zx.VM_PERM_EXECUTE])
@emulated()
def test_A11_what_the_parent_has(machine: Machine, missing: int) -> None:
    """A11: nothing with the missing permission can be mapped there; without it, it can, and be allocated."""
    k = Calls(machine)
    parent, _ = k.allocate(options=CAN_ALL & ~CAN[missing])
    with refused("1.2/8", DENIED):
        k.map(parent, options=RWX)
    if missing != R:
        k.map(parent, options=RWX & ~missing)
    k.allocate(parent, 1, CAN_MAP & ~CAN[missing])


@pytest.mark.parametrize("perms", [R, RW, RX])
@emulated()
def test_A13_a_handle_with_fewer_rights(machine: Machine, perms: int) -> None:
    """A13: to map RWX through it is refused."""
    k = Calls(machine)
    vmar, _ = k.allocate()
    narrow = zx.handle_duplicate(vmar, rights_of(perms))
    with refused("1.2/8", DENIED):
        k.map(narrow, options=RWX)


@pytest.mark.parametrize("perms", [R, RW, RX])
@emulated()
def test_A14_exactly_the_rights_of_the_handle(machine: Machine, perms: int) -> None:
    """A14: it maps what it has the rights to, protects to no more, and unmaps without any other right."""
    k = Calls(machine)
    vmar, _ = k.allocate()
    narrow = zx.handle_duplicate(vmar, rights_of(perms))
    address = k.map(narrow, options=perms)
    with refused("1.3/1", DENIED):
        k.vmar_protect(narrow, RWX, address, PAGE)
    with refused("1.3/8b", DENIED):
        k.vmar_protect(vmar, RWX, address, PAGE)
    k.vmar_unmap(narrow, address, PAGE)
    assert probes(address) == ABSENT


@emulated()
def test_M01_compact(machine: Machine) -> None:
    """M01: two mappings in a COMPACT VMAR lie in it."""
    k = Calls(machine)
    vmar, base = k.allocate(pages=10, options=CAN_ALL | zx.VM_COMPACT)
    places = [k.map(vmar) for _ in range(2)]
    assert len(set(places)) == 2
    assert all(base <= place < base + 10 * PAGE for place in places)


@emulated()
def test_M02_upper_limits_that_cannot_be(machine: Machine) -> None:
    """M02: a limit beyond the VMAR, a size above the limit, a size above the VMAR."""
    k = Calls(machine)
    vmar, _ = k.allocate(pages=100)
    vmo = k.vmo(101)
    for limit, pages in ((101, 1), (10, 11), (100, 101)):
        with refused("1.1/13", INVALID):
            k.vmar_map(vmar, R | zx.VM_OFFSET_IS_UPPER_LIMIT, limit * PAGE, vmo, 0, pages * PAGE)


@emulated()
def test_M03_an_upper_limit_of_the_whole(machine: Machine) -> None:
    """M03: limit = size = the whole VMAR: at its base."""
    k = Calls(machine)
    vmar, base = k.allocate(pages=100)
    assert k.vmar_map(vmar, R | zx.VM_OFFSET_IS_UPPER_LIMIT, 100 * PAGE, k.vmo(100), 0, 100 * PAGE) == base


@emulated()
def test_M05_alignment_of_a_mapping(machine: Machine) -> None:
    """M05: SPECIFIC with ALIGN_64KB at 4096, then at 64 KiB."""
    k = Calls(machine)
    vmar, base = k.vmar_allocate(k.root, CAN_ALL | zx.VM_ALIGN_1MB, 0, 1 << 20)
    vmo = k.vmo()
    with refused("1.1/14", INVALID):
        k.vmar_map(vmar, R | SPECIFIC | zx.VM_ALIGN_64KB, 4096, vmo, 0, PAGE)
    assert k.vmar_map(vmar, R | SPECIFIC | zx.VM_ALIGN_64KB, 1 << 16, vmo, 0, PAGE) == base + (1 << 16)


@emulated()
def test_M08_map_range_of_an_inaccessible_part(machine: Machine) -> None:
    """M08: MAP_RANGE, no permission, from 0x2000 of the VMO on."""
    k = Calls(machine)
    vmo = k.vmo(4)
    zx.vmo_write(vmo, 0x2000, b"third")
    address = k.vmar_map(k.root, zx.VM_MAP_RANGE, 0, vmo, 0x2000, 0x1000)
    assert zx.process_read_memory(k.me, address, 5) == b"third"


@emulated()
def test_M09_specific_over_a_mapping(machine: Machine) -> None:
    """M09: a mapping larger than its VMO is fine; nothing else fits over it: whole, part, larger."""
    k = Calls(machine)
    vmar, base = k.allocate(pages=4)
    vmo = k.vmo(1)
    assert k.map(vmar, 0, 2, vmo=vmo) == base
    for pages in (2, 1, 4):
        with refused("1.1/15", EXISTS):
            k.map(vmar, 0, pages, vmo=vmo)
    assert probes(base) == WRITABLE
    assert probes(base + PAGE) == BEYOND


@emulated()
def test_M10_a_vmar_over_a_mapping(machine: Machine) -> None:
    """M10: neither can a VMAR be allocated there."""
    k = Calls(machine)
    vmar, _ = k.allocate(pages=4)
    k.map(vmar, 1)
    with refused("1.1/15", EXISTS):
        k.allocate(vmar, 1, CAN_ALL | SPECIFIC, page=1)


@emulated()
def test_M12_specific_overwrite(machine: Machine) -> None:
    """M12: what SPECIFIC is refused SPECIFIC_OVERWRITE does; all pages show the new VMO."""
    k = Calls(machine)
    vmar, base = k.allocate(pages=8)
    k.map(vmar, 2, 4)
    new = k.vmo(4)
    zx.vmo_write(new, 0, b"new page" * (4 * PAGE // 8))
    with refused("1.1/15", EXISTS):
        k.map(vmar, 2, 4, vmo=new)
    k.vmar_map(vmar, RW | zx.VM_SPECIFIC_OVERWRITE, 2 * PAGE, new, 0, 4 * PAGE)
    assert zx.process_read_memory(k.me, base + 2 * PAGE, 4 * PAGE) == b"new page" * (4 * PAGE // 8)


@emulated()
def test_M14_lengths_go_up_to_pages(machine: Machine) -> None:
    """M14: four pages less one byte map and unmap four, without and with MAP_RANGE."""
    k = Calls(machine)
    for option in (0, zx.VM_MAP_RANGE):
        address = k.vmar_map(k.root, RW | option, 0, k.vmo(4), 0, 4 * PAGE - 1)
        assert probes(address + 4 * PAGE - 1) == WRITABLE
        k.vmar_unmap(k.root, address, 4 * PAGE - 1)
        assert probes(address + 3 * PAGE) == ABSENT


@emulated()
def test_M15_allow_faults(machine: Machine) -> None:
    """M15: a resizable VMO with ALLOW_FAULTS."""
    k = Calls(machine)
    k.map(k.root, options=RW | zx.VM_ALLOW_FAULTS, vmo=k.vmo(1, zx.VMO_RESIZABLE))


@emulated()
def test_M16_map_range_past_the_end(machine: Machine) -> None:
    """M16: of a VMO of one page, inside, half outside and outside; what lies behind the end faults."""
    k = Calls(machine)
    vmo = k.vmo(1, zx.VMO_RESIZABLE)
    k.vmar_map(k.root, RW | zx.VM_MAP_RANGE, 0, vmo, 0, PAGE)
    address = k.vmar_map(k.root, RW | zx.VM_MAP_RANGE, 0, vmo, 0, 2 * PAGE)
    assert probes(address) == WRITABLE
    assert probes(address + PAGE) == BEYOND
    assert probes(k.vmar_map(k.root, RW | zx.VM_MAP_RANGE, 0, vmo, PAGE, PAGE)) == BEYOND


@emulated()
def test_M18_read_if_xom_is_unsupported(machine: Machine) -> None:
    """M18: that option alone gives READ on a machine without execute-only memory, and nothing on one that has it."""
    k = Calls(machine)
    address = k.map(k.root, options=zx.VM_PERM_READ_IF_XOM_UNSUPPORTED)
    assert (k.current(address), zx.probe_read(address)) in ((["r"], zx.OK), ([""], DENIED))


@emulated()
def test_I01_types(machine: Machine) -> None:
    """I01: calls on VMARs refuse a VMO's handle, also with arguments that are wrong; map a process as VMO."""
    k = Calls(machine)
    vmo = k.vmo()
    calls: list[tuple[str, Callable[[], object]]] = [
        ("1.5/1", lambda: k.vmar_destroy(vmo)),
        ("1.1/1", lambda: k.vmar_allocate(vmo, CAN_ALL, 0, PAGE)),
        ("1.2/1", lambda: k.vmar_map(vmo, RW, 0, vmo, 0, PAGE)),
        ("1.4/1", lambda: k.vmar_unmap(vmo, 0, 0)),
        ("1.3/1", lambda: k.vmar_protect(vmo, R, 0, 0)),
        ("1.2/1", lambda: k.vmar_map(k.root, R, 0, k.me, 0, PAGE)),
    ]
    for rule, call in calls:
        with refused(rule, zx.ERR_WRONG_TYPE):
            call()


@emulated()
def test_I02_an_offset_without_meaning(machine: Machine) -> None:
    """I02: an offset needs SPECIFIC or OFFSET_IS_UPPER_LIMIT."""
    k = Calls(machine)
    with refused("1.1/10", INVALID):
        k.vmar_allocate(k.root, CAN_ALL, PAGE, PAGE)
    with refused("1.1/10", INVALID):
        k.vmar_map(k.root, RW, PAGE, k.vmo(), 0, PAGE)


@emulated()
def test_I04_permissions_of_a_vmar(machine: Machine) -> None:
    """I04: PERM_READ beside CAN_MAP_READ."""
    k = Calls(machine)
    with refused("1.1/3", INVALID):
        k.allocate(options=zx.VM_CAN_MAP_READ | R)


@emulated()
def test_I06_sizes_and_offsets_of_a_vmar(machine: Machine) -> None:
    """I06: a size, and an offset, of a page less one byte."""
    k = Calls(machine)
    with refused("1.1/4", INVALID):
        k.vmar_allocate(k.root, CAN_ALL, 0, PAGE - 1)
    with refused("1.1/11", INVALID):
        k.vmar_allocate(k.root, CAN_ALL | SPECIFIC, PAGE - 1, PAGE)


@emulated()
def test_I07_offsets_of_a_mapping(machine: Machine) -> None:
    """I07: both offsets are whole pages, with MAP_RANGE as without."""
    k = Calls(machine)
    vmo = k.vmo(2)
    for option in (0, zx.VM_MAP_RANGE):
        with refused("1.1/11", INVALID):
            k.vmar_map(k.root, R | SPECIFIC | option, PAGE - 1, vmo, 0, PAGE)
        for place in (0, SPECIFIC):
            with refused("1.2/15", INVALID):
                k.vmar_map(k.root, R | place | option, 0, vmo, PAGE - 1, PAGE)


@emulated()
def test_I08_addresses(machine: Machine) -> None:
    """I08: unmap and protect at an address that is no page's."""
    k = Calls(machine)
    address = k.map(k.root)
    with refused("1.4/2", INVALID):
        k.vmar_unmap(k.root, address + 1, PAGE)
    with refused("1.3/3", INVALID):
        k.vmar_protect(k.root, R, address + 1, PAGE)


@emulated()
def test_I10_nothing_at_all(machine: Machine) -> None:
    """I10: size 0."""
    k = Calls(machine)
    address = k.map(k.root)
    calls: list[tuple[str, Callable[[], object]]] = [
        ("1.1/7", lambda: k.vmar_allocate(k.root, CAN_ALL, 0, 0)),
        ("1.2/18", lambda: k.vmar_map(k.root, RW, 0, k.vmo(), 0, 0)),
        ("1.4/2", lambda: k.vmar_unmap(k.root, address, 0)),
        ("1.3/5", lambda: k.vmar_protect(k.root, R, address, 0)),
    ]
    for rule, call in calls:
        with refused(rule, INVALID):
            call()


@emulated()
def test_I12_lengths_that_reach_round(machine: Machine) -> None:
    """I12: protect and unmap with a length near 2**64, from before, at and behind a mapping."""
    k = Calls(machine)
    address = k.map(k.root, 4)
    for start in (address - PAGE, address, address + PAGE):
        for size in (TOP - PAGE, TOP - 1):
            with refused("1.3/7" if size % PAGE == 0 else "1.3/5", INVALID):
                k.vmar_protect(k.root, R, start, size)
            with refused("1.4/4" if size % PAGE == 0 else "1.4/2", INVALID):
                k.vmar_unmap(k.root, start, size)


@emulated()
def test_I13_options_of_other_calls(machine: Machine) -> None:
    """I13: options that the call does not have, and bit 31, which none has."""
    k = Calls(machine)
    address = k.map(k.root)
    for rule, option in (("1.1/3", R), ("1.1/2", 1 << 31)):
        with refused(rule, INVALID):
            k.allocate(options=CAN_ALL | option)
    for rule, option in (("1.2/7", zx.VM_CAN_MAP_EXECUTE), ("1.2/10", 1 << 31)):
        with refused(rule, INVALID):
            k.map(k.root, options=RW | option)
    for option in (zx.VM_CAN_MAP_WRITE, 1 << 31):
        with refused("1.3/4", INVALID):
            k.vmar_protect(k.root, RW | option, address, PAGE)
