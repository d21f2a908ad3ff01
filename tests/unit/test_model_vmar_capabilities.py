"""`capshm.model.vmar_capabilities`: capability permission goes down the tree of VMARs and never up."""

from itertools import product

import pytest

from capshm.model import zircon_constants as z
from capshm.model.address_space import AddressSpace
from capshm.model.constants import PAGE, PROC_SHARECAP_DISABLE
from capshm.model.knobs import Knobs
from capshm.model.objects import MemoryObject
from capshm.model.rights import Rights
from capshm.model.rules import ZxRefusal
from capshm.model.vmar_capabilities import bar, plan_authority, plan_holding
from capshm.model.vmos import Vmo
from capshm.permissions import Permissions
from capshm.policies import load
from tests.unit.vmar_scene import CAN_ALL, CAN_CAP, RC, RW, RWC, R, Zircon, refused

LOADS = Permissions.LOAD | Permissions.LOAD_CAP
STORES = Permissions.STORE | Permissions.STORE_CAP | Permissions.STORE_LOCAL


class Tree(Zircon):
    """root > parent > child, and a page of a VMO with capabilities in the child, mapped with all of them."""

    def __init__(self, errors: str = "kernel") -> None:
        super().__init__(errors)
        self.parent = self.allocate(self.root, CAN_CAP)
        self.child = self.allocate(self.parent, CAN_CAP, size=4 * PAGE)
        self.memory = self.vmo(4, z.VMO_CAP, z.DEFAULT_VMO_RIGHTS)
        self.page = self.map(self.child, RWC, vmo=self.memory)

    @property
    def now(self) -> str:
        """What the page permits, and at most."""
        return self.permissions(self.page)[0]


@pytest.fixture
def tree() -> Tree:
    """That tree."""
    return Tree()


def test_a_region_without_it(tree: Tree) -> None:
    """1.1/8, 1.2/8, 1.2/14: what a VMAR was allocated without nobody maps in it, nor in those below."""
    plain = tree.allocate(tree.root, CAN_ALL)
    assert tree.region(plain).rights == Rights.READ | Rights.WRITE | Rights.EXECUTE
    with refused("1.1/1", "ACCESS_DENIED"):
        tree.allocate(plain, CAN_CAP, size=PAGE)
    with refused("1.2/8", "ACCESS_DENIED"):
        tree.map(plain, RWC, vmo=tree.memory)
    address = tree.map(plain, RW, vmo=tree.memory)
    assert tree.permissions(address) == ["rw/rw"]
    with refused("1.3/1", "ACCESS_DENIED"):
        tree.protect(plain, RWC, address)
    with refused("1.3/8b", "ACCESS_DENIED"):
        tree.protect(tree.root, RWC, address)


def test_the_handles_need_the_right(tree: Tree) -> None:
    """1.1/1, 1.2/8: a handle without CAP passes nothing on, be it the VMAR's or the VMO's; nor has the maximum it."""
    bare_vmar, bare_vmo = tree.without(tree.child, z.RIGHT_CAP), tree.without(tree.memory, z.RIGHT_CAP)
    with refused("1.1/1", "ACCESS_DENIED"):
        tree.allocate(bare_vmar, CAN_CAP, size=PAGE)
    for vmar, vmo in ((bare_vmar, tree.memory), (tree.child, bare_vmo)):
        with refused("1.2/8", "ACCESS_DENIED"):
            tree.map(vmar, RWC, vmo=vmo)
        address = tree.map(vmar, RW, vmo=vmo)
        with refused("1.3/8b", "ACCESS_DENIED"):
            tree.protect(tree.child, RWC, address)


def test_a_vmo_for_data_says_what_to_make_instead(tree: Tree) -> None:
    """1.2/8: the message names the right by its name, and the option that gives it."""
    with pytest.raises(ZxRefusal, match=r"the VMO's handle lacks CAP\. Needed: .* made with VMO_CAP or VMO_SHARE_CAP"):
        tree.map(tree.child, RWC, vmo=tree.vmo())


@pytest.mark.parametrize(("options", "expected"), [(RC, "rR/rwRW"), (RWC, "rwRW/rwRW"), (R, "r/rwRW"), (0, "/rwRW")])
def test_it_qualifies_read_and_write(tree: Tree, options: int, expected: str) -> None:
    """Loads go with READ, stores with WRITE, as with PROT_CAP; the maximum is what the handles have."""
    tree.protect(tree.child, options, tree.page)
    assert tree.now == expected


def test_alone_it_means_nothing(tree: Tree) -> None:
    """1.1/3, 1.2/5, 1.2/7, 1.3/2: it is an option like the others, and goes with READ."""
    with refused("1.1/3", "INVALID_ARGS"):
        tree.allocate(tree.parent, z.VM_PERM_CAP, size=PAGE)
    with refused("1.2/5", "INVALID_ARGS"):
        tree.map(tree.child, z.VM_PERM_CAP, vmo=tree.memory)
    with refused("1.2/7", "INVALID_ARGS"):
        tree.map(tree.child, R | z.VM_CAN_MAP_CAP, vmo=tree.memory)
    with refused("1.3/2", "INVALID_ARGS"):
        tree.protect(tree.child, z.VM_PERM_CAP, tree.page)


@pytest.mark.parametrize("who", ["parent", "root"])
def test_taken_from_above_and_not_given_back(tree: Tree, who: str) -> None:
    """1.3/8e: an ancestor takes it and never gives it back; the VMAR's own handle does, up to the maximum."""
    above = getattr(tree, who)
    tree.protect(above, RW, tree.page)
    assert tree.now == "rw/rwRW"
    with refused("1.3/8e", "ACCESS_DENIED"):
        tree.protect(above, RWC, tree.page)
    tree.protect(tree.child, RC, tree.page)
    with refused("1.3/8e", "ACCESS_DENIED"):
        tree.protect(above, RWC, tree.page)
    assert tree.now == "rR/rwRW"


def test_once_the_handle_is_closed_it_stays_away(tree: Tree) -> None:
    """3.Y 7: nobody is left who could give it back, whatever is called on ancestors."""
    tree.protect(tree.parent, RW, tree.page)
    tree.table.close(tree.child)
    for above, options in product((tree.parent, tree.root), (RC, RWC)):
        with refused("1.3/8e", "ACCESS_DENIED"):
            tree.protect(above, options, tree.page)
    assert tree.now == "rw/rwRW"


@pytest.mark.parametrize(("errors", "status"), [("kernel", "INVALID_ARGS"), ("rfc", "ACCESS_DENIED")])
def test_without_op_children_it_cannot_be_taken(errors: str, status: str) -> None:
    """1.3/8d: to take it from a child region's mapping needs OP_CHILDREN, as to take anything."""
    tree = Tree(errors)
    with refused("1.3/8d", status):
        tree.protect(tree.without_children(tree.parent), RW, tree.page)
    assert tree.now == "rwRW/rwRW"


# Policies


def test_who_may_reach_what_a_vmo_holds() -> None:
    """CAP/1: the creator's are the creator's, those to share everybody's; `open` shares all; a knob forbids."""
    knobs, shy = Knobs(), Knobs(process=PROC_SHARECAP_DISABLE)
    found = {}
    for name in ("open", "cheribsd", "isolated"):
        policy = load(name)
        for option in (z.VMO_CAP, z.VMO_SHARE_CAP):
            if name == "isolated" and option == z.VMO_SHARE_CAP:
                with refused("CAP/2", "ACCESS_DENIED"):
                    plan_holding(policy, option, "vmo_create")
                continue
            vmo = Vmo(1, PAGE, PAGE, option, owner=1, is_share_cap=plan_holding(policy, option, "vmo_create"))
            found[name, option] = [bar(policy, each, vmo, space) for each in (knobs, shy) for space in (1, 2)]
    everybodys = [None, None, "cheribsd:K1", "cheribsd:K1"]
    creators = [None, "cheribsd:E2", None, "cheribsd:E2"]
    assert found == {
        ("open", z.VMO_CAP): everybodys,
        ("open", z.VMO_SHARE_CAP): everybodys,
        ("cheribsd", z.VMO_CAP): creators,
        ("cheribsd", z.VMO_SHARE_CAP): everybodys,
        ("isolated", z.VMO_CAP): creators,
    }


def test_who_is_barred_maps_data(tree: Tree) -> None:
    """CAP/1: PERM_CAP is refused, and without it the maximum lacks it: nobody raises it later."""
    with refused("CAP/1", "ACCESS_DENIED"):
        tree.map(tree.child, RWC, vmo=tree.memory, barred="cheribsd:E2")
    address = tree.map(tree.child, RW, vmo=tree.memory, barred="cheribsd:E2")
    assert tree.permissions(address) == ["rw/rw"]


def test_a_vmo_of_data_holds_none() -> None:
    """Without an option no handle has RIGHT_CAP, and the VMO has no owner; both options exclude each other."""
    policy = load("cheribsd")
    assert not plan_holding(policy, 0, "vmo_create")
    data, own = Vmo(1, PAGE, PAGE, 0, owner=1), Vmo(2, PAGE, PAGE, z.VMO_CAP, owner=1)
    assert (data.owner, data.can_hold_capabilities, data.default_rights & z.RIGHT_CAP) == (None, False, 0)
    assert (own.owner, own.can_hold_capabilities, own.default_rights & z.RIGHT_CAP) == (1, True, z.RIGHT_CAP)
    assert isinstance(own, MemoryObject)
    with refused("VMO/2", "INVALID_ARGS"):
        plan_holding(policy, z.VMO_CAP | z.VMO_SHARE_CAP, "vmo_create")


# vmar_capability


@pytest.mark.parametrize(
    ("dropped", "expected"),
    [
        (0, LOADS | STORES | Permissions.EXECUTE),
        (z.RIGHT_CAP, Permissions.LOAD | Permissions.STORE | Permissions.EXECUTE),
        (z.RIGHT_WRITE | z.RIGHT_EXECUTE, LOADS),
        (z.RIGHT_READ | z.RIGHT_EXECUTE, STORES),
        (z.RIGHT_READ | z.RIGHT_WRITE | z.RIGHT_EXECUTE | z.RIGHT_CAP, Permissions.from_raw(0)),
    ],
)
def test_a_handle_as_a_capability(tree: Tree, dropped: int, expected: Permissions) -> None:
    """The handle's rights become permissions, GLOBAL always, and never SW_VMEM: it has no say in mappings."""
    vmar, rights = tree.caller(tree.without(tree.child, dropped), 0, "vmar:CAP/3")[:2]
    found = plan_authority(vmar, rights, 1, vmar.start + 16, 32)
    assert found == (vmar.start + 16, 32, (expected | Permissions.GLOBAL).raw)


def test_what_no_capability_is_made_of(tree: Tree) -> None:
    """CAP/4 to CAP/6: a VMAR that has ended, a range outside or of another process, bounds that are none."""
    vmar, rights = tree.caller(tree.child, 0, "vmar:CAP/3")[:2]
    for address, length in ((vmar.start - 1, 2), (vmar.end - 1, 2), (vmar.start, 0)):
        with refused("CAP/5", "INVALID_ARGS"):
            plan_authority(vmar, rights, 1, address, length)
    with refused("CAP/5", "INVALID_ARGS"):
        plan_authority(vmar, rights, AddressSpace(2).serial, vmar.start, PAGE)
    root = tree.space.root
    for address, length in ((root.start, (1 << 30) + 1), (root.start + 1, 1 << 30)):
        with refused("CAP/6", "INVALID_ARGS"):
            plan_authority(root, rights, 1, address, length)
    tree.destroy(tree.parent)
    with refused("CAP/4", "BAD_STATE"):
        plan_authority(vmar, rights, 1, vmar.start, PAGE)
