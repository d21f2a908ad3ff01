"""Requests about mappings: decided on the address space of the process, with the descriptors that carry them out.

What a process gets decides what it can ever do: tags only where the maximum has capability permission, for writing only
where it may store; data read-only where the maximum has no WRITE, so that the kernel itself refuses more.
"""

from __future__ import annotations

import os

from capshm.broker import messages, openings
from capshm.broker.messages import Answer, Value
from capshm.broker.segments import new_memfd, reopen
from capshm.broker.state import Change, Member, Reply, State
from capshm.errors import CapshmError
from capshm.model.address_space import Entry
from capshm.model.constants import SHM_RDONLY
from capshm.model.inheritance import commit_inherit, plan_inherit
from capshm.model.mapping import MapPlan, MapRequest, commit_map, commit_unmap, plan_map, plan_unmap
from capshm.model.objects import Kind, MemoryObject
from capshm.model.pointer import Address, Pointer
from capshm.model.protection import commit_protect, plan_protect
from capshm.model.quarantine import quarantine, release
from capshm.model.regions import Reservation
from capshm.model.rights import Rights
from capshm.model.rules import Refusal
from capshm.model.sysv import plan_attach, plan_detach
from capshm.records import Datum

_MOVES_LIMIT = 30  # descriptors fit into an answer


def map_memory(state: State, member: Member, request: messages.Map, descriptors: list[int]) -> Reply:
    """mmap."""
    if request.has_descriptor != bool(descriptors):
        raise CapshmError("the packet must carry the descriptor that it speaks of, and no other")
    descriptor = openings.describe(state, descriptors[0]) if descriptors else None
    asked = MapRequest(
        _address(request.address), request.length, request.prot, request.flags, descriptor, request.offset
    )
    plan = plan_map(member.space, state.policy, member.knobs, asked)
    given: list[tuple[str, int]] = []
    try:
        memory = plan.entry.object
        if plan.object_needed is not None:
            memory = state.objects.prepare(plan.object_needed, owner=member.serial, is_share_cap=plan.is_share_cap)
            is_writable = Rights.WRITE in plan.entry.maximum
            fd = _new_anonymous(state, memory, plan.entry.end - plan.entry.start, is_writable=is_writable)
            given.append(("d", fd))
        elif descriptors and plan.entry.is_shared and Rights.WRITE not in plan.entry.maximum:
            given += _read_only(descriptors[0], plan.entry)
        return _finish(state, member, request, plan, memory, given)
    except BaseException:
        for _, fd in given:
            os.close(fd)
        raise


def attach_segment(state: State, member: Member, request: messages.ShmAt, descriptors: list[int]) -> Reply:
    """shmat."""
    segment = state.sysv.find(request.id, f"shmat({request.id})")
    kept = state.segments.kept(segment.object.id)
    if segment.is_removed or kept is None:
        raise Refusal(
            "cheribsd:MAN", asked=f"shmat({request.id})", allowed="it is removed", needed="a segment that is not"
        )
    plan = plan_attach(
        member.space, state.policy, member.knobs, segment, _address(request.address), request.flags, os.getuid()
    )
    given = [("d", kept.open(is_writable=not request.flags & SHM_RDONLY))]
    try:
        return _finish(state, member, request, plan, segment.object, given)
    except BaseException:
        for _, fd in given:
            os.close(fd)
        raise


def _new_anonymous(state: State, memory: MemoryObject, size: int, *, is_writable: bool = True) -> int:
    fd = new_memfd(f"capshm-{memory.kind.value}-{memory.id}", size=size)
    try:
        if not is_writable:
            original, fd = fd, reopen(fd, os.O_RDONLY)
            os.close(original)
        state.segments.adopt(memory.id, fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _read_only(fd: int, entry: Entry) -> list[tuple[str, int]]:
    """A descriptor through which the kernel refuses to write, whatever is asked later."""
    try:
        return [("d", reopen(fd, os.O_RDONLY))]
    except OSError:
        if entry.object is not None and entry.object.kind is Kind.FILE:
            return []  # somebody else's file, whose owner decides who may open it
        raise


def _finish(
    state: State,
    member: Member,
    request: messages.Message,
    plan: MapPlan,
    memory: MemoryObject | None,
    given: list[tuple[str, int]],
) -> Reply:
    """Record, commit, and answer with the descriptors `given` and the sideband's."""
    entry = plan.entry
    has_capabilities = bool(entry.maximum & Rights.CAP)
    lent: list[tuple[str, int]] = []
    if memory is not None and memory.can_hold_capabilities:
        sideband = state.segments.sideband(memory.id)
        # Who may not write the data may not clear its tags either.
        for letter, fd, is_needed, right in (
            ("t", sideband.tags, has_capabilities, Rights.STORE_CAP),
            ("c", sideband.clear, True, Rights.WRITE),
        ):
            if is_needed and entry.is_shared and right in entry.maximum:
                lent.append((letter, fd))
            elif is_needed:
                given.append((letter, reopen(fd, os.O_RDONLY)))
    if memory is not None:
        state.record(
            member,
            request,
            rule=_rule(entry, memory),
            number=memory.id,
            message=_message(request, entry, memory),
            data=about(entry),
        )
    if plan.object_needed is not None and memory is not None:
        state.objects.add(memory)
    replaced = commit_map(member.space, plan, memory if plan.object_needed is not None else None)
    member.last = Change([(entry.start, entry.end)], replaced)
    is_kept = not entry.is_shared or memory is None or state.policy.keeps_capabilities_at_fork(memory)
    body: Answer = {
        "address": entry.start,
        "length": entry.end - entry.start,
        "reserved": [plan.reservation.start, plan.reservation.end] if plan.is_new_reservation else [0, 0],
        "capability": [entry.start, plan.length, plan.permissions],
        "rights": entry.current.letters,
        "maximum": entry.maximum.letters,
        "object": memory.id if memory is not None else 0,
        "is_shared": entry.is_shared,
        "is_kept_at_fork": is_kept,
        "has": "".join(letter for letter, _ in given + lent),
    }
    return Reply(body, [fd for _, fd in given + lent], frozenset(fd for _, fd in lent))


def _rule(entry: Entry, memory: MemoryObject) -> str:
    """The row that allows it: by whether tags may pass, whose the object is, and what it was made for."""
    if not entry.can_hold_capabilities:
        return "cheribsd:E10" if memory.is_share_cap else "cheribsd:E3"
    if not memory.can_hold_capabilities:
        return "cheribsd:A2"
    if not memory.is_share_cap:
        return "cheribsd:E1"
    if not entry.is_shared:
        return "cheribsd:E14"
    return {Kind.SYSV: "cheribsd:H1", Kind.ANONYMOUS: "cheribsd:G1", Kind.ZERO: "cheribsd:G1"}.get(
        memory.kind, "cheribsd:E9"
    )


def about(entry: Entry) -> dict[str, Datum]:
    """What the audit tells programs of a mapping."""
    return {"start": entry.start, "end": entry.end, "maximum": entry.maximum.letters}


def _message(request: messages.Message, entry: Entry, memory: MemoryObject) -> str:
    sharing = "shared" if entry.is_shared else "private"
    return f"{sharing} {entry.current.letters}/{entry.maximum.letters} at {entry.start:#x} of {memory}"


def undo(state: State, member: Member, request: messages.Undo, descriptors: list[int]) -> Reply:
    """The kernel could not carry out a mapping: there is nothing there now."""
    gone = member.space.within(request.start, request.end)
    state.record(member, request, is_allowed=False, rule="host", message=f"[{request.start:#x}, {request.end:#x})")
    commit_unmap(member.space, [(entry.start, entry.end) for entry in gone])
    return Reply({})


def revert(state: State, member: Member, request: messages.Revert, descriptors: list[int]) -> Reply:
    """The kernel could not carry out the last change, or not all of it: the rest is as it was before."""
    last, member.last = member.last, None
    if last is None:
        raise CapshmError("the last request has changed nothing")
    space = member.space
    entries = [entry for entry in last.entries if entry.start >= request.start]
    gone = {each.start: each for each in last.reservations}
    reservations = [gone.get(start) or space.reservations[start] for start in {entry.reservation for entry in entries}]
    state.record(member, request, is_allowed=False, rule="host", message=f"from {request.start:#x} on")
    undone = [(start, end) for start, end in last.ranges if start >= request.start]
    for each in undone:
        release(space, each)  # of a reservation that was to go into quarantine
    commit_unmap(space, undone)
    space.restore(entries, reservations)
    return Reply({"changes": [[each.start, each.end, each.current.letters, each.inherit] for each in entries]})


def unmap(state: State, member: Member, request: messages.Unmap, descriptors: list[int]) -> Reply:
    """munmap."""
    return _take_away(member, plan_unmap(member.space, _address(request.address), request.length))


def detach_segment(state: State, member: Member, request: messages.ShmDt, descriptors: list[int]) -> Reply:
    """shmdt."""
    return _take_away(member, plan_detach(member.space, _address(request.address)))


def _take_away(member: Member, planned: list[tuple[int, int]]) -> Reply:
    """The answer names all that is to be unmapped: with a reservation that goes, its padding as well."""
    space = member.space
    around = {reservation for start, end in planned for reservation in space.reservations_overlapping(start, end)}
    unmapped = commit_unmap(space, planned)
    gone = [each for each in around if each.start not in space.reservations]
    member.last = Change(planned, unmapped, gone)
    if member.part.clock.is_quarantining:
        for reservation in gone:
            if isinstance(reservation, Reservation):  # of mmap: VMARs stay until they are destroyed
                quarantine(space, reservation)
    rest = [(start, end) for start, end in planned if not any(each.start <= start and end <= each.end for each in gone)]
    changes: list[Value] = [[start, end] for start, end in sorted([(each.start, each.end) for each in gone] + rest)]
    return Reply({"changes": changes})


def protect(state: State, member: Member, request: messages.Protect, descriptors: list[int]) -> Reply:
    """mprotect."""
    entries = plan_protect(member.space, _address(request.address), request.length, request.prot)
    member.last = Change([(entry.start, entry.end) for entry in entries], commit_protect(member.space, entries))
    return Reply({"changes": [[entry.start, entry.end, entry.current.letters] for entry in entries]})


def inherit(state: State, member: Member, request: messages.Inherit, descriptors: list[int]) -> Reply:
    """minherit."""
    plan = plan_inherit(member.space, state.policy, _address(request.address), request.length, request.inherit)
    if len(plan.needs_object) > _MOVES_LIMIT:
        raise CapshmError(f"at most {_MOVES_LIMIT} ranges of private memory can be made shared with children at once")
    given: list[tuple[str, int]] = []
    made: list[MemoryObject] = []
    moves: list[Value] = []
    try:
        for new in plan.needs_object:
            memory = state.objects.prepare(Kind.ANONYMOUS, owner=member.serial, is_share_cap=new.is_share_cap)
            made.append(memory)
            [entry] = [each for each in plan.entries if each.start == new.start]
            first = len(given)
            given.append(("d", _new_anonymous(state, memory, new.end - new.start)))
            sideband = state.segments.sideband(memory.id)
            if entry.maximum & Rights.CAP:
                given.append(("t", os.dup(sideband.tags)))
            given.append(("c", os.dup(sideband.clear)))
            moves.append(_describe_move(state, entry, memory, "".join(has for has, _ in given[first:])))
            message = _message(request, entry, memory)
            state.record(member, request, number=memory.id, message=message, data=about(entry))
    except BaseException:
        for _, fd in given:
            os.close(fd)
        raise
    for memory in made:
        state.objects.add(memory)
    replaced = commit_inherit(member.space, plan, made)
    member.last = Change([(entry.start, entry.end) for entry in plan.entries], replaced)
    changes: list[Value] = [[entry.start, entry.end] for entry in plan.entries]
    return Reply({"changes": changes, "moves": moves}, [fd for _, fd in given])


def _describe_move(state: State, entry: Entry, memory: MemoryObject, has: str) -> Value:
    """start, end, object, rights, maximum, is_kept_at_fork, has."""
    is_kept = state.policy.keeps_capabilities_at_fork(memory)
    return [entry.start, entry.end, memory.id, entry.current.letters, entry.maximum.letters, is_kept, has]


def _address(address: messages.Address) -> Address:
    return Pointer(*address) if isinstance(address, tuple) else address
