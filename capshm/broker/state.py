"""What a broker knows: the model of one machine, the memory behind it, and the record of what happened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from weakref import WeakValueDictionary

import msgspec

import capshm.policies as policies
import capshm.revokers as revokers
from capshm.broker.audit import AuditLog
from capshm.broker.kernel import Kernel
from capshm.broker.messages import Answer, Message
from capshm.broker.parts import Part, Parts
from capshm.broker.revocation import stoppers
from capshm.broker.revocation.stoppers import Stopper
from capshm.broker.segments import Key, Segments
from capshm.errors import CapshmError
from capshm.model.address_space import AddressSpace, Entry
from capshm.model.knobs import Knobs
from capshm.model.objects import Kind, MemoryObject, ObjectTable
from capshm.model.regions import Reservation, Vmar
from capshm.model.sysv import SegmentTable
from capshm.model.vmar_changing import Removal, Removed
from capshm.records import Datum


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The arguments of `capshm.Machine`, checked there."""

    name: str
    policy: str
    revoker: str
    stopper: str
    scope: str
    isa: str
    vmar_errors: str
    faults: str
    leaks: str
    arena_size: int
    stop_timeout: float
    hardened: bool


class Reply(NamedTuple):
    """An answer without its number. descriptors: sent along, and closed then, but for those that are lent."""

    body: Answer
    descriptors: Sequence[int] = ()
    lent: frozenset[int] = frozenset()


class Elsewhere(Exception):
    """A request is allowed, and is about mappings of another process, which has to come by: its address space."""

    def __init__(self, serial: int) -> None:
        super().__init__(serial)
        self.serial = serial


class Change(NamedTuple):
    """What a change of mappings in these ranges has taken the place of; reservations: those that went with it."""

    ranges: list[tuple[int, int]]
    entries: list[Entry]
    reservations: Sequence[Reservation | Vmar] = ()


@dataclass(slots=True, eq=False)
class Member:
    """A process's part in the model. pid: 0, and pidfd: -1, for a child that is still being forked.

    last, removal: the change that its last request has made, until the next one; removal: if it was a call of Zircon's.
    part: in revocation.
    """

    pid: int
    space: AddressSpace
    knobs: Knobs
    part: Part
    last: Change | None = None
    removal: tuple[Removal, Removed] | None = None
    pidfd: int = -1

    @property
    def serial(self) -> int:
        """Of its vmspace."""
        return self.space.serial


@dataclass(slots=True, eq=False)
class State:
    """All of it. zero: the object that /dev/zero is. here: the serial of another address space that the request at hand
    may change, because its process has come by (zircon.remote); 0: none. pauses: how long each stop of the machine for
    a pass has lasted, in nanoseconds; the first MOST_PAUSES since somebody took them.

    files: those of the file system. They are objects for as long as an entry names them, and in no table: an entry
    means a mapping, and a mapping keeps device and inode from being used again.
    """

    settings: Settings
    segments: Segments
    audit: AuditLog
    policy: policies.Policy = field(init=False)
    objects: ObjectTable = field(default_factory=ObjectTable)
    revoker: revokers.Revoker = field(init=False)
    stopper: Stopper = field(init=False)
    parts: Parts = field(default_factory=Parts)
    sysv: SegmentTable = field(init=False)
    members: dict[int, Member] = field(default_factory=dict)
    zero: MemoryObject = field(init=False)
    kernel: Kernel = field(default_factory=Kernel)
    files: WeakValueDictionary[Key, MemoryObject] = field(default_factory=WeakValueDictionary)
    here: int = 0
    pauses: list[int] = field(default_factory=list)
    _next_serial: int = 1

    def __post_init__(self) -> None:
        try:
            self.policy = policies.load(self.settings.policy)
            self.revoker = revokers.load(self.settings.revoker)
        except (ValueError, TypeError) as error:
            raise CapshmError(str(error)) from None
        self.stopper = stoppers.make(
            self.settings.stopper,
            self.settings.stop_timeout,
            lambda: [(member.pid, member.pidfd) for member in self.members.values() if member.pidfd >= 0],
        )
        self.sysv = SegmentTable(self.objects)
        self.zero = MemoryObject(0, Kind.ZERO)  # in no table: what is mapped of it is an object of its own

    def new_serial(self) -> int:
        """The identity of a new address space, never given again."""
        serial = self._next_serial
        self._next_serial += 1
        return serial

    def holders(self) -> Iterator[MemoryObject]:
        """The objects that may hold capabilities: those of the table, and VMOs."""
        yield from self.objects
        yield from self.kernel.vmos()

    def mapped_files(self) -> set[MemoryObject]:
        """The files that entries name."""
        return {
            entry.object
            for member in self.members.values()
            for entry in member.space.entries.values()
            if entry.object is not None and entry.object.kind is Kind.FILE
        }

    def record(
        self,
        member: Member,
        request: Message | str,
        *,
        is_allowed: bool = True,
        rule: str = "",
        number: int = 0,
        message: str = "",
        data: dict[str, Datum] | None = None,
    ) -> None:
        """Write an event of a member into the audit; before it is committed, so that nothing happens unrecorded."""
        is_request = isinstance(request, Message)
        self.audit.append(
            pid=member.pid,
            vmspace=member.serial,
            event=str(request.__struct_config__.tag) if isinstance(request, Message) else request,
            rule=rule,
            object=number,
            is_allowed=is_allowed,
            at=request.at if is_request and isinstance(request, Message) else ("", 0),
            message=message,
            data=data,
        )
