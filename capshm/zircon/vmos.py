"""VMOs: memory that can be mapped; and the memory of processes, by way of theirs.

Bytes are read and written by a descriptor that the broker lends for the call: read-only for reading. Sizes and offsets
are in bytes. All calls may raise ZxError.
"""

from __future__ import annotations

import os

from capshm import client
from capshm.cheribsd._arguments import word
from capshm.zircon.handles import made, number, spend
from capshm.zircon.vmars import change

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import SupportsIndex

    from typing_extensions import Buffer

    from capshm.connection import Argument
    from capshm.zircon.handles import AnyHandle, Handle


def vmo_create(size: SupportsIndex, options: SupportsIndex = 0) -> Handle:
    """A VMO of zeros, of at least `size` bytes, in whole pages. options: VMO_RESIZABLE, VMO_DISCARDABLE;
    VMO_CAP: it holds capabilities, for this process alone; VMO_SHARE_CAP: for whoever maps it.

    Its handle has READ, WRITE and MAP, and no EXECUTE: see vmo_replace_as_executable. It lives while a handle or a
    mapping names it.
    """
    answer = client.current().ask("vmo_create", size=word("size", size), options=number("options", options))
    return made(answer.body["handle"])


def vmo_create_child(vmo: AnyHandle, options: SupportsIndex, offset: SupportsIndex, size: SupportsIndex) -> Handle:
    """A snapshot of a part of a VMO: VMO_CHILD_SNAPSHOT, and it may be _RESIZABLE or _NO_WRITE. It is copied at once.

    Needs DUPLICATE and READ. Its handle has the parent's rights; WRITE instead of EXECUTE, unless _NO_WRITE is given.
    """
    answer = client.current().ask(
        "vmo_create_child",
        vmo=word("vmo", vmo),
        options=number("options", options),
        offset=word("offset", offset),
        size=word("size", size),
    )
    return made(answer.body["handle"])


def vmo_read(vmo: AnyHandle, offset: SupportsIndex, length: SupportsIndex) -> bytes:
    """Bytes of a VMO. Needs READ; OUT_OF_RANGE past the end."""
    return _read("vmo_access", vmo=word("vmo", vmo), offset=word("offset", offset), length=word("length", length))


def vmo_write(vmo: AnyHandle, offset: SupportsIndex, data: Buffer) -> None:
    """Write to a VMO. Needs WRITE; OUT_OF_RANGE past the end, and nothing is written then."""
    _write("vmo_access", data, vmo=word("vmo", vmo), offset=word("offset", offset))


def process_read_memory(process: AnyHandle, address: SupportsIndex, length: SupportsIndex) -> bytes:
    """Bytes of a process, whatever its pages permit now; fewer than asked for where the mapping or its VMO ends.

    Needs READ and WRITE on the process. NOT_FOUND where no VMO is mapped.
    """
    return _read(
        "process_access",
        process=word("process", process),
        address=word("address", address),
        length=word("length", length),
    )


def process_write_memory(process: AnyHandle, address: SupportsIndex, data: Buffer) -> int:
    """Write to a process in the same way; how many bytes were written. Needs WRITE on the process."""
    return _write("process_access", data, process=word("process", process), address=word("address", address))


def _read(call: str, **arguments: Argument) -> bytes:
    mine = client.current()

    def read() -> bytes:
        answer = mine.ask(call, descriptors=(), is_write=False, **arguments)
        try:
            body = {**arguments, **answer.body}
            return os.pread(answer.descriptors[0], int(str(body["length"])), int(str(body["offset"])))
        finally:
            answer.close()

    return mine.undisturbed(read)


def _write(call: str, data: Buffer, **arguments: Argument) -> int:
    mine = client.current()
    view = memoryview(data).cast("B")

    def write() -> int:
        answer = mine.ask(call, descriptors=(), is_write=True, length=len(view), **arguments)
        try:
            body = {"length": len(view), **arguments, **answer.body}
            done, length, offset = 0, int(str(body["length"])), int(str(body["offset"]))
            while done < length:
                done += os.pwrite(answer.descriptors[0], view[done:length], offset + done)
            return done
        finally:
            answer.close()

    return mine.undisturbed(write)


def vmo_get_size(vmo: AnyHandle) -> int:
    """In bytes; whole pages."""
    return client.current().ask("vmo_size", vmo=word("vmo", vmo), is_stream=False).number("size")


def vmo_get_stream_size(vmo: AnyHandle) -> int:
    """In bytes; at first what vmo_create was given."""
    return client.current().ask("vmo_size", vmo=word("vmo", vmo), is_stream=True).number("size")


def vmo_set_size(vmo: AnyHandle, size: SupportsIndex) -> None:
    """Resize a VMO that was created with VMO_RESIZABLE; needs WRITE and RESIZE. Mapped pages past the end fault."""
    change("vmo_set_size", vmo=word("vmo", vmo), size=word("size", size), is_stream=False)


def vmo_set_stream_size(vmo: AnyHandle, size: SupportsIndex) -> None:
    """Set the stream size, which is at most the size; what lies behind a smaller one becomes zero. Needs WRITE.

    Mappings with FAULT_BEYOND_STREAM_SIZE follow at once; NOT_SUPPORTED while another process has one.
    """
    change("vmo_set_size", vmo=word("vmo", vmo), size=word("size", size), is_stream=True)


def vmo_replace_as_executable(vmo: AnyHandle) -> Handle:
    """A handle with EXECUTE instead of this one, which is gone afterwards."""
    answer = client.current().ask("vmo_replace_as_executable", vmo=word("vmo", vmo))
    spend(vmo)
    return made(answer.body["handle"])


def vmo_op_range(vmo: AnyHandle, op: SupportsIndex, offset: SupportsIndex, size: SupportsIndex) -> None:
    """VMO_OP_COMMIT, DECOMMIT and ZERO need WRITE, the hints READ."""
    client.current().ask(
        "vmo_op_range",
        vmo=word("vmo", vmo),
        op=number("op", op),
        offset=word("offset", offset),
        size=word("size", size),
    )
