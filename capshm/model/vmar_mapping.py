"""vmar_allocate and vmar_map: the checks of vmar:1.1 and 1.2, in their order, and what comes of them.

Look-up of handles, the first row of each, is done with `HandleTable.find`; the rights that it asks for are computed
here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from capshm.model import zircon_constants as z
from capshm.model.address_space import Entry
from capshm.model.constants import INHERIT_SHARE, OBJECT_SIZE_MAX, PAGE
from capshm.model.handles import rights_text
from capshm.model.pointer import round_up
from capshm.model.regions import Vmar
from capshm.model.rights import Rights
from capshm.model.rules import ZxRefusal
from capshm.model.vmar_options import (
    CAN_MAP,
    PERMS,
    PLACING,
    flags_of,
    handle_rights,
    is_undefined,
    needs_read,
    permissions,
    rights_of_handle,
    text,
)
from capshm.model.vmar_placing import find_place

if TYPE_CHECKING:
    from capshm.model.vmos import Vmo

WORD_END = 1 << 64
_ALLOCATE_OPTIONS = PLACING | CAN_MAP | z.VM_CAN_MAP_SPECIFIC | z.VM_COMPACT | z.VM_PERM_READ_IF_XOM_UNSUPPORTED
_VMAR_ONLY = z.VM_COMPACT | z.VM_CAN_MAP_SPECIFIC


class MapRequest(NamedTuple):
    """The arguments of vmar_map, after PERM_READ_IF_XOM_UNSUPPORTED. has_xom: what the machine can do."""

    options: int
    vmar_offset: int
    vmo_offset: int
    length: int
    has_xom: bool = False

    def __str__(self) -> str:
        """As a refusal names it."""
        return f"vmar_map({text(self.options)}, {self.vmar_offset:#x}, {self.vmo_offset:#x}, {self.length:#x})"


class MapPlan(NamedTuple):
    """What vmar_map will do. replaces: what SPECIFIC_OVERWRITE takes the place of."""

    vmar: Vmar
    entry: Entry


def plan_allocate(parent: Vmar, options: int, offset: int, size: int) -> Vmar:
    """The VMAR that vmar_allocate makes: `commit_allocate` puts it into the tree. Rows 2 to 16."""
    asked = f"vmar_allocate({text(options)}, {offset:#x}, {size:#x})"
    _check_allocate(parent, options, size, asked)
    start = find_place(parent, options, offset, size, asked)
    return Vmar(
        parent.space,
        parent,
        start,
        start + size,
        rights=flags_of(options),
        is_specific=bool(options & z.VM_CAN_MAP_SPECIFIC),
        is_compact=bool(options & z.VM_COMPACT),
    )


def commit_allocate(vmar: Vmar) -> int:
    """Put it in its place; the rights of its first handle, which come from its flags alone. Cannot fail."""
    vmar.space.add_vmar(vmar)
    return z.DEFAULT_VMAR_RIGHTS | handle_rights(vmar.rights)


def _check_allocate(parent: Vmar, options: int, size: int, asked: str) -> None:
    """Rows 2 to 8."""
    if is_undefined(options):
        raise ZxRefusal(
            "vmar:1.1/2", asked=asked, allowed="these options mean nothing", needed="options of vmar_allocate"
        )
    if options & PERMS:
        raise ZxRefusal(
            "vmar:1.1/3", asked=asked, allowed="a VMAR has no current permission", needed="CAN_MAP_* instead of PERM_*"
        )
    if size % PAGE:
        raise ZxRefusal("vmar:1.1/4", asked=asked, allowed=f"{size:#x} is no multiple of a page", needed="whole pages")
    if options & ~_ALLOCATE_OPTIONS:
        raise ZxRefusal(
            "vmar:1.1/5",
            asked=asked,
            allowed=f"{text(options & ~_ALLOCATE_OPTIONS)} is for mappings",
            needed="SPECIFIC, CAN_MAP_*, COMPACT, OFFSET_IS_UPPER_LIMIT and ALIGN only",
        )
    check_alive(parent, "vmar:1.1/6", asked)
    if not size:
        raise ZxRefusal("vmar:1.1/7", asked=asked, allowed="that is no range", needed="at least a page")
    if missing := flags_of(options) & ~parent.rights:
        raise ZxRefusal(
            "vmar:1.1/8",
            asked=asked,
            allowed=f"{parent} itself may not map {missing.letters}",
            needed="flags that the parent has",
        )


def rights_to_allocate(options: int) -> int:
    """What the parent's handle needs (row 1)."""
    return handle_rights(flags_of(options))


def plan_map(
    request: MapRequest, vmar: tuple[Vmar, int], vmo: tuple[Vmo, int], *, barred: str | None = None
) -> MapPlan:
    """What vmar_map does; both with the rights of their handles. Rows 3 to 20, CAP/1; a refusal changes nothing.

    barred: the rule by which the VMAR's address space may not reach the VMO's capabilities (`vmar_capabilities.bar`).
    """
    asked = str(request)
    _check_map_rights(request, vmar[1], vmo[1], asked)
    _check_map_options(request, vmo[0], asked)
    region, memory = vmar[0], vmo[0]
    current = permissions(request.options)
    if missing := current & ~region.rights:
        raise ZxRefusal(
            "vmar:1.2/14",
            asked=asked,
            allowed=f"{region} may not map {missing.letters}",
            needed="permissions within the VMAR's flags",
        )
    if barred is not None and current & Rights.CAP:
        raise ZxRefusal(
            "vmar:CAP/1",
            asked=asked,
            allowed=f"the capabilities in {memory} are not for address space {region.space.serial} ({barred})",
            needed="no PERM_CAP, for data alone, or a VMO that was made with VMO_SHARE_CAP",
        )
    length = _check_map_range(request, region, asked)
    start = find_place(region, request.options, request.vmar_offset, length, asked)
    if children := region.overlapping(start, start + length):
        raise ZxRefusal(
            "vmar:1.2/20",
            asked=asked,
            allowed=f"the child region [{children[0].start:#x}, {children[0].end:#x}) lies there",
            needed="a range of mappings and gaps; a child VMAR has to be destroyed or unmapped",
        )
    # Quirk: with an upper limit the kernel maps from the VMO's beginning, whatever is asked (1.2).
    offset = 0 if request.options & z.VM_OFFSET_IS_UPPER_LIMIT else request.vmo_offset
    if offset + length > OBJECT_SIZE_MAX:
        raise ZxRefusal(
            "vmar:host",
            asked=asked,
            allowed=f"objects of this machine have at most {OBJECT_SIZE_MAX:#x} bytes",
            needed="a part of the VMO below that",
            status="NO_RESOURCES",
        )
    maximum = rights_of_handle(vmar[1] & vmo[1]).settled() & region.rights
    if barred is not None:
        maximum = maximum.without(Rights.CAP)
    return MapPlan(
        region,
        Entry(
            start=start,
            end=start + length,
            current=current,
            maximum=maximum,
            inherit=INHERIT_SHARE,
            object=memory,
            offset=offset,
            is_shared=True,
            reservation=region.start,
            vmar=region.number,
            is_stream=bool(request.options & z.VM_FAULT_BEYOND_STREAM_SIZE),
        ),
    )


def commit_map(plan: MapPlan) -> list[Entry]:
    """Put the mapping in its place. Returned: the parts of mappings that it replaces. Cannot fail."""
    plan.vmar.next = plan.entry.end
    return plan.vmar.space.replace(plan.entry)


def _check_map_rights(request: MapRequest, vmar: int, vmo: int, asked: str) -> None:
    """Rows 3 to 8."""
    options = request.options
    if not vmo & z.RIGHT_MAP:
        raise ZxRefusal(
            "vmar:1.2/3", asked=asked, allowed="the VMO's handle lacks MAP", needed="a handle of the VMO with MAP"
        )
    if needs_read(options, has_xom=request.has_xom):
        raise ZxRefusal(
            "vmar:1.2/5", asked=asked, allowed="WRITE, EXECUTE and CAP go with READ", needed="PERM_READ as well"
        )
    if options & z.VM_MAP_RANGE and options & z.VM_SPECIFIC_OVERWRITE:
        raise ZxRefusal("vmar:1.2/6", asked=asked, allowed="they exclude each other", needed="one of them")
    if options & CAN_MAP:
        raise ZxRefusal(
            "vmar:1.2/7",
            asked=asked,
            allowed="the maximum permission of a mapping is what both handles have",
            needed="handles with fewer rights, to have a lower maximum",
        )
    needed = handle_rights(permissions(options))
    for which, has in (("VMAR", vmar), ("VMO", vmo)):
        if missing := needed & ~has:
            made = ", of one made with VMO_CAP or VMO_SHARE_CAP" if which == "VMO" and missing & z.RIGHT_CAP else ""
            raise ZxRefusal(
                "vmar:1.2/8",
                asked=asked,
                allowed=f"the {which}'s handle lacks {rights_text(missing)}",
                needed=f"a handle of the {which} that has it{made}, or fewer PERM options",
            )


def _check_map_options(request: MapRequest, vmo: Vmo, asked: str) -> None:
    """Rows 9 to 13."""
    options = request.options
    if options & z.VM_FAULT_BEYOND_STREAM_SIZE and not options & z.VM_ALLOW_FAULTS:
        raise ZxRefusal(
            "vmar:1.2/9", asked=asked, allowed="such a mapping faults by design", needed="ALLOW_FAULTS as well"
        )
    if is_undefined(options):
        raise ZxRefusal("vmar:1.2/10", asked=asked, allowed="these options mean nothing", needed="options of vmar_map")
    if options & z.VM_REQUIRE_NON_RESIZABLE and vmo.is_resizable:
        raise ZxRefusal(
            "vmar:1.2/11",
            asked=asked,
            allowed=f"{vmo} is resizable, and REQUIRE_NON_RESIZABLE is given",
            needed="a VMO of fixed size",
        )
    if vmo.options & z.VMO_DISCARDABLE and not options & z.VM_ALLOW_FAULTS:
        raise ZxRefusal("vmar:1.2/12", asked=asked, allowed=f"{vmo} is discardable", needed="ALLOW_FAULTS")
    if options & _VMAR_ONLY:
        raise ZxRefusal(
            "vmar:1.2/13",
            asked=asked,
            allowed=f"{text(options & _VMAR_ONLY)} is for VMARs",
            needed="options of vmar_map",
        )


def _check_map_range(request: MapRequest, vmar: Vmar, asked: str) -> int:
    """Rows 15 to 18; the length in whole pages."""
    if request.vmo_offset % PAGE:
        raise ZxRefusal(
            "vmar:1.2/15",
            asked=asked,
            allowed=f"the vmo_offset {request.vmo_offset:#x} is no multiple of a page",
            needed="whole pages",
        )
    length = round_up(request.length)
    if length >= WORD_END or (request.length and request.vmo_offset + length >= WORD_END):
        raise ZxRefusal("vmar:1.2/16", asked=asked, allowed="it wraps at 2**64", needed="a smaller length")
    check_alive(vmar, "vmar:1.2/17", asked)
    if not length:
        raise ZxRefusal("vmar:1.2/18", asked=asked, allowed="that is no range", needed="at least one byte")
    return length


def check_alive(vmar: Vmar, rule: str, asked: str) -> None:
    """Refuse a VMAR that has ended."""
    if not vmar.is_alive:
        raise ZxRefusal(
            rule,
            asked=asked,
            allowed=f"{vmar} was destroyed, unmapped as part of another, or its process is gone",
            needed="a VMAR that is alive",
        )
