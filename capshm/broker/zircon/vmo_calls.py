"""Calls on VMOs, and on the memory of processes by way of them (vmar:1.6, 1.9)."""

from __future__ import annotations

import ctypes
import os
import weakref

from capshm.broker.kernel import ProcessObject
from capshm.broker.segments import copy_bytes
from capshm.broker.state import Member, Reply, State
from capshm.broker.zircon import messages as m
from capshm.broker.zircon.vmar_orders import Orders
from capshm.model import zircon_constants as z
from capshm.model.address_space import Entry
from capshm.model.constants import PAGE
from capshm.model.pointer import round_down, round_up
from capshm.model.rights import Rights
from capshm.model.rules import ZxRefusal
from capshm.model.vmar_capabilities import plan_holding
from capshm.model.vmos import Vmo, check_operation, plan_child, plan_size

_KEEP_SIZE = 1
_PUNCH_HOLE = 2
_CREATE_OPTIONS = z.VMO_RESIZABLE | z.VMO_DISCARDABLE | z.VMO_CAP | z.VMO_SHARE_CAP
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_zeros = bytes(PAGE)


def create(state: State, member: Member, request: m.VmoCreate, descriptors: list[int]) -> Reply:
    """vmo_create."""
    asked = f"vmo_create({request.size:#x}, {request.options:#x})"
    if request.options & ~_CREATE_OPTIONS:
        raise ZxRefusal(
            "vmar:VMO/2",
            asked=asked,
            allowed=f"the options {request.options & ~_CREATE_OPTIONS:#x} mean nothing here",
            needed="VMO_RESIZABLE, VMO_DISCARDABLE, VMO_CAP, VMO_SHARE_CAP",
        )
    size = plan_size(request.size, asked)
    is_share_cap = plan_holding(state.policy, request.options, asked)
    vmo = _new(state, member, size, request.size, request.options, is_share_cap=is_share_cap)
    value = state.kernel.table(member.serial).add(vmo, vmo.default_rights)
    return Reply({"handle": state.kernel.describe(member.serial, value)})


def _new(state: State, member: Member, size: int, stream_size: int, options: int, *, is_share_cap: bool = False) -> Vmo:
    number = state.objects.new_id()
    vmo = Vmo(number, size, stream_size, options, owner=member.serial, is_share_cap=is_share_cap)
    state.kernel.add_vmo(vmo)
    weakref.finalize(vmo, state.segments.drop_sideband, number)
    return vmo


def create_child(state: State, member: Member, request: m.VmoCreateChild, descriptors: list[int]) -> Reply:
    """vmo_create_child: copied at once, so that later writes to either are the other's no more."""
    asked = f"vmo_create_child({request.options:#x}, {request.offset:#x}, {request.size:#x})"
    table = state.kernel.table(member.serial)
    needed = z.RIGHT_DUPLICATE | z.RIGHT_READ
    parent, rights = table.find(request.vmo, Vmo, needed, rule="vmar:VMO/1", asked=asked)
    plan = plan_child(rights, request.options, request.offset, request.size, asked)
    child = _new(state, member, plan.size, request.size, plan.options)
    end = min(request.offset + plan.size, parent.size)
    copy_bytes(state.kernel.descriptor(parent), state.kernel.descriptor(child), request.offset, end)
    return Reply({"handle": state.kernel.describe(member.serial, table.add(child, plan.rights))})


def access(state: State, member: Member, request: m.VmoAccess, descriptors: list[int]) -> Reply:
    """vmo_read and vmo_write: the caller does it, by a descriptor that it closes."""
    right = z.RIGHT_WRITE if request.is_write else z.RIGHT_READ
    asked = f"vmo_{'write' if request.is_write else 'read'}({request.offset:#x}, {request.length:#x})"
    vmo = _find(state, member, request.vmo, right, asked)
    vmo.check_range(request.offset, request.length, asked)
    return Reply({}, [_opened(state, vmo, request.offset, request.length, is_write=request.is_write)])


def _opened(state: State, vmo: Vmo, offset: int, length: int, *, is_write: bool) -> int:
    """A descriptor for the caller to read these bytes by, or to write them; what is written has no tags."""
    if is_write:
        state.segments.clear_tags(vmo.id, offset, offset + length)
    return state.kernel.opened(vmo, is_writable=is_write)


def _plan_stream(state: State, member: Member, vmo: Vmo, size: int, asked: str) -> list[Entry]:
    """What another stream size changes of mappings with FAULT_BEYOND_STREAM_SIZE. Refused: another process has one."""
    low, high = sorted((vmo.stream_end, round_up(size)))
    parts = []
    for each in state.members.values() if low < high else ():
        for entry in each.space.entries.values():
            beginning = entry.start - entry.offset
            if (
                entry.object is not vmo
                or not entry.is_stream
                or entry.part(beginning + low, beginning + high).length <= 0
            ):
                continue
            if each is not member:
                raise ZxRefusal(
                    "vmar:host",
                    asked=asked,
                    allowed=f"process {each.pid} has a mapping of {vmo} that faults beyond the stream size, and this "
                    "version of capshm changes mappings in the caller only",
                    needed="no such mapping in another process; a fork is one",
                    status="NOT_SUPPORTED",
                )
            parts.append(entry.part(beginning + low, beginning + high))
    return parts


def _stream_orders(state: State, vmo: Vmo, parts: list[Entry]) -> Reply:
    orders = Orders(state, vmo)
    try:
        for part in parts:
            orders.map(part)
    except BaseException:
        orders.close()
        raise
    return orders.reply({})


def size(state: State, member: Member, request: m.VmoSize, descriptors: list[int]) -> Reply:
    """vmo_get_size and vmo_get_stream_size."""
    vmo = _find(state, member, request.vmo, 0, "vmo_get_stream_size" if request.is_stream else "vmo_get_size")
    return Reply({"size": vmo.stream_size if request.is_stream else vmo.size})


def set_size(state: State, member: Member, request: m.VmoSetSize, descriptors: list[int]) -> Reply:
    """vmo_set_size and vmo_set_stream_size."""
    asked = f"vmo_set_{'stream_' if request.is_stream else ''}size({request.size:#x})"
    if request.is_stream:
        vmo = _find(state, member, request.vmo, z.RIGHT_WRITE, asked)
        vmo.check_range(request.size, 0, asked)
        plan = _plan_stream(state, member, vmo, request.size, asked)
        if request.size < vmo.stream_size:  # what is left behind reads as zero when the stream grows again
            operate(state, vmo, z.VMO_OP_ZERO, request.size, vmo.stream_size - request.size)
        vmo.stream_size = request.size
        return _stream_orders(state, vmo, plan)
    vmo = _find(state, member, request.vmo, z.RIGHT_WRITE | (z.RIGHT_RESIZE), asked)
    if not vmo.is_resizable:
        raise ZxRefusal(
            "vmar:VMO/4", asked=asked, allowed=f"{vmo} has a fixed size", needed="VMO_RESIZABLE at creation"
        )
    wanted = plan_size(request.size, asked)
    plan = _plan_stream(state, member, vmo, request.size, asked)
    state.segments.clear_tags(vmo.id, wanted, vmo.size)
    os.ftruncate(state.kernel.descriptor(vmo), wanted)
    vmo.size, vmo.stream_size = wanted, request.size
    return _stream_orders(state, vmo, plan)


def replace_as_executable(
    state: State, member: Member, request: m.VmoReplaceAsExecutable, descriptors: list[int]
) -> Reply:
    """vmo_replace_as_executable: the handle becomes one with EXECUTE."""
    table = state.kernel.table(member.serial)
    vmo, rights = table.find(request.vmo, Vmo, 0, rule="vmar:VMO/1", asked="vmo_replace_as_executable")
    value = table.add(vmo, rights | z.RIGHT_EXECUTE)
    table.close(request.vmo)
    return Reply({"handle": state.kernel.describe(member.serial, value)})


def op_range(state: State, member: Member, request: m.VmoOpRange, descriptors: list[int]) -> Reply:
    """vmo_op_range."""
    asked = f"vmo_op_range({request.op}, {request.offset:#x}, {request.size:#x})"
    vmo = _find(state, member, request.vmo, check_operation(request.op, request.offset, request.size, asked), asked)
    vmo.check_range(request.offset, request.size, asked)
    operate(state, vmo, request.op, request.offset, request.size)
    return Reply({})


def operate(state: State, vmo: Vmo, operation: int, offset: int, length: int) -> None:
    """Do it to the memory. MAP_RANGE and DONT_NEED show nothing that a program could see, and are left out."""
    fd = state.kernel.descriptor(vmo)
    if operation in (z.VMO_OP_DECOMMIT, z.VMO_OP_ZERO):
        state.segments.clear_tags(vmo.id, offset, offset + length)
        first, last = round_up(offset), round_down(offset + length)
        if first > last:  # within one page
            os.pwrite(fd, _zeros[:length], offset)
            return
        os.pwrite(fd, _zeros[: first - offset], offset)
        os.pwrite(fd, _zeros[: offset + length - last], last)
        if first < last and _libc.fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, first, last - first):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    elif operation == z.VMO_OP_COMMIT and length:
        os.posix_fallocate(fd, offset, length)
    elif operation in (z.VMO_OP_PREFETCH, z.VMO_OP_ALWAYS_NEED):
        os.posix_fadvise(fd, offset, length, os.POSIX_FADV_WILLNEED)


def process_access(state: State, member: Member, request: m.ProcessAccess, descriptors: list[int]) -> Reply:
    """process_read_memory and process_write_memory: to the VMO itself, so current permissions do not count."""
    right = z.RIGHT_WRITE if request.is_write else z.RIGHT_READ | z.RIGHT_WRITE
    asked = f"process_{'write' if request.is_write else 'read'}_memory({request.address:#x}, {request.length:#x})"
    process, _ = state.kernel.table(member.serial).find(
        request.process, ProcessObject, right, rule="vmar:1.9/1", asked=asked
    )
    if process.space is None:
        raise ZxRefusal("vmar:1.9/4", asked=asked, allowed=f"{process} has ended", needed="one that is alive")
    entries = process.space.overlapping(request.address, request.address + 1)
    if not entries:
        raise ZxRefusal("vmar:1.9/2", asked=asked, allowed="nothing is mapped there", needed="an address in a mapping")
    entry, vmo = entries[0], vmo_of(entries[0], asked)
    end = entry.end
    for after in process.space.overlapping(entry.end, entry.end + request.length) if request.length else ():
        if after.start != end or not entry.continues(after):
            break
        end = after.end
    offset = entry.offset + request.address - entry.start
    if offset >= vmo.size:
        raise ZxRefusal(
            "vmar:1.9/3", asked=asked, allowed=f"{vmo} has {vmo.size:#x} bytes", needed="an address below its end"
        )
    length = min(request.length, end - request.address, vmo.size - offset)
    fd = _opened(state, vmo, offset, length, is_write=request.is_write)
    return Reply({"offset": offset, "length": length}, [fd])


def touch(state: State, member: Member, request: m.Touch, descriptors: list[int]) -> Reply:
    """What a touch of the caller's memory meets, by the model: vmar:1.10."""
    entries = member.space.overlapping(request.address, request.address + 1)
    if not entries:
        return Reply({"status": z.ERR_NOT_FOUND})
    entry = entries[0]
    if (Rights.WRITE if request.is_write else Rights.READ) not in entry.current:
        return Reply({"status": z.ERR_ACCESS_DENIED})
    vmo = entry.object
    offset = entry.offset + request.address - entry.start
    if isinstance(vmo, Vmo) and offset >= (vmo.stream_end if entry.is_stream else vmo.size):
        return Reply({"status": z.ERR_OUT_OF_RANGE})
    return Reply({"status": z.OK})


def vmo_of(entry: Entry, asked: str) -> Vmo:
    """The VMO of a mapping. Refused: it is mmap's, and its memory out of the broker's reach."""
    if not isinstance(entry.object, Vmo):
        raise ZxRefusal(
            "vmar:host",
            asked=asked,
            allowed=f"[{entry.start:#x}, {entry.end:#x}) is memory of mmap, and no VMO's",
            needed="a range of VMOs",
            status="NOT_SUPPORTED",
        )
    return entry.object


def _find(state: State, member: Member, value: int, rights: int, asked: str) -> Vmo:
    return state.kernel.table(member.serial).find(value, Vmo, rights, rule="vmar:VMO/1", asked=asked)[0]
