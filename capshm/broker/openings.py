"""Requests about objects: POSIX shared memory, memfds, System V segments, and what a descriptor is."""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from capshm.broker import messages
from capshm.broker.segments import key_of, new_memfd, new_segment
from capshm.broker.state import Member, Reply, State
from capshm.model import constants as c
from capshm.model.objects import Descriptor, Kind, MemoryObject
from capshm.model.opening import OpenPlan, OpenRequest, commit_open, plan_open
from capshm.model.rules import Refusal
from capshm.model.sysv import GetRequest, attachments

_KNOWN_FLAGS = os.O_ACCMODE | os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_CLOEXEC
_MEMFD_NAME_MAX = 249
_DEV_ZERO = os.makedev(1, 5)
_O_PATH = 0o10000000
_F_SEAL_ANY_WRITE = fcntl.F_SEAL_WRITE | 0x10  # F_SEAL_FUTURE_WRITE


class HostRefusal(OSError):
    """No rule forbids it, but this machine's kernel cannot do it."""


def shm_open(state: State, member: Member, request: messages.ShmOpen, descriptors: list[int]) -> Reply:
    """shm_open2: an object that exists, or a new one."""
    asked = OpenRequest(
        path=request.path,
        vmspace=member.serial,
        access=request.flags & os.O_ACCMODE,
        is_create=bool(request.flags & os.O_CREAT) or request.path is None,
        is_exclusive=bool(request.flags & os.O_EXCL),
        is_truncate=bool(request.flags & os.O_TRUNC),
        is_share_cap=request.is_share_cap,
        unknown_flags=request.flags & ~_KNOWN_FLAGS,
        mode=request.mode,
        shm_flags=request.shm_flags,
        uid=os.getuid(),
        has_room=request.has_room,
    )
    plan = plan_open(state.objects, state.policy, member.knobs, asked)
    if not plan.is_new:
        return _open_again(state, member, request, plan)
    return _create(state, member, request, plan, new_segment())


def memfd_create(state: State, member: Member, request: messages.MemfdCreate, descriptors: list[int]) -> Reply:
    """memfd_create: always a new object, always its creator's (D8)."""
    asked = f"memfd_create({request.name!r}, {request.flags:#x})"
    if request.flags & c.MFD_HUGETLB:
        raise Refusal("cheribsd:D9", asked=asked, allowed="huge pages are unsupported", needed="no MFD_HUGETLB")
    if request.flags & ~(c.MFD_CLOEXEC | c.MFD_ALLOW_SEALING):
        raise Refusal(
            "cheribsd:MAN", asked=asked, allowed="it has unknown flags", needed="MFD_CLOEXEC and MFD_ALLOW_SEALING only"
        )
    if "\0" in request.name or len(request.name.encode()) > _MEMFD_NAME_MAX:
        raise Refusal(
            "cheribsd:MAN",
            asked=asked,
            allowed="the name cannot be shown by the system",
            needed=f"at most {_MEMFD_NAME_MAX} bytes, none of them null",
        )
    is_sealable = bool(request.flags & c.MFD_ALLOW_SEALING)
    plan = plan_open(
        state.objects,
        state.policy,
        member.knobs,
        OpenRequest(
            path=None,
            vmspace=member.serial,
            shm_flags=c.SHM_ALLOW_SEALING if is_sealable else 0,
            uid=os.getuid(),
            kind=Kind.MEMFD,
            has_room=request.has_room,
        ),
    )
    return _create(state, member, request, plan, new_memfd(request.name, allow_sealing=is_sealable))


def _create(state: State, member: Member, request: messages.Message, plan: OpenPlan, fd: int) -> Reply:
    """fd: of the new memory; it goes to the client, and is closed here if anything is wrong."""
    try:
        memory = plan.object
        rule = "cheribsd:D1" if memory.is_share_cap else "cheribsd:D2"
        given = fd if plan.is_writable else os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            state.segments.adopt(memory.id, fd, has_name=memory.name is not None)
            state.record(member, request, rule=rule, number=memory.id, message=str(memory))
        except BaseException:
            state.segments.release(memory.id)
            if given != fd:
                os.close(given)
            raise
    except BaseException:
        os.close(fd)
        raise
    if given != fd:
        os.close(fd)
    commit_open(state.objects, plan)
    return Reply({"object": memory.id}, [given])


def _open_again(state: State, member: Member, request: messages.Message, plan: OpenPlan) -> Reply:
    memory = plan.object
    kept = state.segments.kept(memory.id)
    assert kept is not None, "an object with a name can be opened"
    fd = kept.open(is_writable=plan.is_writable)
    try:
        state.record(member, request, rule="cheribsd:E6", number=memory.id, message=str(memory))
        if plan.is_truncated:
            state.segments.truncate(memory.id)
    except BaseException:
        os.close(fd)
        raise
    return Reply({"object": memory.id}, [fd])


def shm_unlink(state: State, member: Member, request: messages.ShmUnlink, descriptors: list[int]) -> Reply:
    """shm_unlink: from now on the object lives as long as somebody holds it."""
    memory = state.objects.check_unlink(request.path)
    state.record(member, request, number=memory.id, message=request.path)
    state.objects.unlink(request.path)
    state.segments.release(memory.id)
    return Reply({})


def shm_rename(state: State, member: Member, request: messages.ShmRename, descriptors: list[int]) -> Reply:
    """shm_rename; an object that loses its name to another is unlinked."""
    memory, _ = state.objects.check_rename(request.old, request.new, request.flags)
    state.record(member, request, rule="cheribsd:D11", number=memory.id, message=f"{request.old} to {request.new}")
    unlinked = state.objects.rename(request.old, request.new, request.flags)
    if unlinked is not None:
        state.segments.release(unlinked.id)
    return Reply({})


def shmget(state: State, member: Member, request: messages.ShmGet, descriptors: list[int]) -> Reply:
    """shmget: the segment of a key, or a new one."""
    key = request.key & 0xFFFF_FFFF
    asked = GetRequest(key, request.size, request.flags, member.serial, os.getuid())
    segment, is_new = state.sysv.plan_get(state.policy, asked)
    if is_new:
        fd = new_segment()
        try:
            os.ftruncate(fd, segment.size)
            state.segments.adopt(segment.object.id, fd, has_name=True)
            state.record(member, request, rule="cheribsd:H1", number=segment.object.id, message=str(segment.object))
        except BaseException:
            state.segments.release(segment.object.id)
            raise
        finally:
            os.close(fd)
        state.sysv.commit_get(segment)
    return Reply({"id": segment.number, "object": segment.object.id})


def shmctl(state: State, member: Member, request: messages.ShmCtl, descriptors: list[int]) -> Reply:
    """shmctl: IPC_RMID and IPC_STAT."""
    asked = f"shmctl({request.id}, {request.command})"
    if request.command == c.IPC_RMID:
        segment = state.sysv.check_removal(request.id, os.getuid())
        state.record(member, request, number=segment.object.id, message=asked)
        state.sysv.mark_removed(request.id, os.getuid())
        state.segments.release(segment.object.id)
        return Reply({})
    if request.command != c.IPC_STAT:
        raise Refusal("cheribsd:MAN", asked=asked, allowed="unknown here", needed="IPC_RMID or IPC_STAT")
    segment = state.sysv.find(request.id, asked)
    attached = sum(attachments(each.space, segment.object) for each in state.members.values())
    return Reply({"size": segment.size, "attached": attached, "mode": segment.object.mode})


def describe(state: State, fd: int) -> Descriptor:
    """What a descriptor in a request is: one of the machine's objects, or a file of the file system."""
    status = os.fstat(fd)
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    if flags & _O_PATH or flags & os.O_ACCMODE == os.O_WRONLY:
        raise HostRefusal(errno.EACCES, "the descriptor does not permit reading, and all mappings can be read")
    is_writable = flags & os.O_ACCMODE == os.O_RDWR
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == _DEV_ZERO:
        return Descriptor(state.zero, is_writable, 0)
    if not stat.S_ISREG(status.st_mode):
        raise HostRefusal(errno.ENODEV, "what the descriptor stands for cannot be mapped")
    try:
        is_writable = is_writable and not fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _F_SEAL_ANY_WRITE
    except OSError:
        pass  # most files know no seals
    return Descriptor(_object_of(state, fd), is_writable, status.st_size)


def _object_of(state: State, fd: int) -> MemoryObject:
    number = state.segments.number_of(fd)
    if number is not None and number in state.objects.objects:
        return state.objects.objects[number]
    key = key_of(fd)
    memory = state.files.get(key)
    if memory is None:
        memory = state.files[key] = state.objects.prepare(Kind.FILE, owner=None)
    return memory
