"""Calls on handles of any kind, channels, and what objects tell of themselves (vmar:1.7, 1.8)."""

from __future__ import annotations

import binascii
import os
from collections.abc import Callable, Mapping

from capshm.broker.kernel import ROOT_RIGHTS, Kernel, ProcessObject
from capshm.broker.messages import Value
from capshm.broker.state import Member, Reply, State
from capshm.broker.zircon import messages as m
from capshm.errors import CapshmError
from capshm.model import channels
from capshm.model import zircon_constants as z
from capshm.model.address_space import Entry
from capshm.model.handles import KernelObject
from capshm.model.regions import Vmar
from capshm.model.rules import ZxRefusal
from capshm.model.vmar_mapping import check_alive
from capshm.model.vmar_options import rights_options
from capshm.model.vmos import Vmo


def process_self(state: State, member: Member, request: m.ProcessSelf, descriptors: list[int]) -> Reply:
    """process_self."""
    process = state.kernel.process(member.pid, member.space)
    value = state.kernel.table(member.serial).add(process, z.DEFAULT_PROCESS_RIGHTS)
    return Reply({"handle": state.kernel.describe(member.serial, value)})


def created(state: State, creator: Member, member: Member, end: Callable[[], None]) -> Reply:
    """process_create: what is begun by the broker's `creations`."""
    process = state.kernel.process(member.pid, member.space)
    process.end = end
    table = state.kernel.table(creator.serial)
    process_handle = table.add(process, z.DEFAULT_PROCESS_RIGHTS)
    root = table.add(member.space.root, ROOT_RIGHTS)
    described = [state.kernel.describe(creator.serial, value) for value in (process_handle, root)]
    return Reply({"process": described[0], "root": described[1]})


def duplicate(state: State, member: Member, request: m.HandleDuplicate, descriptors: list[int]) -> Reply:
    """handle_duplicate and handle_replace."""
    table = state.kernel.table(member.serial)
    call = table.replace if request.is_replaced else table.duplicate
    return Reply({"handle": state.kernel.describe(member.serial, call(request.handle, request.rights))})


def close(state: State, member: Member, request: m.HandleClose, descriptors: list[int]) -> Reply:
    """handle_close."""
    if request.handle != z.HANDLE_INVALID and not state.kernel.table(member.serial).close(request.handle):
        raise _unknown("vmar:1.8/1", f"handle_close({request.handle:#x})", request.handle, "BAD_HANDLE")
    return Reply({})


def check_valid(state: State, member: Member, request: m.HandleCheckValid, descriptors: list[int]) -> Reply:
    """handle_check_valid."""
    value = request.handle
    if state.kernel.table(member.serial).get(value) is None:
        is_shaped = value & z.HANDLE_FIXED_BITS == z.HANDLE_FIXED_BITS
        status = "NOT_FOUND" if is_shaped else "INVALID_ARGS"
        raise _unknown("vmar:1.8/4", f"handle_check_valid({value:#x})", value, status)
    return Reply({})


def _unknown(rule: str, asked: str, value: int, status: str) -> ZxRefusal:
    return ZxRefusal(
        rule,
        asked=asked,
        allowed=f"{value:#x} is no handle of this process",
        needed="a handle that is neither closed nor sent away",
        status=status,
    )


# Channels


def channel_create(state: State, member: Member, request: m.ChannelCreate, descriptors: list[int]) -> Reply:
    """channel_create."""
    table = state.kernel.table(member.serial)
    values = [table.add(end, z.DEFAULT_CHANNEL_RIGHTS) for end in channels.new_channel()]
    return Reply({"handles": [state.kernel.describe(member.serial, value) for value in values]})


def channel_write(state: State, member: Member, request: m.ChannelWrite, descriptors: list[int]) -> Reply:
    """channel_write_etc."""
    if descriptors:
        data = os.pread(descriptors[0], min(request.length, z.CHANNEL_MAX_MSG_BYTES + 1), 0)
        if len(data) < request.length <= z.CHANNEL_MAX_MSG_BYTES:
            raise CapshmError("the descriptor of a message is shorter than it says")
    else:
        try:
            data = binascii.a2b_base64(request.data)
        except ValueError as error:  # binascii.Error is one, and what is no ASCII another
            raise CapshmError(f"the data of a message is no base64: {error}") from None
    entries = [channels.Disposition(*entry) for entry in request.entries]
    channels.write(state.kernel.table(member.serial), request.channel, data, entries)
    return Reply({})


def channel_read(state: State, member: Member, request: m.ChannelRead, descriptors: list[int]) -> Reply:
    """channel_read."""
    data, values = channels.read(state.kernel.table(member.serial), request.channel)
    handles: list[Value] = [state.kernel.describe(member.serial, value) for value in values]
    return Reply({"data": binascii.b2a_base64(data, newline=False).decode(), "handles": handles})


# Information


def get_info(state: State, member: Member, request: m.ObjectGetInfo, descriptors: list[int]) -> Reply:
    """object_get_info."""
    asked = f"object_get_info({request.handle:#x}, {request.topic})"
    table = state.kernel.table(member.serial)

    def find(kind: type[KernelObject], rights: int) -> KernelObject:
        return table.find(request.handle, kind, rights, rule="vmar:1.7/1", asked=asked)[0]

    if request.topic == z.INFO_HANDLE_BASIC:
        find(KernelObject, 0)
        return Reply({"handle": state.kernel.describe(member.serial, request.handle)})
    if request.topic == z.INFO_VMAR:
        vmar = find(Vmar, z.RIGHT_INSPECT)
        assert isinstance(vmar, Vmar)
        return Reply({"base": vmar.start, "length": vmar.length})
    if request.topic == z.INFO_VMO:
        vmo = find(Vmo, z.RIGHT_INSPECT)
        assert isinstance(vmo, Vmo)
        populated = os.fstat(state.kernel.descriptor(vmo)).st_blocks * 512
        return Reply({"vmo": [vmo.koid, vmo.size, vmo.stream_size, populated]})
    if request.topic == z.INFO_VMAR_MAPS:
        vmar = find(Vmar, z.RIGHT_INSPECT)
        assert isinstance(vmar, Vmar)
        check_alive(vmar, "vmar:1.7/3", asked)
        return Reply({"maps": _maps(vmar, 0)})
    if request.topic == z.INFO_PROCESS_MAPS:
        process = find(ProcessObject, z.RIGHT_INSPECT | z.RIGHT_READ)
        assert isinstance(process, ProcessObject)
        if process.space is None:
            raise ZxRefusal("vmar:1.7/3", asked=asked, allowed=f"{process} has ended", needed="one that is alive")
        root = process.space.root
        whole: Value = [f"proc:{process.koid}", root.start, root.length, 0, z.INFO_MAPS_TYPE_ASPACE, 0, 0, 0]
        return Reply({"maps": [whole, *_maps(root, 1)]})
    raise ZxRefusal(
        "vmar:1.7/2",
        asked=asked,
        allowed="that is no topic",
        needed="INFO_HANDLE_BASIC, INFO_VMAR, INFO_VMO, INFO_VMAR_MAPS or INFO_PROCESS_MAPS",
    )


def _maps(vmar: Vmar, depth: int) -> list[Value]:
    """name, base, size, depth, type, mmu_flags, vmo_koid, vmo_offset."""
    rows: list[Value] = []
    for level, each in vmar.walk(depth):
        if isinstance(each, Entry):
            vmo = each.object
            koid = vmo.koid if isinstance(vmo, Vmo) else 0
            name = str(vmo) if vmo is not None else "private"
            kind, flags, offset = z.INFO_MAPS_TYPE_MAPPING, rights_options(each.current), each.offset
        else:
            name = "useralloc" if isinstance(each, Vmar) else "reservation"
            if each is vmar.space.root:
                name = "root"
            kind, flags, koid, offset = z.INFO_MAPS_TYPE_VMAR, 0, 0, 0
        rows.append([name, each.start, each.end - each.start, level, kind, flags, koid, offset])
    return rows


def describe_tree(kernel: Kernel, root: Vmar, pids: Mapping[int, int]) -> list[Value]:
    """depth, kind, start, end, current, maximum, object, [pid, rights] of each handle, handles on their way."""
    rows: list[Value] = []
    for depth, each in root.walk():
        if isinstance(each, Entry):
            number = each.object.id if each.object is not None else 0
            row: list[Value] = ["mapping", each.start, each.end, each.current.letters, each.maximum.letters, number]
            rows.append([depth, *row, [], 0])
        elif isinstance(each, Vmar):
            held = kernel.handles_to(each)
            handles: list[Value] = [[pids.get(serial, 0), rights] for serial, rights in held]
            kind = "root" if each is root else "vmar"
            sent = each.handles - len(held)
            rows.append([depth, kind, each.start, each.end, "", each.rights.letters, 0, handles, sent])
        else:
            rows.append([depth, "reservation", each.start, each.end, "", "", 0, [], 0])
    return rows
