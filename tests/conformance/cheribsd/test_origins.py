"""Whose capability it is: machine-wide revocation takes what belongs to who has it revoked, wherever it is (J4, 2.6).

The processes of a test have fork's copies of the same memory, so the same addresses: what tells their values apart is
only the origin.
"""

import contextlib
import os
from collections.abc import Callable, Iterator

import pytest

from capshm import Capability, CapabilityArray, Machine
from capshm import cheribsd as bsd
from tests.conformance.cheribsd.revocation import as_freed, revoke, revoke_painted, shadow_of
from tests.conformance.cheribsd.support import (
    PAGE,
    anonymous,
    emulated,
    new_object,
    private,
    run_program,
    shared,
    wait_until,
)
from tests.faults.processes import Child, Event, ask_child, stop_here

RWC = bsd.PROT_READ | bsd.PROT_WRITE | bsd.PROT_CAP


def share_cap() -> Capability:
    """A page of an O_SHARECAP object."""
    descriptor = new_object("share-cap")
    try:
        return shared(descriptor)
    finally:
        os.close(descriptor)


def anonymous_shared() -> Capability:
    """A page of memory that is shared with children, tags included."""
    return bsd.mmap(None, PAGE, RWC, bsd.MAP_ANON | bsd.MAP_SHARED)


def system_v() -> Capability:
    """A page of a System V segment."""
    segment = bsd.shmget(bsd.IPC_PRIVATE, PAGE, 0o600)
    return bsd.shmat(segment, None, 0)


KINDS: dict[str, Callable[[], Capability]] = {
    "share-cap": share_cap,
    "anonymous": anonymous_shared,
    "System V": system_v,
}
EACH_KIND = pytest.mark.parametrize("kind", KINDS)
SCOPES = pytest.mark.parametrize("scope", ["vmspace", "machine"])


def tags(memory: Capability, *offsets: int) -> list[bool]:
    """Of what is loaded from there."""
    return [memory.load_capability(offset).tag for offset in offsets]


@contextlib.contextmanager
def beside(first: Callable[[], object], second: Callable[[], object]) -> Iterator[None]:
    """A child carries out `first`; then the body runs, and after it `second` in the child."""
    ready, go = Event(), Event()

    def both() -> None:
        try:
            first()
        finally:
            ready.set()
        go.wait()
        second()

    with Child(both) as child:
        ready.wait()
        yield
        go.set()
        assert child.wait() == 0
    ready.close()
    go.close()


def check(memory: Capability, offsets: dict[int, bool]) -> None:
    """What is loaded there has its tag, or not."""
    assert dict(zip(offsets, tags(memory, *offsets), strict=True)) == offsets


@SCOPES
@emulated()
def test_J4_the_hole_and_how_it_is_closed(scope: str, machine: Machine) -> None:
    """J4: with scope "vmspace" what is hidden in an unmapped share-cap object survives, and with "machine" nothing."""
    arena = anonymous()
    value, kept = as_freed(arena), as_freed(arena + 64)
    descriptor = new_object("share-cap")
    hoard = shared(descriptor)
    hoard.store_capabilities(0, [value, kept])
    bsd.munmap(hoard, PAGE)
    revoke_painted(arena, value)
    assert [each.tag_count for each in machine.objects()] == [{"vmspace": 2, "machine": 1}[scope]]
    assert tags(shared(descriptor), 0, 16) == [scope == "vmspace", True]


@EACH_KIND
@emulated()
def test_J4_all_of_a_machine_is_always_machine_wide(kind: str, machine: Machine) -> None:
    """J4: Machine.revoke reaches share-cap objects, and copies of others, in machines of scope "vmspace" as well."""
    arena, place = anonymous(), KINDS[kind]()
    value, kept = as_freed(arena), as_freed(arena + 64)
    place.store_capabilities(0, [value, kept])
    found: list[Capability] = []

    def check_copies() -> None:
        assert [each.tag for each in found] == [False, True]
        check(arena, {512: False, 528: True})

    def take() -> None:
        found.extend(place.load_capabilities(0, 2))
        arena.store_capabilities(512, found)

    with beside(take, check_copies):
        shadow_of(arena).paint(value)
        machine.revoke()
        check(place, {0: False, 16: True})


@EACH_KIND
@emulated(scope="machine")
def test_a_value_stored_again_by_somebody_else_is_still_the_first_ones(kind: str) -> None:
    """The first history. What the child stores again, its own revocation leaves alone, and its parent's takes."""
    arena, place = anonymous(), KINDS[kind]()
    value = as_freed(arena)
    place.store_capability(0, value)

    def store_again() -> None:
        place.store_capability(16, place.load_capability(0))
        revoke_painted(arena, value)

    with beside(store_again, lambda: check(place, {0: False, 16: False})):
        check(place, {0: True, 16: True})
        revoke_painted(arena, value)
        check(place, {0: False, 16: False})


@EACH_KIND
@emulated(scope="machine")
def test_a_childs_stored_copy_is_not_destroyed_by_its_parent(kind: str, machine: Machine) -> None:
    """The second history. What the child has copied by its fork is the child's, also where both can reach it."""
    arena, place = anonymous(), KINDS[kind]()
    value = as_freed(arena)
    arena.store_capability(512, value)

    def store_copy() -> None:
        place.store_capability(0, value)
        place.store_capability(16, arena.load_capability(512))

    with beside(store_copy, lambda: check(place, {0: True, 16: True})):
        revoke_painted(arena, value)
        assert not value.tag
        assert sum(each.tag_count for each in machine.objects()) == 2


@EACH_KIND
@emulated(scope="machine")
def test_a_value_from_before_a_fork_never_leads_to_what_the_child_has_revoked(kind: str, machine: Machine) -> None:
    """The third history. It stays good for the parent; the child, and its children, load it untagged, and are told."""
    arena, place = anonymous(), KINDS[kind]()
    value, other = as_freed(arena), as_freed(arena + 64)
    place.store_capabilities(0, [value, other])

    def body() -> list[bool]:
        found = [place.load_capability(0).tag]
        revoke_painted(arena, value)
        found += tags(place, 0, 16)
        found += [bool(tag) for tag in place.load_capabilities(0, 2).tags]
        place.copy_to(arena + 512, 32)
        found += tags(arena, 512, 528)
        found += ask_child(lambda: tags(place, 0, 16))
        machine.processes()  # any request
        return found

    assert ask_child(body) == [True, *[False, True] * 4]
    check(place, {0: True, 16: True})
    told = [(each.event, each.allowed, each.message) for each in machine.audit() if each.rule == "cheribsd:2.6"]
    assert told == [("refused_loads", False, "loads of others' capabilities whose bases it has had revoked: 3")]


@emulated(scope="machine")
def test_every_way_carries_the_origin() -> None:
    """Whatever a process makes of somebody else's value, it goes with it: derived, copied, gathered, queued, moved."""
    arena = anonymous(length=4 * PAGE)
    place, far = share_cap(), share_cap()
    value = as_freed(arena, 64)
    place.store_capability(0, value)
    descriptor = new_object("share-cap")
    whole = shared(descriptor)
    whole.store_capability(0, value)
    view = private(descriptor, bsd.PROT_READ | bsd.PROT_WRITE)
    held: list[Capability] = []
    queues: list[bsd.KQueue] = []

    def use() -> None:
        loaded = place.load_capability(0)
        array = CapabilityArray.of([loaded, arena])
        far.store_capabilities(0, array)
        far.fill_capabilities(64, 3, loaded)
        place.copy_to(far + 256, 16)
        queues.append(bsd.kqueue())
        queues[0].register(1, loaded)
        arena.store_capability(PAGE, loaded)
        (arena + PAGE).copy_to(arena + 2 * PAGE, 16)
        view.write(64, b"!")  # the page becomes this process's own
        held.extend([loaded, loaded + 16, loaded.with_bounds(16), array[0], *place.load_capabilities(0, 1)])

    def look() -> None:
        assert [each.tag for each in held] == [False] * len(held)
        check(arena, {PAGE: False, 2 * PAGE: False})
        check(far, {0: False, 16: True, 64: False, 80: False, 96: False, 256: False})
        check(view, {0: False})
        assert [each.tag for _, each in queues[0].collect()] == [False]

    with beside(use, look):
        revoke_painted(arena, value)


@emulated(scope="machine")
def test_who_sleeps_loses_what_was_revoked_meanwhile_and_no_more() -> None:
    """A sleeper sweeps after its origin has cleared the paint, painted and stored anew at the same place, and more."""
    arena, place = anonymous(length=2 * PAGE), share_cap()
    values = [as_freed(arena + 64 * number) for number in range(4)]
    place.store_capabilities(0, values)
    mine = as_freed(arena + 64 * 2)

    def sleep() -> None:
        held = place.load_capabilities(0, 4)
        arena.store_capabilities(PAGE, held)
        arena.store_capability(PAGE + 64, mine)
        stop_here()
        assert held.tags == b"\0\1\0\1"
        check(arena, {PAGE: False, PAGE + 16: True, PAGE + 32: False, PAGE + 48: True, PAGE + 64: True})
        check(place, {0: True, 16: True, 32: False, 48: True})

    with Child(sleep) as child:
        assert child.wait_stopped()
        revoke_painted(arena, values[0])
        revoke_painted(arena, values[2])
        values[0] = as_freed(arena)
        place.store_capability(0, values[0])  # the memory is used again
        shadow = shadow_of(arena)
        shadow.paint(values[3])  # and not revoked
        child.resume()
        assert child.wait() == 0


@emulated(scope="machine")
def test_a_dead_origin_takes_its_values_along(machine: Machine) -> None:
    """What belongs to an address space that is gone goes with the next pass, whoever makes it; nothing else does."""
    arena, place = anonymous(), share_cap()
    kept = as_freed(arena + 64)
    place.store_capability(16, kept)

    def leave() -> None:
        place.store_capability(0, as_freed(arena))

    with Child(leave) as child:
        assert child.wait() == 0
    held = place.load_capability(0)
    arena.store_capability(512, held)
    check_tags([held], [True])
    wait_until(lambda: [each.pid for each in machine.processes()] == [os.getpid()])
    revoke()
    check_tags([held, kept], [False, True])
    check(arena, {512: False})
    check(place, {0: False, 16: True})


@emulated(scope="machine")
def test_who_sleeps_over_an_origins_revocation_and_death_loses_its_values(machine: Machine) -> None:
    """Nobody can tell any more what was revoked, so nothing stays."""
    arena, place = anonymous(), share_cap()
    stored, revoked = Event(), Event()

    def store() -> None:
        value = as_freed(arena)
        place.store_capability(0, value)
        stored.set()
        revoked.wait()
        revoke_painted(arena, value)

    def sleep() -> None:
        held = place.load_capability(0)
        check_tags([held], [True])
        stop_here()
        check_tags([held], [False])

    with Child(store) as origin:
        stored.wait()
        with Child(sleep) as sleeper:
            assert sleeper.wait_stopped()
            revoked.set()
            assert origin.wait() == 0
            wait_until(lambda: origin.pid not in [each.pid for each in machine.processes()])
            ask_child(lambda: None)  # whose record may be that of the dead
            sleeper.resume()
            assert sleeper.wait() == 0
    stored.close()
    revoked.close()


@emulated(scope="machine")
def test_a_reservation_that_leaves_quarantine_leaves_others_too() -> None:
    """2.3: its capabilities go with it, those with SW_VMEM as well, and so do those that others have."""
    place = share_cap()
    gone, kept = anonymous(), anonymous()
    place.store_capabilities(0, [gone, kept])
    held: list[Capability] = []

    def take() -> None:
        held.extend(place.load_capabilities(0, 2))

    with beside(take, lambda: check_tags(held, [False, True])):
        shadow_of(kept)
        bsd.munmap(gone, PAGE)
        revoke()
        check(place, {0: False, 16: True})


def check_tags(held: list[Capability], expected: list[bool]) -> None:
    """These registers have their tags, or not."""
    assert [each.tag for each in held] == expected


@emulated(scope="machine")
def test_paint_does_not_take_what_may_change_mappings() -> None:
    """2.3: SW_VMEM protects others' copies from paint as it protects one's own."""
    place, arena = share_cap(), anonymous()
    place.store_capability(0, arena)
    held: list[Capability] = []
    with beside(lambda: held.append(place.load_capability(0)), lambda: check_tags(held, [True])):
        revoke_painted(arena, as_freed(arena))
        check(place, {0: True})


@emulated(scope="machine")
def test_a_pass_takes_only_what_belongs_to_its_members(machine: Machine) -> None:
    """What others have painted stays until they have it revoked, or all are: Machine.revoke."""
    arena, place = anonymous(), share_cap()
    value = as_freed(arena)
    place.store_capability(0, value)
    shadow_of(arena).paint(value)

    def revoke_something_else() -> None:
        shadow_of(arena).clear(value)
        revoke()

    ask_child(revoke_something_else)
    check(place, {0: True})
    machine.revoke()
    check(place, {0: False})


@emulated(scope="machine")
def test_a_new_program_is_a_new_origin(machine: Machine) -> None:
    """What the process that became it has stored goes as that of one that is gone."""
    arena, place = anonymous(), share_cap()
    descriptor = new_object()

    def become() -> None:
        place.store_capability(0, as_freed(arena))
        run_program(machine, "is_open", descriptor, are_closed=False)

    ask_child(become)
    wait_until(lambda: [each.pid for each in machine.processes()] == [os.getpid()])
    check(place, {0: True})
    revoke()
    check(place, {0: False})


@emulated(scope="machine")
def test_a_staged_copy_is_the_childs_but_for_what_is_others() -> None:
    """INHERIT_COPY of an object: its owner's values become the child's, those of others stay theirs."""
    arena, place, memory = anonymous(), share_cap(), share_cap()
    place.store_capability(0, as_freed(arena))

    def body() -> None:
        own, others = as_freed(arena + 64), place.load_capability(0)
        memory.store_capabilities(0, [own, others])
        bsd.minherit(memory, PAGE, bsd.INHERIT_COPY)
        with beside(lambda: check(memory, {0: True, 16: True}), lambda: check(memory, {0: True, 16: False})):
            revoke_painted(arena, own)
            go.set()
            revoked.wait()

    go, revoked = Event(), Event()
    with Child(body) as child:
        go.wait()
        revoke_painted(arena, as_freed(arena))
        revoked.set()
        assert child.wait() == 0
    go.close()
    revoked.close()
