"""`capshm.model.vmar_mapping` and `vmar_placing`: allocate and map, a test a row of vmar.md 1.1 and 1.2."""

import pytest

from capshm.model import zircon_constants as z
from capshm.model.constants import OBJECT_SIZE_MAX, PAGE
from capshm.model.rights import Rights
from tests.unit.vmar_scene import CAN_ALL, CAN_MAP, RW, RX, VMO_RIGHTS, R, Zircon, refused

TOP = 1 << 64


@pytest.fixture
def zircon() -> Zircon:
    """A process."""
    return Zircon()


# allocate


def test_allocated_vmars_lie_in_their_parent_and_apart(zircon: Zircon) -> None:
    """Children never overlap, and their handles have the rights of their flags (D25)."""
    parent = zircon.allocate(zircon.root, size=10 * PAGE)
    children = [zircon.allocate(parent, size=PAGE) for _ in range(10)]
    assert sorted(zircon.base(child) for child in children) == [zircon.base(parent) + n * PAGE for n in range(10)]
    with refused("1.1/16", "NO_RESOURCES"):
        zircon.allocate(parent, size=PAGE)


@pytest.mark.parametrize(
    ("options", "rights"), [(z.VM_CAN_MAP_READ, 0x208007), (CAN_MAP, 0x20801F), (z.VM_CAN_MAP_SPECIFIC, 0x208003)]
)
def test_rights_of_a_child_come_from_its_flags(zircon: Zircon, options: int, rights: int) -> None:
    """They are those of the flags and the default ones, also through a parent's handle that lacks these."""
    parent = zircon.without(zircon.root, z.RIGHT_OP_CHILDREN | z.RIGHT_TRANSFER)
    handle = zircon.table.get(zircon.allocate(parent, options, size=PAGE))
    assert handle is not None
    assert handle.rights == rights


def test_1_1_row_1(zircon: Zircon) -> None:
    """1.1/1: no handle, another type, a right that is missing; in this order."""
    with refused("1.1/1", "BAD_HANDLE"):
        zircon.allocate(0)
    with refused("1.1/1", "WRONG_TYPE"):
        zircon.allocate(zircon.vmo(rights=z.RIGHT_NONE))
    with refused("1.1/1", "ACCESS_DENIED"):
        zircon.allocate(zircon.without(zircon.root, z.RIGHT_WRITE))
    zircon.allocate(zircon.without(zircon.root, z.RIGHT_WRITE), z.VM_CAN_MAP_READ)


@pytest.mark.parametrize("options", [1 << 31, 9 << z.VM_ALIGN_BASE, 33 << z.VM_ALIGN_BASE, 1 << 20])
def test_1_1_row_2(zircon: Zircon, options: int) -> None:
    """1.1/2: undefined options."""
    with refused("1.1/2", "INVALID_ARGS"):
        zircon.allocate(zircon.root, options)


def test_1_1_rows_3_to_5(zircon: Zircon) -> None:
    """1.1/3 to 1.1/5: options of mappings, and a size that is never rounded."""
    with refused("1.1/3", "INVALID_ARGS"):
        zircon.allocate(zircon.root, z.VM_CAN_MAP_READ | R, size=1)
    for size in (PAGE - 1, TOP - 1, PAGE + 1):
        with refused("1.1/4", "INVALID_ARGS"):
            zircon.allocate(zircon.root, z.VM_SPECIFIC_OVERWRITE, size=size)
    for option in (z.VM_SPECIFIC_OVERWRITE, z.VM_MAP_RANGE, z.VM_REQUIRE_NON_RESIZABLE, z.VM_ALLOW_FAULTS):
        with refused("1.1/5", "INVALID_ARGS"):
            zircon.allocate(zircon.root, option)


def test_1_1_rows_6_to_8(zircon: Zircon) -> None:
    """1.1/6 to 1.1/8: a destroyed parent, no size, more than the parent has."""
    parent = zircon.allocate(zircon.root, z.VM_CAN_MAP_READ)
    with refused("1.1/7", "INVALID_ARGS"):
        zircon.allocate(parent, 0, size=0)
    forged = zircon.table.add(zircon.region(parent), 0x20801F)
    with refused("1.1/8", "ACCESS_DENIED"):
        zircon.allocate(forged, z.VM_CAN_MAP_WRITE)
    zircon.destroy(parent)
    with refused("1.1/6", "BAD_STATE"):
        zircon.allocate(parent, 0, size=0)


def test_1_1_rows_9_to_12(zircon: Zircon) -> None:
    """1.1/9 to 1.1/12: what an offset means."""
    with refused("1.1/9", "INVALID_ARGS"):
        zircon.allocate(zircon.root, z.VM_SPECIFIC | z.VM_OFFSET_IS_UPPER_LIMIT, 1)
    with refused("1.1/10", "INVALID_ARGS"):
        zircon.allocate(zircon.root, 0, PAGE)
    with refused("1.1/11", "INVALID_ARGS"):
        zircon.allocate(zircon.root, z.VM_SPECIFIC, PAGE - 1)
    strict = zircon.allocate(zircon.root, CAN_MAP)
    for option in (z.VM_SPECIFIC, z.VM_OFFSET_IS_UPPER_LIMIT):
        with refused("1.1/12", "ACCESS_DENIED"):
            zircon.allocate(strict, option, 8 * PAGE, PAGE)
    child = zircon.allocate(strict, z.VM_CAN_MAP_SPECIFIC, size=2 * PAGE)  # may be given though the parent lacks it
    zircon.allocate(child, z.VM_SPECIFIC, PAGE, PAGE)


def test_1_1_row_13(zircon: Zircon) -> None:
    """1.1/13: a range outside the parent; also where it can never fit, which is no lack of room."""
    parent = zircon.allocate(zircon.root, size=4 * PAGE)
    bad = [
        (z.VM_SPECIFIC, 4 * PAGE, PAGE),
        (z.VM_SPECIFIC, PAGE, 4 * PAGE),
        (0, 0, 5 * PAGE),
        (z.VM_OFFSET_IS_UPPER_LIMIT, 5 * PAGE, PAGE),
        (z.VM_OFFSET_IS_UPPER_LIMIT, PAGE, 2 * PAGE),
        (0, 0, TOP - PAGE),
    ]
    for options, offset, size in bad:
        with refused("1.1/13", "INVALID_ARGS"):
            zircon.allocate(parent, options, offset, size)
    assert zircon.base(zircon.allocate(parent, z.VM_OFFSET_IS_UPPER_LIMIT, 4 * PAGE, 4 * PAGE)) == zircon.base(parent)


def test_1_1_row_14_and_alignment(zircon: Zircon) -> None:
    """1.1/14: SPECIFIC and ALIGN that contradict each other; ALIGN alone is met, or there is no room (1.1/16)."""
    parent = zircon.allocate(zircon.root, CAN_ALL | z.VM_ALIGN_1MB, size=1 << 20)
    with refused("1.1/14", "INVALID_ARGS"):
        zircon.allocate(parent, z.VM_SPECIFIC | z.VM_ALIGN_64KB, PAGE, PAGE)
    zircon.allocate(parent, z.VM_SPECIFIC | z.VM_ALIGN_64KB, 1 << 16, PAGE)
    for power in range(10, 21):
        child = zircon.allocate(parent, power << z.VM_ALIGN_BASE, size=16 * PAGE if power < 20 else PAGE)
        assert zircon.base(child) % (1 << power) == 0
        zircon.destroy(child)
    zircon.allocate(parent, z.VM_SPECIFIC, 0, PAGE)
    with refused("1.1/16", "NO_RESOURCES"):
        zircon.allocate(parent, z.VM_ALIGN_1MB, size=PAGE)


def test_1_1_row_15(zircon: Zircon) -> None:
    """1.1/15: any overlap with a mapping or a VMAR, be that empty."""
    parent = zircon.allocate(zircon.root, size=16 * PAGE)
    zircon.allocate(parent, z.VM_SPECIFIC, 4 * PAGE, 2 * PAGE)
    zircon.map(parent, RW | z.VM_SPECIFIC, 8 * PAGE, length=2 * PAGE)
    for offset, pages in ((4, 1), (3, 2), (5, 2), (3, 4), (7, 2), (9, 2), (8, 2), (0, 16)):
        with refused("1.1/15", "ALREADY_EXISTS"):
            zircon.allocate(parent, z.VM_SPECIFIC, offset * PAGE, pages * PAGE)
        with refused("1.1/15", "ALREADY_EXISTS"):
            zircon.map(parent, RW | z.VM_SPECIFIC, offset * PAGE, length=pages * PAGE)
    zircon.allocate(parent, z.VM_SPECIFIC, 6 * PAGE, 2 * PAGE)


# map


def test_1_2_rows_1_to_3(zircon: Zircon) -> None:
    """1.2/1, 1.2/3: the handles; a VMO's without MAP before any other check."""
    with refused("1.2/1", "WRONG_TYPE"):
        zircon.map(zircon.vmo())
    with refused("1.2/1", "WRONG_TYPE"):
        zircon.map(zircon.root, vmo=zircon.root)
    with refused("1.2/1", "BAD_HANDLE"):
        zircon.map(zircon.root, vmo=4)
    with refused("1.2/3", "ACCESS_DENIED"):
        zircon.map(zircon.root, z.VM_PERM_WRITE, vmo=zircon.vmo(rights=z.RIGHT_READ | z.RIGHT_WRITE))


def test_1_2_rows_4_and_5(zircon: Zircon) -> None:
    """1.2/4, 1.2/5: WRITE and EXECUTE need READ, which READ_IF_XOM_UNSUPPORTED gives where there is no XOM."""
    xom = z.VM_PERM_READ_IF_XOM_UNSUPPORTED
    for options in (z.VM_PERM_WRITE, z.VM_PERM_EXECUTE, z.VM_PERM_WRITE | z.VM_PERM_EXECUTE):
        with refused("1.2/5", "INVALID_ARGS"):
            zircon.map(zircon.root, options, vmo=zircon.vmo(rights=z.RIGHT_READ | z.RIGHT_MAP))
    with refused("1.2/5", "INVALID_ARGS"):
        zircon.map(zircon.root, z.VM_PERM_WRITE | xom, has_xom=True)
    address = zircon.map(zircon.root, z.VM_PERM_EXECUTE | xom, has_xom=True)
    assert zircon.permissions(address) == ["x/rwx"]


def test_1_2_rows_6_to_8(zircon: Zircon) -> None:
    """1.2/6 to 1.2/8: options that exclude each other, CAN_MAP options, and rights that a handle lacks."""
    with refused("1.2/6", "INVALID_ARGS"):
        zircon.map(zircon.root, R | z.VM_MAP_RANGE | z.VM_SPECIFIC_OVERWRITE)
    with refused("1.2/7", "INVALID_ARGS"):
        zircon.map(zircon.root, RW | z.VM_CAN_MAP_WRITE, vmo=zircon.vmo(rights=z.RIGHT_READ | z.RIGHT_MAP))
    with refused("1.2/8", "ACCESS_DENIED"):
        zircon.map(zircon.root, RW, vmo=zircon.vmo(rights=z.RIGHT_READ | z.RIGHT_MAP))
    with refused("1.2/8", "ACCESS_DENIED"):
        zircon.map(zircon.without(zircon.root, z.RIGHT_EXECUTE), RX)


def test_1_2_rows_9_to_13(zircon: Zircon) -> None:
    """1.2/9 to 1.2/13: options and kinds of VMO that do not go together."""
    with refused("1.2/9", "INVALID_ARGS"):
        zircon.map(zircon.root, R | z.VM_FAULT_BEYOND_STREAM_SIZE)
    with refused("1.2/10", "INVALID_ARGS"):
        zircon.map(zircon.root, R | 1 << 31)
    resizable, discardable = zircon.vmo(options=z.VMO_RESIZABLE), zircon.vmo(options=z.VMO_DISCARDABLE)
    with refused("1.2/11", "NOT_SUPPORTED"):
        zircon.map(zircon.root, R | z.VM_REQUIRE_NON_RESIZABLE, vmo=resizable)
    zircon.map(zircon.root, R | z.VM_REQUIRE_NON_RESIZABLE)
    with refused("1.2/12", "NOT_SUPPORTED"):
        zircon.map(zircon.root, R, vmo=discardable)
    zircon.map(zircon.root, R | z.VM_ALLOW_FAULTS, vmo=discardable)
    for option in (z.VM_COMPACT, z.VM_CAN_MAP_SPECIFIC):
        with refused("1.2/13", "INVALID_ARGS"):
            zircon.map(zircon.root, R | option)


def test_1_2_rows_14_to_18(zircon: Zircon) -> None:
    """1.2/14 to 1.2/18: the VMAR's flags, offsets and lengths, and a VMAR that has ended."""
    vmar = zircon.allocate(zircon.root, z.VM_CAN_MAP_READ)
    forged = zircon.table.add(zircon.region(vmar), 0x20801F)
    with refused("1.2/14", "ACCESS_DENIED"):
        zircon.map(forged, RW, vmo_offset=1)
    with refused("1.2/15", "INVALID_ARGS"):
        zircon.map(vmar, R, vmo_offset=PAGE - 1, length=0)
    with refused("1.2/16", "OUT_OF_RANGE"):
        zircon.map(vmar, R, length=TOP - 1)
    with refused("1.2/16", "OUT_OF_RANGE"):
        zircon.map(vmar, R, vmo_offset=TOP - PAGE, length=1)
    with refused("1.2/18", "INVALID_ARGS"):
        zircon.map(vmar, R, length=0)
    zircon.destroy(vmar)
    with refused("1.2/17", "BAD_STATE"):
        zircon.map(vmar, R, length=0)


def test_1_2_row_20(zircon: Zircon) -> None:
    """1.2/20: SPECIFIC_OVERWRITE never touches a child VMAR: whole, part or empty, with OP_CHILDREN or not."""
    parent = zircon.allocate(zircon.root, size=8 * PAGE)
    zircon.allocate(parent, z.VM_SPECIFIC, 2 * PAGE, 2 * PAGE)
    zircon.map(parent, RW | z.VM_SPECIFIC, 5 * PAGE)
    before = zircon.permissions(zircon.base(parent), 8)
    for handle in (parent, zircon.without_children(parent)):
        for offset, pages in ((0, 8), (2, 2), (3, 3), (1, 2)):
            with refused("1.2/20", "INVALID_ARGS"):
                zircon.map(handle, R | z.VM_SPECIFIC_OVERWRITE, offset * PAGE, length=pages * PAGE)
    assert zircon.permissions(zircon.base(parent), 8) == before


def test_overwriting_splits_what_was_there(zircon: Zircon) -> None:
    """SPECIFIC_OVERWRITE replaces what it covers; the rest keeps its permissions, and its place in the VMO."""
    parent = zircon.allocate(zircon.root, size=8 * PAGE)
    old, new = zircon.vmo(6), zircon.vmo(2, rights=z.RIGHT_READ | z.RIGHT_MAP)
    base = zircon.map(parent, RW | z.VM_SPECIFIC, PAGE, old, length=6 * PAGE) - PAGE
    zircon.map(parent, R | z.VM_SPECIFIC_OVERWRITE, 3 * PAGE, new, length=2 * PAGE)
    assert zircon.permissions(base, 8) == ["-", *["rw/rwx"] * 2, *["r/r"] * 2, *["rw/rwx"] * 2, "-"]
    assert [entry.offset for entry in zircon.space.within(base, base + 8 * PAGE)] == [0, 0, 4 * PAGE]


@pytest.mark.parametrize(
    ("vmar", "vmo", "maximum"),
    [
        (z.RIGHT_READ | z.RIGHT_WRITE, VMO_RIGHTS, "rw"),
        (z.RIGHT_READ | z.RIGHT_WRITE | z.RIGHT_EXECUTE, z.RIGHT_MAP | z.RIGHT_READ | z.RIGHT_EXECUTE, "rx"),
        (z.RIGHT_READ, z.RIGHT_MAP | z.RIGHT_READ | z.RIGHT_WRITE, "r"),
        (0, VMO_RIGHTS, ""),
    ],
)
def test_the_maximum_is_what_both_handles_have(zircon: Zircon, vmar: int, vmo: int, maximum: str) -> None:
    """1.0, 3: whatever is asked for now, and whatever becomes of the handles."""
    handle, memory = zircon.table.duplicate(zircon.root, vmar), zircon.vmo(rights=vmo)
    address = zircon.map(handle, 0, vmo=memory)
    zircon.table.close(handle)
    zircon.table.close(memory)
    assert zircon.permissions(address) == [f"/{maximum}"]
    assert zircon.space.within(address, address + PAGE)[0].maximum == Rights.from_letters(maximum)


def test_lengths_are_rounded_up_and_may_pass_the_end(zircon: Zircon) -> None:
    """A length goes up to pages, and a mapping beyond the VMO's end is no mistake."""
    address = zircon.map(zircon.root, RW, vmo=zircon.vmo(1), length=2 * PAGE + 1)
    assert zircon.permissions(address, 4) == ["rw/rwx"] * 3 + ["-"]
    with refused("host", "NO_RESOURCES"):
        zircon.map(zircon.root, RW, vmo_offset=OBJECT_SIZE_MAX)


def test_upper_limits(zircon: Zircon) -> None:
    """OFFSET_IS_UPPER_LIMIT: the result ends below it, and the VMO is mapped from its beginning (a quirk, 1.2)."""
    parent = zircon.allocate(zircon.root, size=100 * PAGE)
    limit = R | z.VM_OFFSET_IS_UPPER_LIMIT
    for offset, pages in ((101, 1), (10, 11), (100, 101)):
        with refused("1.1/13", "INVALID_ARGS"):
            zircon.map(parent, limit, offset * PAGE, length=pages * PAGE)
    address = zircon.map(parent, limit, 10 * PAGE, zircon.vmo(9), vmo_offset=PAGE, length=8 * PAGE)
    assert zircon.base(parent) <= address <= zircon.base(parent) + 2 * PAGE
    assert zircon.space.entries[address].offset == 0
    with refused("1.1/16", "NO_RESOURCES"):
        zircon.map(parent, limit, 10 * PAGE, length=3 * PAGE)


def test_neighbours_of_one_vmo_are_one_mapping(zircon: Zircon) -> None:
    """Adjacent mappings that continue each other are shown as one; those of another VMAR are not."""
    parent = zircon.allocate(zircon.root, size=4 * PAGE)
    vmo = zircon.vmo(4)
    base = zircon.base(parent)
    child = zircon.allocate(parent, CAN_ALL | z.VM_SPECIFIC, 2 * PAGE, 2 * PAGE)
    for page in (1, 0):
        zircon.map(parent, RW | z.VM_SPECIFIC, page * PAGE, vmo, page * PAGE)
    zircon.map(child, RW | z.VM_SPECIFIC, 0, vmo, 2 * PAGE)
    assert [(each.start - base, each.length) for each in zircon.space.entries.values()] == [
        (0, 2 * PAGE),
        (2 * PAGE, PAGE),
    ]
