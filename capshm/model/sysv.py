"""System V shared memory: segments by key and number, attaching and detaching (rows H1, H4 to H6)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from capshm.model import constants as c
from capshm.model.mapping import MapPlan, MapRequest, plan_map
from capshm.model.objects import Descriptor, Kind, MemoryObject, ObjectTable
from capshm.model.opening import is_permitted
from capshm.model.pointer import Address, Pointer, pages_of, round_down
from capshm.model.rules import Refusal

if TYPE_CHECKING:
    from capshm.model.address_space import AddressSpace
    from capshm.model.knobs import Knobs
    from capshm.model.policy import Policy

_PLACES: Final = {f"cheribsd:C{number}" for number in (1, 5, 7, 8, 9, 10, 11, 13)} | {"cheribsd:MAN"}


@dataclass(eq=False, slots=True)
class Segment:
    """A segment. key: None when it was private, or when it is marked to go with its last attachment."""

    number: int
    key: int | None
    size: int
    object: MemoryObject
    is_removed: bool = False


class GetRequest(NamedTuple):
    """The arguments of shmget, and the caller's address space and user."""

    key: int
    size: int
    flags: int
    vmspace: int
    uid: int = 0

    def __str__(self) -> str:
        """As a refusal names it."""
        return f"shmget({self.key:#x}, {self.size}, {self.flags:#o})"


@dataclass(slots=True)
class SegmentTable:
    """All segments of one machine."""

    objects: ObjectTable
    segments: dict[int, Segment] = field(default_factory=dict)
    _next_number: int = 1

    def plan_get(self, policy: Policy, request: GetRequest) -> tuple[Segment, bool]:
        """The segment that shmget names, and whether it is new: then `commit_get` enters it."""
        there = None if request.key == c.IPC_PRIVATE else self._with_key(request.key)
        if there is not None:
            _check_existing(there, request)
            return there, False
        if request.key != c.IPC_PRIVATE and not request.flags & c.IPC_CREAT:
            raise _man(str(request), "no segment has this key", "IPC_CREAT, or another key", "ENOENT")
        if not 0 < request.size <= c.OBJECT_SIZE_MAX:
            raise _man(str(request), f"a segment has 1 to {c.OBJECT_SIZE_MAX} bytes", "such a size")
        memory = self.objects.prepare(Kind.SYSV, owner=request.vmspace, is_share_cap=policy.makes_share_cap(asked=True))
        memory.mode, memory.uid = request.flags & 0o777, request.uid
        key = None if request.key == c.IPC_PRIVATE else request.key
        segment = Segment(self._next_number, key, request.size, memory)
        self._next_number += 1
        return segment, True

    def commit_get(self, segment: Segment) -> None:
        """Enter a new segment; its memory exists. Cannot fail."""
        self.objects.add(segment.object)
        self.segments[segment.number] = segment

    def find(self, number: int, asked: str) -> Segment:
        """The segment of a number; EINVAL if there is none, or no more."""
        if number not in self.segments:
            raise _man(asked, f"there is no segment {number}", "the number that shmget returned")
        return self.segments[number]

    def mark_removed(self, number: int, uid: int = 0) -> Segment:
        """shmctl(IPC_RMID): the key is free at once, the memory goes with its last attachment (`forget`)."""
        segment = self.check_removal(number, uid)
        segment.key, segment.is_removed = None, True
        return segment

    def check_removal(self, number: int, uid: int = 0) -> Segment:
        """Refuse what `mark_removed` refuses. Returned: the segment; nothing is changed."""
        segment = self.find(number, f"shmctl({number}, IPC_RMID)")
        if uid not in (0, segment.object.uid):
            raise _man(f"shmctl({number}, IPC_RMID) by user {uid}", "it is another user's", "its owner", "EPERM")
        return segment

    def forget(self, segment: Segment) -> None:
        """A removed segment has lost its last attachment. Cannot fail."""
        self.segments.pop(segment.number, None)
        self.objects.remove(segment.object)

    def _with_key(self, key: int) -> Segment | None:
        return next((segment for segment in self.segments.values() if segment.key == key), None)


def plan_attach(
    space: AddressSpace, policy: Policy, knobs: Knobs, segment: Segment, address: Address, flags: int, uid: int = 0
) -> MapPlan:
    """shmat: a shared mapping with capability permission (H1), for `commit_map`. A bad place is EINVAL (H6)."""
    asked = f"shmat({segment.number}, flags {flags:#o})"
    is_read_only = bool(flags & c.SHM_RDONLY)
    if not is_permitted(segment.object, uid, is_writing=not is_read_only):
        raise _man(f"{asked} by user {uid}", f"{segment.object} has mode {segment.object.mode:#o}", "a mode", "EACCES")
    if flags & c.SHM_RND:
        address = _rounded(address)
    prot = c.PROT_READ | c.PROT_CAP if is_read_only else c.PROT_READ | c.PROT_WRITE | c.PROT_CAP
    number = address.address if isinstance(address, Pointer) and address.is_null_derived else address
    fixed = c.MAP_FIXED if number else 0
    descriptor = Descriptor(segment.object, is_writable=True, size=segment.size)
    request = MapRequest(number, segment.size, prot, c.MAP_SHARED | fixed, descriptor)
    try:
        return plan_map(space, policy, knobs, request)
    except Refusal as refusal:
        if fixed and refusal.rule in _PLACES:
            raise Refusal(
                "cheribsd:H6",
                asked=asked,
                allowed=refusal.message,
                needed="None, a free place, or the pointer of one's own reservation",
            ) from None
        raise


def plan_detach(space: AddressSpace, address: Address) -> list[tuple[int, int]]:
    """shmdt: the ranges of the attachment that starts at the pointer, for `commit_unmap`. Refused by H5."""
    start, _ = pages_of(address, c.PAGE, call="shmdt", rule="cheribsd:H5")
    reservation = space.reservation_around(start, start + c.PAGE)
    entries = space.overlapping(reservation.start, reservation.end) if reservation else []
    attached = [entry for entry in entries if entry.object is not None and entry.object.kind is Kind.SYSV]
    if not any(entry.start <= start < entry.end for entry in attached):
        raise Refusal(
            "cheribsd:H5",
            asked=f"shmdt({start:#x})",
            allowed="no segment is attached there",
            needed="the capability that shmat returned",
        )
    parts = [(entry.start, entry.end) for entry in attached if entry.start - entry.offset == start]
    if not parts:
        raise _man(f"shmdt({start:#x})", "the segment does not start there", "the capability that shmat returned")
    return parts


def attachments(space: AddressSpace, memory: MemoryObject) -> int:
    """How many times an address space has a segment attached."""
    return len({entry.start - entry.offset for entry in space.entries.values() if entry.object is memory})


def _check_existing(there: Segment, request: GetRequest) -> None:
    if request.flags & c.IPC_CREAT and request.flags & c.IPC_EXCL:
        raise _man(str(request), f"the key belongs to segment {there.number}", "a free key, or no IPC_EXCL", "EEXIST")
    is_writing = bool(request.flags & 0o222)
    if request.flags & 0o666 and not is_permitted(there.object, request.uid, is_writing=is_writing):
        raise _man(
            f"{request} by user {request.uid}", f"segment {there.number} is another's", "a mode that fits", "EACCES"
        )
    if request.size > there.size:
        raise _man(str(request), f"segment {there.number} has {there.size} bytes", "that size or less")


def _rounded(address: Address) -> Address:
    """SHM_RND: down to a whole page."""
    if isinstance(address, Pointer):
        return address._replace(address=round_down(address.address))
    return None if address is None else round_down(address)


def _man(asked: str, allowed: str, needed: str, errno: str = "EINVAL") -> Refusal:
    return Refusal("cheribsd:MAN", asked=asked, allowed=allowed, needed=needed, errno=errno)
