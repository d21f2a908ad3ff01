"""What travels between a process and the broker: one JSON object a packet, at most 64 KiB, told apart by "do".

The broker reads strictly: an unknown field, a wrong type or a number out of range makes the whole packet a mistake of
its sender. The processes themselves use the standard library's json, so that attaching stays cheap. Descriptors travel
beside the packet; who sent it is told by the kernel, never by the packet.

Answers: {"n": 7, ...result}, {"n": 7, "refused": {"rule", "errno", "message"}} or {"n": 7, "error": {"type",
"message"}}. One that is too long for a packet travels in a memory file: {"n": 7, "long": true} and its descriptor.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, TypeAlias, get_args

import msgspec

from capshm.broker.message import Flags, Name, Word
from capshm.broker.message import Message as Message  # for those who take any
from capshm.broker.zircon import messages as zircon

PACKET_LIMIT = 64 << 10
DESCRIPTORS_LIMIT = 1
"""Descriptors that a request may carry."""

PointerWords: TypeAlias = tuple[int, int, int, int, bool, bool]
"""address, base, top, permissions, tag, is_sealed"""
Address: TypeAlias = int | PointerWords | None  # plain ints: msgspec 0.22 crashes on bounds inside a tuple of a union


class Attach(Message, frozen=True, tag="attach"):
    """The first packet of a process that comes by itself. name: of its program; layout: of the core that it runs."""

    name: Name = ""
    layout: Name = ""


class Fork(Message, frozen=True, tag="fork"):
    """Comes with one end of a socket pair, the later connection of the child."""


class Forked(Message, frozen=True, tag="forked"):
    """The first packet of a child on its connection. It waits for the answer only if the plan says so."""


class Map(Message, frozen=True, tag="map"):
    """mmap; at most one descriptor."""

    length: Word
    prot: Flags
    flags: Flags
    address: Address = None
    offset: int = 0
    has_descriptor: bool = False


class Undo(Message, frozen=True, tag="undo"):
    """Linux has carried out a `map`, but not what belongs to it, and has unmapped it: the model forgets the range."""

    start: Word
    end: Word


class Revert(Message, frozen=True, tag="revert"):
    """Linux refused to carry out the last `map`, `shmat`, `unmap`, `protect`, `inherit` or `shmdt`.

    From `start` on everything is as it was.
    """

    start: Word


class Unmap(Message, frozen=True, tag="unmap"):
    """munmap."""

    address: Address
    length: Word


class Protect(Message, frozen=True, tag="protect"):
    """mprotect."""

    address: Address
    length: Word
    prot: Flags


class Inherit(Message, frozen=True, tag="inherit"):
    """minherit."""

    address: Address
    length: Word
    inherit: Flags


class ShmOpen(Message, frozen=True, tag="shm_open"):
    """shm_open2. path None: SHM_ANON. flags: the host's; O_SHARECAP: is_share_cap. has_room: for a descriptor."""

    path: Name | None
    flags: Flags
    mode: Flags = 0o600
    shm_flags: Flags = 0
    is_share_cap: bool = False
    name: Name | None = None
    has_room: bool = True


class MemfdCreate(Message, frozen=True, tag="memfd_create"):
    """memfd_create."""

    name: Name
    flags: Flags
    has_room: bool = True


class ShmUnlink(Message, frozen=True, tag="shm_unlink"):
    """shm_unlink."""

    path: Name


class ShmRename(Message, frozen=True, tag="shm_rename"):
    """shm_rename."""

    old: Name
    new: Name
    flags: Flags = 0


class ShmGet(Message, frozen=True, tag="shmget"):
    """shmget."""

    key: Flags
    size: Word
    flags: Flags


class ShmAt(Message, frozen=True, tag="shmat"):
    """shmat: answered as `map`."""

    id: Flags
    address: Address = None
    flags: Flags = 0


class ShmDt(Message, frozen=True, tag="shmdt"):
    """shmdt."""

    address: Address


class ShmCtl(Message, frozen=True, tag="shmctl"):
    """shmctl."""

    id: Flags
    command: Flags


class Knob(Message, frozen=True, tag="knob"):
    """The share-cap knob (cheribsd:K1), or that of revocation (2.7).

    process, program: None leaves it; program is -1 for "no note", else 0 or 1.
    """

    is_for_revocation: bool = False

    process: Annotated[int, msgspec.Meta(ge=0, le=2)] | None = None
    program: Annotated[int, msgspec.Meta(ge=-1, le=1)] | None = None


class Revoke(Message, frozen=True, tag="revoke"):
    """cheri_revoke."""

    flags: Flags
    start: Word = 0


class RevokeAll(Message, frozen=True, tag="revoke_all"):
    """Machine.revoke."""


class GetShadow(Message, frozen=True, tag="get_shadow"):
    """cheri_revoke_get_shadow. address: the arena. has_shadow: the process has its shadow, and needs no descriptor."""

    selector: Flags
    address: Address = None
    has_shadow: bool = False


class RefusedLoads(Message, frozen=True, tag="refused_loads"):
    """So many loads have come out untagged since the last such message (cheribsd:2.6)."""

    count: Annotated[int, msgspec.Meta(ge=1)]


class TakePauses(Message, frozen=True, tag="take_pauses"):
    """How long the machine was stopped for each pass since the last such message."""


class Processes(Message, frozen=True, tag="processes"):
    """All processes of the machine."""


class Objects(Message, frozen=True, tag="objects"):
    """All objects."""


class Mappings(Message, frozen=True, tag="mappings"):
    """The mappings of one process."""

    pid: Flags


class Audit(Message, frozen=True, tag="audit"):
    """A page of the audit, from this number on, and the number of the last record."""

    start: Annotated[int, msgspec.Meta(ge=1)] = 1


class Leave(Message, frozen=True, tag="leave"):
    """The process has unmapped everything and has no further part in the machine."""


class Nothing(Message, frozen=True, tag="nothing"):
    """An answer is wanted, and nothing else: it wakes who waits for one."""


class End(Message, frozen=True, tag="end"):
    """The machine is to end; only its creator may ask."""


Request: TypeAlias = (
    Attach
    | Fork
    | Forked
    | Map
    | Undo
    | Revert
    | Unmap
    | Protect
    | Inherit
    | ShmOpen
    | MemfdCreate
    | ShmUnlink
    | ShmRename
    | ShmGet
    | ShmAt
    | ShmDt
    | ShmCtl
    | Knob
    | Revoke
    | RevokeAll
    | TakePauses
    | GetShadow
    | RefusedLoads
    | Processes
    | Objects
    | Mappings
    | Audit
    | Leave
    | Nothing
    | End
    | zircon.Request
)

EVENTS: Final = frozenset(str(kind.__struct_config__.tag) for kind in get_args(Request)) | {
    "fork drop",
    "fork failed",
    "revoke later",
    "stranger",
}
"""What a record of the audit may have as its event: a request, or what happens beside one."""

Value: TypeAlias = "str | int | float | bool | list[Value] | tuple[Value, ...] | dict[str, Value] | None"
"""What an answer is made of."""
Answer: TypeAlias = dict[str, Value]

_decoder = msgspec.json.Decoder(Request, strict=True)
_encoder = msgspec.json.Encoder()


_NUMBER = re.compile(rb'"n":\s*(\d{1,15})\s*[,}]')
_TOP = 1 << 64  # of a whole address space


class Malformed(Exception):
    """A packet that is no request; the message says why. number: of the request, 0 if even that cannot be read."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class _Numbered(msgspec.Struct):
    n: Annotated[int, msgspec.Meta(ge=0, le=(1 << 53) - 1)] = 0


def decode(packet: bytes) -> Request:
    """Read a packet. Malformed, whatever is wrong with it."""
    try:
        request: Request = _decoder.decode(packet)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(str(error), _number(packet)) from None
    for name in request.__struct_fields__:
        value = getattr(request, name)
        kind = type(value)
        if kind is not int and kind is not tuple:
            continue
        least = 0 if name == "address" else -(1 << 63)
        for part in value if kind is tuple else (value,):
            if type(part) is int and not least <= part <= _TOP:
                raise Malformed(f"{name} is no 64-bit word", request.n)
    return request


def _number(packet: bytes) -> int:
    try:
        return msgspec.json.decode(packet, type=_Numbered).n
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        found = _NUMBER.search(packet)
        return int(found[1]) if found else 0


def encode(answer: Answer) -> bytes:
    """Write an answer."""
    return _encoder.encode(answer)
