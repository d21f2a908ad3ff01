"""cheribsd:2 and 3.7: clocks, passes, what they reach, and what forks and new programs make of them."""

import errno
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from capshm import Capability, CapshmError, Machine
from capshm import cheribsd as bsd
from tests.conformance.cheribsd.revocation import (
    ASYNC,
    IGNORE,
    LAST,
    as_freed,
    info,
    revoke,
    revoke_painted,
    run_library,
    shadow_of,
)
from tests.conformance.cheribsd.support import (
    PAGE,
    RC,
    RWC,
    anonymous,
    check_stripped,
    check_tagged,
    emulated,
    new_object,
    private,
    receive_descriptor,
    receiver,
    refused,
    run_program,
    send_descriptor,
    shared,
)
from tests.faults.processes import Child, Event, ask_child

pytestmark = pytest.mark.slow
_ROOT = Path(__file__).resolve().parents[3]


@emulated()
def test_row_73_lightly() -> None:
    """73: a pass takes a value from memory and kqueue events; what is not painted survives an epoch that is split."""
    memory = anonymous()
    value = as_freed(memory)
    queue = bsd.kqueue()
    memory.store_capability(16, value)
    for ident in (1, 2):
        queue.register(ident, value)
    clock = info()
    shadow = shadow_of(memory)
    shadow.paint(value)
    assert revoke().epochs == (clock.enqueue, clock.dequeue) == (2, 2)
    assert not value.tag
    assert [(ident, held.tag) for ident, held in queue.collect()] == [(1, False), (2, False)]
    check_stripped(memory, as_freed(memory), 16)
    assert memory.tag
    shadow.clear(value)
    value = as_freed(memory)
    memory.store_capability(16, value)
    queue.register(1, value)
    opened = bsd.cheri_revoke(IGNORE)
    assert opened.epochs == (clock.enqueue, clock.dequeue) == (3, 2)
    assert revoke().epochs == (4, 4)
    assert [held.tag for _, held in queue.collect()] == [True, False]
    check_tagged(memory, value, 16)


@emulated()
def test_row_75_async() -> None:
    """75: ASYNC returns with the epoch open; the broker closes it, and then what was painted is gone."""
    memory = anonymous()
    value = as_freed(memory)
    memory.store_capability(0, value)
    clock = info()
    before = clock.dequeue
    shadow_of(memory).paint(value)
    assert bsd.cheri_revoke(ASYNC, before).epochs == (before + 1, before)
    while clock.dequeue == before:
        os.sched_yield()
    assert (clock.enqueue, clock.dequeue) == (before + 2, before + 2)
    assert not value.tag
    check_stripped(memory, as_freed(memory))
    assert bsd.cheri_revoke(ASYNC, before).epochs == (before + 2, before + 2)


@pytest.mark.parametrize("is_split", [False, True])
@emulated()
def test_row_77_library(is_split: bool) -> None:
    """77: exactly the painted chunk's values are revoked, none below or above, in one pass and in split ones."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    run_library(seed, is_split=is_split)


@emulated()
def test_row_78_library_in_a_child() -> None:
    """78: the same in a forked child, and what the child paints and revokes is the child's alone."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    memory = anonymous()
    value = as_freed(memory)
    memory.store_capability(0, value)
    ask_child(lambda: (run_library(seed, is_split=False), revoke_painted(memory, value)))
    check_tagged(memory, value)


def _check_program(output: bytes, status: int) -> None:
    assert (status, output.strip()) == (0, b"[[0, 0], true]")


def _command(*, is_split: bool) -> list[str]:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    module = "tests.conformance.cheribsd.programs"
    return [sys.executable, "-W", "error", "-m", module, "revoke_library", f"[{seed}, {str(is_split).lower()}]"]


def _exec_in_child(machine: Machine, command: list[str]) -> None:
    read, write = os.pipe()

    def body() -> None:
        os.chdir(_ROOT)
        os.dup2(write, 1)
        os.execve(sys.executable, command, os.environ | {"CAPSHM_MACHINE": machine.name})

    with Child(body) as child:
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            output = pipe.read()
        _check_program(output, child.wait())


def _spawn(machine: Machine, command: list[str]) -> None:
    """By vfork, as subprocess does."""
    with machine.spawn(command, cwd=_ROOT, stdout=subprocess.PIPE) as program:
        output, _ = program.communicate()
    _check_program(output, program.returncode)


def _posix_spawn(machine: Machine, command: list[str]) -> None:
    os.chdir(_ROOT)
    read, write = os.pipe()
    environment = os.environ | {"CAPSHM_MACHINE": machine.name}
    pid = os.posix_spawn(sys.executable, command, environment, file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)])
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        output = pipe.read()
    _check_program(output, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


@emulated()
def test_row_80_fork_and_exec_once(machine: Machine) -> None:
    """80: a forked child that becomes a new program finds its clock at zero, and revokes in one pass."""
    _exec_in_child(machine, _command(is_split=False))


@emulated()
def test_row_81_fork_and_exec_split_after_a_revocation(machine: Machine) -> None:
    """81: so it does after a revocation of the parent, and in split passes."""
    revoke()
    assert info().dequeue == 2
    _exec_in_child(machine, _command(is_split=True))


@emulated()
def test_row_84_vfork_and_exec(machine: Machine) -> None:
    """84: the same through vfork."""
    _spawn(machine, _command(is_split=False))


@emulated()
def test_row_86_vfork_and_exec_with_an_open_epoch(machine: Machine) -> None:
    """86: and while an epoch is open in the parent, which stays open there."""
    bsd.cheri_revoke(IGNORE)
    _spawn(machine, _command(is_split=False))
    assert (info().enqueue, info().dequeue) == (1, 0)


@emulated()
def test_row_87_posix_spawn_split(machine: Machine) -> None:
    """87: and through posix_spawn, in split passes."""
    _posix_spawn(machine, _command(is_split=True))


@emulated()
def test_row_88_posix_spawn_after_a_revocation(machine: Machine) -> None:
    """88: and through posix_spawn after a revocation of the parent."""
    revoke()
    _posix_spawn(machine, _command(is_split=False))


@emulated()
def test_F22_a_new_program_begins_at_zero(machine: Machine) -> None:
    """F22: whatever the clock of the process was, that of its new program is at rest at zero."""
    assert [revoke().epochs.dequeue for _ in range(2)] == [2, 4]
    assert run_program(machine, "epochs") == [0, 0]


@emulated()
def test_F24_an_open_epoch_is_inherited() -> None:
    """F24: the child finishes the epoch for itself; the parent's stays open."""
    memory = anonymous()
    value = as_freed(memory)
    memory.store_capability(0, value)
    shadow = shadow_of(memory)
    shadow.paint(value)
    assert bsd.cheri_revoke(IGNORE).epochs == (1, 0)

    def body() -> None:
        assert (info().enqueue, info().dequeue) == (1, 0)
        assert shadow.is_painted(value.base)
        assert revoke().epochs == (2, 2)
        assert not value.tag
        check_stripped(memory, as_freed(memory))

    ask_child(body)
    assert (info().enqueue, info().dequeue) == (1, 0)
    check_tagged(memory, value)
    assert revoke().epochs == (2, 2)
    assert not value.tag


@emulated()
def test_paint_of_a_child_is_its_own() -> None:
    """2.6: shadows are copied by fork; what is painted or cleared in one is not so in the other."""
    memory = anonymous()
    shadow = shadow_of(memory)
    shadow.paint(memory.with_bounds(16))

    def body() -> None:
        assert [shadow.is_painted(memory.base + offset) for offset in (0, 16)] == [True, False]
        shadow.clear(memory.with_bounds(16))
        shadow.paint((memory + 16).with_bounds(16))

    ask_child(body)
    assert [shadow.is_painted(memory.base + offset) for offset in (0, 16)] == [True, False]


@emulated()
def test_copies_of_a_page_are_swept_each_by_its_own() -> None:
    """2.4, 2.6: a page that fork has copied loses its tags in the process that revokes, and in no other."""
    memory = anonymous()
    value = as_freed(memory)
    memory.store_capability(0, value)

    def look(end: socket.socket) -> None:
        end.recv(1)
        check_tagged(memory, value)

    with receiver(look) as end:
        revoke_painted(memory, value)
        assert not value.tag
        end.send(b"!")


@emulated()
def test_read_only_pages_are_swept() -> None:
    """2.4: what may not be written any more is swept all the same."""
    memory = anonymous()
    other = anonymous()
    value, kept = as_freed(other), as_freed(other + 16)
    memory.store_capabilities(0, [value, kept])
    bsd.mprotect(memory, PAGE, bsd.PROT_READ)
    revoke_painted(other, value)
    check_stripped(memory, as_freed(other))
    check_tagged(memory, kept, 16)


@emulated()
def test_private_views_of_another_owners_object_are_swept() -> None:
    """2.4, 2.6: a child that sees its parent's object by MAP_PRIVATE loses its view of a value, the parent does not."""
    descriptor = new_object()
    memory = shared(descriptor)
    view = private(descriptor)
    value = as_freed(memory)
    memory.store_capability(0, value)
    check_tagged(view, value)

    def body() -> None:
        check_tagged(view, value)
        revoke_painted(memory, value)
        check_stripped(view, as_freed(memory))

    ask_child(body)
    check_tagged(memory, value)
    check_tagged(view, value)


# What is revoked (2.3)


@emulated()
def test_2_3_the_base_decides() -> None:
    """2.3: a pointer out of its bounds goes with its base; one into painted memory with its base elsewhere stays."""
    memory = anonymous()
    outside = as_freed(memory) + 64
    into = as_freed(memory + 128, 64)
    around = as_freed(memory, 256)
    sealed = as_freed(memory).seal_entry()
    shadow = shadow_of(memory)
    shadow.paint((memory + 16).with_bounds(112))
    revoke()
    assert (outside.tag, into.tag, around.tag, sealed.tag) == (True, True, True, True)
    shadow.paint(memory.with_bounds(16))
    revoke()
    assert (outside.tag, into.tag, around.tag, sealed.tag) == (False, True, False, False)
    assert memory.tag


# The arguments of the calls (2.1)


@emulated()
def test_2_1_refusals() -> None:
    """2.1: flags and arenas that are wrong are refused, and nothing is changed."""
    memory = anonymous()
    for flags in (ASYNC | LAST, 0x2, 0x100):
        with refused("cheribsd:2.1", errno.EINVAL):
            bsd.cheri_revoke(flags)
    for arena, number in ((memory.without_tag(), errno.EINVAL), ((memory + 16).with_bounds(128), errno.EINVAL)):
        with refused("cheribsd:2.1", number):
            shadow_of(arena)
    with refused("cheribsd:2.1", errno.EPERM):
        shadow_of(as_freed(memory, 128))
    for selector, number in ((bsd.CHERI_REVOKE_SHADOW_OTYPE, errno.ENOSYS), (2, errno.EINVAL)):
        with refused("cheribsd:2.1", number):
            bsd.cheri_revoke_get_shadow(selector, memory)
    with refused("cheribsd:2.1", errno.EINVAL):
        bsd.cheri_revoke_get_shadow(bsd.CHERI_REVOKE_SHADOW_NOVMEM)
    assert (info().enqueue, info().dequeue) == (0, 0)


# Quarantined reservations


@emulated()
def test_row_52_and_90_reservations_in_quarantine(machine: Machine) -> None:
    """52, 90: what a revoking process unmaps keeps its place until a pass; the largest goes first, SW_VMEM or not."""
    shadow_of(anonymous())
    small, large = anonymous(), bsd.mmap(None, 4 << 30, RWC, bsd.MAP_ANON | bsd.MAP_PRIVATE)
    inner = as_freed(large)
    for memory in (small, large):
        bsd.munmap(memory, memory.length)
        with refused("cheribsd:C12", errno.ENOMEM):
            bsd.mmap(memory, PAGE, RWC, bsd.MAP_ANON | bsd.MAP_PRIVATE | bsd.MAP_FIXED)

    def quarantined() -> list[int]:
        return [each.start for each in machine.mappings(os.getpid()) if each.is_quarantined]

    assert quarantined() == [small.base, large.base]
    revoke()
    assert quarantined() == [small.base]
    assert (large.tag, inner.tag, small.tag) == (False, False, True)
    revoke()
    assert quarantined() == []
    assert not small.tag


@emulated()
def test_C12_quarantine_keeps_the_place() -> None:
    """C12: neither the stale pointer nor a number maps there, nor is it unmapped again."""
    shadow_of(anonymous())
    memory = anonymous()
    bsd.munmap(memory, PAGE)
    for address in (memory, memory.address):
        with refused("cheribsd:C12", errno.ENOMEM):
            bsd.mmap(address, PAGE, RWC, bsd.MAP_ANON | bsd.MAP_PRIVATE | bsd.MAP_FIXED)
    with refused("cheribsd:C15", bsd.EPROT):
        bsd.munmap(memory, PAGE)
    revoke()
    again = bsd.mmap(memory.address, PAGE, RWC, bsd.MAP_ANON | bsd.MAP_PRIVATE | bsd.MAP_FIXED)
    assert (again.tag, memory.tag) == (True, False)


@emulated()
def test_C13_without_quarantine() -> None:
    """C13: in a process that does not revoke the place is free, and the stale pointer authorises nothing."""
    memory = anonymous()
    bsd.munmap(memory, PAGE)
    with refused("cheribsd:C13", bsd.EPROT):
        bsd.mmap(memory, PAGE, RWC, bsd.MAP_ANON | bsd.MAP_PRIVATE | bsd.MAP_FIXED)


@pytest.mark.parametrize("is_revoking", [False, True])
@emulated()
def test_C14_a_stale_pointer_is_no_hint(is_revoking: bool) -> None:
    """C14: without MAP_FIXED it is refused as C8 refuses any tagged pointer."""
    memory = anonymous()
    if is_revoking:
        shadow_of(anonymous())
    bsd.munmap(memory, PAGE)
    with refused("cheribsd:C8", bsd.EPROT):
        bsd.mmap(memory, PAGE, RWC, bsd.MAP_ANON | bsd.MAP_PRIVATE)


@emulated()
def test_I9_inheritance_in_quarantine() -> None:
    """I9: minherit of what is in quarantine is refused."""
    shadow_of(anonymous())
    memory = anonymous()
    bsd.munmap(memory, PAGE)
    for inherit in (bsd.INHERIT_COPY, bsd.INHERIT_NONE, bsd.INHERIT_ZERO):
        with refused("cheribsd:I9", errno.EACCES):
            bsd.minherit(memory, PAGE, inherit)


@emulated()
def test_F11_quarantine_is_inherited(machine: Machine) -> None:
    """F11: what is in quarantine is so in the child, which releases its own."""
    shadow_of(anonymous())
    memory = anonymous()
    bsd.munmap(memory, PAGE)

    def body() -> None:
        with refused("cheribsd:C12", errno.ENOMEM):
            bsd.mmap(memory, PAGE, RWC, bsd.MAP_ANON | bsd.MAP_PRIVATE | bsd.MAP_FIXED)
        revoke()
        assert not memory.tag
        bsd.mmap(memory.address, PAGE, RWC, bsd.MAP_ANON | bsd.MAP_PRIVATE | bsd.MAP_FIXED)

    ask_child(body)
    assert memory.tag
    assert [each.start for each in machine.mappings(os.getpid()) if each.is_quarantined] == [memory.base]


# Who revokes (2.7, 3.8)


@emulated()
def test_row_97_baseline(machine: Machine) -> None:
    """97: a program without note revokes what it frees."""
    assert run_program(machine, "is_revoking") is True


@emulated()
def test_row_98_note_says_no(machine: Machine) -> None:
    """98: its note switches that off."""
    assert run_program(machine, "is_revoking", "note off") is False


@emulated()
def test_row_99_note_says_yes(machine: Machine) -> None:
    """99: or on."""
    assert run_program(machine, "is_revoking", "note on") is True


@emulated()
def test_row_101_control_before_note(machine: Machine) -> None:
    """101: procctl decides before the note."""
    assert run_program(machine, "is_revoking", "note on", "control off") is False


@emulated()
def test_row_94_malloc_revoke() -> None:
    """94: what is freed keeps its tag, in a register and in memory, until it is revoked; then its place is free."""
    keeper, freed = bsd.malloc(64), bsd.malloc(64)
    keeper.store_capabilities(0, [freed, keeper])
    bsd.free(freed)
    assert keeper.load_capability(0).tag
    bsd.malloc_revoke()
    assert (freed.tag, keeper.load_capability(0).tag, keeper.tag) == (False, False, True)
    check_tagged(keeper, keeper, 16)
    assert freed.base in {bsd.malloc(64).base for _ in range(2)}


@emulated()
def test_a_churn_runs_passes() -> None:
    """2.7: allocations run passes when a quarter of the heap waits; a stale pointer never meets memory used again."""
    stale: dict[int, list[Capability]] = {}
    for _ in range(2500):
        pointer = bsd.malloc(16 << 10)
        assert not any(each.tag for each in stale.get(pointer.base, []))
        stale.setdefault(pointer.base, []).append(pointer)
        bsd.free(pointer)
    assert info().dequeue >= 4


@emulated()
def test_a_child_revokes_its_own_quarantine() -> None:
    """2.6, 2.7: parent and child have the same memory in quarantine; what one revokes the other still has."""
    keeper, freed = bsd.malloc(64), bsd.malloc(64)
    keeper.store_capability(0, freed)
    bsd.free(freed)

    def body() -> None:
        bsd.malloc_revoke()
        assert not keeper.load_capability(0).tag

    ask_child(body)
    assert keeper.load_capability(0).tag
    bsd.malloc_revoke()
    assert not keeper.load_capability(0).tag


@emulated()
def test_frees_after_a_revocation() -> None:
    """2.7: a double free, and a free of what lies inside, is refused after the revocation as before it."""
    freed, other = bsd.malloc(64), bsd.malloc(64)
    inside = (freed + 16).with_bounds(16)
    bsd.free(freed)
    for is_revoked in (False, True):
        for each in (freed, inside):
            assert each.tag is not is_revoked
            with pytest.raises(CapshmError, match="abort"):
                bsd.free(each)
        bsd.malloc_revoke()
    again = {bsd.malloc(64).base: each for each in range(2)}
    assert freed.base in again
    with pytest.raises(CapshmError, match="no tag"):
        bsd.free(freed)  # though somebody else's memory begins there now
    bsd.free(other)


@emulated()
def test_forks_with_a_full_quarantine() -> None:
    """2.6, 2.7: several processes with the same quarantine revoke it at once, each its own, and lose nothing else."""
    keeper = bsd.malloc(4096)
    pointers = [bsd.malloc(64) for _ in range(256)]
    keeper.store_capabilities(0, pointers)
    for pointer in pointers[::2]:
        bsd.free(pointer)

    def flush() -> None:
        bsd.malloc_revoke_quarantine_force_flush()
        tags = bytes(number % 2 for number in range(256))
        assert bytes(pointer.tag for pointer in pointers) == tags
        assert keeper.load_capabilities(0, 256).tags == tags

    children = [Child(flush) for _ in range(3)]
    assert all(pointer.tag for pointer in pointers)
    flush()
    assert [child.wait() for child in children] == [0, 0, 0]


# Hoards (1.J)


@emulated()
def test_row_92_unmapped_hoard() -> None:
    """92: a value that hides in an object that is mapped nowhere is revoked; the second mapping has PROT_CAP."""
    value, kept = bsd.malloc(64), bsd.malloc(64)
    bits = value.without_tag()
    descriptor = new_object()
    hoard = shared(descriptor)
    hoard.store_capabilities(0, [value, kept])
    bsd.munmap(hoard, PAGE)
    bsd.free(value)
    bsd.malloc_revoke_quarantine_force_flush()
    again = shared(descriptor, RWC)
    loaded = again.load_capability(0)
    assert not loaded.tag
    assert loaded == bits
    check_tagged(again, kept, 16)


@emulated()
def test_J1_all_of_an_object(machine: Machine) -> None:
    """J1: every object that the address space owns is swept as a whole, pages that were never mapped included."""
    arena = anonymous()
    value = as_freed(arena)
    kept = as_freed(arena + 16)
    descriptors = [new_object("shm", 64 * PAGE), new_object("memfd", 64 * PAGE)]
    for descriptor in descriptors:
        for page in (0, 17, 63):
            hoard = bsd.mmap(None, PAGE, RWC, bsd.MAP_SHARED, descriptor, page * PAGE)
            hoard.store_capability(0, value)
            hoard.store_capability(16, kept)
            bsd.munmap(hoard, PAGE)
    assert [each.tag_count for each in machine.objects()] == [6, 6]
    revoke_painted(arena, value)
    assert [each.tag_count for each in machine.objects()] == [3, 3]
    for descriptor in descriptors:
        hoard = shared(descriptor, RWC, 64 * PAGE)
        tags = [hoard.load_capability(page * PAGE + offset).tag for page in (0, 17, 63) for offset in (0, 16)]
        assert tags == [False, True] * 3


@emulated()
def test_J2_nothing_stays_mapped(machine: Machine) -> None:
    """J2: a pass leaves the address space as it was."""
    arena = anonymous()
    hoard = shared(new_object())
    hoard.store_capability(0, as_freed(arena))
    shadow_of(arena)

    def seen() -> tuple[object, int]:
        return machine.mappings(os.getpid()), Path("/proc/self/maps").read_text(encoding="utf-8").count("capshm-tags")

    before = seen()
    revoke()
    assert seen() == before


@emulated()
def test_J5_closed_hoard_in_flight() -> None:
    """J5: an object whose only descriptor lies in a socket's queue is swept."""
    arena = anonymous()
    value, kept = as_freed(arena), as_freed(arena + 16)
    asked = Event()

    def receive_and_return(end: socket.socket) -> None:
        asked.wait()
        send_descriptor(end, receive_descriptor(end))

    with receiver(receive_and_return) as end:  # which has no descriptor of what is made after it
        descriptor = new_object()
        hoard = shared(descriptor)
        hoard.store_capabilities(0, [value, kept])
        bsd.munmap(hoard, PAGE)
        send_descriptor(end, descriptor)
        os.close(descriptor)
        revoke_painted(arena, value)
        asked.set()
        returned = receive_descriptor(end)
    again = shared(returned, RWC)
    check_stripped(again, as_freed(arena))
    check_tagged(again, kept, 16)


@emulated()
def test_J6_another_owners_object(machine: Machine) -> None:
    """J6: an object that is mapped here without CAP is swept by its owner, and not by this address space."""
    descriptor = new_object()
    hoard = shared(descriptor)
    value = as_freed(hoard)
    hoard.store_capability(0, value)

    def body() -> None:
        memory = shared(descriptor, bsd.PROT_READ)
        revoke_painted(hoard, value)
        assert not memory.load_capability(0).tag

    ask_child(body)
    assert [each.tag_count for each in machine.objects()] == [1]
    check_tagged(hoard, value)


@emulated()
def test_J7_dead_owner(machine: Machine) -> None:
    """J7: what a dead owner has left is swept by nobody, and reachable by nobody."""
    with receiver(_leave_hoard) as end:
        descriptor = receive_descriptor(end)
    with refused("cheribsd:E2", errno.EACCES):
        shared(descriptor, RC)
    revoke()
    assert [each.tag_count for each in machine.objects()] == [1]


def _leave_hoard(end: socket.socket) -> None:
    descriptor = new_object()
    hoard = shared(descriptor)
    hoard.store_capability(0, as_freed(hoard))
    send_descriptor(end, descriptor)


@emulated()
def test_J4_share_cap_objects_are_not_swept(machine: Machine) -> None:
    """J4: not even a share-cap object of which the address space is the only user."""
    arena = anonymous()
    value = as_freed(arena)
    shared(new_object("share-cap")).store_capability(0, value)
    revoke_painted(arena, value)
    assert [each.tag_count for each in machine.objects()] == [1]


@emulated()
def test_X20_share_cap_hoard() -> None:
    """X20: a value that hides in an unmapped O_SHARECAP object survives: upstream's documented hole."""
    arena = anonymous()
    value = as_freed(arena)
    descriptor = new_object("share-cap")
    hoard = shared(descriptor)
    hoard.store_capability(0, value)
    bsd.munmap(hoard, PAGE)
    revoke_painted(arena, value)
    assert not value.tag
    assert shared(descriptor).load_capability(0).tag


@emulated()
def test_page_states_by_mincore() -> None:
    """2.4: a page is cap-dirty, then idle after a pass that found no tag, then clean; a store makes it dirty again."""
    memory, other = anonymous(), anonymous()
    value = as_freed(memory)

    def is_capstore() -> bool:
        return bool(bsd.mincore(memory, PAGE)[0] & bsd.MINCORE_CAPSTORE)

    memory.store_capability(0, value)
    revoke()
    revoke()
    assert is_capstore()
    revoke_painted(memory, value)
    assert is_capstore()
    revoke()
    assert not is_capstore()
    memory.store_capability(0, as_freed(other))
    assert is_capstore()


@emulated()
def test_2_8_statistics() -> None:
    """2.8: what was found and cleared, in memory, objects and registers; taking the statistics zeroes them."""
    memory = anonymous()
    value = as_freed(memory)
    memory.store_capability(0, value)
    shared(new_object()).store_capability(0, value)
    shadow = shadow_of(memory)
    bsd.cheri_revoke(LAST | IGNORE | bsd.CHERI_REVOKE_TAKE_STATS)
    shadow.paint(value)
    found = revoke().statistics
    assert found.caps_cleared == found.caps_found_revoked == 3
    assert found.caps_found > 3
    assert bsd.cheri_revoke(bsd.CHERI_REVOKE_TAKE_STATS, 0).statistics == found
    assert bsd.cheri_revoke(0, 0).statistics == bsd.Statistics()
