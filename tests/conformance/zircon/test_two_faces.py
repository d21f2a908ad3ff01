"""One address space, two vocabularies: what mmap has mapped, seen, lowered and unmapped through VMAR handles."""

import os

import pytest

from capshm import Capability, Machine, PageViolation, Refused, StoreTagViolation
from capshm import cheribsd as bsd
from capshm import zircon as zx
from tests.conformance.cheribsd.revocation import as_freed, revoke, revoke_painted, shadow_of
from tests.conformance.cheribsd.support import PADDED, RWC, UNREPRESENTABLE
from tests.conformance.cheribsd.support import RW as PROT_RW
from tests.conformance.zircon.support import CAN_CAP, PAGE, RC, RW, R, emulated, refused
from tests.faults.processes import ask_child

PRIVATE = bsd.MAP_PRIVATE | bsd.MAP_ANON
SHARED = bsd.MAP_SHARED | bsd.MAP_ANON
DENIED = zx.ERR_ACCESS_DENIED


def mapped(flags: int = SHARED, length: int = 2 * PAGE) -> Capability:
    """Memory of mmap that holds the capability to itself."""
    area = bsd.mmap(None, length, RWC, flags)
    area.store_capability(0, area)
    return area


def rows(vmar: zx.Handle) -> list[tuple[int, int, int, int, int]]:
    """depth, type, base, size and flags of what the maps topic says."""
    maps = zx.object_get_info(vmar, zx.INFO_VMAR_MAPS)
    assert isinstance(maps, list)
    return [(each.depth, each.type, each.base, each.size, each.mmu_flags) for each in maps]


@emulated()
def test_the_maps_topic_has_both(machine: Machine) -> None:
    """A reservation of mmap is a VMAR without handles, its padding a gap; its mapping shows capability permission."""
    root = zx.vmar_root_self()
    vmar, base = zx.vmar_allocate(root, CAN_CAP, 0, 4 * PAGE)
    area = mapped(PRIVATE, UNREPRESENTABLE)
    whole = zx.object_get_info(root, zx.INFO_VMAR)
    assert isinstance(whole, zx.VmarInfo)
    assert rows(root) == [
        (0, zx.INFO_MAPS_TYPE_VMAR, whole.base, whole.length, 0),
        (1, zx.INFO_MAPS_TYPE_VMAR, base, 4 * PAGE, 0),
        (1, zx.INFO_MAPS_TYPE_VMAR, area.base, PADDED, 0),
        (2, zx.INFO_MAPS_TYPE_MAPPING, area.base, UNREPRESENTABLE, RW | zx.VM_PERM_CAP),
    ]
    assert rows(vmar) == [(0, zx.INFO_MAPS_TYPE_VMAR, base, 4 * PAGE, 0)]
    with refused("1.1/15", zx.ERR_ALREADY_EXISTS):
        zx.vmar_allocate(root, CAN_CAP | zx.VM_SPECIFIC, area.base - whole.base, PAGE)


@pytest.mark.parametrize("flags", [PRIVATE, SHARED])
@emulated()
def test_lowered_from_above(machine: Machine, flags: int) -> None:
    """The root's handle takes permissions from memory of mmap and never gives them back; mprotect does, as its own."""
    root, area = zx.vmar_root_self(), mapped(flags)
    for options, current in ((RC, "rR"), (RW, "rw"), (0, "")):
        zx.vmar_protect(root, options, area.base, 2 * PAGE)
        assert [(each.current, each.maximum) for each in machine.mappings(os.getpid())] == [(current, "rwRW")]
        with refused("1.3/8e", DENIED):
            zx.vmar_protect(root, RW | zx.VM_PERM_CAP, area.base, PAGE)
        with pytest.raises((StoreTagViolation, PageViolation)):
            area.store_capability(16, area)
        bsd.mprotect(area, 2 * PAGE, RWC)
        assert area.load_capability().tag
        area.store_capability(16, area)
    with zx.handle_duplicate(root, root.rights & ~zx.RIGHT_OP_CHILDREN) as bare, refused("1.3/8d", zx.ERR_INVALID_ARGS):
        zx.vmar_protect(bare, R, area.base, PAGE)


@pytest.mark.parametrize("length", [2 * PAGE, UNREPRESENTABLE])
@emulated()
def test_unmapped_from_above(machine: Machine, length: int) -> None:
    """The root unmaps a reservation as a whole, its padding too; the pointer that is left reaches nothing."""
    root, area = zx.vmar_root_self(), mapped(PRIVATE, length)
    with refused("1.4/7", zx.ERR_INVALID_ARGS):
        zx.vmar_unmap(root, area.base, PAGE)
    zx.vmar_unmap(root, area.base, area.length)
    assert machine.mappings(os.getpid()) == []
    for offset in (0, area.length - 1):
        with pytest.raises(PageViolation) as caught:
            area.read(offset, 1)
        assert caught.value.code == "SEGV_MAPERR"
    with pytest.raises(Refused) as refusal:
        bsd.munmap(area, length)
    assert refusal.value.rule == "cheribsd:C15"
    vmo = zx.vmo_create(PAGE)
    base = zx.object_get_info(root, zx.INFO_VMAR)
    assert isinstance(base, zx.VmarInfo)
    assert zx.vmar_map(root, RW | zx.VM_SPECIFIC, area.base - base.base, vmo, 0, PAGE) == area.base


@emulated()
def test_unmapped_from_above_it_waits_for_revocation(machine: Machine) -> None:
    """Row C12: where a process revokes, what its root's handle unmaps of mmap is not used again before an epoch."""
    root, area = zx.vmar_root_self(), mapped(PRIVATE)
    shadow_of(area)
    whole = zx.object_get_info(root, zx.INFO_VMAR)
    assert isinstance(whole, zx.VmarInfo)
    zx.vmar_unmap(root, area.base, area.length)
    assert [each.is_quarantined for each in machine.mappings(os.getpid())] == [True]
    vmo = zx.vmo_create(PAGE)
    with refused("1.1/15", zx.ERR_ALREADY_EXISTS):
        zx.vmar_map(root, RW | zx.VM_SPECIFIC, area.base - whole.base, vmo, 0, PAGE)
    zx.vmar_unmap(root, area.base, area.length)
    tags = [area.tag]
    revoke()
    tags.append(area.tag)
    assert tags == [True, False]
    assert machine.mappings(os.getpid()) == []
    assert zx.vmar_map(root, RW | zx.VM_SPECIFIC, area.base - whole.base, vmo, 0, PAGE) == area.base


@emulated()
def test_a_pass_reaches_vmos(machine: Machine) -> None:
    """Row J1: what hides in a VMO that is mapped nowhere is revoked, and what was not painted stays."""
    root = zx.vmar_root_self()
    vmo = zx.vmo_create(PAGE, zx.VMO_CAP)
    area = mapped(PRIVATE)
    freed, kept = as_freed(area), as_freed(area + PAGE)
    address = zx.vmar_map(root, RW | zx.VM_PERM_CAP, 0, vmo, 0, PAGE)
    zx.vmar_capability(root, address, PAGE).store_capabilities(0, [freed, kept])
    zx.vmar_unmap(root, address, PAGE)
    revoke_painted(area, freed)
    address = zx.vmar_map(root, RW | zx.VM_PERM_CAP, 0, vmo, 0, PAGE)
    assert [each.tag for each in zx.vmar_capability(root, address, PAGE).load_capabilities(0, 2)] == [False, True]


@emulated()
def test_a_pointer_has_no_say_in_a_vmar(machine: Machine) -> None:
    """What CheriBSD's calls are given of a VMAR's memory lacks SW_VMEM; MAP_FIXED there does not replace it either."""
    root = zx.vmar_root_self()
    address = zx.vmar_map(root, RW, 0, zx.vmo_create(PAGE), 0, PAGE)
    pointer = zx.vmar_capability(root, address, PAGE)
    calls = (
        lambda: bsd.munmap(pointer, PAGE),
        lambda: bsd.mprotect(pointer, PAGE, bsd.PROT_READ),
        lambda: bsd.minherit(pointer, PAGE, bsd.INHERIT_NONE),
        lambda: bsd.mmap(address, PAGE, PROT_RW, PRIVATE | bsd.MAP_FIXED),
    )
    for call in calls:
        with pytest.raises(Refused):
            call()
    assert zx.probe_write(address) == zx.OK


@emulated()
def test_memory_of_mmap_is_no_vmo(machine: Machine) -> None:
    """What would need a VMO cannot be done to memory of mmap, and says so; touching it is as of any."""
    root, me, area = zx.vmar_root_self(), zx.process_self(), mapped(PRIVATE)
    with refused("host", zx.ERR_NOT_SUPPORTED):
        zx.vmar_op_range(root, zx.VMAR_OP_ZERO, area.base, PAGE)
    with refused("host", zx.ERR_NOT_SUPPORTED):
        zx.process_read_memory(me, area.base, 1)
    assert (zx.probe_read(area.base), zx.probe_write(area.base)) == (zx.OK, zx.OK)
    zx.vmar_protect(root, R, area.base, PAGE)
    assert (zx.probe_read(area.base), zx.probe_write(area.base)) == (zx.OK, DENIED)


@emulated()
def test_a_child_has_both(machine: Machine) -> None:
    """After fork the child's own root has the reservation, and the VMAR, which no handle of its names."""
    area = mapped()
    vmar, base = zx.vmar_allocate(zx.vmar_root_self(), CAN_CAP, 0, PAGE)
    expected = [(1, base, PAGE), (1, area.base, 2 * PAGE)]

    def look() -> tuple[list[tuple[int, int, int]], bool]:
        root = zx.vmar_root_self()
        found = [(depth, start, size) for depth, kind, start, size, _ in rows(root) if depth and kind != 3]
        zx.vmar_protect(root, R, area.base, PAGE)
        zx.vmar_unmap(root, base, PAGE)
        return found, vmar.koid == zx.object_get_info(vmar, zx.INFO_HANDLE_BASIC)[0]

    assert sorted(ask_child(look)[0]) == sorted(expected)
    area.store_capability(16, area)  # the parent's own mapping is as it was
    assert len(rows(zx.vmar_root_self())) == 4
