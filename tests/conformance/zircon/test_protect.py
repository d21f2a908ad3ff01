"""vmar:3.P, and of 3.R and 3.D what is about protect: current and maximum permission, and RFC-0199."""

import ctypes
import os
from itertools import pairwise

import pytest

from capshm import Machine
from capshm import zircon as zx
from tests.conformance.zircon.support import (
    CAN_ALL,
    NOTHING,
    PAGE,
    READ_ONLY,
    RW,
    RWX,
    RX,
    SPECIFIC,
    WRITABLE,
    Calls,
    R,
    emulated,
    probes,
    refused,
    rights_of,
)
from tests.faults.isolation import isolated
from tests.faults.processes import ask_child

INVALID = zx.ERR_INVALID_ARGS
DENIED = zx.ERR_ACCESS_DENIED


def nested(k: Calls, options: int = RW) -> tuple[zx.Handle, zx.Handle, int]:
    """A VMAR of one page, one in it, and a mapping in that."""
    parent, base = k.allocate(pages=1)
    child, _ = k.allocate(parent, 1)
    assert k.map(child, 0, options=options) == base
    return parent, child, base


@pytest.mark.parametrize("perms", [R, RW, RX])
@emulated()
def test_P01_the_rights_of_a_vmo_handle(machine: Machine, perms: int) -> None:
    """P01: more than the VMO's handle has cannot be mapped, what it has can; and Linux holds the maximum."""
    k = Calls(machine)
    narrow = zx.handle_duplicate(k.vmo(), rights_of(perms) | zx.RIGHT_MAP)
    with refused("1.2/8", DENIED):
        k.map(k.root, options=RWX, vmo=narrow)
    address = k.map(k.root, options=perms, vmo=narrow)
    with refused("1.3/8b", DENIED):
        k.vmar_protect(k.root, RWX, address, PAGE)
    assert probes(address) == (WRITABLE if perms & zx.VM_PERM_WRITE else READ_ONLY)


@pytest.mark.parametrize(("first", "count"), [(0, 2), (2, 2), (1, 2)])
@emulated()
def test_P03_protect_a_part(machine: Machine, first: int, count: int) -> None:
    """P03: the left half, the right half, the middle of four pages, to R; then unmap all."""
    k = Calls(machine)
    address = k.map(k.root, pages=4)
    k.vmar_protect(k.root, R, address + first * PAGE, count * PAGE)
    expected = ["r" if first <= page < first + count else "rw" for page in range(4)]
    assert k.current(address, 4) == expected
    assert [probes(address + page * PAGE) for page in range(4)] == [
        READ_ONLY if each == "r" else WRITABLE for each in expected
    ]
    assert k.mapped(address, 4) == "xxxx"
    k.vmar_unmap(k.root, address, 4 * PAGE)


@emulated()
def test_P04_protect_several_mappings(machine: Machine) -> None:
    """P04: three adjacent mappings, from page 1 to the last but one, to R."""
    k = Calls(machine)
    vmar, base = k.allocate(pages=12)
    for page in (0, 4, 8):
        k.map(vmar, page, 4)
    k.vmar_protect(vmar, R, base + PAGE, 10 * PAGE)
    assert k.current(base, 12) == ["rw", *["r"] * 10, "rw"]


@emulated()
def test_P06_a_gap_in_the_middle(machine: Machine) -> None:
    """P06: NOT_FOUND, and nothing has changed, which upstream's test cannot see."""
    k = Calls(machine)
    vmar, base = k.allocate(pages=12)
    for page in (0, 8):
        k.map(vmar, page, 4)
    with refused("1.3/8a", zx.ERR_NOT_FOUND):
        k.vmar_protect(vmar, R, base + PAGE, 10 * PAGE)
    assert k.current(base, 12) == [*["rw"] * 4, *["-"] * 4, *["rw"] * 4]


@emulated()
def test_P08_pages_that_were_never_touched(machine: Machine) -> None:
    """P08: of 100 pages three were touched; after protect to R none can be written."""
    k = Calls(machine)
    address = k.map(k.root, pages=100)
    for page in (0, 50, 99):
        assert zx.probe_write(address + page * PAGE) == zx.OK
    k.vmar_protect(k.root, R, address, 100 * PAGE)
    assert {probes(address + page * PAGE) for page in range(100)} == {READ_ONLY}


@emulated()
def test_P10_a_snapshot_that_was_protected(machine: Machine) -> None:
    """P10: RW, R, read, page 1 RW again, write: the clone has changed, the original has not."""
    k = Calls(machine)
    vmo = zx.vmo_create(4 * PAGE)
    zx.vmo_write(vmo, 0, b"original" * (4 * PAGE // 8))
    clone = zx.vmo_create_child(vmo, zx.VMO_CHILD_SNAPSHOT, 0, 4 * PAGE)
    address = k.map(k.root, pages=4, vmo=clone)
    k.vmar_protect(k.root, R, address, 4 * PAGE)
    assert probes(address + PAGE) == READ_ONLY
    k.vmar_protect(k.root, RW, address + PAGE, PAGE)
    zx.process_write_memory(k.me, address + PAGE, b"changed!")
    assert zx.vmo_read(clone, PAGE, 8) == b"changed!"
    assert zx.vmo_read(vmo, PAGE, 8) == b"original"


@emulated()
def test_P12_sequences_on_one_mapping(machine: Machine) -> None:
    """P12: protect in every order over parts of 8 pages; ranges are exact, and equal neighbours are one row."""
    k = Calls(machine)
    address = k.map(k.root, pages=8)
    pages = ["rw"] * 8
    letters = {R: "r", RW: "rw", 0: "", RX: "rx"}
    parts = [(0, 8), (1, 3), (3, 2), (2, 4), (0, 1), (7, 1), (0, 4), (4, 4), (2, 2), (5, 3), (1, 6), (3, 1)]
    for number, (first, count) in enumerate(parts * 4):
        perms = (R, RW, 0, RX)[number * 7 // 3 % 4]
        k.vmar_protect(k.root, perms, address + first * PAGE, count * PAGE)
        pages[first : first + count] = [letters[perms]] * count
        assert k.current(address, 8) == pages
        rows = [each for each in machine.mappings(os.getpid()) if each.start < address + 8 * PAGE]
        assert all(before.current != after.current for before, after in pairwise(rows))


@emulated()
def test_P14_neighbours_merge(machine: Machine) -> None:
    """P14: mappings that continue each other are one, as the maps topic shows, whatever order they come in."""
    k = Calls(machine)
    for order in ((0, 1, 2), (2, 1, 0), (0, 2, 1), (1, 0, 2)):
        vmar, base = k.allocate(pages=3)
        vmo = k.vmo(3)
        for page in order:
            k.vmar_map(vmar, RW | SPECIFIC, page * PAGE, vmo, page * PAGE, PAGE)
        rows = k.object_get_info(vmar, zx.INFO_VMAR_MAPS)
        assert [(row.base, row.size, row.depth) for row in rows] == [(base, 3 * PAGE, 0), (base, 3 * PAGE, 1)]
        k.vmar_protect(vmar, R, base + PAGE, PAGE)
        assert len(k.object_get_info(vmar, zx.INFO_VMAR_MAPS)) == 4
        k.vmar_protect(vmar, R, base, 3 * PAGE)
        assert len(k.object_get_info(vmar, zx.INFO_VMAR_MAPS)) == 2


@emulated()
def test_P15_a_snapshot_of_stripes(machine: Machine) -> None:
    """P15: stripes are protected, a snapshot is made, RW stripes written: the write is the VMO's, not the clone's."""
    k = Calls(machine)
    vmo = zx.vmo_create(8 * PAGE)
    address = k.map(k.root, pages=8, vmo=vmo)
    for page in range(0, 8, 2):
        k.vmar_protect(k.root, R, address + page * PAGE, PAGE)
    clone = zx.vmo_create_child(vmo, zx.VMO_CHILD_SNAPSHOT, 0, 8 * PAGE)
    for page in range(8):
        assert probes(address + page * PAGE) == (WRITABLE if page % 2 else READ_ONLY)
        if page % 2:
            zx.process_write_memory(k.me, address + page * PAGE, b"new")
            assert zx.vmo_read(vmo, page * PAGE, 3) == b"new"
            assert zx.vmo_read(clone, page * PAGE, 3) == bytes(3)


@emulated()
def test_R03_lowering_through_the_parent(machine: Machine) -> None:
    """R03: a mapping two levels down, RW: the parent makes it R."""
    k = Calls(machine)
    parent, _, address = nested(k)
    k.vmar_protect(parent, R, address, PAGE)
    assert probes(address) == READ_ONLY


@emulated()
def test_R04_raising_through_the_parent(machine: Machine) -> None:
    """R04: the parent cannot give WRITE back; the child's own handle can."""
    k = Calls(machine)
    parent, child, address = nested(k)
    k.vmar_protect(parent, R, address, PAGE)
    with refused("1.3/8e", DENIED):
        k.vmar_protect(parent, RW, address, PAGE)
    assert probes(address) == READ_ONLY
    k.vmar_protect(child, RW, address, PAGE)
    assert probes(address) == WRITABLE


@emulated()
def test_R14_across_a_filled_child(machine: Machine) -> None:
    """R14: mapping, a child VMAR that a mapping fills, mapping: the parent protects all of it to R."""
    k = Calls(machine)
    parent, base = k.allocate(pages=3)
    k.map(parent, 0)
    child, _ = k.allocate(parent, 1, CAN_ALL | SPECIFIC, page=1)
    k.map(child, 0)
    k.map(parent, 2)
    k.vmar_protect(parent, R, base, 3 * PAGE)
    assert k.current(base, 3) == ["r", "r", "r"]


@emulated()
def test_D01_across_an_empty_child_without_the_right(machine: Machine) -> None:
    """D01: an empty child VMAR is a gap, and no reason to ask for OP_CHILDREN."""
    k = Calls(machine)
    parent, base = k.allocate(pages=2)
    k.map(parent, 0)
    k.allocate(parent, 1, CAN_ALL | SPECIFIC, page=1)
    with refused("1.3/9", zx.ERR_NOT_FOUND):
        k.vmar_protect(k.bare(parent), R, base, 2 * PAGE)


@emulated()
def test_D03_three_levels(machine: Machine) -> None:
    """D03: root > A > B > mapping RW: the root lowers it, A cannot raise it, B can."""
    k = Calls(machine)
    first, second, address = nested(k)
    k.vmar_protect(k.root, R, address, PAGE)
    with refused("1.3/8e", DENIED):
        k.vmar_protect(first, RW, address, PAGE)
    k.vmar_protect(second, RW, address, PAGE)
    assert probes(address) == WRITABLE


@emulated()
def test_D05_all_or_nothing(machine: Machine) -> None:
    """D05: a mapping of its own that may be raised, then a child's that may not: neither is."""
    k = Calls(machine)
    parent, base = k.allocate(pages=2)
    k.map(parent, 0, options=R)
    child, _ = k.allocate(parent, 1, CAN_ALL | SPECIFIC, page=1)
    k.map(child, 0, options=R)
    with refused("1.3/8e", DENIED):
        k.vmar_protect(parent, RW, base, 2 * PAGE)
    assert k.current(base, 2) == ["r", "r"]


@pytest.mark.parametrize("perms", [0, R, RW, RWX])
@emulated()
def test_D08_exactly_what_is_there(machine: Machine, perms: int) -> None:
    """D08: to ask through the parent for what the child's mapping permits now is fine."""
    k = Calls(machine)
    parent, _, address = nested(k, perms)
    k.vmar_protect(parent, perms, address, PAGE)
    assert k.current(address) == [{0: "", R: "r", RW: "rw", RWX: "rwx"}[perms]]


@emulated()
def test_D10_beside_a_child_without_the_right(machine: Machine) -> None:
    """D10: what lies beside a child VMAR is protected and unmapped without OP_CHILDREN."""
    k = Calls(machine)
    parent, base = k.allocate(pages=3)
    k.allocate(parent, 1, CAN_ALL | SPECIFIC, page=1)
    k.map(parent, 0)
    bare = k.bare(parent)
    k.vmar_protect(bare, R, base, PAGE)
    assert probes(base) == READ_ONLY
    k.vmar_unmap(bare, base, PAGE)


@pytest.mark.slow
@pytest.mark.parametrize(("errors", "status"), [("kernel", INVALID), ("rfc", DENIED)])
@isolated()
def test_2_5_errors_of_the_kernel_and_of_the_rfc(errors: str, status: int) -> None:
    """2.5: where OP_CHILDREN is missing the kernel answers INVALID_ARGS, and the RFC's text has ACCESS_DENIED."""
    with Machine(vmar_errors=errors) as machine:
        k = Calls(machine)
        parent, child, address = nested(k)
        bare = k.bare(parent)
        with refused("1.3/8d", status):
            k.vmar_protect(bare, R, address, PAGE)
        with refused("1.4/7", status):
            k.vmar_unmap(bare, address, PAGE)
        with refused("1.6/8b", status):
            k.vmar_op_range(bare, zx.VMAR_OP_ZERO, address, PAGE)
        with refused("1.5/1", DENIED):
            k.vmar_destroy(k.bare(child))
        assert k.current(address) == ["rw"]


@emulated()
def test_S24_no_permission(machine: Machine) -> None:
    """S24: R, then nothing; and a mapping made with nothing, then R."""
    k = Calls(machine)
    address = k.map(k.root, options=R)
    k.vmar_protect(k.root, 0, address, PAGE)
    assert probes(address) == NOTHING
    address = k.map(k.root, options=0)
    assert probes(address) == NOTHING
    k.vmar_protect(k.root, R, address, PAGE)
    assert probes(address) == READ_ONLY


@emulated()
def test_linux_holds_the_maximum(machine: Machine) -> None:
    """5.3: past the library, mprotect beyond a maximum without WRITE is refused by Linux, in a child of fork too."""
    k = Calls(machine)
    address = k.map(k.root, options=R, vmo=zx.handle_duplicate(zx.vmo_create(PAGE), zx.RIGHT_READ | zx.RIGHT_MAP))
    libc = ctypes.CDLL(None, use_errno=True)

    def raise_it() -> int:
        return int(libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(PAGE), 3))

    assert raise_it() == -1
    assert ask_child(raise_it) == -1
    k.look()
