"""Address spaces under any calls, in any order, by processes that fork: what must always be so.

Every space is one (`AddressSpace.check`); a refused call changes nothing; what is not mapped anew never gains; what one
process does no other sees; and nobody has capability permission that the policy does not give.
"""

import random
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as with_seed
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from capshm.model import constants as c
from capshm.model.address_space import AddressSpace, Entry
from capshm.model.knobs import Knobs
from capshm.model.objects import Kind, MemoryObject, ObjectTable
from capshm.model.pointer import Pointer, round_down, round_up
from capshm.model.rights import Rights
from capshm.model.rules import RULES, Refusal
from capshm.policies import Policy
from capshm.policies.cheribsd import CheriBSD
from capshm.policies.isolated import Isolated
from capshm.policies.open import Open
from tests.unit.model_scene import PAGE, Process

pytestmark = pytest.mark.slow

PAGES = st.integers(0, 6)
WORDS = st.integers(0, 7)  # chooses among processes, pointers or objects, modulo how many there are
PARTS = st.one_of(st.integers(1, 3).map(lambda pages: pages * PAGE), st.integers(-1, 9000))
LENGTHS = st.one_of(st.integers(1, 6).map(lambda pages: pages * PAGE), st.just((1 << 30) + PAGE), st.integers(-1, 9000))
ACCESS = st.sampled_from([3, 3, 3, c.PROT_NONE, c.PROT_READ, c.PROT_WRITE, c.PROT_READ | c.PROT_WRITE, c.PROT_EXEC, 7])
MARK = st.sampled_from([0, c.PROT_CAP, c.PROT_NO_CAP])
PROTS = st.one_of(
    st.builds(lambda access, mark: access | mark, ACCESS, MARK),
    st.sampled_from([3, 3 | c.PROT_CAP, 3 | c.PROT_MAX(7), 1 | c.PROT_MAX(3)]),
    st.builds(lambda now, most, mark: now | mark | c.PROT_MAX(now | most | mark), ACCESS, ACCESS, MARK),
    st.builds(lambda now, most: now | c.PROT_MAX(most), st.integers(0, 31), st.integers(0, 31)),
)
SHARING = st.sampled_from([c.MAP_PRIVATE, c.MAP_SHARED, 0])
FLAGS = st.sampled_from(
    [0, c.MAP_FIXED, c.MAP_FIXED, c.MAP_FIXED | c.MAP_EXCL, c.MAP_EXCL, c.MAP_STACK, c.MAP_ALIGNED(16)]
)
POLICIES: list[Callable[[], Policy]] = [CheriBSD, Open, Isolated]


class Spaces(RuleBasedStateMachine):
    """Some processes, the pointers that they ever got, and the objects that there are."""

    policy: Callable[[], Policy]

    @initialize()
    def begin(self) -> None:
        """One process, and an object of each kind that a descriptor can name."""
        self.processes = [Process(self.policy(), ObjectTable(), 1)]
        self.serial = 1
        first = self.processes[0]
        self.objects: list[MemoryObject] = [
            first.objects.add(first.objects.prepare(kind, owner=None if kind is Kind.FILE else 1))
            for kind in (Kind.SHM, Kind.MEMFD, Kind.FILE, Kind.ZERO)
        ]
        self.pointers: list[Pointer] = []
        if not isinstance(first.policy, Isolated):
            self.objects.append(first.shm(is_share_cap=True))

    def attempt(self, process: Process, call: Callable[[], object]) -> bool:
        """Whether a call was not refused; if it was, that nothing has changed anywhere."""
        before = [snapshot(one.space) for one in self.processes]
        refusal = None
        try:
            call()
        except Refusal as caught:
            refusal = caught
        if refusal is not None:
            assert RULES[refusal.rule].errno is not None
            assert [snapshot(one.space) for one in self.processes] == before
            return False
        for one, old in zip(self.processes, before, strict=True):
            assert one is process or snapshot(one.space) == old
        return True

    def pointer(self, process: Process, number: int, page: int) -> Pointer | None:
        """One that the process can use, most often, moved by some of its pages; else any that there ever was."""
        own = [one for one in self.pointers if process.space.reservation_around(one.base, one.top)]
        pointers = self.pointers if number == 7 or not own else own
        if not pointers:
            return None
        pointer = pointers[-1 - number % len(pointers)]
        pages = min(pointer.top - pointer.base, 6 * PAGE) // PAGE
        return pointer._replace(address=pointer.base + page % pages * PAGE if page < 6 else pointer.top)

    @rule(who=WORDS, length=LENGTHS, prot=PROTS, sharing=SHARING, flags=FLAGS, what=WORDS, where=WORDS, page=PAGES)
    def map(self, who: int, length: int, prot: int, sharing: int, flags: int, what: int, where: int, page: int) -> None:
        """Anonymous memory or an object, anywhere, at a number, or by a pointer that may be right, wrong or stale."""
        process = self.processes[who % len(self.processes)]
        memory = self.objects[what] if what < len(self.objects) else None
        if memory is None:
            sharing |= c.MAP_ANON
        pointer = self.pointer(process, where, page) if where < 6 else None
        is_number = where % 2 == 1 or not flags & c.MAP_FIXED
        address = pointer.address if pointer is not None and is_number else pointer
        made: list[Pointer] = []

        def call() -> None:
            made.append(
                process.mmap(
                    address,
                    length,
                    prot,
                    sharing | flags,
                    memory,
                    is_writable=page % 2 == 0,
                    offset=page * PAGE * bool(memory),
                )
            )

        before = process.space.copy(0)
        if self.attempt(process, call):
            self.pointers.append(made[0])
            entry = process.plan.entry
            assert_same_outside(before, process.space, entry.start, entry.length)
            assert process.space.within(entry.start, entry.end)[0].current == entry.current
            self.check_owner(process, entry)

    @rule(who=WORDS, length=LENGTHS, which=WORDS, page=PAGES)
    def guard(self, who: int, length: int, which: int, page: int) -> None:
        """A guard, of its own or inside a reservation."""
        process = self.processes[who % len(self.processes)]
        pointer = self.pointer(process, which, page) if which % 2 else None
        flags = c.MAP_GUARD | (c.MAP_FIXED if pointer else 0)
        self.attempt(process, lambda: self.pointers.append(process.mmap(pointer, length, c.PROT_MAX(3), flags)))

    @rule(who=WORDS, which=WORDS, page=PAGES, length=PARTS)
    def unmap(self, who: int, which: int, page: int, length: int) -> None:
        """A part, or all, or what has been unmapped before."""
        process = self.processes[who % len(self.processes)]
        pointer = self.pointer(process, which, page)
        before = process.space.copy(0)
        if self.attempt(process, lambda: process.munmap(pointer, length)) and pointer is not None:
            assert not process.space.overlapping(pointer.address, pointer.address + length)
            assert_same_outside(before, process.space, pointer.address, length)

    @rule(who=WORDS, which=WORDS, page=PAGES, length=PARTS, prot=PROTS)
    def protect(self, who: int, which: int, page: int, length: int, prot: int) -> None:
        """A part; nothing gains anything beyond its maximum, and no maximum grows."""
        process = self.processes[who % len(self.processes)]
        pointer = self.pointer(process, which, page)
        before = process.space.copy(0)
        if self.attempt(process, lambda: process.mprotect(pointer, prot, length)) and pointer is not None:
            assert_no_maximum_grew(before, process.space)
            assert_same_outside(before, process.space, pointer.address, length)

    @rule(who=WORDS, which=WORDS, page=PAGES, length=PARTS, inherit=st.integers(0, 4))
    def inherit(self, who: int, which: int, page: int, length: int, inherit: int) -> None:
        """A part; permissions stay."""
        process = self.processes[who % len(self.processes)]
        pointer = self.pointer(process, which, page)
        before = process.space.copy(0)
        if self.attempt(process, lambda: process.minherit(pointer, inherit, length)) and pointer is not None:
            assert_no_maximum_grew(before, process.space)
            assert_same_outside(before, process.space, pointer.address, length)

    @rule(who=WORDS, may_share=st.booleans())
    def fork(self, who: int, may_share: bool) -> None:
        """The child has at most what the parent has, and shares capabilities only as the policy says."""
        if len(self.processes) == 4:
            self.processes.pop(1)
        parent = self.processes[who % len(self.processes)]
        before = snapshot(parent.space)
        self.serial += 1
        parent.knobs = Knobs(machine=may_share)
        child, plan = parent.fork(self.serial)
        parent.knobs = Knobs()
        assert snapshot(parent.space) == before
        assert_no_maximum_grew(parent.space, child.space)
        gone = sum(end - start for start, end in plan.none)
        assert sum(e.length for e in parent.space.entries.values()) == gone + sum(
            e.length for e in child.space.entries.values()
        )
        for entry in child.space.entries.values():
            assert entry.inherit != c.INHERIT_NONE
            if entry.is_shared and entry.can_hold_capabilities:
                assert entry.object is not None
                assert may_share
                assert child.policy.keeps_capabilities_at_fork(entry.object)
        self.processes.append(child)

    def check_owner(self, process: Process, entry: Entry) -> None:
        """Whoever has just mapped an object with capability permission may (E1, E9), under policies that ask."""
        memory = entry.object
        if memory is None or not entry.can_hold_capabilities or isinstance(process.policy, Open):
            return
        if memory.can_hold_capabilities:
            assert memory.is_share_cap or memory.owner == process.space.serial

    @invariant()
    def every_space_is_one(self) -> None:
        """Whatever happened."""
        for process in getattr(self, "processes", []):
            process.space.check()


def snapshot(space: AddressSpace) -> tuple[object, ...]:
    """All that can be seen of it."""
    return space.serial, tuple(space.entries.values()), tuple(space.reservations.values())


def assert_no_maximum_grew(before: AddressSpace, after: AddressSpace) -> None:
    """Nothing that lies anywhere now may do more than what lay there before."""
    for entry in after.entries.values():
        old = before.within(entry.start, entry.end)
        assert sum(one.length for one in old) == entry.length
        for one in old:
            assert (entry.maximum & ~one.maximum) == Rights(0)


def assert_same_outside(before: AddressSpace, after: AddressSpace, start: int, length: int) -> None:
    """A call changes nothing but the pages that it is about."""
    for low, high in ((before.arena_start, round_down(start)), (round_up(start + length), before.arena_end)):
        assert before.within(low, high) == after.within(low, high)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_address_spaces_stay_what_they_are(policy: Callable[[], Policy]) -> None:
    """Any calls, right and wrong, by a process and those that are forked from it."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    machine = type("Machine", (Spaces,), {"policy": policy})
    thoroughly = settings(
        phases=[Phase.generate, Phase.shrink],
        max_examples=120,
        stateful_step_count=40,
        deadline=None,
        print_blob=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(with_seed(seed)(machine), settings=thoroughly)
