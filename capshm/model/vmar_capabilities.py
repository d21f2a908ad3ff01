"""Capability permission in VMARs: capshm's own, as Zircon has no such thing. It obeys the hierarchy as all others do.

A VMAR may be allocated with CAN_MAP_CAP, if its parent has it and the parent's handle RIGHT_CAP; a mapping has PERM_CAP
in its maximum, if both handles have RIGHT_CAP; its own VMAR's handle gives and takes it, an ancestor's only takes it
(RFC-0199). PERM_CAP qualifies READ and WRITE, as PROT_CAP does: capabilities can be loaded where data can be read, and
stored where it can be written. A mapping without it neither loads nor stores tags.

Beside the hierarchy stands the policy, which decides about objects: a VMO that was made with VMO_CAP is its creator's,
one with VMO_SHARE_CAP everybody's; any other holds data alone. So whoever is sent a handle with all rights to another's
VMO maps data, and never its capabilities.

Zircon's calls return addresses, and a number authorises nothing: `plan_authority` says what a VMAR's handle is good for
as a capability. It says nothing of mappings, as the page decides about each access; and it outlives the VMAR, in whose
place others may be mapped later: Zircon gives addresses out again at once, and revocation alone would keep them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from capshm import encoding
from capshm.model import zircon_constants as z
from capshm.model.rules import ZxRefusal
from capshm.model.vmar_mapping import check_alive
from capshm.permissions import Permissions

if TYPE_CHECKING:
    from capshm.model.knobs import Knobs
    from capshm.model.policy import Policy
    from capshm.model.regions import Vmar
    from capshm.model.vmos import Vmo

_CREATION = z.VMO_CAP | z.VMO_SHARE_CAP
_GRANTED = {
    z.RIGHT_READ: Permissions.LOAD,
    z.RIGHT_WRITE: Permissions.STORE,
    z.RIGHT_EXECUTE: Permissions.EXECUTE,
    z.RIGHT_READ | z.RIGHT_CAP: Permissions.LOAD_CAP,
    z.RIGHT_WRITE | z.RIGHT_CAP: Permissions.STORE_CAP | Permissions.STORE_LOCAL,
}


def plan_holding(policy: Policy, options: int, asked: str) -> bool:
    """Whether a VMO with these options is share-cap. Refused: CAP/2."""
    wanted = options & _CREATION
    is_shared = wanted == z.VMO_SHARE_CAP
    if wanted == _CREATION:
        raise ZxRefusal(
            "vmar:VMO/2", asked=asked, allowed="VMO_CAP and VMO_SHARE_CAP exclude each other", needed="one of them"
        )
    rule = policy.refuse_share_cap_creation() if is_shared else None
    if rule is not None:
        raise ZxRefusal(
            "vmar:CAP/2",
            asked=asked,
            allowed=f"the policy {policy.name} lets nobody share capabilities ({rule})",
            needed="VMO_CAP, for the creator alone, or a VMO of data",
        )
    return bool(wanted) and policy.makes_share_cap(asked=is_shared)


def bar(policy: Policy, knobs: Knobs, memory: Vmo, vmspace: int) -> str | None:
    """The rule by which an address space may not reach the capabilities of a VMO. None: it may."""
    if memory.is_share_cap and not knobs.may_share():
        return "cheribsd:K1"
    return policy.refuse_foreign_capabilities(memory, vmspace)


class Authority(NamedTuple):
    """A capability to be made: its bounds, and raw permissions."""

    base: int
    length: int
    permissions: int


def plan_authority(vmar: Vmar, rights: int, vmspace: int, address: int, length: int) -> Authority:
    """What vmar_capability makes of a VMAR's handle with these rights, for this address space. Rows CAP/4 to CAP/6."""
    asked = f"vmar_capability({address:#x}, {length:#x})"
    check_alive(vmar, "vmar:CAP/4", asked)
    if vmar.space.serial != vmspace or not length or not vmar.is_around(address, address + length):
        raise ZxRefusal(
            "vmar:CAP/5",
            asked=asked,
            allowed=f"the range is not in {vmar}, or that is another process's",
            needed="at least one byte of a VMAR of the calling process",
        )
    rounded, mask = encoding.representable_length(length), encoding.representable_mask(length)
    if rounded != length or address & ~mask:
        raise ZxRefusal(
            "vmar:CAP/6",
            asked=asked,
            allowed="these bounds cannot be represented exactly",
            needed=f"a length of {rounded:#x}, at a multiple of {(1 << 64) - mask:#x}",
        )
    permissions = Permissions.GLOBAL
    for needed, granted in _GRANTED.items():
        if rights & needed == needed:
            permissions |= granted
    return Authority(address, length, permissions.raw)
