"""Channels: messages between processes, in which handles travel.

What is sent is taken from the sender, at once and also when the write is refused; the reader gets handles of its own to
the same objects. All calls may raise ZxError.
"""

from __future__ import annotations

import os
from binascii import a2b_base64, b2a_base64
from collections import namedtuple

from capshm import client
from capshm.cheribsd._arguments import word
from capshm.model.zircon_constants import HANDLE_OP_DUPLICATE, HANDLE_OP_MOVE, RIGHT_SAME_RIGHTS
from capshm.zircon.handles import Handle, made, number, spend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NamedTuple

    from typing_extensions import Buffer

    from capshm.zircon.handles import AnyHandle

    class Disposition(NamedTuple):
        """What becomes of one handle of a message.

        operation: HANDLE_OP_MOVE or HANDLE_OP_DUPLICATE. type: as announced, OBJ_TYPE_NONE for any. rights: what the
        receiver gets, RIGHT_SAME_RIGHTS for all.
        """

        operation: int
        handle: AnyHandle
        type: int
        rights: int

else:
    Disposition = namedtuple("Disposition", "operation handle type rights", module=__name__)

_INLINE = 16 << 10  # bytes; longer data travels in a memory file


def channel_create() -> tuple[Handle, Handle]:
    """Both ends of a new channel."""
    first, second = client.current().ask("channel_create").rows("handles")
    return made(first), made(second)


def channel_write(h: AnyHandle, data: Buffer, handles: Sequence[AnyHandle] = ()) -> None:
    """Send a message; the handles are moved, which needs TRANSFER. `h` needs WRITE. ZxError: vmar:1.8."""
    channel_write_etc(h, data, [Disposition(HANDLE_OP_MOVE, handle, 0, RIGHT_SAME_RIGHTS) for handle in handles])


def channel_write_etc(h: AnyHandle, data: Buffer, entries: Sequence[Disposition]) -> None:
    """Send a message; the handles are moved or duplicated, with fewer rights if so asked.

    After a refusal ZxError.results has a status for each entry, nothing is delivered, and all that was to be moved is
    closed.
    """
    content = bytes(memoryview(data))  # a number is no message of so many zeros
    rows = [
        (
            number("operation", entry.operation),
            word("handle", entry.handle),
            number("type", entry.type),
            number("rights", entry.rights),
        )
        for entry in entries
    ]
    channel = word("channel", h)
    for entry in entries:
        if entry.operation != HANDLE_OP_DUPLICATE:
            spend(entry.handle)
    if len(content) <= _INLINE:
        text = b2a_base64(content, newline=False).decode()
        client.current().ask("channel_write", channel=channel, data=text, entries=rows)
        return
    fd = os.memfd_create("message", os.MFD_CLOEXEC)
    try:
        with os.fdopen(fd, "wb", closefd=False) as file:
            file.write(content)
        client.current().ask(
            "channel_write", descriptors=[fd], channel=channel, data="", entries=rows, length=len(content)
        )
    finally:
        os.close(fd)


def channel_read(h: AnyHandle) -> tuple[bytes, list[Handle]]:
    """The next message, and this process's handles to what came with it. SHOULD_WAIT: there is none yet.

    `h` needs READ. PEER_CLOSED: there is none, and nobody is left who could send one.
    """
    answer = client.current().ask("channel_read", channel=word("channel", h))
    return a2b_base64(answer.text("data")), [made(each) for each in answer.rows("handles")]
