"""Requests over the model: who belongs to the machine, forks, knobs, and what there is to be told.

Every request is decided completely on the model (a Refusal changes nothing), recorded, and only then committed. Not
recorded, unless refused, is what shares nothing: private memory, unmapping, and changes of rights or inheritance that
make no object. What concerns mappings is in `mappings`, what concerns objects in `openings`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar, cast

import msgspec

from capshm._native import layout
from capshm.broker import mappings, messages, openings
from capshm.broker.audit import AuditLog
from capshm.broker.messages import Answer, Value
from capshm.broker.revocation import requests as revocation
from capshm.broker.segments import Segments
from capshm.broker.state import Member, Reply, Settings, State
from capshm.broker.zircon import handle_calls, vmar_calls
from capshm.broker.zircon import messages as zircon_messages
from capshm.broker.zircon import requests as zircon
from capshm.errors import LayoutMismatch
from capshm.model.address_space import AddressSpace, Entry
from capshm.model.constants import ARENA_START
from capshm.model.inheritance import ForkPlan, plan_fork
from capshm.model.knobs import Knobs
from capshm.model.objects import Kind
from capshm.model.policy import Policy
from capshm.model.rules import Refusal, ZxRefusal
from capshm.model.vmos import Vmo

_R = TypeVar("_R", bound=messages.Message)
_Handler: TypeAlias = Callable[[State, Member, _R, list[int]], Reply]
_INHERIT = ("share", "copy", "none", "zero")


class Service:
    """The requests of one machine's members. CapshmError and OSError: the request could not be carried out."""

    def __init__(self, settings: Settings, segments: Segments, audit: AuditLog) -> None:
        self._state = State(settings, segments, audit)
        self._handlers: dict[type, _Handler[messages.Message]] = {}
        self._on(messages.Map, mappings.map_memory)
        self._on(messages.Undo, mappings.undo)
        self._on(messages.Revert, mappings.revert)
        self._on(messages.Unmap, mappings.unmap)
        self._on(messages.Protect, mappings.protect)
        self._on(messages.Inherit, mappings.inherit)
        self._on(messages.ShmAt, mappings.attach_segment)
        self._on(messages.ShmDt, mappings.detach_segment)
        self._on(messages.ShmOpen, openings.shm_open)
        self._on(messages.MemfdCreate, openings.memfd_create)
        self._on(messages.ShmUnlink, openings.shm_unlink)
        self._on(messages.ShmRename, openings.shm_rename)
        self._on(messages.ShmGet, openings.shmget)
        self._on(messages.ShmCtl, openings.shmctl)
        self._on(messages.Knob, _knob)
        self._on(messages.Revoke, revocation.revoke)
        self._on(messages.RevokeAll, revocation.revoke_all)
        self._on(messages.GetShadow, revocation.get_shadow)
        self._on(messages.TakePauses, revocation.take_pauses)
        self._on(messages.RefusedLoads, revocation.note_refused_loads)
        zircon.register(self._on)

    @property
    def settings(self) -> Settings:
        """The machine's."""
        return self._state.settings

    def _on(self, kind: type[_R], handler: _Handler[_R]) -> None:
        self._handlers[kind] = cast("_Handler[messages.Message]", handler)

    def handle(self, member: Member, request: messages.Message, descriptors: list[int]) -> Reply:
        """Answer a request. descriptors: what came with it; those that are left in the list are closed afterwards.

        Elsewhere: it is to be handled when another process has come by; nothing is changed.
        """
        if not isinstance(request, messages.Revert):
            member.last = None
        if not isinstance(request, zircon_messages.VmarFailed):
            member.removal = None
        return self._decide(member, request, descriptors)

    def handle_there(self, member: Member, request: messages.Message, serial: int) -> Reply:
        """The same for a call on a VMAR of that address space, whose process has come by, or has ended."""
        target = self._state.members.get(serial)
        if target is not None:
            target.last = target.removal = None  # it has carried out what it had asked for
        self._state.here = serial
        try:
            return self._decide(member, request, [])
        finally:
            self._state.here = 0

    def failed_there(self, target: Member, pid: int, start: int, number: int) -> ZxRefusal:
        """Linux could not carry out a call on the target from `start` on: there, all is as it was. What to tell."""
        vmar_calls.failed(self._state, target, zircon_messages.VmarFailed(n=0, start=start), [])
        return ZxRefusal(
            "vmar:host",
            asked=f"a call on process {pid}",
            allowed=f"from {start:#x} on nothing was changed: {os.strerror(number)}",
            needed="memory, areas and descriptors for that process",
        )

    def refuse(self, member: Member, request: messages.Message, refusal: ZxRefusal) -> Reply:
        """Record a refusal of Zircon's, and answer by it."""
        self._state.record(member, request, is_allowed=False, rule=refusal.rule, message=refusal.message)
        body: Answer = {"rule": refusal.rule, "status": refusal.status, "message": refusal.message}
        return Reply({"refused": body | {"results": list(refusal.results)}})

    def _decide(self, member: Member, request: messages.Message, descriptors: list[int]) -> Reply:
        try:
            return self._handlers[type(request)](self._state, member, request, descriptors)
        except Refusal as refusal:
            self._state.record(member, request, is_allowed=False, rule=refusal.rule, message=refusal.message)
            return _refused(refusal.rule, refusal.errno, refusal.message)
        except ZxRefusal as refusal:
            return self.refuse(member, request, refusal)
        except OSError as error:
            return _refused("host", error.errno or errno.EIO, f"this machine's kernel cannot: {error.strerror}")

    @property
    def wakeup(self) -> int:
        """Readable when `close_queued` is to be called."""
        return self._state.parts.wakeup

    def close_queued(self) -> None:
        """Close the epochs that were left to the broker."""
        revocation.close_queued(self._state)

    def close(self) -> None:
        """The machine has ended."""
        self._state.parts.close()
        self._state.stopper.close()

    # Members

    def check_layout(self, theirs: str) -> None:
        """LayoutMismatch: the process runs another core than the broker."""
        if theirs != layout():
            raise LayoutMismatch(
                f"its core has the layout {theirs!r}, the machine's {layout()!r}: both must be of the same sources"
            )

    def attach(self, pid: int, parent: int, request: messages.Attach) -> Member:
        """A new member with an empty address space. parent: the pid of the process that has started it."""
        state = self._state
        end = ARENA_START + state.settings.arena_size
        part = state.parts.begin()
        member = Member(pid, AddressSpace(state.new_serial(), ARENA_START, end), Knobs(), part)
        state.members[member.serial] = member
        try:
            state.record(member, request, message=request.name, data={"parent": parent})
        except BaseException:
            del state.members[member.serial]
            state.parts.end(member)
            raise
        return member

    def created(self, creator: Member, created: Member, end: Callable[[], None]) -> Reply | None:
        """Handles to a process that was created, and to its root; `end` when the last of the process is closed.

        None: the creator has ended.
        """
        if creator.serial not in self._state.members:
            return None
        return handle_calls.created(self._state, creator, created, end)

    def welcome(self, member: Member) -> Reply:
        """What a new member is told, with a descriptor of the records."""
        settings = self._state.settings
        body: Answer = {
            "vmspace": member.serial,
            "record": member.part.record,
            "policy": settings.policy,
            "isa": settings.isa,
            "arena_start": ARENA_START,
            "arena_size": settings.arena_size,
            "faults": settings.faults,
            "hardened": settings.hardened,
            "stopper": settings.stopper,
        }
        fd = self._state.parts.records.fd
        return Reply(body, [fd], frozenset([fd]))

    def fork(self, parent: Member, request: messages.Fork) -> tuple[Member, Reply]:
        """Plan a child: it has its address space from now on, and a pid when it comes (`forked`)."""
        state = self._state
        plan = plan_fork(parent.space, state.policy, parent.knobs, state.new_serial())
        child = Member(0, plan.space, parent.knobs, state.parts.fork(parent.part, plan.space))
        try:
            self._record_fork(parent, request, child, plan)
        except BaseException:
            state.parts.end(child)
            raise
        state.members[child.serial] = child
        state.kernel.fork(parent.serial, child.serial)
        body: Answer = {
            "vmspace": child.serial,
            "record": child.part.record,
            "none": [list(each) for each in plan.none],
            "drops": _with_rights(child.space, plan.drops),
            "zero": _with_rights(child.space, plan.zero),
            "copies": _with_rights(child.space, plan.copies),
            "is_changed": bool(plan.none or plan.drops or plan.zero or plan.copies),
        }
        shadows = [part.shadow.fd for part in (parent.part, child.part) if part.shadow is not None]
        return child, Reply(body, shadows, frozenset(shadows))

    def _record_fork(self, parent: Member, request: messages.Fork, child: Member, plan: ForkPlan) -> None:
        state = self._state
        state.record(parent, request, message=f"the child is vmspace {child.serial}", data={"child": child.serial})
        for start, end in plan.drops:
            for entry in parent.space.within(start, end):
                state.record(
                    parent,
                    "fork drop",
                    rule=_drop_rule(state.policy, entry),
                    number=entry.object.id if entry.object else 0,
                    message=f"vmspace {child.serial} cannot reach tags in [{entry.start:#x}, {entry.end:#x})",
                    data=mappings.about(entry) | {"child": child.serial},
                )

    def forked(self, child: Member, parent: int) -> None:
        """The child has come."""
        child.part.parent = None
        self._state.record(child, "forked", message=f"by process {parent}", data={"parent": parent})

    def end(self, member: Member) -> None:
        """The address space is gone: it ended, left, became another program, or never came to be."""
        state = self._state
        if state.members.pop(member.serial, None) is not None:
            state.objects.end_vmspace(member.serial)
            state.parts.end(member)
            state.kernel.end(member.space)
            state.record(member, "end" if member.pid else "fork failed")

    def object_ended(self, number: int) -> None:
        """Its last descriptor, mapping and message is gone."""
        memory = self._state.objects.objects.get(number)
        if memory is not None:
            for segment in [each for each in self._state.sysv.segments.values() if each.object is memory]:
                self._state.sysv.forget(segment)
            self._state.objects.remove(memory)

    def mappings(self, member: Member) -> Reply:
        """The mappings of a member."""
        return Reply({"mappings": [_describe_entry(entry) for entry in member.space.entries.values()]})

    def tree(self, member: Member) -> Reply:
        """The regions and mappings of a member, and who has handles to them."""
        pids = {each.serial: each.pid for each in self._state.members.values()}
        return Reply({"tree": handle_calls.describe_tree(self._state.kernel, member.space.root, pids)})

    def objects(self) -> Reply:
        """All objects that still exist."""
        state = self._state
        sizes = state.segments.sizes(member.pid for member in state.members.values() if member.pid)
        rows: list[Value] = []
        everything = [*state.holders(), *state.mapped_files()]
        for memory in sorted(everything, key=lambda each: each.id):
            kept = state.segments.kept(memory.id)
            size = sizes.get(memory.id, -1) if kept is None else kept.size()
            if isinstance(memory, Vmo):
                size = memory.size
            tags = state.segments.count_tags(memory.id)
            rows.append([memory.id, memory.kind.value, memory.name, size, memory.owner, memory.is_share_cap, tags])
        return Reply({"objects": rows})

    def audit(self, start: int) -> Reply:
        """A page of the audit."""
        lines, following = self._state.audit.page(start)
        rows: list[Value] = [list(msgspec.json.decode(line).values()) for line in lines]
        return Reply({"records": rows, "next": following, "last": self._state.audit.last})


def _drop_rule(policy: Policy, entry: Entry) -> str:
    """The rule by which a fork takes capability permission away: the policy's own, K1 where it would keep it, or F2."""
    if entry.object is not None and policy.keeps_capabilities_at_fork(entry.object):
        return "cheribsd:K1"
    return policy.refuse_anonymous_sharing(Kind.ANONYMOUS) or "cheribsd:F2"


def _refused(rule: str, number: int, message: str) -> Reply:
    return Reply({"refused": {"rule": rule, "errno": number, "message": message}})


def _with_rights(space: AddressSpace, ranges: Sequence[tuple[int, int]]) -> list[Value]:
    return [
        [entry.start, entry.end, entry.current.letters] for start, end in ranges for entry in space.within(start, end)
    ]


def _describe_entry(entry: Entry) -> Value:
    return [
        entry.start,
        entry.end,
        entry.current.letters,
        entry.maximum.letters,
        _INHERIT[entry.inherit],
        entry.object.id if entry.object else 0,
        entry.offset,
        entry.reservation,
        entry.is_shared,
        entry.is_quarantined,
    ]


def _knob(state: State, member: Member, request: messages.Knob, descriptors: list[int]) -> Reply:
    is_about_revocation = request.is_for_revocation
    before = knobs = member.part.knobs if is_about_revocation else member.knobs
    if request.process is not None:
        knobs = knobs.with_process(request.process)
    if request.program is not None:
        knobs = knobs._replace(program=None if request.program < 0 else bool(request.program))
    if knobs != before and is_about_revocation:
        state.record(member, request, rule="cheribsd:2.7", message=f"revocation is {knobs}")
        member.part.knobs = knobs
    elif knobs != before:
        state.record(member, request, rule="cheribsd:K1", message=f"sharing is {knobs}")
        member.knobs = knobs
    is_possible = state.revoker.can_revoke or not is_about_revocation
    return Reply({"process": knobs.process, "is_possible": is_possible, "is_enabled": knobs.is_enabled()})
