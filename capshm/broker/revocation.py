"""Requests about revocation, and passes: what the broker does while the machine stands still.

Order of a pass that closes an epoch, by the revoker `stop-the-world`:

    (1) the model opens the epoch, unless it is open          a death of anybody from here on leaves it open
    (2) the stopper closes the gate                           Incomplete: it is open again, the epoch stays open
    (3) sidebands of objects are swept                        tags that are gone stay gone, rightly
    (4) the record counts one more pass                       from here on its process sweeps its own (native/revoke.h)
    (5) the gate opens
    (6) the model closes the epoch, releases the reservation, and the record shows the clock

The asker may die at any time: the pass goes on. If the broker dies with the gate closed, it stays closed, and every
operation raises BrokerGone; before (2) and after (5) only requests do. Nothing is freed by either: `dequeue` moves at
(6).

In a machine of scope "vmspace" cheri_revoke sweeps what belongs to the address space, by its shadow. That is CheriBSD's
hole: what others have got through O_SHARECAP, anonymous shared and System V objects stays there (J4). With scope
"machine", and by Machine.revoke in every machine, (3) is machine-wide: all objects are swept, by the origins of what
they hold, and (4) reaches the copies of every process (native/origin.h).

Who is asked by ASYNC answers first and makes the pass afterwards, before it takes up another request.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from capshm._native import ffi, lib
from capshm.broker import messages, stoppers
from capshm.broker.segments import Sideband, written
from capshm.broker.state import Member, Reply, State
from capshm.model.constants import CHERI_REVOKE_SHADOW_INFO_STRUCT
from capshm.model.pointer import Pointer
from capshm.model.quarantine import choose_leaving, release
from capshm.model.revocation import Step, check_shadow, refuse_without_revoker

if TYPE_CHECKING:
    from capshm._native import CData


@dataclass(slots=True)
class Found:
    """What sweeps of objects have met."""

    lines: int = 0
    found: int = 0
    cleared: int = 0

    def add(self, counts: CData) -> None:
        """What one sweep has met."""
        self.lines += counts.lines
        self.found += counts.found
        self.cleared += counts.cleared


@dataclass(slots=True)
class Pass:
    """Some address spaces in one pass; a `World` for revokers. leaving: what leaves quarantine, if it is only one.

    number: of a machine-wide pass.
    """

    state: State
    members: list[Member]
    leaving: tuple[int, int] | None = None
    is_machine_wide: bool = False
    found: Found = field(default_factory=Found)
    _number: int = 0

    def stopped(self) -> AbstractContextManager[None]:
        """By the machine's stopper. Incomplete."""
        return self.state.stopper.stopped()

    def sweep_objects(self) -> None:
        """Rows J1, J4, J5: what the address spaces own, wherever it is; machine-wide, what is theirs in all objects."""
        if self.is_machine_wide:
            self._stamp()
        shadows = self._shadows()
        for memory in self.state.objects:
            sideband = self.state.segments.made_sideband(memory.id)
            if sideband is None:
                continue
            if memory.owner in shadows:
                sweep_sideband(sideband, shadows[memory.owner], self.found)
            if self.is_machine_wide:
                self._sweep_by_origin(sideband, shadows)

    def _shadows(self) -> dict[int, CData]:
        return {
            member.serial: member.part.make_shadow(member.space).as_native(self.leaving)
            for member in self.members
            if member.part.shadow is not None or self.leaving is not None  # else nothing was ever painted
        }

    def _stamp(self) -> None:
        """A child that is being forked has its parent's memory, or is about to."""
        records = self.state.parts.records
        self._number = records.begin_machine_pass()
        for member in self.members:
            part = member.part
            forked = [other.part for other in self.state.members.values() if other.part.parent is part]
            for each in (part, *forked):
                records.stamp(each.record, part.shadow, self.leaving, self._number)

    def _sweep_by_origin(self, sideband: Sideband, shadows: dict[int, CData]) -> None:
        by_record = ffi.new("struct shadow *[]", lib.REVOCATION_RECORDS)
        for member in self.members:
            by_record[member.part.record] = shadows.get(member.serial, ffi.NULL)
        sweep_by_origin(sideband, self.state.parts.records.native, by_record, self.found)

    def leave_private(self) -> None:
        """See native/revoke.h."""
        if self.is_machine_wide:
            self.state.parts.records.count_machine_pass(self._number)
        for member in self.members:
            self.state.parts.records.add_pass(member.part.record, self.leaving)


def sweep_sideband(sideband: Sideband, shadow: CData, found: Found) -> None:
    """Take the tags that the shadow revokes. The machine is stopped."""
    counts = ffi.new("struct sweep_counts *")
    for lines, count, twins, _ in _tagged_parts(sideband):
        lib.sweep(lines, twins, count, shadow, lib.SWEEP_AUTOMATIC, counts)
    found.add(counts)


def sweep_by_origin(sideband: Sideband, records: CData, shadows: CData, found: Found) -> None:
    """Take the tags of what its origin's shadow revokes, or whose origin is gone. The machine is stopped.

    shadows: by the numbers of the records.
    """
    counts = ffi.new("struct sweep_counts *")
    for lines, count, twins, origins in _tagged_parts(sideband):
        lib.sweep_by_origin(lines, twins, origins, count, records, shadows, counts)
    found.add(counts)


def _tagged_parts(sideband: Sideband) -> Iterator[tuple[CData, int, CData, CData]]:
    """Tag lines that were ever written, how many, and their twins and origins."""
    for start, end in written(sideband.tags, lib.TWINS_OFFSET):
        count = (end - start) // ffi.sizeof("struct tag_line")
        size = count * lib.LINE_DATA_SIZE
        data = start // ffi.sizeof("struct tag_line") * lib.LINE_DATA_SIZE
        with (
            _mapped(sideband.tags, start, end - start) as lines,
            _mapped(sideband.tags, lib.TWINS_OFFSET + data, size) as twins,
            _mapped(sideband.tags, lib.ORIGINS_OFFSET + data // lib.ORIGIN_UNIT, size // lib.ORIGIN_UNIT) as origins,
        ):
            yield (
                ffi.cast("struct tag_line *", lines),
                count,
                ffi.cast("struct granule *", twins),
                ffi.cast("uint32_t *", origins),
            )


@contextlib.contextmanager
def _mapped(fd: int, offset: int, length: int) -> Iterator[CData]:
    with mmap.mmap(fd, length, offset=offset) as memory:
        content = ffi.from_buffer(memory)
        try:
            yield content
        finally:
            ffi.release(content)


def close_epoch(state: State, member: Member, event: messages.Message | str) -> Found:
    """Make the pass that closes the member's open epoch. Incomplete: the epoch stays open."""
    leaving = choose_leaving(member.space)
    found = _close(state, [member], event, leaving, is_machine_wide=state.settings.scope == "machine")
    if leaving is not None:
        release(member.space, leaving)
    return found


def _close(
    state: State,
    members: list[Member],
    event: messages.Message | str,
    leaving: tuple[int, int] | None = None,
    *,
    is_machine_wide: bool,
) -> Found:
    """Close the epochs of these members, the first of which asks, in one pass, and record it."""
    world = Pass(state, members, leaving, is_machine_wide)
    try:
        state.revoker.close(world)
    except BaseException as error:
        for member in members:
            member.part.clock.give_up()
        if isinstance(error, stoppers.Incomplete):
            who = ", ".join(f"process {pid} is {reason}" for pid, reason in error.processes)
            state.record(members[0], event, is_allowed=False, rule="cheribsd:2.2", message=f"incomplete: {who}")
        raise
    for member in members:
        member.part.clock.close()
        state.parts.records.publish(member.part.record, member.part.clock.epochs)
    what = f"epoch {members[0].part.clock.clock}" if len(members) == 1 else f"{len(members)} address spaces"
    state.record(members[0], event, rule="cheribsd:2.3", message=f"{what}: {world.found.cleared} tags of objects")
    return world.found


def _open(state: State, members: list[Member]) -> None:
    """Open an epoch for those of these members that have none open."""
    opened = [member for member in members if member.part.clock.is_closed]
    for member in opened:
        member.part.clock.open()
        state.parts.records.publish(member.part.record, member.part.clock.epochs)
    state.revoker.open(Pass(state, opened))


def close_queued(state: State) -> None:
    """Close the epochs that wait for it. One that cannot be closed stays open: a later call tries again."""
    for member in state.parts.take_queued():
        if not member.part.clock.is_closed:  # a call that came between may have done it
            with contextlib.suppress(stoppers.Incomplete):  # it is in the audit
                close_epoch(state, member, "revoke later")


def revoke(state: State, member: Member, request: messages.Revoke, descriptors: list[int]) -> Reply:
    """cheri_revoke."""
    part = member.part
    _check_revoker(state, f"cheri_revoke({request.flags:#x})")
    step = part.clock.plan(request.flags, request.start)
    if Step.OPEN in step:
        state.record(member, request, rule="cheribsd:2.2", message=f"epoch {part.clock.clock + 1} is open")
        _open(state, [member])
    if Step.CLOSE_LATER in step:
        part.clock.close_later()
        state.parts.queue(member)
    if Step.CLOSE not in step:
        return _reply(member, Found())
    try:
        return _reply(member, close_epoch(state, member, request))
    except stoppers.Incomplete as error:
        return _reply(member, Found(), error.processes)


def revoke_all(state: State, member: Member, request: messages.RevokeAll, descriptors: list[int]) -> Reply:
    """Machine.revoke: an epoch of every address space, in one pass."""
    _check_revoker(state, "Machine.revoke()")
    members = [member, *(other for other in state.members.values() if other is not member)]
    _open(state, members)
    try:
        return _reply(member, _close(state, members, request, is_machine_wide=True))
    except stoppers.Incomplete as error:
        return _reply(member, Found(), error.processes)


def _reply(member: Member, found: Found, incomplete: list[tuple[int, str]] | None = None) -> Reply:
    return Reply(
        {
            "epochs": list(member.part.clock.epochs),
            "found": [found.lines, found.found, found.cleared],
            "incomplete": [list(each) for each in incomplete or []],
        }
    )


def get_shadow(state: State, member: Member, request: messages.GetShadow, descriptors: list[int]) -> Reply:
    """cheri_revoke_get_shadow: from now on the address space quarantines what it unmaps."""
    _check_revoker(state, f"cheri_revoke_get_shadow({request.selector})")
    address = request.address
    check_shadow(request.selector, Pointer(*address) if isinstance(address, tuple) else None)
    member.part.clock.is_quarantining = True
    if request.selector == CHERI_REVOKE_SHADOW_INFO_STRUCT or request.has_shadow:
        return Reply({})
    shadow = member.part.make_shadow(member.space)
    return Reply({}, [shadow.fd], frozenset([shadow.fd]))


def note_refused_loads(state: State, member: Member, request: messages.RefusedLoads, descriptors: list[int]) -> Reply:
    """What the core of a member has refused by itself; nothing is decided here."""
    message = f"loads of others' capabilities whose bases it has had revoked: {request.count}"
    state.record(member, request, is_allowed=False, rule="cheribsd:2.6", message=message)
    return Reply({})


def _check_revoker(state: State, call: str) -> None:
    if not state.revoker.can_revoke:
        raise refuse_without_revoker(call)
