"""What a child finds: minherit says it for a range (rows I1 to I15), fork does it (F1, F2, F8 to F15)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from capshm.model.address_space import AddressSpace, Entry, ranges
from capshm.model.constants import INHERIT_COPY, INHERIT_NONE, INHERIT_SHARE, INHERIT_ZERO
from capshm.model.mapping import check_reserved
from capshm.model.pointer import Address, pages_of
from capshm.model.rights import Rights
from capshm.model.rules import Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from capshm.model.knobs import Knobs
    from capshm.model.objects import MemoryObject
    from capshm.model.policy import Policy

_NAMES = {INHERIT_SHARE: "SHARE", INHERIT_COPY: "COPY", INHERIT_NONE: "NONE", INHERIT_ZERO: "ZERO"}


class NewShared(NamedTuple):
    """Memory that is the process's own and is to be shared with children: it needs an object to live in."""

    start: int
    end: int
    is_share_cap: bool


class InheritPlan(NamedTuple):
    """The entries as minherit leaves them, and the objects that are needed first, in the order of `commit_inherit`."""

    entries: list[Entry]
    needs_object: list[NewShared]


def plan_inherit(space: AddressSpace, policy: Policy, address: Address, length: int, inherit: int) -> InheritPlan:
    """Decide what minherit does, for the whole range or not at all (I11). Refused by I1, I2, I8, I12, I13, I15."""
    start, end = pages_of(address, length, call="minherit", rule="cheribsd:I13")
    if any(entry.is_quarantined for entry in space.overlapping(start, end)):
        raise Refusal(
            "cheribsd:I9",
            asked=f"minherit of [{start:#x}, {end:#x})",
            allowed="it was unmapped, and is in quarantine",
            needed="memory that is mapped",
        )
    check_reserved(space, start, end, call="minherit", rule="cheribsd:I13")
    if inherit not in _NAMES:
        raise Refusal(
            "cheribsd:I12",
            asked=f"minherit with {inherit}",
            allowed="that is no inheritance",
            needed="INHERIT_SHARE, INHERIT_COPY, INHERIT_NONE or INHERIT_ZERO",
        )
    if inherit == INHERIT_NONE:
        _check_whole(space, start, end)
    entries, needs_object = [], []
    for entry in space.within(start, end):
        if inherit == INHERIT_SHARE:
            _check_share(policy, entry)
            if not (entry.is_shared or entry.is_guard):
                is_share_cap = policy.makes_share_cap(asked=bool(entry.object and entry.object.is_share_cap))  # F15
                needs_object.append(NewShared(entry.start, entry.end, is_share_cap))
        elif inherit == INHERIT_COPY and entry.object is not None and entry.object.is_large_page:
            raise Refusal(
                "cheribsd:I8",
                asked=f"minherit(INHERIT_COPY) of {entry.object}",
                allowed="large pages are not copied",
                needed="INHERIT_SHARE, INHERIT_NONE or INHERIT_ZERO",
            )
        if not (entry.is_guard and inherit == INHERIT_ZERO):  # I10
            entries.append(entry._replace(inherit=inherit))
    return InheritPlan(entries, needs_object)


def commit_inherit(space: AddressSpace, plan: InheritPlan, objects: Sequence[MemoryObject] = ()) -> list[Entry]:
    """Set the inheritance. Returned: the parts of entries as they were. Cannot fail.

    objects: one for each range that needs one, with what was there as content.
    """
    made = {new.start: memory for new, memory in zip(plan.needs_object, objects, strict=True)}
    replaced = []
    for entry in plan.entries:
        if entry.start in made:
            replaced += space.replace(entry._replace(object=made[entry.start], offset=0, is_shared=True))
        else:
            replaced += space.replace(entry)
    return replaced


def _check_share(policy: Policy, entry: Entry) -> None:
    """Rows I1 to I6."""
    memory = entry.object
    if entry.inherit == INHERIT_SHARE:  # I3
        return
    if memory is not None and memory.is_share_cap:  # I5
        return
    if not entry.can_hold_capabilities:  # I4, I6
        return
    rule = policy.refuse_inherit_share(entry)
    if rule is not None:
        what = str(memory) if memory is not None else "memory of its own"
        raise Refusal(
            rule,
            asked=f"minherit(INHERIT_SHARE) of [{entry.start:#x}, {entry.end:#x})",
            allowed=f"{what} can hold capabilities there, and its children are other address spaces",
            needed="memory without capability permission in its maximum, or MAP_ANON|MAP_SHARED with PROT_CAP",
        )


def _check_whole(space: AddressSpace, start: int, end: int) -> None:
    """Row I15: a child without a part of a reservation could put something else there, under the old pointers."""
    for reservation in space.reservations_overlapping(start, end):
        for entry in space.overlapping(reservation.start, reservation.end):
            if entry.start < start or entry.end > end:
                raise Refusal(
                    "cheribsd:I15",
                    asked=f"minherit(INHERIT_NONE) of [{start:#x}, {end:#x})",
                    allowed=f"the reservation [{reservation.start:#x}, {reservation.end:#x}) goes or stays as a whole",
                    needed="all that is mapped in the reservation",
                )


Ranges = list[tuple[int, int]]


class ForkPlan(NamedTuple):
    """The child's address space, and what makes it differ from a plain copy.

    drops: shared memory that loses capability permission (F2). zero: fresh memory without content (F10). none: not
    there (F9). copies: shared memory of which the child has a copy of its own. The parent's space is not changed, and
    owns what it owned (F13).
    """

    space: AddressSpace
    drops: Ranges
    zero: Ranges
    none: Ranges
    copies: Ranges


def plan_fork(space: AddressSpace, policy: Policy, knobs: Knobs, serial: int) -> ForkPlan:
    """What a child with this serial finds. Nothing is refused; knobs that forbid sharing act like F2 (K1)."""
    child = space.copy(serial)
    parts: dict[str, list[Entry]] = {"drops": [], "zero": [], "none": [], "copies": []}
    for entry in space.entries.values():
        if entry.inherit == INHERIT_NONE:
            parts["none"].append(entry)
            child.remove(entry.start, entry.end)
        elif entry.is_guard:
            continue  # F12
        elif entry.inherit == INHERIT_ZERO:
            parts["zero"].append(entry)
            child.replace(_own(entry))
        elif entry.inherit == INHERIT_COPY:
            if entry.is_shared or not _sees_object(policy, entry):
                parts["copies"].append(entry)
                child.replace(_own(entry))  # like F1, and not F2: what it gets is nobody else's
        elif entry.can_hold_capabilities and not _keeps_capabilities(policy, knobs, entry):
            parts["drops"].append(entry)
            child.replace(
                entry._replace(current=entry.current.without(Rights.CAP), maximum=entry.maximum.without(Rights.CAP))
            )
    return ForkPlan(child, **{name: ranges(entries) for name, entries in parts.items()})


def _own(entry: Entry) -> Entry:
    """The same as private memory."""
    return entry._replace(object=None, offset=0, is_shared=False)


def _sees_object(policy: Policy, entry: Entry) -> bool:
    """Row F1: whether pages of a private mapping that are still the object's may stay so in a child."""
    has_tags = entry.object is not None and entry.object.can_hold_capabilities and entry.can_hold_capabilities
    return entry.object is None or not has_tags or policy.sees_objects_after_fork(entry.object)


def _keeps_capabilities(policy: Policy, knobs: Knobs, entry: Entry) -> bool:
    """Rows F2 and F8, by the object that the entry has now (F15)."""
    return entry.object is not None and policy.keeps_capabilities_at_fork(entry.object) and knobs.may_share()
