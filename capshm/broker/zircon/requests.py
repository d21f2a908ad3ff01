"""Who answers which of Zircon's calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from capshm.broker.message import Message
from capshm.broker.state import Member, Reply, State
from capshm.broker.zircon import handle_calls, vmar_calls, vmo_calls
from capshm.broker.zircon import messages as m

_R = TypeVar("_R", bound=Message)


class Register(Protocol):
    """Takes a kind of request and who answers it."""

    def __call__(self, kind: type[_R], handler: Callable[[State, Member, _R, list[int]], Reply], /) -> None:
        """Once for each kind."""


def register(on: Register) -> None:
    """Register all of them."""
    on(m.VmarRootSelf, vmar_calls.vmar_root_self)
    on(m.VmarAllocate, vmar_calls.allocate)
    on(m.VmarMap, vmar_calls.map_vmo)
    on(m.VmarProtect, vmar_calls.protect)
    on(m.VmarUnmap, vmar_calls.unmap)
    on(m.VmarDestroy, vmar_calls.destroy)
    on(m.VmarOpRange, vmar_calls.op_range)
    on(m.VmarFailed, vmar_calls.failed)
    on(m.VmarCapability, vmar_calls.capability)
    on(m.VmoCreate, vmo_calls.create)
    on(m.VmoCreateChild, vmo_calls.create_child)
    on(m.VmoAccess, vmo_calls.access)
    on(m.VmoSize, vmo_calls.size)
    on(m.VmoSetSize, vmo_calls.set_size)
    on(m.VmoReplaceAsExecutable, vmo_calls.replace_as_executable)
    on(m.VmoOpRange, vmo_calls.op_range)
    on(m.ProcessAccess, vmo_calls.process_access)
    on(m.Touch, vmo_calls.touch)
    on(m.ProcessSelf, handle_calls.process_self)
    on(m.HandleDuplicate, handle_calls.duplicate)
    on(m.HandleClose, handle_calls.close)
    on(m.HandleCheckValid, handle_calls.check_valid)
    on(m.ObjectGetInfo, handle_calls.get_info)
    on(m.ChannelCreate, handle_calls.channel_create)
    on(m.ChannelWrite, handle_calls.channel_write)
    on(m.ChannelRead, handle_calls.channel_read)
