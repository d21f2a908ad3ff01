"""Requests about revocation, and passes: what the broker does while the machine stands still.

Order of a pass that closes an epoch, by the revoker `stop-the-world`:

    (1) the model opens the epoch, unless it is open          a death of anybody from here on leaves it open
    (2) the stopper closes the gate                           Incomplete: it is open again, the epoch stays open
    (3) sidebands of the address space's objects are swept    tags that are gone stay gone, rightly
    (4) the record counts one more pass                       from here on its process sweeps its own (native/revoke.h)
    (5) the gate opens
    (6) the model closes the epoch, releases the reservation, and the record shows the clock

The asker may die at any time: the pass goes on. If the broker dies with the gate closed, it stays closed, and every
operation raises BrokerGone; before (2) and after (5) only requests do. Nothing is freed by either: `dequeue` moves at
(6).

Who is asked by ASYNC answers first and makes the pass afterwards, before it takes up another request.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from capshm._native import ffi, lib
from capshm.broker import messages, stoppers
from capshm.broker.maps import Maps
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


@dataclass(slots=True)
class Pass:
    """Some address spaces in one pass; a `World` for revokers. leaving: what leaves quarantine, if it is only one."""

    state: State
    members: list[Member]
    leaving: tuple[int, int] | None = None
    found: Found = field(default_factory=Found)
    maps: Maps = field(default_factory=Maps)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """By the machine's stopper. Incomplete.

        What is to be swept is mapped before, and unmapped afterwards: for 64 MiB that takes as long as the sweep.
        """
        with contextlib.closing(self.maps):
            for sideband, _ in self._sidebands():
                self.maps.prepare(sideband)
            with self.state.stopper.stopped():
                yield

    def sweep_objects(self) -> None:
        """Rows J1, J4, J5: what the address spaces own, wherever it is."""
        shadows: dict[int, CData] = {}
        for sideband, member in self._sidebands():
            if member.serial not in shadows:
                shadows[member.serial] = member.part.make_shadow(member.space).as_native(self.leaving)
            sweep_sideband(sideband, self.maps, shadows[member.serial], self.found)

    def _sidebands(self) -> Iterator[tuple[Sideband, Member]]:
        """Those that are swept, and whose they are."""
        owners = {
            member.serial: member
            for member in self.members
            if member.part.shadow is not None or self.leaving is not None  # else nothing was ever painted
        }
        for memory in self.state.objects:
            sideband = self.state.segments.made_sideband(memory.id)
            if memory.owner in owners and sideband is not None:
                yield sideband, owners[memory.owner]

    def leave_private(self) -> None:
        """See native/revoke.h."""
        for member in self.members:
            self.state.parts.records.add_pass(member.part.record, self.leaving)


def sweep_sideband(sideband: Sideband, maps: Maps, shadow: CData, found: Found) -> None:
    """Take the tags that the shadow revokes. The machine is stopped."""
    counts = ffi.new("struct sweep_counts *")
    for start, end in written(sideband.tags, lib.TWINS_OFFSET):
        lines, twins, count = maps.at(sideband, start, end)
        lib.sweep(lines, twins, count, shadow, lib.SWEEP_AUTOMATIC, counts)
    found.lines += counts.lines
    found.found += counts.found
    found.cleared += counts.cleared


def close_epoch(state: State, member: Member, event: messages.Message | str) -> Found:
    """Make the pass that closes the member's open epoch. Incomplete: the epoch stays open."""
    leaving = choose_leaving(member.space)
    found = _close(state, [member], event, leaving)
    if leaving is not None:
        release(member.space, leaving)
    return found


def _close(
    state: State, members: list[Member], event: messages.Message | str, leaving: tuple[int, int] | None = None
) -> Found:
    """Close the epochs of these members, the first of which asks, in one pass, and record it."""
    world = Pass(state, members, leaving)
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
        return _reply(member, _close(state, members, request))
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


def _check_revoker(state: State, call: str) -> None:
    if not state.revoker.can_revoke:
        raise refuse_without_revoker(call)
