"""A sweep beside running stores: once the gate was closed over it, nothing painted is left in memory or registers."""

import mmap
import os
import random
import secrets
import select
from collections.abc import Sequence
from contextlib import ExitStack

import pytest

from capshm import CapabilityArray
from capshm._native import ffi, lib
from capshm.testing import Segment, Shadow, SweepCounts, closed_gate, sweep_registers
from tests.faults.isolation import isolated
from tests.faults.processes import Child, Event, ask_child

GRANULE = 16
LINE = 64  # granules
GRANULES = 8 * LINE  # of a segment
SEGMENTS = 3
CHILDREN = 3
TARGETS = 256  # what the stored capabilities point to
TARGET = 64  # bytes
BULK = 100  # granules, at most, in one native call
KEPT = 4  # arrays that a child holds in variables
PATIENCE = 60  # seconds until everybody has stopped, on whatever machine

KERNELS = {"portable": lib.SWEEP_PORTABLE, "avx2": lib.SWEEP_AVX2, "avx512": lib.SWEEP_AVX512}


class Board:
    """What all processes see: which targets are to be revoked, which have been, and how far each child has come."""

    def __init__(self) -> None:
        memory = memoryview(mmap.mmap(-1, mmap.PAGESIZE))
        self.doomed = memory[:TARGETS]
        self.revoked = memory[TARGETS : 2 * TARGETS]
        self.turns = memory[2 * TARGETS : 2 * TARGETS + 8 * CHILDREN].cast("Q")
        self.is_over = memory[-CHILDREN:]


class World:
    """Segments full of capabilities for targets in one segment more, and a capability for each target in a variable."""

    def __init__(self, segments: Sequence[Segment], targets: Segment, dice: random.Random) -> None:
        self.segments = segments
        self.first = targets.root.base + TARGET  # the root's own base is never painted
        self.values = [(targets.root + TARGET * (i + 1)).with_bounds(TARGET) for i in range(TARGETS)]
        for segment in segments:
            segment.root.store_capabilities(0, dice.choices(self.values, k=GRANULES))

    def target(self, address: int) -> int:
        """The number of what lies there."""
        return (address - self.first) // TARGET


def _churn(world: World, board: Board, number: int, seed: int) -> None:
    """Store and load as fast as one can, one by one and in bulk, and look at everything that comes along."""
    dice = random.Random(seed)
    held = [(list(range(TARGETS)), CapabilityArray.of(world.values))]
    assert not any(tag and gone for tag, gone in zip(held[0][1].tags, board.revoked, strict=True))
    while not board.is_over[number]:
        here, there = (segment.root for segment in dice.choices(world.segments, k=2))
        count = dice.randrange(1, BULK)
        first, second = (dice.randrange(GRANULES - count) * GRANULE for _ in range(2))
        for offset in range(first, first + count * GRANULE, GRANULE):
            here.store_capability(offset, there.load_capability(offset))
        here.store_capabilities(first, dice.choices(world.values, k=count))
        there.fill_capabilities(second, dice.randrange(count), dice.choice(world.values))
        (here + first).copy_to(there + second, count * GRANULE)
        revoked = bytes(board.revoked)
        loaded = there.load_capabilities(second, count)
        here.store_capabilities(second, loaded)
        held = [held[0], *held[1:][-KEPT:], ([world.target(one.address) for one in loaded], loaded)]
        for targets, array in held:
            for target, tag in zip(targets, array.tags, strict=True):
                assert not (tag and revoked[target]), f"target {target} was revoked before, and is tagged"
                assert tag or board.doomed[target], f"target {target} was never painted, and is untagged"
        board.turns[number] += 1


def _wait_for_turns(board: Board, children: Sequence[Child]) -> None:
    """Let every child do something more; fail when one of them has ended."""
    watch = select.poll()
    with ExitStack() as descriptors:
        for child in children:
            descriptor = os.pidfd_open(child.pid)
            descriptors.callback(os.close, descriptor)
            watch.register(descriptor, select.POLLIN)
        goal = [turns + 2 for turns in board.turns]
        while any(turns < least for turns, least in zip(board.turns, goal, strict=True)):
            assert not watch.poll(0), "a child has ended"
            os.sched_yield()


def _sideband(segment: Segment) -> tuple[list[int], memoryview]:
    """The segment's tags as they lie in memory, one word a line, and its twins, two words a granule."""
    mapping = segment._mappings[0]
    words = ffi.buffer(ffi.cast("char *", mapping.lines), GRANULES // LINE * 16)
    twins = ffi.buffer(ffi.cast("char *", mapping.twins), GRANULES * GRANULE)
    return list(memoryview(words).cast("Q")[::2]), memoryview(twins).cast("Q")


def _painted(world: World, board: Board, segment: Segment) -> list[int]:
    """Which of its tags must go, one word a line: found without the core."""
    tags, twins = _sideband(segment)
    painted = [0] * len(tags)
    for granule in range(GRANULES):
        line, bit = divmod(granule, LINE)
        if tags[line] >> bit & 1 and board.doomed[world.target(twins[2 * granule])]:
            painted[line] |= 1 << bit
    return painted


def _bits(words: Sequence[int]) -> int:
    return sum(word.bit_count() for word in words)


def _sweep(world: World, board: Board, kernel: str) -> int:
    """With the gate closed: sweep all, twice. The first pass clears exactly what is painted, the second nothing."""
    cleared = 0
    for segment in world.segments:
        before, _ = _sideband(segment)
        painted = _painted(world, board, segment)
        lines, found, gone = len(before), _bits(before), _bits(painted)
        assert segment.sweep(kernel=kernel) == SweepCounts(lines, found, gone)
        assert _sideband(segment)[0] == [tags & ~going for tags, going in zip(before, painted, strict=True)]
        assert segment.sweep(kernel=kernel) == SweepCounts(lines, found - gone, 0)
        cleared += gone
    first, second = sweep_registers(), sweep_registers()
    assert first.cleared > 0
    assert second == SweepCounts(0, first.found - first.cleared, 0)
    return cleared


def _revoke_beside_stores(kernel: str, rounds: int, seed: int) -> None:
    """Revoke some targets in each round, while children store, load, end, and are born."""
    dice = random.Random(seed)
    print(f"kernel {kernel}, {rounds} rounds, seed {seed}")
    with ExitStack() as stack:
        sizes = [GRANULES * GRANULE] * SEGMENTS + [TARGET * (TARGETS + 1)]
        *segments, targets = (stack.enter_context(Segment(size, lock_timeout=PATIENCE)) for size in sizes)
        world, board, shadow = World(segments, targets, dice), Board(), Shadow()

        def start(number: int) -> Child:
            seed = dice.randrange(1 << 32)
            return stack.enter_context(Child(lambda: _churn(world, board, number, seed)))

        children = [start(number) for number in range(CHILDREN)]
        cleared = 0
        order = dice.sample(range(TARGETS), k=TARGETS // 2)  # the other half stays
        for turn in range(rounds):
            _wait_for_turns(board, children)
            batch = order[turn * len(order) // rounds : (turn + 1) * len(order) // rounds]
            for target in batch:
                board.doomed[target] = 1
                shadow.paint(world.values[target])
            with closed_gate(timeout=PATIENCE):
                cleared += _sweep(world, board, kernel)
            for target in batch:
                board.revoked[target] = 1
            assert [value.tag for value in world.values] == [not revoked for revoked in board.revoked]
            if turn % 4 == 3:
                number = dice.randrange(CHILDREN)
                board.is_over[number] = 1
                assert children[number].wait() == 0
                board.is_over[number] = 0
                children[number] = start(number)
        board.is_over[:] = bytes([1] * CHILDREN)
        assert [child.wait() for child in children] == [0] * CHILDREN
        assert cleared > 0
        for segment in segments:
            for loaded in segment.root.load_capabilities(0, GRANULES):
                assert not (loaded.tag and board.revoked[world.target(loaded.address)])


def _skip_without(kernel: str) -> None:
    if not lib.sweep_kernel_is_available(KERNELS[kernel]):
        pytest.skip(f"this machine's processor, or this build of the core, has no {kernel}")


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
@isolated()
def test_nothing_painted_survives(kernel: str) -> None:
    """After each sweep beside running stores nothing painted has a tag, in any process, and all else has kept it.

    The counts are exact: tags found and cleared are those that lie in memory, and a second pass clears none.
    """
    _skip_without(kernel)
    _revoke_beside_stores(kernel, TARGETS // 4, secrets.randbits(32))


@pytest.mark.soak
@pytest.mark.parametrize("kernel", KERNELS)
@isolated(bound=7200)
def test_nothing_painted_survives_for_long(kernel: str) -> None:
    """The same for many worlds, one after the other."""
    _skip_without(kernel)
    for _ in range(20):
        _revoke_beside_stores(kernel, TARGETS // 2, secrets.randbits(32))


@pytest.mark.slow
@isolated()
def test_variables_of_other_processes_are_swept() -> None:
    """A child that holds a painted capability in variables finds them untagged after the epoch, and only these."""
    holds, swept = Event(), Event()
    with Segment(4096) as segment:
        gone, kept = ((segment.root + offset).with_bounds(TARGET) for offset in (1024, 2048))
        segment.root.store_capabilities(0, [gone, kept])

        def body() -> None:
            one = segment.root.load_capability(0)
            both = segment.root.load_capabilities(0, 2)
            derived = [one.with_bounds(8), one.seal_entry(), kept.with_bounds(8)]
            assert [one.tag, *both.tags] == [True, 1, 1]
            holds.set()
            swept.wait()
            assert [one.tag, *both.tags] == [False, 0, 1]
            assert [capability.tag for capability in derived] == [False, False, True]
            assert not one.with_bounds(8).tag
            assert segment.root.load_capabilities(0, 2).tags == b"\0\1"

        with Child(body) as child:
            holds.wait()
            Shadow().paint(gone)
            with closed_gate(timeout=PATIENCE):
                assert segment.sweep() == SweepCounts(4, 2, 1)
            swept.set()
            assert child.wait() == 0
        assert not gone.tag
        assert kept.tag


@pytest.mark.slow
@isolated()
def test_children_forked_after_a_sweep_have_nothing_painted() -> None:
    """A process that is forked after the epoch, from a parent that has not looked since, starts without the painted."""
    with Segment(4096) as segment:
        gone = (segment.root + 1024).with_bounds(TARGET)
        Shadow().paint(gone)
        with closed_gate(timeout=PATIENCE):
            segment.sweep()
        assert not ask_child(lambda: gone.tag)
