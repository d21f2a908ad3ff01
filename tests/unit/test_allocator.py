"""malloc and its relatives: bounds, what is refused, quarantine and its policy, forks, threads, interruptions."""

import errno
import itertools
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import pytest

import capshm
from capshm import Capability, CapshmError, Permissions, RevocationIncomplete, encoding
from capshm import cheribsd as bsd
from capshm._native import ffi, lib
from capshm.cheribsd import quarantine
from tests.conformance.cheribsd.support import emulated
from tests.faults.forks import fork_among_threads
from tests.faults.isolation import isolated
from tests.faults.processes import Child, ask_child
from tests.faults.revoking import revoke

pytestmark = pytest.mark.slow

LARGE = (32 << 10) + 1  # bytes: the smallest allocation that is a mapping of its own
CLASSES = [*range(16, 129, 16), *(size * part for size in (32, 64, 128, 256) for part in (5, 6, 7, 8))]
CLASSES += [4096, 8192, 16384, 32768]


def slot_of(pointer: Capability) -> tuple[int, int]:
    """Start and length of its slot."""
    found = ffi.new("struct allocator_range *")
    assert not lib.capshm_allocator_find(pointer._register, found)
    return found.start, found.length


def reuse_at_once() -> None:
    """Have no quarantine in this process, whatever the machine can do."""
    os.environ["_RUNTIME_REVOCATION_DISABLE"] = ""


def own_mappings(machine: capshm.Machine) -> int:
    """How many mappings this process has."""
    return len(machine.mappings(os.getpid()))


@emulated()
def test_each_size_has_its_slot_and_its_bounds() -> None:
    """Slots are multiples of 16 to 128, four to a doubling to 2048, then doublings; bounds are what was asked for."""
    held = []
    for size in sorted({each + difference for each in CLASSES for difference in (-1, 0, 1)}):
        pointer = bsd.malloc(size)
        held.append(pointer)
        start, length = slot_of(pointer)
        assert length == next((each for each in CLASSES if each >= size), 9 * lib.PAGE_BYTES)
        assert (pointer.base, pointer.length) == (start, encoding.representable_length(max(size, 16)))
        assert pointer.address == start
        assert pointer.tag
        assert start % 16 == 0
        assert pointer.length <= length
        assert not pointer.permissions.contains(Permissions.SW_VMEM)
    slots = sorted(slot_of(pointer) for pointer in held)
    assert all(start + length <= after for (start, length), (after, _) in itertools.pairwise(slots))
    assert quarantine.statistics().heap == sum(length for _, length in slots)


@emulated()
def test_memory_that_is_not_there() -> None:
    """What no arena has room for is refused, sizes near the end of the address space too, and allocates nothing."""
    for size in (1 << 40, 1 << 62, (1 << 64) - 4096, (1 << 64) - 1):
        with pytest.raises(capshm.Refused) as caught:
            bsd.malloc(size)
        assert caught.value.errno == errno.ENOMEM
    for size in (-1, 1 << 64):
        with pytest.raises(ValueError, match="n must be"):
            bsd.malloc(size)
    with pytest.raises(TypeError):
        bsd.malloc(1.5)  # type: ignore[arg-type]
    assert quarantine.statistics() == (0, 0, 0)


@emulated()
def test_a_free_of_what_is_not_allocated() -> None:
    """Freed before, never allocated, inside, another's, untagged, sealed: refused, with the reason; nothing changes."""
    pointer, other, freed = bsd.malloc(64), bsd.malloc(64), bsd.malloc(64)
    bsd.free(freed)
    own = bsd.mmap(None, 4096, bsd.PROT_READ | bsd.PROT_WRITE, bsd.MAP_ANON | bsd.MAP_PRIVATE)
    wrong = {
        "freed before": [freed, own, (pointer + 16).with_bounds(16)],
        "first byte": [pointer + 16, other.with_address(freed.address)],
        "no tag, or is sealed": [pointer.without_tag(), pointer.seal_entry()],
    }
    before = quarantine.statistics()
    for reason, pointers in wrong.items():
        for each in pointers:
            for call in (bsd.free, bsd.malloc_usable_size, lambda bad: bsd.realloc(bad, 1 << 16)):
                with pytest.raises(CapshmError, match=f"{reason}.*abort"):
                    call(each)
    for call in (bsd.free, bsd.malloc_usable_size):
        with pytest.raises(TypeError, match="Capability"):
            call(pointer.address)  # type: ignore[arg-type]
    assert quarantine.statistics() == before
    bsd.free(pointer.with_bounds(16))  # narrower, but the same first byte: as in CheriBSD it is the allocation
    os.environ["_RUNTIME_ABORT_DISABLE"] = "1"
    bsd.free(pointer)  # nothing, and nothing is said
    bsd.free(other)


@emulated()
def test_realloc() -> None:
    """What fits and wastes at most half stays as it is; else it moves, with its tags, and the old memory is free."""
    reuse_at_once()
    pointer = bsd.malloc(64)
    assert bsd.realloc(pointer, 64) is pointer
    assert bsd.realloc(pointer, 32) is pointer
    for size in (31, 65, LARGE):
        pointer = bsd.malloc(64)
        pointer.write(0, bytes(range(64)))
        pointer.store_capability(0, pointer)
        content = pointer.read(0, 31)
        moved = bsd.realloc(pointer, size)
        assert moved.base != pointer.base
        assert moved.read(0, 31) == content
        assert moved.load_capability(0) == pointer
        with pytest.raises(CapshmError, match="freed before"):
            bsd.free(pointer)
        bsd.free(moved)
    pointer = bsd.malloc(64)
    before = quarantine.statistics()
    with pytest.raises(capshm.Refused):
        bsd.realloc(pointer, 1 << 40)
    with pytest.raises(capshm.PermissionViolation):  # the copy fails, and what it was to go to is free again
        bsd.realloc(pointer.with_permissions(Permissions.STORE), 128)
    assert quarantine.statistics() == before
    assert bsd.realloc(pointer, 48) is pointer


@emulated()
def test_calloc_is_zero_where_something_was_before() -> None:
    """Bytes and tags of an earlier life are gone, up to the end of the bounds."""
    reuse_at_once()
    for size in (64, 4096 + 1):
        pointer = bsd.malloc(size)
        for offset in range(0, size - 15, 16):
            pointer.store_capability(offset, pointer)
        bsd.free(pointer)
        again = bsd.calloc(size, 1)
        assert again.base == pointer.base
        assert again.read(0, again.length) == bytes(again.length)
        assert not again.load_capability(0).tag


@emulated()
def test_large_memory_is_unmapped(machine: capshm.Machine) -> None:
    """A mapping of its own goes with its allocation, or, where there is a quarantine, with the pass that revokes it."""
    reuse_at_once()
    bsd.malloc(1)
    before = own_mappings(machine)
    pointer = bsd.malloc(1 << 20)
    assert own_mappings(machine) == before + 1
    bsd.free(pointer)
    assert own_mappings(machine) == before
    with pytest.raises(capshm.PageViolation):
        pointer.read(0, 1)
    del os.environ["_RUNTIME_REVOCATION_DISABLE"]
    quarantine.revoke_by(revoke)
    pointer = bsd.malloc(1 << 20)
    bsd.free(pointer)
    assert pointer.read(0, 1) == b"\0"
    bsd.malloc_revoke_quarantine_force_flush()
    assert own_mappings(machine) == before
    assert not pointer.tag


@emulated()
def test_without_a_revoker() -> None:
    """What is freed is used again at once; a flush has nothing to do, and says so if it is asked to."""
    reuse_at_once()
    pointer = bsd.malloc(64)
    bsd.free(pointer)
    assert bsd.malloc(64).base == pointer.base
    assert not bsd.malloc_revoke_enabled()
    with pytest.raises(capshm.Refused) as caught:
        bsd.malloc_revoke_quarantine_force_flush()
    assert caught.value.errno == errno.ENOTSUP
    bsd.malloc_revoke()


@emulated()
def test_nothing_is_used_again_before_it_is_revoked() -> None:
    """What is freed keeps its tags, in registers and memory, and its place; after a flush it has neither."""
    quarantine.revoke_by(revoke)
    assert bsd.malloc_revoke_enabled()
    keeper = bsd.malloc(1024)
    freed = [bsd.malloc(48) for _ in range(64)]
    for number, pointer in enumerate(freed):
        keeper.store_capability(16 * number, pointer)
        bsd.free(pointer)
        with pytest.raises(CapshmError, match="freed before"):
            bsd.free(pointer)
    places = {pointer.base for pointer in freed}
    assert all(bsd.malloc(48).base not in places for _ in range(2000))
    assert all(pointer.tag for pointer in freed)
    assert quarantine.statistics().quarantine == 64 * 48
    bsd.malloc_revoke()
    assert not any(pointer.tag for pointer in freed)
    assert not any(keeper.load_capability(16 * number).tag for number in range(64))
    assert keeper.tag
    assert quarantine.statistics().quarantine == 0
    assert {bsd.malloc(48).base for _ in range(64)} == places


@emulated()
def test_the_policy() -> None:
    """An allocation runs a pass when the heap is 8 MiB and a quarter of it waits; a free never does."""
    quarantine.revoke_by(revoke)
    size = 32 << 10
    pointers = [bsd.malloc(size) for _ in range(255)]
    while pointers:
        bsd.free(pointers.pop())
    bsd.malloc(16)
    assert quarantine.statistics().passes == 0  # below the floor, though nearly all of it waits
    bsd.malloc_revoke()
    pointers = [bsd.malloc(size) for _ in range(1024)]
    for _ in range(256):
        assert quarantine.statistics().passes == 1
        bsd.malloc(16)
        bsd.free(pointers.pop())
    while quarantine.statistics().quarantine * 4 < quarantine.statistics().heap:
        bsd.malloc(16)
        bsd.free(pointers.pop())
    assert quarantine.statistics().passes == 1
    bsd.malloc(16)
    assert quarantine.statistics().passes == 2
    assert quarantine.statistics().quarantine == 0


@pytest.mark.parametrize(
    ("variables", "is_enabled", "expected"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"_RUNTIME_REVOCATION_DISABLE": ""}, True, False),
        ({"_RUNTIME_REVOCATION_ENABLE": ""}, False, True),
        ({"_RUNTIME_REVOCATION_ENABLE": "", "_RUNTIME_REVOCATION_DISABLE": ""}, True, False),
    ],
)
@emulated()
def test_the_environment_comes_first(variables: dict[str, str], is_enabled: bool, expected: bool) -> None:
    """Whether there is a quarantine: DISABLE, then ENABLE, then what the process and the machine say."""
    os.environ.update(variables)
    quarantine.revoke_by(revoke, is_enabled=is_enabled)
    assert bsd.malloc_revoke_enabled() is expected


@emulated(revoker="none")
def test_the_share_comes_from_the_environment() -> None:
    """Half the heap may wait if the variables say so; what is no number from 1 to 256 ends the process with 7."""
    for value in ("0", "257", "", "a quarter", "-1"):
        os.environ["_RUNTIME_QUARANTINE_DENOMINATOR"] = value
        with pytest.raises(SystemExit) as caught:
            quarantine.revoke_by(revoke)
        assert caught.value.code == 7
        assert not bsd.malloc_revoke_enabled()
    os.environ["_RUNTIME_QUARANTINE_NUMERATOR"] = "0x80"
    os.environ["_RUNTIME_QUARANTINE_DENOMINATOR"] = "256"
    quarantine.revoke_by(revoke)
    pointers = [bsd.malloc(32 << 10) for _ in range(512)]
    for pointer in pointers[:255]:
        bsd.free(pointer)
    bsd.malloc(16)
    assert quarantine.statistics().passes == 0
    for pointer in pointers[255:257]:
        bsd.free(pointer)
    bsd.malloc(16)
    assert quarantine.statistics().passes == 1


@emulated()
def test_every_free() -> None:
    """A pass after each free, if the environment asks for it."""
    os.environ["_RUNTIME_REVOCATION_EVERY_FREE_ENABLE"] = ""
    quarantine.revoke_by(revoke)
    for number in range(3):
        pointer = bsd.malloc(64)
        bsd.free(pointer)
        assert not pointer.tag
        assert quarantine.statistics() == (0, 0, number + 1)


@emulated()
def test_a_pass_that_does_not_complete() -> None:
    """Nothing leaves quarantine, allocations go on with other memory, a flush says so; the next pass has all of it."""
    seen: list[int] = []
    failures: list[BaseException] = []

    def try_to_revoke(pairs: memoryview) -> None:
        seen.append(len(pairs) // 2)
        if failures:
            raise failures[-1]
        revoke(pairs)

    quarantine.revoke_by(try_to_revoke)
    incomplete = RevocationIncomplete("not everyone was stopped", processes=[(1, "inside an operation")])
    failures.append(incomplete)
    pointers = [bsd.malloc(32 << 10) for _ in range(512)]
    for pointer in pointers[:256]:
        bsd.free(pointer)
    places = {pointer.base for pointer in pointers}
    fresh = bsd.malloc(32 << 10)
    assert fresh.base not in places
    assert seen == [256]
    bsd.free(pointers[256])
    with pytest.raises(RevocationIncomplete):
        bsd.malloc_revoke_quarantine_force_flush()
    failures.append(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        bsd.malloc_revoke_quarantine_force_flush()
    assert quarantine.statistics() == (514 * (32 << 10) - (32 << 10), 257 * (32 << 10), 0)
    assert all(pointer.tag for pointer in pointers)
    failures.clear()
    bsd.free(pointers[257])
    bsd.malloc_revoke_quarantine_force_flush()
    assert seen == [256, 257, 257, 258]
    assert quarantine.statistics() == (255 * (32 << 10), 0, 1)


@emulated()
def test_what_is_freed_during_a_pass_waits_for_the_next() -> None:
    """Allocations and frees go on while a pass runs; only the first thread runs it."""
    calls: list[int] = []

    def free_more(pairs: memoryview) -> None:
        calls.append(len(pairs) // 2)
        if len(calls) == 1:
            bsd.free(late)
            bsd.malloc_revoke()  # one is under way already: nothing
            assert bsd.malloc(64).base != late.base
        revoke(pairs)

    first, late = bsd.malloc(64), bsd.malloc(64)
    quarantine.revoke_by(free_more)
    bsd.free(first)
    bsd.malloc_revoke()
    assert [first.tag, late.tag] == [False, True]
    assert quarantine.statistics()[1:] == (64, 1)
    bsd.malloc_revoke()
    assert not late.tag
    assert calls == [1, 1]


@emulated()
def test_a_fork_copies_heap_and_quarantine() -> None:
    """Each side frees, revokes and reuses its own; what the other does is not seen."""
    quarantine.revoke_by(revoke)
    kept, freed = bsd.malloc(64), bsd.malloc(64)
    kept.write(0, b"parent")
    kept.store_capability(16, freed)
    bsd.free(freed)
    before = quarantine.statistics()

    def in_child() -> tuple[bool, bool, bytes, tuple[int, int, int]]:
        assert quarantine.statistics() == before
        bsd.malloc_revoke_quarantine_force_flush()
        was_revoked = not freed.tag and not kept.load_capability(16).tag
        is_reused = bsd.malloc(64).base == freed.base
        content = kept.read(0, 6)
        kept.write(0, b"child!")
        bsd.free(kept)
        return was_revoked, is_reused, content, quarantine.statistics()

    assert ask_child(in_child) == (True, True, b"parent", (128, 64, 1))
    assert quarantine.statistics() == before
    assert freed.tag
    assert kept.load_capability(16).tag
    assert kept.read(0, 6) == b"parent"
    bsd.free(kept)
    with pytest.raises(CapshmError, match="freed before"):
        bsd.free(kept)


def in_threads(*bodies: Callable[[], object]) -> None:
    """Run them at the same time; raises what one of them has raised."""
    with ThreadPoolExecutor(len(bodies)) as pool:
        for running in [pool.submit(body) for body in bodies]:
            running.result()


def churn(rounds: int, mark: int) -> None:
    """Allocate, mark, check and free."""
    held: list[Capability] = []
    for number in range(rounds):
        pointer = bsd.malloc(16 + 48 * (number % 40))
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


@isolated()
def test_a_machine_that_is_left_takes_its_heap_along() -> None:
    """In the next one nothing is allocated, and what is left of the first is refused."""
    with capshm.Machine():
        quarantine.revoke_by(revoke)
        old = bsd.malloc(64)
        bsd.free(bsd.malloc(LARGE))
    with pytest.raises(capshm.NotAttached):
        bsd.malloc(64)
    with capshm.Machine(revoker="none"):
        assert quarantine.statistics() == (0, 0, 0)
        assert not bsd.malloc_revoke_enabled()
        new = bsd.malloc(64)
        assert new.tag
        assert new.base == old.base
        with pytest.raises(CapshmError, match="no tag"):
            bsd.free(old)
        bsd.free(new)
