"""Channels: messages between processes, in which handles travel (vmar:1.8).

A handle that is sent is taken out of the sender's table first, so it is never in two places, and counts on its way. A
refused write consumes the handles that were to be moved all the same (1.14), and delivers nothing.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from capshm.model import zircon_constants as z
from capshm.model.handles import Handle, HandleTable, KernelObject, release, rights_text
from capshm.model.rules import ZxRefusal

if TYPE_CHECKING:
    from collections.abc import Sequence


class Letter(NamedTuple):
    """A message under way."""

    data: bytes
    handles: list[Handle]


class ChannelEnd(KernelObject):
    """One end. peer: the other, as long as that has handles; letters: what can be read here."""

    type: ClassVar[int] = z.OBJ_TYPE_CHANNEL

    def __init__(self) -> None:
        super().__init__()
        self.peer: ChannelEnd | None = None
        self.letters: deque[Letter] = deque()

    def unnamed(self) -> None:
        """Nobody can read here any more; the peer is told when it writes."""
        if self.peer is not None:
            self.peer.peer = None
            self.peer = None
        while self.letters:
            for handle in self.letters.popleft().handles:
                release(handle)


def new_channel() -> tuple[ChannelEnd, ChannelEnd]:
    """Both ends."""
    first, second = ChannelEnd(), ChannelEnd()
    first.peer, second.peer = second, first
    return first, second


class Disposition(NamedTuple):
    """What becomes of one handle of a message."""

    operation: int
    handle: int
    type: int
    rights: int


def write(table: HandleTable, channel: int, data: bytes, entries: Sequence[Disposition]) -> None:
    """channel_write_etc."""
    asked = f"channel_write({channel:#x}, {len(data)} bytes, {len(entries)} handles)"
    results = [z.OK] * len(entries)
    taken: list[Handle] = []
    try:
        end, _ = table.find(channel, ChannelEnd, z.RIGHT_WRITE, rule="vmar:1.8/5", asked=asked)
        if len(data) > z.CHANNEL_MAX_MSG_BYTES or len(entries) > z.CHANNEL_MAX_MSG_HANDLES:
            raise ZxRefusal(
                "vmar:1.8/6",
                asked=asked,
                allowed=f"at most {z.CHANNEL_MAX_MSG_BYTES} bytes and {z.CHANNEL_MAX_MSG_HANDLES} handles fit in one",
                needed="smaller messages",
            )
        if end.peer is None:
            raise ZxRefusal(
                "vmar:1.8/7", asked=asked, allowed="the other end has been closed", needed="a reader that is alive"
            )
        refusal = None
        for number, entry in enumerate(entries):
            try:
                taken.append(_take(table, end, entry, asked))
            except ZxRefusal as error:
                results[number] = error.status
                refusal = refusal or error
        if refusal is not None:
            raise refusal
    except ZxRefusal as error:
        for handle in taken:
            release(handle)
        for entry in entries:
            if entry.operation != z.HANDLE_OP_DUPLICATE:
                table.close(entry.handle)
        error.results = tuple(results)
        raise
    end.peer.letters.append(Letter(data, taken))


def _take(table: HandleTable, end: ChannelEnd, entry: Disposition, asked: str) -> Handle:
    """The handle that goes into the message, counted; one that is moved is in no table any more."""
    if entry.operation not in (z.HANDLE_OP_MOVE, z.HANDLE_OP_DUPLICATE):
        raise ZxRefusal(
            "vmar:1.8/12",
            asked=asked,
            allowed=f"{entry.operation} is no operation",
            needed="HANDLE_OP_MOVE or HANDLE_OP_DUPLICATE",
        )
    handle = table.known(entry.handle, rule="vmar:1.8/10", asked=asked)
    is_moved = entry.operation == z.HANDLE_OP_MOVE
    needed = z.RIGHT_TRANSFER if is_moved else z.RIGHT_TRANSFER | z.RIGHT_DUPLICATE
    if is_moved:
        table.remove(entry.handle)
    try:
        return _checked(handle, end, entry, needed, asked, is_moved=is_moved)
    except ZxRefusal:
        if is_moved:
            release(handle)
        raise


def _checked(handle: Handle, end: ChannelEnd, entry: Disposition, needed: int, asked: str, *, is_moved: bool) -> Handle:
    if handle.object is end:
        raise ZxRefusal(
            "vmar:1.8/9", asked=asked, allowed="that would send the channel's end through itself", needed="another"
        )
    if entry.type not in (z.OBJ_TYPE_NONE, handle.object.type):
        raise ZxRefusal(
            "vmar:1.8/11",
            asked=asked,
            allowed=f"handle {entry.handle:#x} is {handle.object}'s, and type {entry.type} was announced",
            needed="its type, or OBJ_TYPE_NONE",
        )
    if missing := needed & ~handle.rights:
        raise ZxRefusal(
            "vmar:1.8/8",
            asked=asked,
            allowed=f"handle {entry.handle:#x} to {handle.object} lacks {rights_text(missing)}",
            needed=f"a handle with {rights_text(needed)}",
        )
    try:
        rights = handle.limited(entry.rights)
    except ValueError:
        raise ZxRefusal(
            "vmar:1.8/12",
            asked=asked,
            allowed=f"handle {entry.handle:#x} has {rights_text(handle.rights)}",
            needed="some of these rights, or SAME_RIGHTS",
        ) from None
    if not is_moved:
        handle.object.handles += 1
    return Handle(handle.object, rights)


def read(table: HandleTable, channel: int) -> tuple[bytes, list[int]]:
    """channel_read: the data, and the values of the handles in the reader's table."""
    asked = f"channel_read({channel:#x})"
    end, _ = table.find(channel, ChannelEnd, z.RIGHT_READ, rule="vmar:1.8/5", asked=asked)
    if not end.letters and end.peer is None:
        raise ZxRefusal("vmar:1.8/7", asked=asked, allowed="the other end has been closed", needed="another channel")
    if not end.letters:
        raise ZxRefusal(
            "vmar:1.8/13", asked=asked, allowed="there is no message", needed="one, written at the other end"
        )
    letter = end.letters.popleft()
    return letter.data, [table.install(handle) for handle in letter.handles]
