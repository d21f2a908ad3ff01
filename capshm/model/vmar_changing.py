"""vmar_protect, vmar_unmap, vmar_destroy, vmar_op_range: the checks of vmar:1.3 to 1.6, in their order.

RFC-0199 in one sentence: mappings of the called VMAR itself may be raised up to their maximum, those of VMARs below
only lowered, page by page from what they permit now, and only through a handle with OP_CHILDREN.

The first three decide about the whole range before anything is changed. op_range does not: what lies before the place
that refuses has been done (1.14).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from capshm.model import zircon_constants as z
from capshm.model.constants import PAGE
from capshm.model.pointer import round_up
from capshm.model.regions import Reservation, Vmar
from capshm.model.rights import Rights
from capshm.model.rules import ZxRefusal
from capshm.model.vmar_mapping import WORD_END, check_alive
from capshm.model.vmar_options import PERMS, handle_rights, needs_read, permissions, text
from capshm.model.vmos import Vmo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from capshm.model.address_space import Entry

_NEVER_BELOW = (z.VMAR_OP_COMMIT, z.VMAR_OP_DECOMMIT, z.VMAR_OP_PREFETCH)
OPERATIONS = {
    z.VMAR_OP_COMMIT: "COMMIT",
    z.VMAR_OP_DECOMMIT: "DECOMMIT",
    z.VMAR_OP_MAP_RANGE: "MAP_RANGE",
    z.VMAR_OP_ZERO: "ZERO",
    z.VMAR_OP_DONT_NEED: "DONT_NEED",
    z.VMAR_OP_ALWAYS_NEED: "ALWAYS_NEED",
    z.VMAR_OP_PREFETCH: "PREFETCH",
}
_NEEDED_MAXIMUM = {
    z.VMAR_OP_COMMIT: Rights.WRITE,
    z.VMAR_OP_DECOMMIT: Rights.WRITE,
    z.VMAR_OP_ZERO: Rights.WRITE,
    z.VMAR_OP_PREFETCH: Rights.READ,
}


class Caller(NamedTuple):
    """The VMAR that a call names, the rights of the handle, and whose errors count: "kernel" or "rfc" (2.5)."""

    vmar: Vmar
    rights: int
    errors: str = "kernel"

    @property
    def may_reach_children(self) -> bool:
        """OP_CHILDREN."""
        return bool(self.rights & z.RIGHT_OP_CHILDREN)

    def refuse_children(self, rule: str, asked: str, where: str) -> ZxRefusal:
        """The one answer that RFC-0199 and the kernel give differently."""
        return ZxRefusal(
            rule,
            asked=asked,
            allowed=f"{where}, and the handle lacks OP_CHILDREN",
            needed="a handle with OP_CHILDREN, or the handle of the VMAR in which it lies",
            status="ACCESS_DENIED" if self.errors == "rfc" else "INVALID_ARGS",
        )


# protect


def rights_to_protect(options: int) -> int:
    """What the handle needs (row 1)."""
    return handle_rights(permissions(options))


def plan_protect(caller: Caller, options: int, address: int, length: int, *, has_xom: bool = False) -> list[Entry]:
    """The entries as vmar_protect leaves them, cut to its range. Rows 2 to 9; a refusal changes nothing."""
    asked = f"vmar_protect({text(options)}, {address:#x}, {length:#x})"
    if needs_read(options, has_xom=has_xom):
        raise ZxRefusal(
            "vmar:1.3/2", asked=asked, allowed="WRITE, EXECUTE and CAP go with READ", needed="PERM_READ as well"
        )
    _check_aligned(address, "vmar:1.3/3", asked)
    if options & ~(PERMS | z.VM_PERM_READ_IF_XOM_UNSUPPORTED):
        raise ZxRefusal("vmar:1.3/4", asked=asked, allowed="it takes no other options", needed="PERM_* only")
    end = _check_range(caller, address, length, asked, ("vmar:1.3/5", "vmar:1.3/6", "vmar:1.3/7"))
    wanted = permissions(options)
    position = address
    planned = []
    for entry in caller.vmar.space.within(address, end):
        if entry.start > position:
            raise _gap("vmar:1.3/8a", asked, position, entry.start)
        _check_protect(caller, entry, wanted, asked)
        planned.append(entry._replace(current=wanted))
        position = entry.end
    if position < end:
        raise _gap("vmar:1.3/9", asked, position, end)
    return planned


def commit_protect(caller: Caller, entries: list[Entry]) -> list[Entry]:
    """Put the new entries in the place of the old, which are returned. Cannot fail."""
    return [old for entry in entries for old in caller.vmar.space.replace(entry)]


def _check_protect(caller: Caller, entry: Entry, wanted: Rights, asked: str) -> None:
    """Rows 8b, 8d and 8e, for one mapping. It is described only for a refusal: most are none, and of many mappings."""
    if missing := wanted & ~entry.maximum:
        raise ZxRefusal(
            "vmar:1.3/8b",
            asked=asked,
            allowed=f"the maximum of {describe(entry)} lacks {missing.letters}",
            needed="a mapping made by handles of VMAR and VMO that both have the right",
        )
    if caller.vmar.has(entry):
        return
    if not caller.may_reach_children:
        raise caller.refuse_children("vmar:1.3/8d", asked, f"{describe(entry)} is in a child of {caller.vmar}")
    if missing := wanted & ~entry.current:
        raise ZxRefusal(
            "vmar:1.3/8e",
            asked=asked,
            allowed=f"{describe(entry)} lacks {missing.letters} now, and from above it can only be lowered",
            needed="the handle of the VMAR in which it lies",
        )


# unmap and destroy


class Removal(NamedTuple):
    """What goes: all in a range, and the child regions that lie in it."""

    vmar: Vmar
    start: int
    end: int
    children: list[Vmar | Reservation]

    @property
    def is_splitting(self) -> bool:
        """Whether it leaves something of a mapping on both sides: nothing else makes more of what is there."""
        around = self.vmar.space.overlapping(self.start, self.end)
        return len(around) == 1 and around[0].start < self.start and self.end < around[0].end


def plan_unmap(caller: Caller, address: int, length: int) -> Removal:
    """What vmar_unmap takes away. Rows 2 to 7; a refusal changes nothing."""
    asked = f"vmar_unmap({address:#x}, {length:#x})"
    _check_aligned(address, "vmar:1.4/2", asked)
    end = _check_range(caller, address, length, asked, ("vmar:1.4/2", "vmar:1.4/3", "vmar:1.4/4"))
    children = caller.vmar.overlapping(address, end)
    for child in children:
        where = f"the child region [{child.start:#x}, {child.end:#x}) lies in the range"
        if not caller.may_reach_children:
            raise caller.refuse_children("vmar:1.4/7", asked, where)
        if child.start < address or child.end > end:
            raise ZxRefusal(
                "vmar:1.4/7",
                asked=asked,
                allowed=f"{where} only in part",
                needed="a range that covers it, or the child's own handle",
            )
    return Removal(caller.vmar, address, end, children)


def plan_destroy(caller: Caller) -> Removal:
    """What vmar_destroy takes away. Rows 2 and 3; a refusal changes nothing."""
    vmar = caller.vmar
    if vmar.parent is None:
        raise ZxRefusal(
            "vmar:1.5/2",
            asked="vmar_destroy",
            allowed=f"{vmar} is the root",
            needed="vmar_unmap of a range, or the end of the process",
        )
    check_alive(vmar, "vmar:1.5/3", "vmar_destroy")
    return Removal(vmar.parent, vmar.start, vmar.end, [vmar])


class Removed(NamedTuple):
    """What is gone, as `restore` puts it back."""

    entries: list[Entry]
    children: list[Vmar | Reservation]
    vmars: list[Vmar]


def commit_removal(removal: Removal) -> Removed:
    """Take it away. Cannot fail."""
    space = removal.vmar.space
    gone = space.remove(removal.start, removal.end)
    ended = [vmar for child in removal.children if isinstance(child, Vmar) for vmar in space.end_vmar(child)]
    return Removed(gone, removal.children, ended)


def restore(removal: Removal, removed: Removed) -> None:
    """Put back what the kernel could not take away."""
    space = removal.vmar.space
    for vmar in removed.vmars:
        vmar.is_alive = True
        space.vmars[vmar.number] = vmar
    for child in removed.children:
        removal.vmar.children[child.start] = child
    for entry in removed.entries:
        space.replace(entry)


# op_range


def plan_operation(caller: Caller, operation: int, address: int, length: int) -> Iterator[Entry]:
    """What vmar_op_range acts on, part by part; refuses where it meets what it may not: rows 2 to 9."""
    asked = f"vmar_op_range({OPERATIONS.get(operation, operation)}, {address:#x}, {length:#x})"
    if operation not in OPERATIONS:
        raise ZxRefusal(
            "vmar:1.6/2", asked=asked, allowed="that is no operation", needed=", ".join(OPERATIONS.values())
        )
    end = _operation_end(caller, address, length, asked)
    position = address
    for entry in caller.vmar.space.within(address, end):
        if entry.start > position:
            raise _gap("vmar:1.6/8a", asked, position, entry.start)
        _check_operation(caller, operation, entry, asked)
        yield entry
        position = entry.end
    if position < end:
        raise _gap("vmar:1.6/9", asked, position, end)


def _operation_end(caller: Caller, address: int, length: int, asked: str) -> int:
    """Rows 4 to 6: here the range is looked at before the VMAR's life."""
    _check_aligned(address, "vmar:1.6/4", asked)
    size = _rounded(length, "vmar:1.6/4", asked)
    if not caller.vmar.is_around(address, address + size):
        raise _outside("vmar:1.6/5", caller.vmar, asked)
    check_alive(caller.vmar, "vmar:1.6/6", asked)
    return address + size


def _check_operation(caller: Caller, operation: int, entry: Entry, asked: str) -> None:
    """Rows 8b to 8d, for one mapping."""
    what = describe(entry)
    if not caller.vmar.has(entry):
        where = f"{what} is in a child of {caller.vmar}"
        if operation in _NEVER_BELOW:
            raise ZxRefusal(
                "vmar:1.6/8b",
                asked=asked,
                allowed=f"{where}, and {OPERATIONS[operation]} goes by the maximum, as if it raised the permission",
                needed="the handle of the VMAR in which it lies",
            )
        if not caller.may_reach_children:
            raise caller.refuse_children("vmar:1.6/8b", asked, where)
    # Quirk: the kernel's subtraction has no sign, so what begins behind that page is not refused (1.6).
    if (
        entry.is_stream
        and isinstance(entry.object, Vmo)
        and (entry.offset <= entry.object.stream_end < entry.offset + entry.length)
    ):
        raise ZxRefusal(
            "vmar:1.6/8c",
            asked=asked,
            allowed=f"{what} faults beyond the stream size, {entry.object.stream_size:#x}",
            needed="a range that ends with the page that holds it",
        )
    needed = _NEEDED_MAXIMUM.get(operation, Rights(0))
    if missing := needed & ~entry.maximum:
        raise ZxRefusal(
            "vmar:1.6/8d",
            asked=asked,
            allowed=f"the maximum of {what} lacks {missing.letters}",
            needed="a mapping made by handles of VMAR and VMO that both have the right",
        )


# Ranges


def _check_aligned(address: int, rule: str, asked: str) -> None:
    if address % PAGE:
        raise ZxRefusal(rule, asked=asked, allowed=f"{address:#x} is no multiple of a page", needed="whole pages")


def _check_range(caller: Caller, address: int, length: int, asked: str, rules: tuple[str, str, str]) -> int:
    """The end of the range; rules: for its length, the VMAR's life, and a range outside."""
    size = _rounded(length, rules[0], asked)
    check_alive(caller.vmar, rules[1], asked)
    if not caller.vmar.is_around(address, address + size):
        raise _outside(rules[2], caller.vmar, asked)
    return address + size


def _rounded(length: int, rule: str, asked: str) -> int:
    size = round_up(length)
    if not 0 < size < WORD_END:
        raise ZxRefusal(rule, asked=asked, allowed="that is no length", needed="1 to 2**64 - 4096 bytes")
    return size


def _outside(rule: str, vmar: Vmar, asked: str) -> ZxRefusal:
    return ZxRefusal(
        rule,
        asked=asked,
        allowed=f"the range is not in {vmar}",
        needed="a range that is, or the handle of another VMAR",
    )


def _gap(rule: str, asked: str, start: int, end: int) -> ZxRefusal:
    return ZxRefusal(
        rule,
        asked=asked,
        allowed=f"nothing is mapped in [{start:#x}, {end:#x})",
        needed="a range without gaps; an empty VMAR is one",
    )


def describe(entry: Entry) -> str:
    """A mapping as a refusal names it."""
    return (
        f"the mapping [{entry.start:#x}, {entry.end:#x}) of {entry.object or 'private memory'}, now "
        f"{entry.current.letters or 'nothing'}, at most {entry.maximum.letters or 'nothing'},"
    )
