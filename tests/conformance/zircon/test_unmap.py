"""vmar:3.U, and of 3.R and 3.D what is about unmap and destroy."""

from capshm import Machine
from capshm import zircon as zx
from tests.conformance.zircon.support import CAN_ALL, PAGE, RW, SPECIFIC, Calls, R, emulated, refused
from tests.faults.processes import Child

INVALID = zx.ERR_INVALID_ARGS
BAD_STATE = zx.ERR_BAD_STATE


@emulated()
def test_R01_destroy_without_the_right(machine: Machine) -> None:
    """R01: even an empty VMAR is not destroyed without OP_CHILDREN."""
    k = Calls(machine)
    vmar, _ = k.allocate()
    with refused("1.5/1", zx.ERR_ACCESS_DENIED):
        k.vmar_destroy(k.bare(vmar))
    k.vmar_destroy(vmar)


@emulated()
def test_R07_unmap_a_child_without_the_right(machine: Machine) -> None:
    """R07: default rights without OP_CHILDREN do not unmap a child VMAR."""
    k = Calls(machine)
    parent, base = k.allocate(pages=4)
    child, _ = k.allocate(parent, 1, CAN_ALL | SPECIFIC, page=1)
    k.map(child, 0)
    bare = zx.handle_duplicate(parent, zx.DEFAULT_VMAR_RIGHTS & ~zx.RIGHT_OP_CHILDREN)
    with refused("1.4/7", INVALID):
        k.vmar_unmap(bare, base, 4 * PAGE)
    assert k.mapped(base, 4) == "-x--"


def rows(k: Calls, *, is_child_first: bool) -> tuple[zx.Handle, zx.Handle, int]:
    """A VMAR of 9 pages: mapping, child VMAR with one page, mapping; or the child first, then two mappings."""
    parent, base = k.allocate(pages=9)
    places = (1, 2) if is_child_first else (0, 2)
    child, _ = k.allocate(parent, 3, CAN_ALL | SPECIFIC, page=0 if is_child_first else 3)
    k.map(child, 1)
    for place in places:
        k.map(parent, 3 * place, 3)
    return parent, child, base


@emulated()
def test_R15_unmap_takes_covered_children(machine: Machine) -> None:
    """R15: from the first mapping to the start of the last: the child between is destroyed."""
    k = Calls(machine)
    parent, child, base = rows(k, is_child_first=False)
    k.vmar_unmap(parent, base, 6 * PAGE)
    assert k.mapped(base, 9) == "------xxx"
    with refused("1.2/17", BAD_STATE):
        k.map(child, 0)


@emulated()
def test_R17_unmap_leaves_partly_covered_children(machine: Machine) -> None:
    """R17: a range that leaves the child's first page out changes nothing; the whole range takes all."""
    k = Calls(machine)
    parent, child, base = rows(k, is_child_first=True)
    with refused("1.4/7", INVALID):
        k.vmar_unmap(parent, base + PAGE, 8 * PAGE)
    assert k.mapped(base, 9) == "-x-xxxxxx"
    k.vmar_unmap(parent, base, 9 * PAGE)
    with refused("1.2/17", BAD_STATE):
        k.map(child, 0)


@emulated()
def test_R23_what_a_destroyed_vmar_is_good_for(machine: Machine) -> None:
    """R23: with a child VMAR in it: handles are valid, calls answer BAD_STATE, mappings are gone, the parent works."""
    k = Calls(machine)
    grandparent, base = k.allocate(pages=8)
    vmar, start = k.allocate(grandparent, 4, CAN_ALL | SPECIFIC, page=2)
    child, _ = k.allocate(vmar, 2, CAN_ALL | SPECIFIC, page=1)
    k.map(vmar, 0)
    k.map(child, 0)
    k.vmar_destroy(vmar)
    for ended in (vmar, child):
        zx.handle_check_valid(ended)
        with refused("1.5/3", BAD_STATE):
            k.vmar_destroy(ended)
        with refused("1.1/6", BAD_STATE):
            k.allocate(ended, 1)
        with refused("1.4/3", BAD_STATE):
            k.vmar_unmap(ended, start, PAGE)
        with refused("1.3/6", BAD_STATE):
            k.vmar_protect(ended, R, start, PAGE)
        with refused("1.2/17", BAD_STATE):
            k.map(ended, 0)
    assert k.mapped(base, 8) == "--------"
    assert k.map(grandparent, 2, 4) == start


@emulated()
def test_D11_unmap_an_empty_child_without_the_right(machine: Machine) -> None:
    """D11: it counts, although there is nothing in it, and stays alive."""
    k = Calls(machine)
    parent, base = k.allocate(pages=2)
    child, _ = k.allocate(parent, 1, CAN_ALL | SPECIFIC, page=1)
    with refused("1.4/7", INVALID):
        k.vmar_unmap(k.bare(parent), base, 2 * PAGE)
    k.map(child, 0)


@emulated()
def test_D13_unmap_a_child_with_a_child(machine: Machine) -> None:
    """D13: the grandparent unmaps exactly the VMAR's range: it and what is in it have ended."""
    k = Calls(machine)
    vmar, base = k.allocate(pages=4)
    child, _ = k.allocate(vmar, 2)
    k.map(child, 0)
    k.vmar_unmap(k.root, base, 4 * PAGE)
    for ended in (vmar, child):
        with refused("1.2/17", BAD_STATE):
            k.map(ended, 0)
    assert k.mapped(base, 4) == "----"


@emulated()
def test_D15_destroy_the_root(machine: Machine) -> None:
    """D15: NOT_SUPPORTED."""
    k = Calls(machine)
    with refused("1.5/2", zx.ERR_NOT_SUPPORTED):
        k.vmar_destroy(k.root)


@emulated()
def test_D17_a_child_without_handles(machine: Machine) -> None:
    """D17: it stays mapped when its handle is closed, and goes with its parent."""
    k = Calls(machine)
    parent, base = k.allocate(pages=2)
    child, _ = k.allocate(parent, 2)
    k.map(child, 0, 2)
    k.handle_close(child)
    assert k.mapped(base, 2) == "xx"
    k.vmar_destroy(parent)
    assert k.mapped(base, 2) == "--"


@emulated()
def test_U01_unmap_the_left_half(machine: Machine) -> None:
    """U01: two of four pages; the others still show the VMO's second half. Then the rest."""
    k = Calls(machine)
    vmo = k.vmo(4)
    zx.vmo_write(vmo, 2 * PAGE, b"right")
    address = k.map(k.root, pages=4, vmo=vmo)
    k.vmar_unmap(k.root, address, 2 * PAGE)
    assert k.mapped(address, 4) == "--xx"
    assert zx.process_read_memory(k.me, address + 2 * PAGE, 5) == b"right"
    k.vmar_unmap(k.root, address + 2 * PAGE, 2 * PAGE)
    assert k.mapped(address, 4) == "----"


@emulated()
def test_U02_unmap_the_right_half(machine: Machine) -> None:
    """U02: two of four pages, then the rest."""
    k = Calls(machine)
    address = k.map(k.root, pages=4)
    k.vmar_unmap(k.root, address + 2 * PAGE, 2 * PAGE)
    assert k.mapped(address, 4) == "xx--"
    k.vmar_unmap(k.root, address, 2 * PAGE)
    assert k.mapped(address, 4) == "----"


@emulated()
def test_U04_map_again_where_it_was_unmapped(machine: Machine) -> None:
    """U04: left, middle and right: SPECIFIC fits again."""
    k = Calls(machine)
    vmar, base = k.allocate(pages=4)
    for first, count in ((0, 2), (1, 2), (2, 2)):
        k.map(vmar, 0, 4)
        k.vmar_unmap(vmar, base + first * PAGE, count * PAGE)
        k.map(vmar, first, count)
        assert k.mapped(base, 4) == "xxxx"
        k.vmar_unmap(vmar, base, 4 * PAGE)


@emulated()
def test_U05_unmap_parts_of_two(machine: Machine) -> None:
    """U05: the tail of one mapping and the head of the next, in one call."""
    k = Calls(machine)
    vmar, base = k.allocate(pages=8)
    for page in (0, 4):
        k.map(vmar, page, 4)
    k.vmar_unmap(vmar, base + 2 * PAGE, 4 * PAGE)
    assert k.mapped(base, 8) == "xx----xx"


@emulated()
def test_U07_unmap_from_before_a_mapping(machine: Machine) -> None:
    """U07: the range begins a page before it; another mapping further below is left alone."""
    k = Calls(machine)
    vmar, base = k.allocate(pages=8)
    k.map(vmar, 4, 2)
    k.vmar_unmap(vmar, base + 3 * PAGE, 3 * PAGE)
    k.map(vmar, 0)
    k.map(vmar, 4, 2)
    k.vmar_unmap(vmar, base + 3 * PAGE, 3 * PAGE)
    assert k.mapped(base, 8) == "x-------"


@emulated()
def test_U09_read_beside_what_was_unmapped(machine: Machine) -> None:
    """U09: of two pages the second is gone: reads of the first, of the second, of both, of 2 bytes across."""
    k = Calls(machine)
    address = k.map(k.root, pages=2)
    k.vmar_unmap(k.root, address + PAGE, PAGE)
    assert len(zx.process_read_memory(k.me, address, PAGE)) == PAGE
    with refused("1.9/2", zx.ERR_NOT_FOUND):
        zx.process_read_memory(k.me, address + PAGE, PAGE)
    assert len(zx.process_read_memory(k.me, address, 2 * PAGE)) == PAGE
    assert len(zx.process_read_memory(k.me, address + PAGE - 1, 2)) == 1


@emulated()
def test_U11_the_same_with_an_offset(machine: Machine) -> None:
    """U11: a mapping from 0x1000 of its VMO on: at its end, behind it, across; read and written."""
    k = Calls(machine)
    vmo = k.vmo(4)
    zx.vmo_write(vmo, 0x1000, b"A" * 2 * PAGE)
    address = k.vmar_map(k.root, RW, 0, vmo, 0x1000, 2 * PAGE)
    k.vmar_unmap(k.root, address + PAGE, PAGE)
    end = address + PAGE
    assert zx.process_read_memory(k.me, end - 1, 1) == b"A"
    assert zx.process_write_memory(k.me, end - 1, b"BC") == 1
    assert zx.vmo_read(vmo, 2 * PAGE - 1, 2) == b"BA"
    with refused("1.9/2", zx.ERR_NOT_FOUND):
        zx.process_write_memory(k.me, end, b"C")


@emulated()
def test_U12_reads_beside_unmaps(machine: Machine) -> None:
    """U12: a process maps and unmaps a thousand times while another reads there; nobody ends, and no read is odd."""
    k = Calls(machine)
    vmar, base = k.allocate(pages=1)
    vmo = k.vmo()
    zx.vmo_write(vmo, 0, b"there")

    def read() -> None:
        for _ in range(1000):
            try:
                assert zx.process_read_memory(k.me, base, 5) == b"there"
            except zx.ZxError as error:
                if error.status != zx.ERR_NOT_FOUND:
                    raise

    with Child(read) as reader:
        for _ in range(1000):
            zx.vmar_map(vmar, RW | SPECIFIC, 0, vmo, 0, PAGE)
            zx.vmar_unmap(vmar, base, PAGE)
        assert reader.wait() == 0
    k.look()
