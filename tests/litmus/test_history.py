"""Processes that store, load, write and die at random, and what they did, judged afterwards: all has an explanation."""

import random
import signal

import pytest

from capshm import Capability
from capshm.testing import History, Kind, Operation, Result, Segment, check_history, steps
from tests.faults.isolation import isolated
from tests.faults.processes import Child, Event
from tests.faults.scene import STEPS

GRANULE = 16
PLACES = 4  # granules that all fight for; two in each of two tag lines
CHILDREN = 4
ROUNDS = 1500  # operations a child
VICTIMS = 24  # that are killed in the midst of theirs, one after the other
STORED = 6  # different capabilities; few, so that the same is stored again and again


def _offsets(dice: random.Random) -> int:
    return dice.choice([0, GRANULE, 1024, 1024 + GRANULE])


class Fight:
    """A segment, authorities of several kinds over it, and the history of what is done there."""

    def __init__(self, segment: Segment, history: History) -> None:
        self.segment = segment
        self.history = history
        self.root = history.grant(segment.root, descriptor=segment.fd)
        self.data_only = history.grant(segment.map("rw"), descriptor=segment.fd)
        self.reading = history.grant(segment.map("rR"), descriptor=segment.fd)
        self.values = [self.part(2048 + 64 * i) for i in range(STORED)]
        self.doomed = [self.part(3072 + 64 * i) for i in range(STORED)]

    def part(self, start: int) -> Capability:
        """A capability of its own base."""
        return self.history.derive(self.root, lambda root: (root + start).with_bounds(48))

    def act(self, dice: random.Random) -> None:
        """Do something somewhere."""
        offset = _offsets(dice)
        action = dice.randrange(20)
        if action < 7:
            self.history.store(self.root, offset, dice.choice(self.values))
        elif action < 9:
            self.history.store(self.root, offset, dice.choice(self.doomed))
        elif action < 12:
            self.history.load(self.root, offset)
        elif action < 16:
            self.history.load(self.reading, offset)
        elif action == 16:
            loaded = self.history.load(self.root, offset)
            self.history.store(self.root, _offsets(dice), loaded)
        elif action < 19:
            # What stood there a moment ago, so that the bytes alone do not take the tag.
            place, length = offset + dice.randrange(GRANULE), dice.randrange(1, 2 * GRANULE)
            self.history.write(dice.choice([self.root, self.data_only]), place, self.root.read(place, length))
        else:
            # All of it, or the address, or the rest: bytes that are never stored there.
            start, length = dice.choice([(0, GRANULE), (0, GRANULE // 2), (GRANULE // 2, GRANULE // 2)])
            self.history.raw_write(self.data_only, offset + start, dice.randbytes(length))

    def run(self, seed: int, rounds: int) -> None:
        """So often, and end."""
        dice = random.Random(seed)
        for _ in range(rounds):
            self.act(dice)
        self.history.end()


def _be_killed(fight: Fight, runs: Event, seed: int) -> None:
    """Fight until killed: from outside, at any instruction, or where the core has step points at one of those."""
    dice = random.Random(seed)
    if steps.is_available():
        steps.arm(dice.choice(STEPS), nth=dice.randrange(1, 20), action="kill")
    runs.set()
    fight.run(seed, 1 << 30)


def _record(seed: int, *, rounds: int, victims: int) -> list[Operation]:
    """Children that fight, victims that do not live to the end of theirs, and one revocation in the midst."""
    print(f"seed {seed}, {CHILDREN} children, {rounds} rounds, {victims} victims")
    dice = random.Random(seed)
    with Segment(4096) as segment, History() as history:
        fight = Fight(segment, history)
        children = [Child(lambda number=number: fight.run(seed + number, rounds)) for number in range(CHILDREN)]  # type: ignore[misc]
        for victim in range(victims):
            runs = Event()
            with Child(lambda runs=runs, victim=victim: _be_killed(fight, runs, seed - 1 - victim)) as child:  # type: ignore[misc]
                runs.wait()
                for _ in range(dice.randrange(100)):
                    fight.act(dice)
                if steps.is_available():
                    assert child.wait() == -signal.SIGKILL  # by itself
            if victim == victims // 2:
                for value in fight.doomed:
                    history.paint(value)
                history.revoke(segment, timeout=60)
        assert [child.wait() for child in children] == [0] * CHILDREN
        return history.operations()


def _check(rounds: int, victims: int, *, cut_short: int = 0) -> None:
    """Record and judge; at least so many operations must have been cut short by a death."""
    operations = _record(random.randrange(1 << 32), rounds=rounds, victims=victims)
    assert sum(one.kind is Kind.STORE for one in operations) > CHILDREN * rounds // 4
    assert sum(one.kind is Kind.LOAD and one.value is not None and one.value.tag for one in operations) > rounds // 2
    assert sum(one.result is Result.UNKNOWN for one in operations) >= cut_short
    violations = check_history(operations)
    print(f"{len(operations)} operations, {len(violations)} violations")
    assert not violations, "\n".join(map(str, violations[:5]))


@pytest.mark.slow
@isolated()
def test_all_has_an_explanation() -> None:
    """Whatever processes do at once, and wherever some are killed: no tag from nowhere, no right too many."""
    _check(ROUNDS, VICTIMS)


@pytest.mark.slow
@isolated(core="steps")
def test_all_has_an_explanation_after_deaths_in_operations() -> None:
    """The same where each victim dies in the midst of an operation, between two of its stores."""
    _check(ROUNDS, VICTIMS, cut_short=VICTIMS // 2)


@pytest.mark.soak
@isolated(bound=3600)
def test_all_has_an_explanation_for_long() -> None:
    """The same, many times as much."""
    for _ in range(20):
        _check(10 * ROUNDS, 4 * VICTIMS)
