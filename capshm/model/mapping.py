"""mmap and munmap: what is asked for, whether it is allowed, and where it goes.

The order of checks is the kernel's, so that of two rows that refuse the right one is named: the pointer (C7 to C10),
protection and flags (A9 to A12), the object (D12, E8, A15, sharing), and the place (C5, C11, C13, C16) last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from capshm.model import constants as c
from capshm.model.address_space import AddressSpace, Entry, ranges
from capshm.model.objects import Descriptor, Kind, MemoryObject
from capshm.model.placing import Place, check_address, find_place
from capshm.model.pointer import Address, pages_of, permissions_for, round_up
from capshm.model.rights import Asked, Rights, describe, read_protection
from capshm.model.rules import Refusal
from capshm.model.sharing import check_sharing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from capshm.model.knobs import Knobs
    from capshm.model.policy import Policy
    from capshm.model.regions import Reservation

_FLAGS: Final = (
    c.MAP_SHARED | c.MAP_PRIVATE | c.MAP_FIXED | c.MAP_HASSEMAPHORE | c.MAP_STACK | c.MAP_NOSYNC | c.MAP_ANON
    | c.MAP_EXCL | c.MAP_NOCORE | c.MAP_PREFAULT_READ | c.MAP_GUARD | c.MAP_ALIGNMENT_MASK
)  # fmt: skip
_GUARD_FLAGS: Final = c.MAP_GUARD | c.MAP_FIXED | c.MAP_EXCL | c.MAP_ALIGNMENT_MASK


class MapRequest(NamedTuple):
    """The arguments of mmap. descriptor: what the one in the request is; None for -1."""

    address: Address
    length: int
    prot: int
    flags: int
    descriptor: Descriptor | None = None
    offset: int = 0

    @property
    def is_shared(self) -> bool:
        """MAP_SHARED."""
        return bool(self.flags & c.MAP_SHARED)

    @property
    def kind(self) -> Kind:
        """Of the memory that is to be mapped."""
        return self.descriptor.object.kind if self.descriptor else Kind.ANONYMOUS

    def __str__(self) -> str:
        """As a refusal names it."""
        sharing = "shared" if self.is_shared else "private"
        what = f"of {self.descriptor.object}" if self.descriptor else "of anonymous memory"
        return f"mmap({sharing}, {describe(self.prot)}) {what}"


class MapPlan(NamedTuple):
    """What mmap will do.

    entry, reservation: as they will be. length: of the capability that is returned; it
    starts at the entry. permissions: of that capability (A19). object_needed: the kind of object that must be made
    before `commit_map`, for shared memory without a descriptor; is_share_cap: whether that is for everybody (G1).
    """

    entry: Entry
    reservation: Reservation
    is_new_reservation: bool
    length: int
    permissions: int
    object_needed: Kind | None
    is_share_cap: bool


def plan_map(space: AddressSpace, policy: Policy, knobs: Knobs, request: MapRequest) -> MapPlan:
    """Decide what mmap does. Refused by rows of A, C, D, E, K and by policy; a refusal changes nothing."""
    pointer = check_address(request.address, request.length, request.prot, request.flags)
    is_shared, kind = request.is_shared, request.kind
    asked = read_protection(request.prot, is_cap_implied=policy.is_cap_implied(kind, is_shared))
    _check_arguments(request, asked)
    maximum = _maximum(request, asked, is_shared)
    object_needed = kind if is_shared and kind in (Kind.ANONYMOUS, Kind.ZERO) else None
    is_for_all = pointer is None and bool(maximum & Rights.CAP)  # G1, and G3
    is_share_cap = object_needed is not None and policy.makes_share_cap(asked=is_for_all)
    check_sharing(space.serial, policy, knobs, request, asked, maximum, is_share_cap=is_share_cap)
    place = find_place(space, pointer, request.address, request.length, request.flags)
    permissions = permissions_for(request.prot)
    return MapPlan(
        entry=_entry(request, asked, maximum, place),
        reservation=place.reservation,
        is_new_reservation=place.is_new_reservation,
        length=place.length,
        permissions=permissions & pointer.permissions if pointer else permissions,
        object_needed=object_needed,
        is_share_cap=is_share_cap,
    )


def commit_map(space: AddressSpace, plan: MapPlan, memory: MemoryObject | None = None) -> list[Entry]:
    """Put the new entry in its place. Returned: the parts of entries that it replaces. Cannot fail.

    memory: the object that the plan needs, if it needs one.
    """
    entry = plan.entry if plan.object_needed is None else plan.entry._replace(object=memory)
    if plan.is_new_reservation:
        space.reserve(plan.reservation)
    return space.replace(entry)


def plan_unmap(space: AddressSpace, address: Address, length: int) -> list[tuple[int, int]]:
    """The ranges that munmap takes away. Refused by C15; nothing is changed."""
    start, end = pages_of(address, length, call="munmap", rule="cheribsd:C15")
    if length <= 0:
        raise Refusal(
            "cheribsd:MAN", asked=f"munmap of {length} bytes", allowed="that is no range", needed="at least one byte"
        )
    check_reserved(space, start, end, call="munmap", rule="cheribsd:C15")
    return ranges(space.within(start, end))


def commit_unmap(space: AddressSpace, unmapped: list[tuple[int, int]]) -> list[Entry]:
    """Take ranges away, and reservations of which nothing is left. Returned: the parts that are gone. Cannot fail."""
    return [gone for start, end in unmapped for gone in space.remove(start, end)]


def check_reserved(space: AddressSpace, start: int, end: int, *, call: str, rule: str) -> None:
    """Refuse a range that does not lie in one reservation: the pointer to it is stale."""
    if start >= end:
        return
    reservation = space.reservation_around(start, end)
    if reservation is None or space.is_quarantined(reservation):
        raise Refusal(
            rule,
            asked=f"{call} of [{start:#x}, {end:#x})",
            allowed="the range does not lie in one reservation; what this pointer was made for has been unmapped",
            needed="a pointer to memory that is still reserved",
        )


def _check_arguments(request: MapRequest, asked: Asked) -> None:
    """What the manual page refuses, in the kernel's order; EINVAL, but for the last."""
    for problem in _problems(request, asked):
        raise Refusal("cheribsd:MAN", asked=str(request), allowed=problem, needed="other arguments, see mmap(2)")
    is_anonymous = request.flags & (c.MAP_ANON | c.MAP_STACK | c.MAP_GUARD)
    if not is_anonymous and request.descriptor is None:
        raise Refusal(
            "cheribsd:MAN",
            asked=str(request),
            allowed="memory that is not anonymous is mapped by a descriptor",
            needed="a descriptor, or MAP_ANON",
            errno="EBADF",
        )


def _problems(request: MapRequest, asked: Asked) -> Iterator[str]:
    flags, descriptor, offset = request.flags, request.descriptor, request.offset
    both = c.MAP_SHARED | c.MAP_PRIVATE
    if request.length <= 0:
        yield "the length must be at least one byte"
    if flags & (c.MAP_ANON | c.MAP_STACK | c.MAP_GUARD) and descriptor is not None:
        yield "anonymous memory, stacks and guards have no descriptor"
    if flags & (c.MAP_ANON | c.MAP_GUARD) and offset != 0:
        yield "anonymous memory and guards have no offset"
    if flags & c.MAP_STACK and (Rights.READ | Rights.WRITE) not in asked.current:
        yield "a stack is readable and writable"
    if flags & ~_FLAGS:
        yield f"the flags {flags & ~_FLAGS:#x} are unknown"
    if flags & (c.MAP_EXCL | c.MAP_FIXED) == c.MAP_EXCL:
        yield "MAP_EXCL goes with MAP_FIXED"
    if flags & both == both:
        yield "MAP_SHARED and MAP_PRIVATE exclude each other"
    if flags & c.MAP_GUARD and (asked.current or flags & ~_GUARD_FLAGS):
        yield "a guard is PROT_NONE and takes no other flags"
    if descriptor is not None and not flags & both:
        yield "a descriptor needs MAP_SHARED or MAP_PRIVATE"
    if offset % c.PAGE != 0:
        yield f"the offset {offset:#x} is no multiple of a page"
    if descriptor is not None and not 0 <= offset <= c.OBJECT_SIZE_MAX - request.length:
        yield f"objects end at {c.OBJECT_SIZE_MAX:#x} bytes at most"


def _maximum(request: MapRequest, asked: Asked, is_shared: bool) -> Rights:
    """What may ever be allowed: never writing through a descriptor that cannot."""
    if request.flags & c.MAP_GUARD:
        return Rights(0)
    if is_shared and request.descriptor is not None and not request.descriptor.is_writable:
        return asked.maximum.without(Rights.WRITE)
    return asked.maximum


def _entry(request: MapRequest, asked: Asked, maximum: Rights, place: Place) -> Entry:
    """The entry; shared memory without a descriptor gets its object at `commit_map`."""
    memory = request.descriptor.object if request.descriptor else None
    if memory is not None and memory.kind is Kind.ZERO:
        memory = None  # each mapping of /dev/zero is memory of its own
    return Entry(
        start=place.start,
        end=place.start + round_up(request.length),
        current=asked.current,
        maximum=maximum,
        inherit=c.INHERIT_SHARE if request.is_shared else c.INHERIT_COPY,
        object=memory,
        offset=request.offset if memory else 0,
        is_shared=request.is_shared,
        reservation=place.reservation.start,
        is_guard=bool(request.flags & c.MAP_GUARD),
    )
