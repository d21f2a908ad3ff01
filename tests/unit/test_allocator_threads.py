"""malloc by several threads at once, among forks, and where signal handlers raise or allocate."""

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import pytest

import capshm
from capshm import Capability, CapshmError
from capshm import cheribsd as bsd
from capshm._native import ffi, lib
from capshm.capability import untagged
from capshm.cheribsd import quarantine
from tests.conformance.cheribsd.support import emulated
from tests.faults.forks import fork_among_threads
from tests.faults.isolation import isolated
from tests.faults.processes import Child
from tests.faults.revoking import revoke
from tests.unit.heap_scene import LARGE, own_mappings, reuse_at_once

pytestmark = pytest.mark.slow


def in_threads(*bodies: Callable[[], object]) -> None:
    """Run them at the same time; raises what one of them has raised."""
    with ThreadPoolExecutor(len(bodies)) as pool:
        for running in [pool.submit(body) for body in bodies]:
            running.result()


def churn(rounds: int, mark: int, least: int = 16) -> None:
    """Allocate, mark, check and free; least: bytes."""
    held: list[Capability] = []
    for number in range(rounds):
        pointer = bsd.malloc(least + 48 * (number % 40))
        assert pointer.tag
        pointer.write(0, mark.to_bytes(8, "little") + pointer.base.to_bytes(8, "little"))
        held.append(pointer)
        if len(held) > 64:
            old = held.pop(number % 64)
            assert old.read(0, 16) == mark.to_bytes(8, "little") + old.base.to_bytes(8, "little")
            bsd.free(old)
    for pointer in held:
        assert pointer.read(0, 8) == mark.to_bytes(8, "little")
        bsd.free(pointer)


@pytest.mark.parametrize("is_quarantining", [False, True])
@emulated()
def test_two_threads(is_quarantining: bool) -> None:
    """No two of them get the same memory, and in the end all of it is back."""
    if is_quarantining:
        quarantine.revoke_by(revoke)
    else:
        reuse_at_once()
    bsd.free(bsd.malloc(LARGE))
    in_threads(*(lambda mark=mark: churn(4000, mark) for mark in (1, 2)))
    bsd.malloc_revoke()
    assert quarantine.statistics()[:2] == (0, 0)


@pytest.mark.parametrize("is_quarantining", [False, True])
@emulated()
def test_threads_that_map_and_unmap(machine: capshm.Machine, is_quarantining: bool) -> None:
    """In the end what is live is mapped as it was, and nothing else."""
    if is_quarantining:
        quarantine.FLOOR = 1 << 20  # bytes, in place of 8 MiB, so that allocations run passes
        quarantine.revoke_by(revoke)
    else:
        reuse_at_once()
    kept = [bsd.malloc(LARGE) for _ in range(8)]
    for pointer in kept:
        pointer.write(0, b"kept")
    before = machine.mappings(os.getpid())
    assert {each.start for each in before} == {pointer.base for pointer in kept}
    in_threads(*(lambda mark=mark: churn(400, mark, LARGE) for mark in (1, 2, 3)))
    bsd.malloc_revoke()
    assert machine.mappings(os.getpid()) == before
    assert all(pointer.read(0, 4) == b"kept" for pointer in kept)


@emulated()
def test_a_mapping_that_is_freed_while_another_is_unmapped(machine: capshm.Machine) -> None:
    """Each is given to one caller alone, and what that one ends is the one that it was given."""
    reuse_at_once()
    before = own_mappings(machine)
    mapping = ffi.new("uint32_t *")

    def free_and_begin(pointer: Capability) -> tuple[Capability, int]:
        assert lib.capshm_allocator_give_back(pointer._register) == lib.STATUS_MEMORY_UNUSED
        memory = untagged(0, 0)
        assert not lib.capshm_allocator_begin_unmap(memory._register, mapping)
        assert memory.base == pointer.base
        return memory, mapping[0]

    (first, its), (_, others) = [free_and_begin(each) for each in (bsd.malloc(LARGE), bsd.malloc(LARGE))]
    assert lib.capshm_allocator_begin_unmap(untagged(0, 0)._register, mapping) == lib.STATUS_NOT_ALLOCATED
    bsd.munmap(first, first.length)
    assert not lib.capshm_allocator_end_unmap(its, True)
    assert not lib.capshm_allocator_end_unmap(others, False)  # it could not be unmapped
    for ended in (its, others, (1 << 32) - 1):
        assert lib.capshm_allocator_end_unmap(ended, True) == lib.STATUS_INVALID
    assert own_mappings(machine) == before + 1
    bsd.free(bsd.malloc(LARGE))  # and then the other is unmapped too
    assert own_mappings(machine) == before


@emulated()
def test_forks_among_threads_that_allocate() -> None:
    """A child finds the heap whole, whatever the other threads of its parent were doing, and allocates at once."""
    reuse_at_once()
    is_over: list[bool] = []

    def allocate() -> None:
        while not is_over:
            churn(100, 1)

    def fork() -> None:
        try:
            for _ in range(20):
                with Child(lambda: churn(200, 2), fork=fork_among_threads) as child:
                    assert child.wait() == 0
        finally:
            is_over.append(True)

    in_threads(allocate, fork)
    assert quarantine.statistics().heap == 0


class _Interrupted(Exception):
    pass


def _interrupted_rounds(rounds: int, work: Callable[[], object]) -> int:
    """Run it again and again while a timer's handler raises; returns how often it did."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise _Interrupted

    count = 0
    signal.signal(signal.SIGALRM, interrupt)
    for number in range(rounds):
        try:
            signal.setitimer(signal.ITIMER_REAL, 1e-5 * (1 + number))
            work()
            signal.setitimer(signal.ITIMER_REAL, 0)
        except _Interrupted:
            count += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    return count


@pytest.mark.parametrize("has_thread", [False, True])
@isolated()
def test_a_handler_that_raises_anywhere(has_thread: bool) -> None:
    """At most the allocation under way is lost; the heap counts what is live, and mappings are those of live memory.

    With a second thread what the handler cuts short is carried out to its end: it fills nobody else's register.
    """
    is_over = threading.Event()
    with capshm.Machine() as machine, ThreadPoolExecutor(1) as pool:
        if has_thread:
            pool.submit(is_over.wait)
        quarantine.revoke_by(revoke)
        held: list[Capability] = []
        places: dict[int, Capability] = {}

        def work() -> None:
            held.append(bsd.malloc(64))
            places[held[-1].base] = held[-1]
            held.append(bsd.malloc(LARGE))
            held[-1] = bsd.realloc(held[-1], 2 * LARGE)
            bsd.free(held[-2])
            del held[-2]
            bsd.malloc_revoke()

        assert _interrupted_rounds(300, work)
        is_over.set()
        assert all(pointer.base == base for base, pointer in places.items())
        for pointer in held:
            try:
                bsd.free(pointer)
            except CapshmError:  # it was freed, and the interruption came before it was forgotten
                pass
        for _ in range(2):
            bsd.malloc_revoke_quarantine_force_flush()
        after = quarantine.statistics()
        assert after.quarantine == 0
        large = [each.end - each.start for each in machine.mappings(os.getpid())]
        mapped = sum(length for length in large if length in (36 << 10, 68 << 10))  # chunks are longer, or 64 KiB
        assert mapped <= after.heap <= mapped + 300 * 64
        churn(200, 3)
        bsd.malloc_revoke()
        assert quarantine.statistics()[:2] == after[:2]


@isolated()
def test_a_handler_that_allocates() -> None:
    """It may do so wherever it comes."""
    with capshm.Machine():
        quarantine.revoke_by(revoke)
        handled: list[Capability] = []

        def handle(number: int, frame: FrameType | None) -> None:
            handled.append(bsd.malloc(64))
            bsd.free(bsd.malloc(LARGE))

        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 1e-3, 1e-3)
        churn(2000, 1)
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert handled
        assert len({pointer.base for pointer in handled}) == len(handled)
        bsd.malloc_revoke()
        assert quarantine.statistics().heap == 64 * len(handled)
