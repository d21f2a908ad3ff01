"""VMARs: regions of an address space, in a tree, and the mappings in them.

A call is asked of the broker and carried out in this process, by mmap and mprotect, before anything else happens here.
One on another process's VMAR is carried out there, by that process's own thread amid whatever it does, before the call
returns. UNAVAILABLE (vmar:REMOTE/1, 2): it is stopped for longer than the machine's stop_timeout; BAD_STATE: it has
ended.
Permissions: a mapping's maximum is what both handles had when it was made, its current permission what was asked for
last. RFC-0199 in one sentence: through its own VMAR's handle a mapping can be raised up to the maximum, through an
ancestor's only lowered. Source: vmar:1.1 to 1.6.

Capability permission is capshm's own (VM_PERM_CAP, VM_CAN_MAP_CAP, RIGHT_CAP), and obeys the tree as all others do:
what a parent takes from a child region's mappings it cannot give back. `vmar_capability` gives access to the memory.

Addresses, offsets and lengths are in bytes. All calls may raise ZxError, whose rule says what has been changed.
"""

from __future__ import annotations

import os

from capshm import client, errors
from capshm._native import lib
from capshm.capability import over
from capshm.cheribsd._arguments import word
from capshm.client import map_object
from capshm.model.zircon_constants import ERR_NO_MEMORY
from capshm.pages import page_permissions
from capshm.zircon.handles import made, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import SupportsIndex

    from capshm.capability import Capability
    from capshm.client import Client
    from capshm.connection import Answer, Argument
    from capshm.zircon.handles import AnyHandle, Handle


def vmar_root_self() -> Handle:
    """A handle to the root VMAR of this process: the whole arena."""
    return made(client.current().ask("vmar_root_self").body["handle"])


def vmar_allocate(
    parent: AnyHandle, options: SupportsIndex, offset: SupportsIndex, size: SupportsIndex
) -> tuple[Handle, int]:
    """A VMAR in another: its handle and its address. options: VM_CAN_MAP_*, SPECIFIC, COMPACT, ALIGN_* and so on.

    The parent's handle needs READ, WRITE, EXECUTE for each CAN_MAP_* that is asked for.
    """
    answer = client.current().ask(
        "vmar_allocate",
        parent=word("parent", parent),
        options=number("options", options),
        offset=word("offset", offset),
        size=word("size", size),
    )
    return made(answer.body["handle"]), answer.number("address")


def vmar_map(
    vmar: AnyHandle,
    options: SupportsIndex,
    vmar_offset: SupportsIndex,
    vmo: AnyHandle,
    vmo_offset: SupportsIndex,
    length: SupportsIndex,
) -> int:
    """Map a VMO and return the address; the length goes up to whole pages, and may pass the VMO's end.

    Both handles need the rights that VM_PERM_* ask for, the VMO's MAP as well. What both have is the maximum.
    """
    answer = change(
        "vmar_map",
        vmar=word("vmar", vmar),
        options=number("options", options),
        vmar_offset=word("vmar_offset", vmar_offset),
        vmo=word("vmo", vmo),
        vmo_offset=word("vmo_offset", vmo_offset),
        length=word("length", length),
    )
    return answer.number("address")


def vmar_protect(vmar: AnyHandle, options: SupportsIndex, address: SupportsIndex, length: SupportsIndex) -> None:
    """Make VM_PERM_* the current permission of whole pages: all of them, or none.

    The handle needs the rights that are asked for, and OP_CHILDREN for what lies in VMARs below, which is only lowered.
    """
    change(
        "vmar_protect",
        vmar=word("vmar", vmar),
        options=number("options", options),
        address=word("address", address),
        length=word("length", length),
    )


def vmar_unmap(vmar: AnyHandle, address: SupportsIndex, length: SupportsIndex) -> None:
    """Unmap whole pages, and end the child VMARs that lie in the range; these need OP_CHILDREN. Gaps are no mistake."""
    change("vmar_unmap", vmar=word("vmar", vmar), address=word("address", address), length=word("length", length))


def vmar_destroy(vmar: AnyHandle) -> None:
    """Unmap all of a VMAR and free its place. The handle needs OP_CHILDREN; it stays, and is good for nothing."""
    change("vmar_destroy", vmar=word("vmar", vmar))


def vmar_op_range(vmar: AnyHandle, op: SupportsIndex, address: SupportsIndex, length: SupportsIndex) -> None:
    """Do VMAR_OP_* to the VMOs that are mapped there, one mapping after another: an error leaves those before it done.

    ZERO, and the hints, reach into VMARs below through a handle with OP_CHILDREN; COMMIT, DECOMMIT, PREFETCH never do.
    """
    client.current().ask(
        "vmar_op_range",
        vmar=word("vmar", vmar),
        op=number("op", op),
        address=word("address", address),
        length=word("length", length),
    )


def vmar_capability(vmar: AnyHandle, address: SupportsIndex, length: SupportsIndex) -> Capability:
    """The authority that a handle has over bytes of its VMAR, as a capability; capshm's own call.

    The handle's READ, WRITE, EXECUTE and CAP become its permissions; what the page permits is judged at each access. It
    has no say in mappings. Closing the handle, or destroying the VMAR, does not take it back.
    """
    answer = client.current().ask(
        "vmar_capability",
        vmar=word("vmar", vmar),
        address=word("address", address),
        length=word("length", length),
    )
    return over(*answer.numbers("capability"))


def change(call: str, **arguments: Argument) -> Answer:
    """Ask for a change of mappings and carry it out, undisturbed."""
    mine = client.current()

    def change() -> Answer:
        answer = mine.ask(call, descriptors=(), **arguments)
        try:
            for order in answer.rows("orders"):
                _carry_out(mine, order, answer.descriptors)
        finally:
            answer.close()
        return answer

    return mine.undisturbed(change)


def _map(start: int, length: int, order: list[object], descriptors: list[int]) -> None:
    """descriptors: with -1 at the end, for none."""
    offset, memory = int(str(order[4])), int(str(order[5]))
    maximum, is_kept = str(order[6]), bool(order[7])
    data, tags, clear = (descriptors[int(str(place))] for place in order[8:])
    map_object(
        start,
        length,
        letters=str(order[3]),
        data=data,
        tags=tags,
        clear=clear,
        offset=offset,
        number=memory,
        is_shared=True,
        is_tags_writable="W" in maximum,
        is_clear_writable="w" in maximum,
        is_kept_at_fork=is_kept,
    )


def _carry_out(mine: Client, order: list[object], descriptors: list[int]) -> None:
    """One order of the broker's (capshm.broker.zircon.messages)."""
    start, length = int(str(order[1])), int(str(order[2]))
    try:
        if order[0] == "map":
            _map(start, length, order, [*descriptors, -1])
        elif order[0] == "protect":
            client.check(lib.capshm_protect(start, length, page_permissions(str(order[3]))), "mprotect")
        else:
            client.check(lib.capshm_unmap_range(start, length), "munmap")
    except errors.Refused as error:
        if order[0] == "protect":
            lib.capshm_protect(start, length, page_permissions(str(order[4])))  # areas become one: needs no memory
        mine.ask("vmar_failed", start=start)
        raise errors.ZxError(
            f"process {os.getpid()}: from {start:#x} on nothing was changed: {error.strerror}",
            status=ERR_NO_MEMORY,
            rule="vmar:host",
        ) from None
