"""vmar:3.O, and of 3.R and 3.D what is about vmar_op_range."""

import pytest

from capshm import Machine
from capshm import zircon as zx
from tests.conformance.zircon.support import (
    CAN_ALL,
    PAGE,
    RW,
    SPECIFIC,
    STREAM,
    Calls,
    R,
    emulated,
    refused,
    streaming,
)

INVALID = zx.ERR_INVALID_ARGS
BAD_STATE = zx.ERR_BAD_STATE
DENIED = zx.ERR_ACCESS_DENIED
HINTS = (zx.VMAR_OP_MAP_RANGE, zx.VMAR_OP_DONT_NEED, zx.VMAR_OP_ALWAYS_NEED)


def filled(pages: int) -> zx.Handle:
    """A VMO without a zero byte."""
    vmo = zx.vmo_create(pages * PAGE)
    zx.vmo_write(vmo, 0, b"\xff" * pages * PAGE)
    return vmo


def zeros(vmo: zx.Handle, pages: int) -> str:
    """0 for each page of zeros, F for those that are filled."""
    kinds = {bytes(PAGE): "0", b"\xff" * PAGE: "F"}
    return "".join(kinds[zx.vmo_read(vmo, page * PAGE, PAGE)] for page in range(pages))


def populated(vmo: zx.Handle) -> int:
    """Bytes with real memory."""
    info = zx.object_get_info(vmo, zx.INFO_VMO)
    assert isinstance(info, zx.VmoInfo)
    return info.populated_bytes


@emulated()
def test_O01_decommit_a_page(machine: Machine) -> None:
    """O01: it reads as zero, and its memory is given back."""
    k = Calls(machine)
    vmo = filled(4)
    address = k.map(k.root, pages=4, vmo=vmo)
    k.vmar_op_range(k.root, zx.VMAR_OP_DECOMMIT, address + PAGE, PAGE)
    assert zeros(vmo, 4) == "F0FF"
    assert populated(vmo) == 3 * PAGE


@emulated()
def test_O02_decommit_across_mappings(machine: Machine) -> None:
    """O02: two adjacent mappings in one call; a third one, of the same VMO, sees it."""
    k = Calls(machine)
    vmar, base = k.allocate(pages=4)
    first, second = filled(2), filled(2)
    k.map(vmar, 0, 2, vmo=first)
    k.map(vmar, 2, 2, vmo=second)
    alias = k.map(k.root, pages=2, vmo=first)
    k.vmar_op_range(vmar, zx.VMAR_OP_DECOMMIT, base + PAGE, 2 * PAGE)
    assert (zeros(first, 2), zeros(second, 2)) == ("F0", "0F")
    assert zx.process_read_memory(k.me, alias + PAGE, 1) == b"\0"


@emulated()
def test_O03_a_hole(machine: Machine) -> None:
    """O03: BAD_STATE; what lies before it has been done, as vmar.md 1.14 has it."""
    k = Calls(machine)
    vmar, base = k.allocate(pages=3)
    vmo = filled(1)
    k.map(vmar, 0, vmo=vmo)
    k.map(vmar, 2, vmo=vmo)
    with refused("1.6/8a", BAD_STATE):
        k.vmar_op_range(vmar, zx.VMAR_OP_DECOMMIT, base, 3 * PAGE)
    assert zeros(vmo, 1) == "0"


@emulated()
def test_O05_a_mapping_that_can_only_be_read(machine: Machine) -> None:
    """O05: the maximum has no WRITE."""
    k = Calls(machine)
    narrow = zx.handle_duplicate(filled(1), zx.RIGHT_READ | zx.RIGHT_MAP)
    address = k.map(k.root, options=R, vmo=narrow)
    with refused("1.6/8d", DENIED):
        k.vmar_op_range(k.root, zx.VMAR_OP_DECOMMIT, address, PAGE)


@emulated()
def test_O06_map_range(machine: Machine) -> None:
    """O06: of a VMO that is empty, partly, sparsely and fully committed."""
    k = Calls(machine)
    vmo = zx.vmo_create(4 * PAGE)
    address = k.map(k.root, pages=4, vmo=vmo)
    for pages in ((), (0, 1), (3,), (0, 1, 2, 3)):
        for page in pages:
            k.vmar_op_range(k.root, zx.VMAR_OP_COMMIT, address + page * PAGE, PAGE)
        k.vmar_op_range(k.root, zx.VMAR_OP_MAP_RANGE, address, 4 * PAGE)
    assert populated(vmo) == 4 * PAGE


@emulated()
def test_O07_zero(machine: Machine) -> None:
    """O07: a filled mapping becomes all zeros."""
    k = Calls(machine)
    vmo = filled(4)
    address = k.map(k.root, pages=4, vmo=vmo)
    k.vmar_op_range(k.root, zx.VMAR_OP_ZERO, address, 4 * PAGE)
    assert zeros(vmo, 4) == "0000"


@emulated()
def test_O09_the_right_one_of_two(machine: Machine) -> None:
    """O09: two mappings with a hole between them: the second one's pages go, and no others."""
    k = Calls(machine)
    vmar, base = k.allocate(pages=5)
    first, second = filled(2), filled(2)
    k.map(vmar, 0, 2, vmo=first)
    k.map(vmar, 3, 2, vmo=second)
    k.vmar_op_range(vmar, zx.VMAR_OP_DECOMMIT, base + 4 * PAGE, PAGE)
    assert (zeros(first, 2), zeros(second, 2)) == ("FF", "F0")


@emulated()
def test_O11_commit_what_can_only_be_read(machine: Machine) -> None:
    """O11: refused, and no memory has been given."""
    k = Calls(machine)
    vmo = zx.vmo_create(PAGE)
    address = k.map(k.root, options=R, vmo=zx.handle_duplicate(vmo, zx.RIGHT_READ | zx.RIGHT_MAP))
    with refused("1.6/8d", DENIED):
        k.vmar_op_range(k.root, zx.VMAR_OP_COMMIT, address, PAGE)
    assert populated(vmo) == 0


@emulated()
def test_O12_outside_the_vmar(machine: Machine) -> None:
    """O12: twice its length, and address 0."""
    k = Calls(machine)
    vmar, base = k.allocate(pages=2)
    k.map(vmar, 0, 2)
    for address, length in ((base, 4 * PAGE), (0, PAGE)):
        with refused("1.6/5", zx.ERR_OUT_OF_RANGE):
            k.vmar_op_range(vmar, zx.VMAR_OP_COMMIT, address, length)


@emulated()
def test_O13_prefetch(machine: Machine) -> None:
    """O13: one page, two; no length; an address that is no page's. It also works where nothing is permitted."""
    k = Calls(machine)
    address = k.map(k.root, pages=2, options=0)
    for pages in (1, 2):
        k.vmar_op_range(k.root, zx.VMAR_OP_PREFETCH, address, pages * PAGE)
    for start, length in ((address, 0), (address + 1, PAGE)):
        with refused("1.6/4", INVALID):
            k.vmar_op_range(k.root, zx.VMAR_OP_PREFETCH, start, length)


def nested(k: Calls, vmo: zx.Handle) -> tuple[zx.Handle, zx.Handle, int]:
    """A VMAR, one in it, and a mapping in that."""
    parent, _ = k.allocate(pages=2)
    child, _ = k.allocate(parent, 1)
    return parent, child, k.map(child, 0, vmo=vmo)


@emulated()
def test_R09_hints_through_the_parent(machine: Machine) -> None:
    """R09: MAP_RANGE, DONT_NEED and ALWAYS_NEED reach into a child; without OP_CHILDREN they do not."""
    k = Calls(machine)
    parent, _, address = nested(k, filled(1))
    for hint in HINTS:
        k.vmar_op_range(parent, hint, address, PAGE)
        with refused("1.6/8b", INVALID):
            k.vmar_op_range(k.bare(parent), hint, address, PAGE)


@emulated()
def test_R11_commit_through_the_parent(machine: Machine) -> None:
    """R11: refused with OP_CHILDREN as without; ZERO is not."""
    k = Calls(machine)
    vmo = filled(1)
    parent, child, address = nested(k, vmo)
    for handle in (parent, k.bare(parent)):
        with refused("1.6/8b", INVALID):
            k.vmar_op_range(handle, zx.VMAR_OP_COMMIT, address, PAGE)
    k.vmar_op_range(child, zx.VMAR_OP_COMMIT, address, PAGE)
    k.vmar_op_range(parent, zx.VMAR_OP_ZERO, address, PAGE)
    assert zeros(vmo, 1) == "0"


@pytest.mark.parametrize("operation", [zx.VMAR_OP_COMMIT, zx.VMAR_OP_DECOMMIT])
@emulated()
def test_R19_through_the_root(machine: Machine, operation: int) -> None:
    """R19: neither COMMIT nor DECOMMIT reaches a mapping in a child VMAR."""
    k = Calls(machine)
    vmo = filled(1)
    _, _, address = nested(k, vmo)
    with refused("1.6/8b", INVALID):
        k.vmar_op_range(k.root, operation, address, PAGE)
    assert zeros(vmo, 1) == "F"


@emulated()
def test_R21_beside_an_empty_vmar(machine: Machine) -> None:
    """R21: MAP_RANGE from two levels up on a mapping with an empty VMAR right behind it."""
    k = Calls(machine)
    vmar, _ = k.allocate(pages=4)
    child, _ = k.allocate(vmar, 4)
    address = k.map(child, 0)
    k.allocate(child, 1, CAN_ALL | SPECIFIC, page=1)
    k.vmar_op_range(k.root, zx.VMAR_OP_MAP_RANGE, address, PAGE)


@pytest.mark.parametrize("operation", [zx.VMAR_OP_DECOMMIT, zx.VMAR_OP_ZERO])
@emulated()
def test_D23_what_lies_before_a_refusal(machine: Machine, operation: int) -> None:
    """D23: a writable mapping, then one that can only be read: refused, and the first one has been zeroed."""
    k = Calls(machine)
    vmar, base = k.allocate(pages=2)
    first, second = filled(1), filled(1)
    k.map(vmar, 0, options=RW, vmo=first)
    k.map(vmar, 1, options=R, vmo=zx.handle_duplicate(second, zx.RIGHT_READ | zx.RIGHT_MAP))
    with refused("1.6/8d", DENIED):
        k.vmar_op_range(vmar, operation, base, 2 * PAGE)
    assert (zeros(first, 1), zeros(second, 1)) == ("0", "F")


@emulated()
def test_O16_past_the_stream_size(machine: Machine) -> None:
    """O16: PREFETCH, COMMIT and DECOMMIT reaching past the stream size, and up to it; what lies past it stays.

    A range that begins behind the page of the stream size is let through, as the kernel does it.
    """
    k = Calls(machine)
    vmo = streaming(2 * PAGE, 4)
    zx.vmo_write(vmo, 0, b"\xff" * 4 * PAGE)
    address = k.map(k.root, pages=4, options=RW | STREAM, vmo=vmo)
    for operation in (zx.VMAR_OP_PREFETCH, zx.VMAR_OP_COMMIT, zx.VMAR_OP_DECOMMIT):
        for start, pages in ((0, 4), (PAGE, 2), (2 * PAGE, 1)):
            with refused("1.6/8c", zx.ERR_OUT_OF_RANGE):
                k.vmar_op_range(k.root, operation, address + start, pages * PAGE)
        assert zeros(vmo, 4) == "FFFF"
        k.vmar_op_range(k.root, operation, address, 2 * PAGE)
    assert zeros(vmo, 4) == "00FF"
    k.vmar_op_range(k.root, zx.VMAR_OP_ZERO, address + 3 * PAGE, PAGE)
    assert zeros(vmo, 4) == "00F0"
