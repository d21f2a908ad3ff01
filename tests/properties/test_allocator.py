"""malloc against a model of it: what is live, what waits, and what every byte and tag of it must be.

The model knows no slots: only that live allocations and those in quarantine keep apart, that bounds are what was asked
for, that contents and tags stay and move along, and that what was revoked has no tag left anywhere.
"""

import os
import random
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as with_seed
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

import capshm
from capshm import Capability, CapshmError, encoding
from capshm import cheribsd as bsd
from capshm._native import ffi, lib
from capshm.cheribsd import quarantine
from tests.faults.isolation import isolated, print_traceback
from tests.faults.processes import Child
from tests.faults.revoking import revoke

GRANULE = 16
FLOOR = 256 << 10  # bytes of heap, in place of 8 MiB, so that allocations run passes

pytestmark = pytest.mark.slow

numbers = st.integers(0, 1 << 16)
sizes = st.one_of(
    st.integers(0, 300),
    st.integers(0, 40 << 10),
    st.sampled_from([2048, 2049, 4097, 32 << 10, (32 << 10) + 1, 200_000]),
)


@dataclass
class Allocation:
    """One that is live. target: what its first granule is. mark: its last 8 bytes, if it has two granules."""

    pointer: Capability
    size: int
    mark: bytes
    target: Capability


class Heap(RuleBasedStateMachine):
    """Steps of any kind in any order, in one process; a fork goes on with its copy of all, this included."""

    is_quarantining: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.machine = capshm.Machine()
        self.machine.__enter__()
        quarantine.FLOOR = FLOOR
        if self.is_quarantining:
            quarantine.revoke_by(revoke)
        self.passes = 0
        self.live: list[Allocation] = []
        self.waiting: list[Capability] = []  # freed, not revoked
        self.revoked: list[Capability] = []
        self.marks = 0

    def teardown(self) -> None:
        """Free all that is left: nothing remains."""
        try:
            while self.live:
                self.free(0)
            if self.is_quarantining:
                self.flush()
            assert quarantine.statistics()[:2] == (0, 0)
        finally:
            self.machine.__exit__(None, None, None)

    def keep(self, pointer: Capability, size: int) -> None:
        """Note a new allocation, check its bounds, and fill it."""
        assert pointer.tag
        assert pointer.address == pointer.base
        assert pointer.length == encoding.representable_length(max(size, GRANULE))
        found = ffi.new("struct allocator_range *")
        assert not lib.capshm_allocator_find(pointer._register, found)
        assert found.start == pointer.base
        assert pointer.length <= found.length
        target = random.choice(self.live).pointer if self.live else pointer
        self.marks += 1
        allocation = Allocation(pointer, size, self.marks.to_bytes(8, "little"), target)
        self.live.append(allocation)
        pointer.store_capability(0, target)
        if pointer.length >= 2 * GRANULE:
            pointer.write(pointer.length - 8, allocation.mark)

    def check(self, allocation: Allocation) -> None:
        """It holds what was put there; its pointer and what it points to are as they were."""
        pointer = allocation.pointer
        assert pointer.tag
        loaded = pointer.load_capability(0)
        assert loaded._words() == allocation.target._words()
        assert loaded.tag == allocation.target.tag
        if pointer.length >= 2 * GRANULE:
            assert pointer.read(pointer.length - 8, 8) == allocation.mark

    @rule(size=sizes)
    def malloc(self, size: int) -> None:
        """A new one."""
        pointer = bsd.malloc(size)
        self.note_pass()
        self.keep(pointer, size)

    @rule(k=st.integers(0, 20), n=st.integers(0, 2000))
    def calloc(self, k: int, n: int) -> None:
        """A new one, all zero."""
        pointer = bsd.calloc(k, n)
        self.note_pass()
        assert pointer.read(0, pointer.length) == bytes(pointer.length)
        self.keep(pointer, k * n)

    @precondition(lambda self: self.live)
    @rule(which=numbers, size=sizes)
    def realloc(self, which: int, size: int) -> None:
        """The same, or another with the same contents and tags."""
        old = self.live.pop(which % len(self.live))
        self.check(old)
        pointer = bsd.realloc(old.pointer, size)
        if pointer is old.pointer:
            assert size <= pointer.length <= 2 * size
            self.live.append(old)
            return
        self.note_pass()
        loaded = pointer.load_capability(0)
        assert (loaded._words(), loaded.tag) == (old.target._words(), old.target.tag)
        if old.pointer.length >= 2 * GRANULE and pointer.length >= old.pointer.length:
            assert pointer.read(old.pointer.length - 8, 8) == old.mark
        self.note_freed(old.pointer)
        self.keep(pointer, size)

    @precondition(lambda self: self.live)
    @rule(which=numbers)
    def free(self, which: int) -> None:
        """One less."""
        old = self.live.pop(which % len(self.live))
        self.check(old)
        bsd.free(old.pointer)
        self.note_freed(old.pointer)

    def note_freed(self, pointer: Capability) -> None:
        """It cannot be freed again, nor used by anybody before it is revoked."""
        with pytest.raises(CapshmError, match="abort"):
            bsd.free(pointer)
        if self.is_quarantining:
            self.waiting.append(pointer)

    @precondition(lambda self: self.is_quarantining)
    @rule()
    def flush(self) -> None:
        """All that waits is revoked."""
        bsd.malloc_revoke_quarantine_force_flush()
        if self.waiting:
            self.note_pass()
        assert not self.waiting

    def note_pass(self) -> None:
        """If there was one, it has revoked all that waited."""
        passes = quarantine.statistics().passes
        if passes > self.passes:
            self.passes = passes
            self.revoked += self.waiting
            self.waiting.clear()

    @precondition(lambda self: self.live)
    @rule(which=numbers, distance=st.integers(1, 64))
    def free_what_is_not_allocated(self, which: int, distance: int) -> None:
        """Refused: a pointer to another place than the first byte, and one without a tag."""
        pointer = self.live[which % len(self.live)].pointer
        for wrong in (pointer + distance, pointer - distance, pointer.without_tag()):
            with pytest.raises(CapshmError, match="abort"):
                bsd.free(wrong)

    @rule(choices=st.lists(numbers, max_size=12))
    def fork(self, choices: list[int]) -> None:
        """A child goes on by itself with what there is; here nothing of that is seen."""

        def go_on() -> None:
            for choice in choices:
                if self.live and choice % 2:
                    self.free(choice)
                else:
                    self.malloc(choice)
            if self.is_quarantining:
                self.flush()
            self.all_is_as_it_should_be()

        before = quarantine.statistics()
        with Child(go_on) as child:
            assert child.wait() == 0
        assert quarantine.statistics() == before

    @invariant()
    def all_is_as_it_should_be(self) -> None:
        """Nothing overlaps, all holds what it should, what waits still has its tags, what was revoked has none."""
        kept = [each.pointer for each in self.live] + self.waiting
        ranges = sorted((pointer.base, pointer.top) for pointer in kept)
        assert all(end <= start for (_, end), (start, _) in pairwise(ranges))
        for allocation in self.live:
            self.check(allocation)
        assert all(pointer.tag for pointer in self.waiting)
        assert not any(pointer.tag for pointer in self.revoked)
        heap, waiting, _ = quarantine.statistics()
        assert sum(pointer.length for pointer in kept) <= heap
        assert sum(pointer.length for pointer in self.waiting) <= waiting <= heap


@isolated(bound=280)
def compare(is_quarantining: bool, seed: int) -> None:
    """Run it in a process that may fork."""
    print(f"seed {seed}")
    random.seed(seed)
    if not is_quarantining:
        os.environ["_RUNTIME_REVOCATION_DISABLE"] = ""  # whatever the machine can do
    try:
        run(is_quarantining, seed, Phase.generate)
    except AssertionError as error:
        print_traceback(error)  # shown even if there is no time to find a shorter way to it
        run(is_quarantining, seed, Phase.generate, Phase.shrink)
        raise


def run(is_quarantining: bool, seed: int, *phases: Phase) -> None:
    """Once."""
    heap = type("Heap", (Heap,), {"is_quarantining": is_quarantining})
    thoroughly = settings(
        phases=phases,
        max_examples=20,
        stateful_step_count=40,
        deadline=None,
        print_blob=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(with_seed(seed)(heap), settings=thoroughly)


@pytest.mark.parametrize("is_quarantining", [False, True], ids=["none", "quarantine"])
def test_the_heap_is_as_the_model_says(is_quarantining: bool) -> None:
    """Any steps, in any order, in a process and its children."""
    compare(is_quarantining=is_quarantining, seed=random.SystemRandom().randrange(1 << 32))
