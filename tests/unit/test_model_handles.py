"""`capshm.model.handles` and `regions`: tables of handles, and VMARs beside the reservations of mmap."""

from typing import ClassVar

import pytest

from capshm.model import constants as c
from capshm.model import zircon_constants as z
from capshm.model.constants import PAGE
from capshm.model.handles import HandleTable, KernelObject, Koids, rights_text
from tests.unit.model_scene import Process
from tests.unit.model_scene import refused as refused_by_bsd
from tests.unit.vmar_scene import CAN_ALL, ROOT_RIGHTS, RW, R, Zircon, refused


class Counted(KernelObject):
    """Says when its last handle is gone."""

    type: ClassVar[int] = z.OBJ_TYPE_CHANNEL

    def __init__(self) -> None:
        super().__init__()
        self.ends = 0

    def unnamed(self) -> None:
        self.ends += 1


@pytest.fixture
def table() -> HandleTable:
    """An empty one."""
    return HandleTable(Koids())


def test_values_and_koids(table: HandleTable) -> None:
    """Values have both low bits set and are not given again; all handles of an object show one koid."""
    target, other = Counted(), Counted()
    values = [table.add(target, 3), table.add(target, 1), table.add(other, 1)]
    assert len(set(values)) == 3
    assert all(value & 3 == 3 for value in values)
    assert table.close(values[1])
    assert table.add(other, 0) not in values
    assert 0 < target.koid != other.koid


def test_duplicating_never_gains(table: HandleTable) -> None:
    """1.8/1 to 1.8/3: unknown, without DUPLICATE, and rights that the handle lacks (D21)."""
    value = table.add(Counted(), z.RIGHT_DUPLICATE | z.RIGHT_READ)
    with refused("1.8/1", "BAD_HANDLE"):
        table.duplicate(value + 4, 0)
    with refused("1.8/3", "INVALID_ARGS"):
        table.duplicate(value, z.RIGHT_READ | z.RIGHT_OP_CHILDREN)
    reader = table.get(table.duplicate(value, z.RIGHT_READ))
    assert reader is not None
    assert reader.rights == z.RIGHT_READ
    same = table.get(table.duplicate(value, z.RIGHT_SAME_RIGHTS))
    assert same is not None
    assert same.rights == z.RIGHT_DUPLICATE | z.RIGHT_READ
    with refused("1.8/2", "ACCESS_DENIED"):
        table.duplicate(table.duplicate(value, 0), 0)


def test_replacing_closes_the_old_one_in_any_case(table: HandleTable) -> None:
    """1.8: on success, and when it asks for rights that were not there (1.14)."""
    target = Counted()
    value = table.add(target, z.RIGHT_READ)
    new = table.replace(value, 0)
    assert table.get(value) is None
    with refused("1.8/3", "INVALID_ARGS"):
        table.replace(new, z.RIGHT_READ)
    assert table.get(new) is None
    assert (target.handles, target.ends) == (0, 1)


def test_an_object_counts_its_handles(table: HandleTable) -> None:
    """Copies of a table count; the object hears of the last one's end, once."""
    target = Counted()
    value = table.add(target, z.RIGHT_DUPLICATE)
    copy = table.copy()
    assert copy.get(value) == table.get(value)
    table.close_all()
    assert (target.handles, target.ends) == (1, 0)
    assert not table.close(value)
    assert copy.close(value)
    assert (target.handles, target.ends) == (0, 1)


def test_rights_in_words() -> None:
    """As refusals show them."""
    assert rights_text(z.DEFAULT_VMAR_RIGHTS) == "DUPLICATE|TRANSFER|INSPECT|OP_CHILDREN"
    assert rights_text(0) == "no rights"
    assert rights_text(z.RIGHT_CAP | 1 << 29) == "CAP|0x20000000"
    assert rights_text(z.RIGHT_SAME_RIGHTS) == "SAME_RIGHTS"


class Both(Zircon, Process):
    """A process that uses both faces."""

    def __init__(self) -> None:
        Process.__init__(self)
        self.table = HandleTable(Koids())
        self.errors = "kernel"
        self.root = self.table.add(self.space.root, ROOT_RIGHTS)

    map = Zircon.map
    vmo = Zircon.vmo
    unmap = Zircon.unmap


def test_mmap_and_vmars_keep_apart() -> None:
    """Neither places anything where the other has something, be it only reserved or empty, and a number says where."""
    both = Both()
    taken = []
    for _ in range(4):
        pointer = both.mmap(length=PAGE)
        taken.append((pointer.base, pointer.top))
        taken.append((both.map(both.root), PAGE))
        vmar = both.allocate(both.root, size=PAGE)
        taken.append((both.base(vmar), PAGE))
        both.space.check()
    starts = sorted(start for start, _ in taken)
    assert len(set(starts)) == 12
    for start in starts[:3]:
        with refused("1.1/15", "ALREADY_EXISTS"):
            both.allocate(both.root, z.VM_SPECIFIC, start - both.space.arena_start, PAGE)
        with refused_by_bsd("C5", "ENOMEM"):
            both.mmap(start, flags=c.MAP_ANON | c.MAP_PRIVATE | c.MAP_FIXED)


def test_a_mapping_of_mmap_through_the_root() -> None:
    """A reservation is a child region of the root: lowered from there, not raised, and unmapped as a whole."""
    both = Both()
    pointer = both.mmap(length=2 * PAGE)
    both.protect(both.root, R, pointer.base)
    assert both.permissions(pointer.base, 2) == ["r/rwRW", "rwRW/rwRW"]
    with refused("1.3/8e", "ACCESS_DENIED"):
        both.protect(both.root, RW, pointer.base)
    with refused("1.3/8d", "INVALID_ARGS"):
        both.protect(both.without_children(both.root), R, pointer.base)
    with refused("1.4/7", "INVALID_ARGS"):
        both.unmap(both.root, pointer.base)
    both.unmap(both.root, pointer.base, 2 * PAGE)
    assert pointer.base not in both.space.reservations
    both.space.check()


def test_a_stale_pointer_of_mmap_has_no_say_in_a_vmar() -> None:
    """Where a reservation was, and a VMAR is now, its old pointer maps and unmaps nothing."""
    both = Both()
    pointer = both.mmap()
    both.unmap(both.root, pointer.base)
    vmar = both.allocate(both.root, CAN_ALL | z.VM_SPECIFIC, pointer.base - both.space.arena_start, 4 * PAGE)
    both.map(vmar, RW | z.VM_SPECIFIC)
    with refused_by_bsd("C13", "EPROT"):
        both.mmap(pointer, flags=c.MAP_ANON | c.MAP_PRIVATE | c.MAP_FIXED)
    with refused_by_bsd("C15", "EPROT"):
        both.munmap(pointer, PAGE)
    assert both.permissions(pointer.base) == ["rw/rwx"]


def test_a_fork_copies_the_tree() -> None:
    """The child's VMARs are others, that no handle names, with the same mappings in them."""
    zircon = Zircon()
    parent = zircon.allocate(zircon.root)
    child = zircon.allocate(parent, size=4 * PAGE)
    address = zircon.map(child, RW)
    copy = zircon.space.copy(2)
    copy.check()
    assert [(vmar.start, vmar.end, vmar.rights, vmar.handles) for vmar in copy.root.vmars()] == [
        (vmar.start, vmar.end, vmar.rights, 0) for vmar in zircon.space.root.vmars()
    ]
    zircon.destroy(parent)
    copy.check()
    assert copy.entries[address].vmar == zircon.region(child).number
    assert [depth for depth, _ in copy.root.walk()] == [0, 1, 2, 3]
