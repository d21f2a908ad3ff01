"""Calls on VMARs: decided on the tree of the process that they belong to; what Linux has to do comes back as orders.

Where the tree is not the caller's own the call waits, checked, until that process comes by (`remote`).
"""

from __future__ import annotations

from capshm.broker.kernel import ROOT_RIGHTS
from capshm.broker.mappings import about
from capshm.broker.messages import Value
from capshm.broker.state import Elsewhere, Member, Reply, State
from capshm.broker.zircon import messages as m
from capshm.broker.zircon.remote_orders import check_count
from capshm.broker.zircon.vmar_orders import Orders, protect_orders
from capshm.broker.zircon.vmo_calls import operate, vmo_of
from capshm.model import zircon_constants as z
from capshm.model.address_space import Entry, ranges
from capshm.model.quarantine import quarantine
from capshm.model.regions import Reservation, Vmar
from capshm.model.rules import ZxRefusal
from capshm.model.vmar_capabilities import bar, plan_authority
from capshm.model.vmar_changing import (
    Caller,
    Removal,
    Removed,
    commit_protect,
    commit_removal,
    plan_destroy,
    plan_operation,
    plan_protect,
    plan_unmap,
    restore,
    rights_to_protect,
)
from capshm.model.vmar_mapping import (
    MapRequest,
    commit_allocate,
    commit_map,
    plan_allocate,
    plan_map,
    rights_to_allocate,
)
from capshm.model.vmar_options import text, with_readable
from capshm.model.vmos import Vmo

_AREAS_OF_A_CHANGE = 3  # an area is split in three at most


def vmar_root_self(state: State, member: Member, request: m.VmarRootSelf, descriptors: list[int]) -> Reply:
    """vmar_root_self."""
    return Reply(
        {
            "handle": state.kernel.describe(
                member.serial, state.kernel.table(member.serial).add(member.space.root, ROOT_RIGHTS)
            )
        }
    )


def allocate(state: State, member: Member, request: m.VmarAllocate, descriptors: list[int]) -> Reply:
    """vmar_allocate."""
    asked = f"vmar_allocate({text(request.options)}, {request.offset:#x}, {request.size:#x})"
    needed = rights_to_allocate(request.options)
    parent, _ = state.kernel.table(member.serial).find(request.parent, Vmar, needed, rule="vmar:1.1/1", asked=asked)
    vmar = plan_allocate(parent, request.options, request.offset, request.size)
    _check_here(state, member, parent, asked)
    value = state.kernel.table(member.serial).add(vmar, commit_allocate(vmar))
    return Reply({"handle": state.kernel.describe(member.serial, value), "address": vmar.start})


def map_vmo(state: State, member: Member, request: m.VmarMap, descriptors: list[int]) -> Reply:
    """vmar_map."""
    kernel = state.kernel
    options = with_readable(request.options, has_xom=kernel.has_xom)
    asked = MapRequest(options, request.vmar_offset, request.vmo_offset, request.length, kernel.has_xom)
    table = state.kernel.table(member.serial)
    vmar = table.find(request.vmar, Vmar, 0, rule="vmar:1.2/1", asked=str(asked))
    vmo = table.find(request.vmo, Vmo, 0, rule="vmar:1.2/1", asked=str(asked))
    plan = plan_map(asked, vmar, vmo, barred=bar(state.policy, member.knobs, vmo[0], vmar[0].space.serial))
    _check_areas(state, vmar[0], str(asked))
    _check_here(state, member, vmar[0], str(asked), orders=1)
    entry = plan.entry
    orders = Orders(state, vmo[0])
    try:
        orders.map(entry)
        state.record(
            member,
            request,
            rule="vmar:1.2",
            number=vmo[0].id,
            message=f"{entry.current.letters}/{entry.maximum.letters} at {entry.start:#x} of {vmo[0]} in {vmar[0]}",
            data=about(entry) | {"vmspace": vmar[0].space.serial},
        )
    except BaseException:
        orders.close()
        raise
    replaced = commit_map(plan)
    removal = Removal(vmar[0], entry.start, entry.end, [])
    _remember(state, removal, Removed(replaced, [], []))
    return orders.reply({"address": entry.start})


def protect(state: State, member: Member, request: m.VmarProtect, descriptors: list[int]) -> Reply:
    """vmar_protect."""
    options = with_readable(request.options, has_xom=state.kernel.has_xom)
    asked = f"vmar_protect({text(options)}, {request.address:#x}, {request.length:#x})"
    caller = _caller(state, member, request.vmar, rights_to_protect(options), "vmar:1.3/1", asked)
    planned = plan_protect(caller, options, request.address, request.length, has_xom=state.kernel.has_xom)
    _check_areas(state, caller.vmar, asked)
    _check_here(state, member, caller.vmar, asked, orders=len(planned))
    before = commit_protect(caller, planned)
    removal = Removal(caller.vmar, before[0].start, before[-1].end, [])
    _remember(state, removal, Removed(before, [], []))
    return Reply({"orders": protect_orders(planned, before)})


def capability(state: State, member: Member, request: m.VmarCapability, descriptors: list[int]) -> Reply:
    """vmar_capability."""
    asked = f"vmar_capability({request.address:#x}, {request.length:#x})"
    caller = _caller(state, member, request.vmar, 0, "vmar:CAP/3", asked)
    authority = plan_authority(caller.vmar, caller.rights, member.serial, request.address, request.length)
    return Reply({"capability": list(authority)})


def unmap(state: State, member: Member, request: m.VmarUnmap, descriptors: list[int]) -> Reply:
    """vmar_unmap."""
    asked = f"vmar_unmap({request.address:#x}, {request.length:#x})"
    caller = _caller(state, member, request.vmar, 0, "vmar:1.4/1", asked)
    return _remove(state, member, plan_unmap(caller, request.address, request.length), asked)


def destroy(state: State, member: Member, request: m.VmarDestroy, descriptors: list[int]) -> Reply:
    """vmar_destroy."""
    caller = _caller(state, member, request.vmar, z.RIGHT_OP_CHILDREN, "vmar:1.5/1", "vmar_destroy")
    return _remove(state, member, plan_destroy(caller), "vmar_destroy")


def op_range(state: State, member: Member, request: m.VmarOpRange, descriptors: list[int]) -> Reply:
    """vmar_op_range: on the VMOs themselves, so that it needs nothing of the process that has them mapped."""
    asked = f"vmar_op_range({request.op}, {request.address:#x}, {request.length:#x})"
    caller = _caller(state, member, request.vmar, 0, "vmar:1.6/1", asked)
    for entry in plan_operation(caller, request.op, request.address, request.length):
        vmo = vmo_of(entry, asked)
        vmo.check_range(entry.offset, entry.length, asked, rule="vmar:1.6/8e")
        operate(state, vmo, request.op, entry.offset, entry.length)
    return Reply({})


def failed(state: State, member: Member, request: m.VmarFailed, descriptors: list[int]) -> Reply:
    """Linux could not carry out the last change from `start` on: there, all is as it was.

    Recorded afterwards: it is so, whether that can be written or not.
    """
    last, member.removal = member.removal, None
    if last is None:
        return Reply({})
    removal, removed = last
    removal.vmar.space.remove(max(removal.start, request.start), removal.end)
    parts = [entry.part(request.start, entry.end) for entry in removed.entries if entry.end > request.start]
    restore(removal, removed._replace(entries=parts))
    state.record(member, request, is_allowed=False, rule="vmar:host", message=f"from {request.start:#x} on")
    return Reply({})


def _remove(state: State, member: Member, removal: Removal, asked: str) -> Reply:
    space = removal.vmar.space
    if removal.is_splitting:  # others need no area more, and are what makes room
        _check_areas(state, removal.vmar, asked)
    most = len(ranges(space.within(removal.start, removal.end))) + len(removal.children)
    _check_here(state, member, removal.vmar, asked, orders=most)
    removed = commit_removal(removal)
    _remember(state, removal, removed)
    reserved = [child for child in removal.children if isinstance(child, Reservation)]  # their padding goes as well
    if state.members[space.serial].part.clock.is_quarantining:
        for each in reserved:
            quarantine(space, each)
    gone: list[Entry | Reservation] = [*reserved, *(entry for entry in removed.entries if entry.vmar is not None)]
    gone.sort(key=lambda each: each.start)
    orders: list[Value] = [["unmap", start, end - start] for start, end in ranges(gone)]
    return Reply({"orders": orders})


def _caller(state: State, member: Member, value: int, rights: int, rule: str, asked: str) -> Caller:
    vmar, has = state.kernel.table(member.serial).find(value, Vmar, rights, rule=rule, asked=asked)
    return Caller(vmar, has, state.settings.vmar_errors)


def _check_here(state: State, member: Member, vmar: Vmar, asked: str, *, orders: int = 0) -> None:
    """Put the call off if the VMAR is another process's and that has not come by. Nothing is changed yet."""
    if vmar.space is not member.space:
        check_count(asked, orders)
        if state.here != vmar.space.serial:
            raise Elsewhere(vmar.space.serial)


def _remember(state: State, removal: Removal, removed: Removed) -> None:
    """For the process that is to carry it out, in case that Linux refuses."""
    state.members[removal.vmar.space.serial].removal = removal, removed


def _check_areas(state: State, vmar: Vmar, asked: str) -> None:
    """Row 1.1/17: what Linux would refuse half-way is refused beforehand."""
    entries = vmar.space.entries
    needed = 2 * len(entries) + _AREAS_OF_A_CHANGE  # a gap between any two
    if needed + len(entries) > state.kernel.area_limit:  # it may matter that those with a stream are two
        needed += sum(entry.is_stream for entry in entries.values())
    if needed > state.kernel.area_limit:
        raise ZxRefusal(
            "vmar:1.1/17",
            asked=asked,
            allowed=f"the process might need {needed} areas, and the kernel gives it {state.kernel.area_limit}",
            needed="fewer mappings, or a higher vm.max_map_count",
        )
