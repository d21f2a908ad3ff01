"""Zircon's calls as they travel: each is named as its call, and its fields as the call's arguments.

The answer to a call that changes mappings has `orders`, which the caller carries out in its own address space (those of
a call on another process go there, in the layout of native/remote.h):
["map", start, length, rights, offset, object, maximum, whether capability permission survives a fork, data, tags, clear
map], the last three the places of descriptors, or -1; ["protect", start, length, rights, rights before];
["unmap", start, length].
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from capshm.broker.message import Message, Word

Options: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
Rights: TypeAlias = Options
_LAST_ERRNO = 4095  # the kernel's MAX_ERRNO
Entry: TypeAlias = tuple[int, int, int, int]
"""operation, handle, type, rights"""
Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=64 << 10)]


class Tree(Message, frozen=True, tag="tree"):
    """The regions and mappings of one process. Whoever may connect may look."""

    pid: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]


class VmarRootSelf(Message, frozen=True, tag="vmar_root_self"):
    """A handle to the root VMAR of the caller."""


class ProcessCreate(Message, frozen=True, tag="process_create"):
    """process_create."""

    name: Annotated[str, msgspec.Meta(max_length=31, pattern=r"\A[^\0]*\Z")]


class ProcessReady(Message, frozen=True, tag="process_ready"):
    """The process that process_create has made can be worked on: its arena is reserved, its handlers are installed."""


class ProcessSelf(Message, frozen=True, tag="process_self"):
    """A handle to the caller."""


class VmarAllocate(Message, frozen=True, tag="vmar_allocate"):
    """vmar_allocate."""

    parent: Word
    options: Options
    offset: Word
    size: Word


class VmarMap(Message, frozen=True, tag="vmar_map"):
    """vmar_map."""

    vmar: Word
    options: Options
    vmar_offset: Word
    vmo: Word
    vmo_offset: Word
    length: Word


class VmarProtect(Message, frozen=True, tag="vmar_protect"):
    """vmar_protect."""

    vmar: Word
    options: Options
    address: Word
    length: Word


class VmarUnmap(Message, frozen=True, tag="vmar_unmap"):
    """vmar_unmap."""

    vmar: Word
    address: Word
    length: Word


class VmarDestroy(Message, frozen=True, tag="vmar_destroy"):
    """vmar_destroy."""

    vmar: Word


class VmarOpRange(Message, frozen=True, tag="vmar_op_range"):
    """vmar_op_range."""

    vmar: Word
    op: Options
    address: Word
    length: Word


class VmarFailed(Message, frozen=True, tag="vmar_failed"):
    """Linux refused an order of the last change: from `start` on everything is as it was."""

    start: Word


class VmarCapability(Message, frozen=True, tag="vmar_capability"):
    """vmar_capability."""

    vmar: Word
    address: Word
    length: Word


class RemoteNext(Message, frozen=True, tag="remote_next"):
    """What do others want of this process? The answer is a packet of orders (native/remote.h)."""


class RemoteDone(Message, frozen=True, tag="remote_done"):
    """So many orders of that packet are carried out; errno: why not the next. It is not answered."""

    number: Word
    done: Options
    errno: Annotated[int, msgspec.Meta(ge=0, le=_LAST_ERRNO)]


class Touch(Message, frozen=True, tag="touch"):
    """What a touch of this address meets, by the model."""

    address: Word
    is_write: bool


class VmoCreate(Message, frozen=True, tag="vmo_create"):
    """vmo_create."""

    size: Word
    options: Options


class VmoCreateChild(Message, frozen=True, tag="vmo_create_child"):
    """vmo_create_child."""

    vmo: Word
    options: Options
    offset: Word
    size: Word


class VmoAccess(Message, frozen=True, tag="vmo_access"):
    """vmo_read or vmo_write: the answer is a descriptor to do it with."""

    vmo: Word
    offset: Word
    length: Word
    is_write: bool


class VmoSize(Message, frozen=True, tag="vmo_size"):
    """vmo_get_size and vmo_get_stream_size."""

    vmo: Word
    is_stream: bool


class VmoSetSize(Message, frozen=True, tag="vmo_set_size"):
    """vmo_set_size and vmo_set_stream_size."""

    vmo: Word
    size: Word
    is_stream: bool


class VmoReplaceAsExecutable(Message, frozen=True, tag="vmo_replace_as_executable"):
    """vmo_replace_as_executable."""

    vmo: Word


class VmoOpRange(Message, frozen=True, tag="vmo_op_range"):
    """vmo_op_range."""

    vmo: Word
    op: Options
    offset: Word
    size: Word


class HandleDuplicate(Message, frozen=True, tag="handle_duplicate"):
    """handle_duplicate, and handle_replace."""

    handle: Word
    rights: Rights
    is_replaced: bool = False


class HandleClose(Message, frozen=True, tag="handle_close"):
    """handle_close."""

    handle: Word


class HandleCheckValid(Message, frozen=True, tag="handle_check_valid"):
    """handle_check_valid."""

    handle: Word


class ObjectGetInfo(Message, frozen=True, tag="object_get_info"):
    """object_get_info."""

    handle: Word
    topic: Options


class ChannelCreate(Message, frozen=True, tag="channel_create"):
    """channel_create."""


class ChannelWrite(Message, frozen=True, tag="channel_write"):
    """channel_write_etc. data: in base64; where it is long a descriptor of `length` bytes comes with the packet."""

    channel: Word
    data: Text
    entries: list[Entry]
    length: Word = 0


class ChannelRead(Message, frozen=True, tag="channel_read"):
    """channel_read."""

    channel: Word


class ProcessAccess(Message, frozen=True, tag="process_access"):
    """process_read_memory or process_write_memory: answered as `vmo_access`, with the place and the length there is."""

    process: Word
    address: Word
    length: Word
    is_write: bool


Request: TypeAlias = (
    Tree
    | VmarRootSelf
    | ProcessSelf
    | ProcessCreate
    | ProcessReady
    | RemoteNext
    | RemoteDone
    | VmarAllocate
    | VmarMap
    | VmarProtect
    | VmarUnmap
    | VmarDestroy
    | VmarOpRange
    | VmarFailed
    | VmarCapability
    | Touch
    | VmoCreate
    | VmoCreateChild
    | VmoAccess
    | VmoSize
    | VmoSetSize
    | VmoReplaceAsExecutable
    | VmoOpRange
    | HandleDuplicate
    | HandleClose
    | HandleCheckValid
    | ObjectGetInfo
    | ChannelCreate
    | ChannelWrite
    | ChannelRead
    | ProcessAccess
)
