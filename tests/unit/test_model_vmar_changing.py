"""`capshm.model.vmar_changing`: protect, unmap, destroy and op_range, a test a row of vmar.md 1.3 to 1.6, and 2.8."""

import pytest

from capshm.model import zircon_constants as z
from capshm.model.constants import PAGE
from capshm.model.vmar_changing import plan_unmap
from capshm.model.vmos import Vmo
from tests.unit.vmar_scene import CAN_ALL, RW, RWX, RX, R, Zircon, refused

TOP = 1 << 64


class Tree(Zircon):
    """root > parent > child; D, a page of the parent, and M, a page of the child, lie next to each other."""

    def __init__(self, errors: str = "kernel", direct: int = RW, mapped: int = RW) -> None:
        super().__init__(errors)
        self.parent = self.allocate(self.root, size=4 * PAGE)
        self.child = self.allocate(self.parent, CAN_ALL | z.VM_SPECIFIC, PAGE, 2 * PAGE)
        self.vmo_handle = self.vmo(4)
        self.direct = self.map(self.parent, direct | z.VM_SPECIFIC, 0, self.vmo_handle)
        self.mapped = self.map(self.child, mapped | z.VM_SPECIFIC, 0, self.vmo_handle)
        self.empty = self.mapped + PAGE

    def pages(self) -> list[str]:
        """What D and M permit now."""
        return [page.partition("/")[0] for page in self.permissions(self.direct, 2)]


@pytest.fixture
def tree() -> Tree:
    """That tree, all RW."""
    return Tree()


# protect


def test_1_3_rows_1_to_7(tree: Tree) -> None:
    """1.3/1 to 1.3/7: handle, options, address, length, life, range; in this order."""
    with refused("1.3/1", "BAD_HANDLE"):
        tree.protect(4, R, tree.direct)
    with refused("1.3/1", "WRONG_TYPE"):
        tree.protect(tree.vmo_handle, R, 0, 0)
    with refused("1.3/1", "ACCESS_DENIED"):
        tree.protect(tree.without(tree.parent, z.RIGHT_WRITE), RW, tree.direct + 1)
    with refused("1.3/2", "INVALID_ARGS"):
        tree.protect(tree.parent, z.VM_PERM_WRITE, tree.direct + 1)
    with refused("1.3/3", "INVALID_ARGS"):
        tree.protect(tree.parent, R | z.VM_SPECIFIC, tree.direct + 1)
    for option in (z.VM_CAN_MAP_WRITE, 1 << 31, z.VM_ALIGN_1KB, z.VM_SPECIFIC, z.VM_MAP_RANGE):
        with refused("1.3/4", "INVALID_ARGS"):
            tree.protect(tree.parent, R | option, tree.direct, 0)
    for length in (0, TOP - 1):
        with refused("1.3/5", "INVALID_ARGS"):
            tree.protect(tree.parent, R, tree.direct, length)
    for address in (tree.direct - PAGE, tree.direct, tree.direct + PAGE):
        with refused("1.3/7", "INVALID_ARGS"):
            tree.protect(tree.parent, R, address, TOP - 2 * PAGE)
    tree.destroy(tree.parent)
    with refused("1.3/6", "BAD_STATE"):
        tree.protect(tree.parent, R, tree.direct - PAGE)
    assert tree.permissions(tree.direct, 4) == ["-"] * 4


def test_1_3_row_8_the_lowest_offending_address_decides() -> None:
    """1.3/8: of a gap, a small maximum, a child and a low current permission the first one met is named."""
    tree = Tree(mapped=R)
    bare = tree.without_children(tree.parent)
    with refused("1.3/9", "NOT_FOUND"):
        tree.protect(tree.parent, R, tree.direct, 3 * PAGE)
    with refused("1.3/8d", "INVALID_ARGS"):  # the mapping of the child comes first, the gap later
        tree.protect(bare, R, tree.direct, 3 * PAGE)
    tree.unmap(tree.parent, tree.direct)
    with refused("1.3/8a", "NOT_FOUND"):
        tree.protect(bare, R, tree.direct, 2 * PAGE)
    with refused("1.3/8d", "INVALID_ARGS"):
        tree.protect(bare, R, tree.mapped)
    narrow = tree.vmo(rights=z.RIGHT_READ | z.RIGHT_MAP)
    tree.map(tree.child, R | z.VM_SPECIFIC_OVERWRITE, 0, narrow)
    with refused("1.3/8b", "ACCESS_DENIED"):  # 8b before 8d
        tree.protect(bare, RW, tree.mapped)


@pytest.mark.parametrize("has_right", [True, False])
def test_1_3_row_8a_an_empty_vmar_is_a_gap(tree: Tree, has_right: bool) -> None:
    """1.3/8a: with OP_CHILDREN or without it (D01)."""
    handle = tree.parent if has_right else tree.without_children(tree.parent)
    with refused("1.3/9", "NOT_FOUND"):
        tree.protect(handle, R, tree.empty)


def test_1_3_row_8d_as_the_rfc_has_it() -> None:
    """1.3/8d: with vmar_errors="rfc" the missing right is ACCESS_DENIED, here and for unmap and op_range."""
    tree = Tree(errors="rfc")
    bare = tree.without_children(tree.parent)
    with refused("1.3/8d", "ACCESS_DENIED"):
        tree.protect(bare, R, tree.mapped)
    with refused("1.4/7", "ACCESS_DENIED"):
        tree.unmap(bare, tree.mapped, 2 * PAGE)
    with refused("1.4/7", "INVALID_ARGS"):
        tree.unmap(tree.parent, tree.mapped)
    with refused("1.6/8b", "ACCESS_DENIED"):
        tree.operate(bare, z.VMAR_OP_ZERO, tree.mapped)
    with refused("1.6/8b", "INVALID_ARGS"):
        tree.operate(bare, z.VMAR_OP_COMMIT, tree.mapped)


EXAMPLES = [
    # number, D now, M now, whose handle, asked, D or M or both, what comes of it
    (1, R, RW, "parent", R, "M", None),
    (2, R, R, "parent", RW, "M", "1.3/8e"),
    (3, R, R, "parent", RW, "D", None),
    (4, R, R, "parent", RW, "DM", "1.3/8e"),
    (5, R, RX, "parent", R, "M", None),
    (6, R, RX, "parent", RW, "M", "1.3/8e"),
    (7, R, RW, "root", R, "M", None),
    (8, R, RWX, "parent", RWX, "M", None),
]


@pytest.mark.parametrize(("number", "direct", "mapped", "who", "asked", "what", "rule"), EXAMPLES)
def test_2_8_worked_examples(
    number: int, direct: int, mapped: int, who: str, asked: int, what: str, rule: str | None
) -> None:
    """2.8: direct mappings go up to their maximum, those of a child only down; and all or nothing. 8 is D08."""
    tree = Tree(direct=direct, mapped=mapped)
    before = tree.pages()
    address, length = {"D": (tree.direct, PAGE), "M": (tree.mapped, PAGE), "DM": (tree.direct, 2 * PAGE)}[what]
    handle = tree.parent if who == "parent" else tree.root
    if rule is not None:
        with refused(rule, "ACCESS_DENIED"):
            tree.protect(handle, asked, address, length)
        assert tree.pages() == before
        return
    tree.protect(handle, asked, address, length)
    letters = {R: "r", RW: "rw", RX: "rx", RWX: "rwx"}[asked]
    assert tree.pages() == [letters if "D" in what else before[0], letters if "M" in what else before[1]]


def test_lowering_from_above_is_final_for_ancestors_only(tree: Tree) -> None:
    """1.3: after 0 from above, the ancestor cannot give READ back; the child's own handle can, up to the maximum."""
    tree.protect(tree.root, 0, tree.mapped)
    with refused("1.3/8e", "ACCESS_DENIED"):
        tree.protect(tree.parent, R, tree.mapped)
    tree.protect(tree.child, RWX, tree.mapped)
    assert tree.pages() == ["rw", "rwx"]


def test_a_range_may_cut_through_a_child(tree: Tree) -> None:
    """1.3: only covered pages change; where current permissions differ each page range is judged for itself."""
    tree.map(tree.child, RW | z.VM_SPECIFIC, PAGE, tree.vmo_handle, PAGE)
    tree.protect(tree.parent, R, tree.direct, 2 * PAGE)
    assert tree.permissions(tree.direct, 3) == ["r/rwx", "r/rwx", "rw/rwx"]
    with refused("1.3/8e", "ACCESS_DENIED"):
        tree.protect(tree.parent, RW, tree.mapped, 2 * PAGE)
    assert tree.permissions(tree.direct, 3) == ["r/rwx", "r/rwx", "rw/rwx"]


# unmap


def test_1_4_rows_1_to_4(tree: Tree) -> None:
    """1.4/1 to 1.4/4: handle, range, life."""
    with refused("1.4/1", "BAD_HANDLE"):
        tree.unmap(3, 0)
    with refused("1.4/1", "WRONG_TYPE"):
        tree.unmap(tree.vmo_handle, 0, 0)
    for address, length in ((tree.direct + 1, PAGE), (tree.direct, 0), (tree.direct, TOP - 1)):
        with refused("1.4/2", "INVALID_ARGS"):
            tree.unmap(tree.parent, address, length)
    for address, length in ((tree.direct - PAGE, PAGE), (tree.direct, 5 * PAGE)):
        with refused("1.4/4", "INVALID_ARGS"):
            tree.unmap(tree.parent, address, length)
    tree.destroy(tree.child)
    with refused("1.4/3", "BAD_STATE"):
        tree.unmap(tree.child, tree.direct)


def test_1_4_row_7(tree: Tree) -> None:
    """1.4/7: a child in the range, empty or not, must be covered whole, and OP_CHILDREN be there; nothing changes."""
    bare = tree.without_children(tree.parent)
    tree.unmap(tree.child, tree.mapped)
    with refused("1.4/7", "INVALID_ARGS"):
        tree.unmap(bare, tree.mapped, 2 * PAGE)
    with refused("1.4/7", "INVALID_ARGS"):
        tree.unmap(tree.parent, tree.direct, 2 * PAGE)
    assert tree.region(tree.child).is_alive
    assert tree.pages() == ["rw", "-"]
    tree.unmap(bare, tree.direct)  # beside the child the right is not needed
    tree.unmap(tree.parent, tree.direct, 4 * PAGE)
    assert not tree.region(tree.child).is_alive


def test_unmap_without_any_right(tree: Tree) -> None:
    """1.4: no right is needed, and gaps are no mistake; neither is a range with nothing in it."""
    bare = tree.table.duplicate(tree.parent, z.RIGHT_NONE)
    tree.unmap(bare, tree.direct)
    tree.unmap(bare, tree.direct)
    tree.unmap(tree.child, tree.mapped, 2 * PAGE)
    assert tree.permissions(tree.direct, 4) == ["-"] * 4


def test_unmapping_splits(tree: Tree) -> None:
    """1.4: what is left keeps its permissions and its place in the VMO."""
    vmar = tree.allocate(tree.root, size=4 * PAGE)
    base = tree.map(vmar, RW, vmo=tree.vmo_handle, length=4 * PAGE)
    tree.protect(vmar, R, base + 3 * PAGE)
    tree.unmap(vmar, base + PAGE)
    assert tree.permissions(base, 4) == ["rw/rwx", "-", "rw/rwx", "r/rwx"]
    assert [entry.offset for entry in tree.space.within(base, base + 4 * PAGE)] == [0, 2 * PAGE, 3 * PAGE]


@pytest.mark.parametrize(("page", "pages", "expected"), [(0, 4, False), (0, 3, False), (1, 3, False), (1, 2, True)])
def test_only_a_hole_needs_room(tree: Tree, page: int, pages: int, expected: bool) -> None:
    """1.4/8: whoever has as many areas as there may be can still unmap, but for the middle of a mapping."""
    address = tree.map(tree.root, RW, vmo=tree.vmo_handle, length=4 * PAGE)
    caller = tree.caller(tree.root, 0, "vmar:1.4/1")
    assert plan_unmap(caller, address + page * PAGE, pages * PAGE).is_splitting == expected


# destroy


def test_1_5(tree: Tree) -> None:
    """1.5/1 to 1.5/3: OP_CHILDREN always, never the root, once; and everything below goes too."""
    with refused("1.5/1", "WRONG_TYPE"):
        tree.destroy(tree.vmo_handle)
    with refused("1.5/1", "ACCESS_DENIED"):
        tree.destroy(tree.without_children(tree.allocate(tree.root)))
    with refused("1.5/2", "NOT_SUPPORTED"):
        tree.destroy(tree.root)
    tree.destroy(tree.parent)
    for ended in (tree.parent, tree.child):
        with refused("1.5/3", "BAD_STATE"):
            tree.destroy(ended)
        with refused("1.7/1", "BAD_HANDLE"):
            tree.region(ended + 1000)
    assert tree.permissions(tree.direct, 4) == ["-"] * 4
    again = tree.allocate(tree.root, CAN_ALL | z.VM_SPECIFIC, tree.direct - tree.base(tree.root), 4 * PAGE)
    assert tree.base(again) == tree.direct


def test_closing_the_last_handle_changes_nothing(tree: Tree) -> None:
    """1.0, 5: the range stays taken and mapped, and can only be lowered from then on; D17."""
    tree.table.close(tree.child)
    assert tree.pages() == ["rw", "rw"]
    with refused("1.1/15", "ALREADY_EXISTS"):
        tree.allocate(tree.parent, CAN_ALL | z.VM_SPECIFIC, 2 * PAGE, PAGE)
    tree.protect(tree.parent, R, tree.mapped)
    with refused("1.3/8e", "ACCESS_DENIED"):
        tree.protect(tree.root, RW, tree.mapped)
    tree.destroy(tree.parent)
    assert tree.pages() == ["-", "-"]


# op_range


def test_1_6_rows_1_to_6(tree: Tree) -> None:
    """1.6/1 to 1.6/6: here the range comes before the VMAR's life, and outside is OUT_OF_RANGE."""
    with refused("1.6/1", "WRONG_TYPE"):
        tree.operate(tree.vmo_handle, 99, 0, 0)
    with refused("1.6/2", "INVALID_ARGS"):
        tree.operate(tree.parent, 99, 1, 0)
    for address, length in ((tree.direct + 1, PAGE), (tree.direct, 0)):
        with refused("1.6/4", "INVALID_ARGS"):
            tree.operate(tree.parent, z.VMAR_OP_COMMIT, address, length)
    tree.destroy(tree.child)
    for address, length in ((tree.direct, 8 * PAGE), (0, PAGE)):
        with refused("1.6/5", "OUT_OF_RANGE"):
            tree.operate(tree.child, z.VMAR_OP_COMMIT, address, length)
    with refused("1.6/6", "BAD_STATE"):
        tree.operate(tree.child, z.VMAR_OP_COMMIT, tree.mapped)


ALL = (1, 2, 3, 10, 12, 13, 14)


@pytest.mark.parametrize("operation", ALL)
def test_1_6_row_8b(tree: Tree, operation: int) -> None:
    """1.6/8b: COMMIT, DECOMMIT and PREFETCH never reach into a child, the others with OP_CHILDREN."""
    bare = tree.without_children(tree.parent)
    with refused("1.6/8b", "INVALID_ARGS"):
        tree.operate(bare, operation, tree.mapped)
    if operation in (z.VMAR_OP_COMMIT, z.VMAR_OP_DECOMMIT, z.VMAR_OP_PREFETCH):
        with refused("1.6/8b", "INVALID_ARGS"):
            tree.operate(tree.parent, operation, tree.mapped)
    else:
        assert [part.start for part in tree.operate(tree.parent, operation, tree.mapped)] == [tree.mapped]
    assert [part.start for part in tree.operate(bare, operation, tree.direct)] == [tree.direct]


@pytest.mark.parametrize("operation", ALL)
def test_1_6_rows_8a_8d_and_9(tree: Tree, operation: int) -> None:
    """1.6/8a, 8d, 9: a gap is BAD_STATE, before a child is; the maximum decides, and not what is permitted now."""
    with refused("1.6/9", "BAD_STATE"):
        tree.operate(tree.child, operation, tree.mapped, 2 * PAGE)
    tree.unmap(tree.parent, tree.direct)
    with refused("1.6/8a", "BAD_STATE"):
        tree.operate(tree.parent, operation, tree.direct, 2 * PAGE)
    rights = {z.VMAR_OP_PREFETCH: z.RIGHT_WRITE}.get(operation, z.RIGHT_READ) | z.RIGHT_MAP
    address = tree.map(tree.parent, z.VM_SPECIFIC, 0, tree.vmo(rights=rights))
    if operation in (z.VMAR_OP_MAP_RANGE, z.VMAR_OP_DONT_NEED, z.VMAR_OP_ALWAYS_NEED):
        tree.operate(tree.parent, operation, address)
        return
    with refused("1.6/8d", "ACCESS_DENIED"):
        tree.operate(tree.parent, operation, address)
    tree.protect(tree.child, 0, tree.mapped)
    tree.operate(tree.child, operation, tree.mapped)


@pytest.mark.parametrize("operation", ALL)
def test_1_6_row_8c(tree: Tree, operation: int) -> None:
    """1.6/8c: of a mapping that faults beyond the stream size; what begins behind that page slips through, a quirk."""
    handle = tree.vmo(4)
    options = RW | z.VM_ALLOW_FAULTS | z.VM_FAULT_BEYOND_STREAM_SIZE
    address = tree.map(tree.root, options, 0, handle, length=4 * PAGE)
    vmo = tree.table.find(handle, Vmo, 0, rule="vmar:VMO/1", asked="look")[0]
    tree.operate(tree.root, operation, address, 4 * PAGE)
    for stream_size in (PAGE + 1, 2 * PAGE):
        vmo.stream_size = stream_size
        for first, pages in ((0, 3), (1, 2), (2, 1)):
            with refused("1.6/8c", "OUT_OF_RANGE"):
                tree.operate(tree.root, operation, address + first * PAGE, pages * PAGE)
        tree.operate(tree.root, operation, address, 2 * PAGE)
        tree.operate(tree.root, operation, address + 3 * PAGE)
    plain = tree.map(tree.root, RW, 0, handle, length=4 * PAGE)
    tree.operate(tree.root, operation, plain, 4 * PAGE)
