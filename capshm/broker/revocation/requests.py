"""Requests about revocation. What a pass does is in `passes`.

Who is asked by ASYNC answers first and makes the pass afterwards.
"""

from __future__ import annotations

import contextlib

from capshm.broker import messages
from capshm.broker.revocation import stoppers
from capshm.broker.revocation.passes import Found, Pass
from capshm.broker.state import Member, Reply, State
from capshm.errors import CapshmError
from capshm.model.constants import CHERI_REVOKE_SHADOW_INFO_STRUCT
from capshm.model.pointer import Pointer
from capshm.model.quarantine import choose_leaving, release
from capshm.model.revocation import Step, check_shadow, refuse_without_revoker


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
            state.record(
                members[0],
                event,
                is_allowed=False,
                rule="cheribsd:2.2",
                message=f"incomplete: {who}",
                data=world.about(),
            )
        raise
    for member in members:
        member.part.clock.close()
        state.parts.records.publish(member.part.record, member.part.clock.epochs)
    what = f"epoch {members[0].part.clock.clock}" if len(members) == 1 else f"{len(members)} address spaces"
    state.record(
        members[0],
        event,
        rule="cheribsd:2.3",
        message=f"{what}: {world.found.cleared} tags of objects",
        data=world.about(),
    )
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
            _close_later(state, member)


def _close_later(state: State, member: Member) -> None:
    """Nobody waits for an answer, and others may be queued behind: what goes wrong is told by the audit alone."""
    try:
        close_epoch(state, member, "revoke later")
    except stoppers.Incomplete:
        pass  # it is there already
    except (CapshmError, OSError) as error:
        with contextlib.suppress(OSError):  # a full disk: the audit itself says so where it can
            state.record(member, "revoke later", is_allowed=False, rule="host", message=f"incomplete: {error}")


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
            "found": list(found),
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


def take_pauses(state: State, member: Member, request: messages.TakePauses, descriptors: list[int]) -> Reply:
    """For the laboratory, which measures one section at a time."""
    taken, state.pauses = state.pauses, []
    return Reply({"pauses": [*taken]})


def note_refused_loads(state: State, member: Member, request: messages.RefusedLoads, descriptors: list[int]) -> Reply:
    """What the core of a member has refused by itself; nothing is decided here."""
    message = f"loads of others' capabilities whose bases it has had revoked: {request.count}"
    state.record(member, request, is_allowed=False, rule="cheribsd:2.6", message=message)
    return Reply({})


def _check_revoker(state: State, call: str) -> None:
    if not state.revoker.can_revoke:
        raise refuse_without_revoker(call)
