"""Whether a mapping may have capability permission: the rows about objects (A15, D12, E1 to E10, G1, H1) and knobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capshm.model.objects import Kind, MemoryObject
from capshm.model.rights import Asked, Rights
from capshm.model.rules import Refusal

if TYPE_CHECKING:
    from capshm.model.knobs import Knobs
    from capshm.model.mapping import MapRequest
    from capshm.model.policy import Policy


def check_sharing(
    vmspace: int,
    policy: Policy,
    knobs: Knobs,
    request: MapRequest,
    asked: Asked,
    maximum: Rights,
    *,
    is_share_cap: bool,
) -> None:
    """Refuse what the object or the policy forbids; first what is about data, then capabilities (E8 before E2).

    is_share_cap: of an object that the mapping makes for itself.
    """
    descriptor, is_shared, kind = request.descriptor, request.is_shared, request.kind
    if descriptor is not None:
        if descriptor.object.is_large_page and not is_shared:
            raise Refusal("cheribsd:D12", asked=str(request), allowed="large pages are not copied", needed="MAP_SHARED")
        if is_shared and Rights.WRITE in asked.current and not descriptor.is_writable:
            raise Refusal(
                "cheribsd:E8",
                asked=str(request),
                allowed="the descriptor is not open for writing, or the object is sealed against it",
                needed="a descriptor from O_RDWR, or no PROT_WRITE",
            )
    if not maximum & Rights.CAP:
        return  # E3, E10: data is shared with whoever has the descriptor
    if is_shared and kind in (Kind.ANONYMOUS, Kind.ZERO, Kind.SYSV):
        _check_nameless(policy, knobs, request, is_share_cap=is_share_cap)
    elif descriptor is not None and kind is Kind.FILE and is_shared:
        raise Refusal(
            "cheribsd:A15",
            asked=str(request),
            allowed="a file has no place for tags",
            needed="PROT_NO_CAP or no PROT_CAP, or MAP_PRIVATE, or memory from shm_open",
        )
    elif descriptor is not None and descriptor.object.can_hold_capabilities and kind is not Kind.ZERO:
        _check_owner(vmspace, policy, knobs, descriptor.object, request, asked)


def _check_nameless(policy: Policy, knobs: Knobs, request: MapRequest, *, is_share_cap: bool) -> None:
    """Rows G1 and H1: it is for everybody who inherits or attaches it. K3 and K1 may forbid that."""
    rule = policy.refuse_anonymous_sharing(request.kind)
    if rule is not None:
        raise Refusal(
            rule,
            asked=str(request),
            allowed=f"under policy {policy.name!r} no capability crosses to another address space",
            needed="shared memory without PROT_CAP, or another policy",
        )
    if request.kind is Kind.SYSV:
        knobs.check(str(request))
    elif is_share_cap:
        knobs.check(str(request), rule="cheribsd:K3")


def _check_owner(
    vmspace: int, policy: Policy, knobs: Knobs, memory: MemoryObject, request: MapRequest, asked: Asked
) -> None:
    """Rows E1, E2, E4, E5, E9; K1 where the object is for everybody."""
    rule = policy.refuse_foreign_capabilities(memory, vmspace)
    if rule is not None:
        implied = not asked.is_cap_explicit
        raise Refusal(
            "cheribsd:E5" if implied and rule == "cheribsd:E2" else rule,
            asked=f"{request} by address space {vmspace}"
            + (", capability permission being implied" if implied else ""),
            allowed="only its owner may map an object with capability permission",
            needed="PROT_NO_CAP for data alone, or an object that was created with O_SHARECAP",
        )
    if memory.is_share_cap or memory.is_foreign_to(vmspace):
        knobs.check(str(request))
