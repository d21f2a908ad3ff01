"""Capability permission in VMARs, which is capshm's own: what real processes see of it in tags, and in faults.

After each call the witness has seen that tree, maps topic and Linux agree; here also which tags Linux lets be reached.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from capshm import Capability, Machine, PageViolation, Permissions, StoreTagViolation
from capshm import zircon as zx
from tests.conformance.zircon.support import CAN_ALL, CAN_CAP, PAGE, RC, RW, RWC, Calls, R, emulated, refused
from tests.faults.machines import wait_until_alone
from tests.faults.processes import ask_child

DENIED = zx.ERR_ACCESS_DENIED
INVALID = zx.ERR_INVALID_ARGS


def nested(k: Calls) -> tuple[zx.Handle, zx.Handle, Capability]:
    """A VMAR, one in it, and the capability to a page mapped in that, to which it is stored as well."""
    parent, _ = k.allocate(pages=8, options=CAN_CAP)
    child, _ = k.allocate(parent, 4, CAN_CAP)
    address = k.map(child, options=RWC, vmo=zx.vmo_create(PAGE, zx.VMO_CAP))
    authority = zx.vmar_capability(child, address, PAGE)
    authority.store_capability(0, authority)
    return parent, child, authority


def stored(authority: Capability) -> str:
    """What becomes of storing a tagged value."""
    try:
        authority.store_capability(16, authority)
    except (StoreTagViolation, PageViolation) as fault:
        return type(fault).__name__
    return "done"


def tags_mapped(number: int) -> set[str]:
    """How this process has the tags of an object mapped."""
    lines = Path("/proc/self/maps").read_text(encoding="ascii").splitlines()
    return {line.split()[1] for line in lines if f"/memfd:capshm-tags-{number} " in line}


@pytest.mark.parametrize(
    ("options", "is_loaded", "found"),
    [(RC, True, "PageViolation"), (RW, False, "StoreTagViolation"), (R, False, "PageViolation")],
)
@emulated()
def test_taken_from_above_and_never_given_back(machine: Machine, options: int, is_loaded: bool, found: str) -> None:
    """Parent and root take it from a child region's mapping; only the region's own handle gives it back.

    The tag is there again then: it was out of reach, and nobody has written over it. When that handle is closed, nobody
    is left who gives it back.
    """
    k = Calls(machine)
    parent, child, authority = nested(k)
    for above in (parent, k.root):
        k.vmar_protect(above, options, authority.address, PAGE)
        with refused("1.3/8e", DENIED):
            k.vmar_protect(above, RWC, authority.address, PAGE)
        assert authority.load_capability().tag == is_loaded
        assert authority.read(0, 8) == authority.address.to_bytes(8, "little")
        assert stored(authority) == found
        k.vmar_protect(child, RWC, authority.address, PAGE)
        assert authority.load_capability().tag
        assert stored(authority) == "done"
    k.vmar_protect(parent, options, authority.address, PAGE)
    k.handle_close(child)
    for above in (parent, k.root):
        with refused("1.3/8e", DENIED):
            k.vmar_protect(above, RWC, authority.address, PAGE)
    assert k.current(authority.address) == [{RC: "rR", RW: "rw", R: "r"}[options]]


@emulated()
def test_a_region_without_it(machine: Machine) -> None:
    """What is mapped in a VMAR without CAN_MAP_CAP neither loads nor stores tags; Linux has none of them mapped."""
    k = Calls(machine)
    vmo = zx.vmo_create(PAGE, zx.VMO_CAP)
    plain, _ = k.allocate(pages=4, options=CAN_ALL)
    with refused("1.1/1", DENIED):
        k.allocate(plain, 1, CAN_CAP)
    with refused("1.2/8", DENIED):
        k.map(plain, options=RWC, vmo=vmo)
    address = k.map(plain, options=RW, vmo=vmo)
    (mapping,) = machine.mappings(os.getpid())
    assert (mapping.current, mapping.maximum, tags_mapped(mapping.object)) == ("rw", "rw", set())
    for vmar, rule in ((plain, "1.3/1"), (k.root, "1.3/8b")):
        with refused(rule, DENIED):
            k.vmar_protect(vmar, RWC, address, PAGE)
    data, whole = zx.vmar_capability(k.root, address, PAGE), k.map(k.root, options=RWC, vmo=vmo)
    assert stored(data) == "StoreTagViolation"
    both = zx.vmar_capability(k.root, whole, PAGE)
    both.store_capability(0, both)
    assert (both.load_capability().tag, data.load_capability().tag) == (True, False)
    data.write(0, b"\0")  # clears the tag all the same
    assert not both.load_capability().tag


@emulated()
def test_a_maximum_without_stores(machine: Machine) -> None:
    """Made by a handle without WRITE, a mapping has the tags read-only in Linux's eyes, and loads them."""
    k = Calls(machine)
    vmo = zx.vmo_create(PAGE, zx.VMO_CAP)
    whole = zx.vmar_capability(k.root, k.map(k.root, options=RWC, vmo=vmo), PAGE)
    whole.store_capability(0, whole)
    number = machine.mappings(os.getpid())[0].object
    assert tags_mapped(number) == {"rw-s"}
    k.vmar_unmap(k.root, whole.address, PAGE)
    assert tags_mapped(number) == set()
    address = k.map(k.root, options=RC, vmo=k.without(vmo, zx.RIGHT_WRITE))
    assert tags_mapped(number) == {"r--s"}
    with refused("1.3/8b", DENIED):
        k.vmar_protect(k.root, RWC, address, PAGE)
    assert zx.vmar_capability(k.root, address, PAGE).load_capability() == whole


@emulated()
def test_a_handle_as_a_capability(machine: Machine) -> None:
    """vmar_capability grants what the handle has, over bytes of its VMAR, and no say in mappings."""
    k = Calls(machine)
    _, child, authority = nested(k)
    assert authority.permissions.contains(Permissions.LOAD_CAP | Permissions.STORE_CAP)
    assert not authority.permissions.contains(Permissions.SW_VMEM)
    assert not authority.permissions.contains(Permissions.EXECUTE) or child.rights & zx.RIGHT_EXECUTE
    bare = k.without(child, zx.RIGHT_CAP | zx.RIGHT_WRITE)
    data = zx.vmar_capability(bare, authority.address, 16)
    assert data.permissions == Permissions.GLOBAL | Permissions.LOAD | Permissions.EXECUTE
    assert not data.load_capability().tag
    assert authority.load_capability().tag
    with refused("CAP/5", INVALID):
        zx.vmar_capability(child, authority.address - 16 * PAGE, PAGE)
    with refused("CAP/3", zx.ERR_WRONG_TYPE):
        zx.vmar_capability(k.me, authority.address, PAGE)
    k.vmar_destroy(child)
    with refused("CAP/4", zx.ERR_BAD_STATE):
        zx.vmar_capability(child, authority.address, PAGE)
    with pytest.raises(PageViolation):
        authority.read(0, 1)


@pytest.mark.parametrize(
    ("policy", "option", "is_crossed"),
    [
        ("cheribsd", zx.VMO_CAP, False),
        ("cheribsd", zx.VMO_SHARE_CAP, True),
        ("open", zx.VMO_CAP, True),
        ("isolated", zx.VMO_CAP, False),
    ],
)
@emulated()
def test_what_crosses(machine: Machine, policy: str, option: int, is_crossed: bool) -> None:
    """A child has a copy of all handles, and reaches another's capabilities, old mapping or new, as the policy says."""
    k = Calls(machine)
    vmo = zx.vmo_create(PAGE, option)
    authority = zx.vmar_capability(k.root, k.map(k.root, options=RWC, vmo=vmo), PAGE)
    authority.store_capability(0, authority)

    def look() -> tuple[bool, bool, bool]:
        root = zx.vmar_root_self()
        data = zx.vmar_capability(root, zx.vmar_map(root, RW, 0, vmo, 0, PAGE), PAGE)
        is_found = authority.load_capability().tag
        if not is_crossed:
            with refused("CAP/1", DENIED):
                zx.vmar_map(root, RC, 0, vmo, 0, PAGE)
            return is_found, False, data.load_capability().tag
        again = zx.vmar_capability(root, zx.vmar_map(root, RC, 0, vmo, 0, PAGE), PAGE)
        return is_found, again.load_capability().tag, data.load_capability().tag

    assert ask_child(look) == (is_crossed, is_crossed, False)
    assert authority.load_capability().tag


@emulated("isolated")
def test_nothing_to_share_under_isolated(machine: Machine) -> None:
    """CAP/2: VMO_SHARE_CAP is refused."""
    with refused("CAP/2", DENIED):
        zx.vmo_create(PAGE, zx.VMO_SHARE_CAP)
    assert machine.objects() == []


@emulated()
def test_a_vmo_ends_with_its_tags(machine: Machine) -> None:
    """The tags of a VMO are counted while anything names it, and gone with it; a snapshot has none."""
    k = Calls(machine)
    vmo = zx.vmo_create(PAGE, zx.VMO_CAP)
    authority = zx.vmar_capability(k.root, k.map(k.root, options=RWC, vmo=vmo), PAGE)
    authority.store_capability(0, authority)
    snapshot = zx.vmo_create_child(vmo, zx.VMO_CHILD_SNAPSHOT, 0, PAGE)
    assert not snapshot.rights & zx.RIGHT_CAP
    k.handle_close(vmo)
    assert [each.tag_count for each in machine.objects()] == [1, 0]
    k.vmar_unmap(k.root, authority.address, PAGE)
    assert [each.tag_count for each in machine.objects()] == [0]


WRITES: dict[str, Callable[[Calls, zx.Handle, Capability], object]] = {
    "vmo_write": lambda k, vmo, c: zx.vmo_write(vmo, 0, zx.vmo_read(vmo, 0, PAGE)),
    "process_write_memory": lambda k, vmo, c: zx.process_write_memory(k.me, c.address, c.read(0, PAGE)),
    "ZERO": lambda k, vmo, c: k.vmar_op_range(k.root, zx.VMAR_OP_ZERO, c.address, PAGE),
    "DECOMMIT": lambda k, vmo, c: zx.vmo_op_range(vmo, zx.VMO_OP_DECOMMIT, 0, PAGE),
    "vmo_set_size": lambda k, vmo, c: [k.vmo_set_size(vmo, size) for size in (0, PAGE)],
}


@pytest.mark.parametrize("call", WRITES)
@emulated()
def test_what_calls_write_has_no_tags(machine: Machine, call: str) -> None:
    """The tag goes, and does not come back when a raw write puts the bytes back that the capability had."""
    k = Calls(machine)
    vmo = zx.vmo_create(PAGE, zx.VMO_CAP | zx.VMO_RESIZABLE)
    authority = zx.vmar_capability(k.root, k.map(k.root, options=RWC, vmo=vmo), PAGE)
    authority.store_capability(0, authority)
    bits = authority.read(0, 16)
    WRITES[call](k, vmo, authority)
    assert not authority.load_capability().tag
    authority.view(0, 16, writable=True)[:] = bits
    assert authority.load_capability() == authority.without_tag()
    authority.store_capability(0, authority)
    assert authority.load_capability().tag


@emulated()
def test_what_a_dead_process_leaves(machine: Machine) -> None:
    """Capabilities in a VMO whose creator is gone are nobody's: its handle, sent before, maps data alone (F16, F17)."""
    k = Calls(machine)
    ours, theirs = zx.channel_create()
    ask_child(lambda: zx.channel_write(theirs, b"", [zx.vmo_create(PAGE, zx.VMO_CAP)]))
    _, (received,) = zx.channel_read(ours)
    wait_until_alone(machine)
    assert [each.owner for each in machine.objects()] == [None]
    with refused("CAP/1", DENIED):
        k.map(k.root, options=RWC, vmo=received)
    assert k.current(k.map(k.root, options=RW, vmo=received)) == ["rw"]
