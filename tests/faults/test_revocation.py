"""Revocation among processes that stop, die, fork and work on: P2, P3 and P4, at every step of an operation.

Who makes a pass wait is a child that has stopped itself inside an operation out of which nobody runs it: while the
broker waits for it, the gate is closed, whatever else happens.
"""

import os
import random
import resource
import signal
import threading
from functools import partial
from types import TracebackType
from typing import Self

import pytest

from capshm import BrokerGone, Capability, Machine
from capshm import cheribsd as bsd
from tests.conformance.cheribsd.revocation import ASYNC, IGNORE, as_freed, info, revoke_painted, shadow_of
from tests.faults.isolation import isolated
from tests.faults.plain_user import become_plain
from tests.faults.processes import Child, Event, join, stop_here, wait_until_parked
from tests.faults.scene import STEPS
from tests.faults.victims import (
    OPERATIONS,
    PAGE,
    Freed,
    anonymous,
    assert_still_stopped,
    clean_machine,
    finish,
    owned,
    skip_without_tracing,
    stop_amid_fork,
    stop_inside,
    stragglers_of,
)

LONG = 100.0  # seconds; no pass of these tests runs into it
SHORT = 0.02  # who waits in vain is not to wait long

pytestmark = pytest.mark.slow


class Victim(Child):
    """A child with a freed value, that carries out one operation, at one step of which something happens to it.

    It stops itself once more, outside of any operation, and then looks for tags.
    """

    def __init__(self, name: str, step: str, action: str) -> None:
        super().__init__(partial(self._run, name, step, action))

    def _run(self, name: str, step: str, action: str) -> None:
        freed = Freed()
        stop_inside(lambda: freed.use(name), step, action)
        stop_here()
        freed.check()


@pytest.mark.parametrize("name", OPERATIONS)
@isolated(core="steps")
def test_stopped_at_every_step(name: str) -> None:
    """P2: who is stopped inside an operation is not stopped: if the broker may not trace it the pass is incomplete."""
    incomplete = set()
    become_plain()  # root may trace the hardened
    with clean_machine(stop_timeout=SHORT, hardened=True) as machine:
        for step in STEPS:
            with Victim(name, step, "stop") as victim:
                assert victim.wait_stopped()
                if stragglers := stragglers_of(machine):
                    assert stragglers == [(victim.pid, "stopped inside an operation")]
                    assert info().enqueue == info().dequeue + 1
                    incomplete.add(step)
                    victim.resume()
                    assert victim.wait_stopped()
                    machine.revoke()
                finish(victim)
    assert "OPERATION_ENTERED" in incomplete
    assert "OPERATION_LEFT" not in incomplete


@pytest.mark.parametrize("name", OPERATIONS)
@isolated(core="steps")
def test_run_out_at_every_step(name: str) -> None:
    """P2: where it may be traced it leaves its operation, stays stopped, and no tag is left when it goes on."""
    skip_without_tracing()
    with clean_machine(stop_timeout=LONG) as machine:
        for step in STEPS:
            with Victim(name, step, "stop") as victim:
                assert victim.wait_stopped()
                machine.revoke()
                assert_still_stopped(victim.pid)
                finish(victim)


@pytest.mark.parametrize("name", OPERATIONS)
@isolated(core="steps")
def test_killed_at_every_step(name: str) -> None:
    """P2, P3: nobody waits for a thread that has died inside an operation, and the pass reaches all others."""
    with clean_machine(stop_timeout=LONG) as machine, Victim(name, STEPS[-1], "stop") as other:
        assert other.wait_stopped()
        for step in STEPS:
            with Victim(name, step, "kill") as victim:
                victim.wait_stopped()  # or it has died: not every operation comes by every step
                machine.revoke()
        finish(other)


class Scene:
    """A machine in whose pass everybody is caught: between `begin` and the end of the pass its broker answers nobody.

    straggler: stopped amid a fork. asker: waits for its revocation. parked: its loads wait at the gate.
    """

    def __init__(self, machine: Machine) -> None:
        self._asked, self._end = Event(), Event()
        memory = anonymous()
        self.straggler = Child(stop_amid_fork)
        self.asker = Child(partial(self._ask, machine))
        self.parked = Child(partial(self._load, memory))
        assert self.straggler.wait_stopped()

    def _ask(self, machine: Machine) -> None:
        self._asked.wait()
        machine.revoke()

    def _load(self, memory: Capability) -> None:
        while not self._end.is_set():
            memory.load_capability(0)

    def begin(self) -> None:
        """Return when the gate is closed, and the broker waits."""
        self._asked.set()
        wait_until_parked(self.parked.pid)

    def go_on(self) -> None:
        """The straggler goes on, and the pass with it."""
        self.straggler.resume()

    def ends(self) -> list[int]:
        """How straggler, asker and parked have ended."""
        self._end.set()
        return [child.wait() for child in (self.straggler, self.asker, self.parked)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for child in (self.straggler, self.asker, self.parked):
            child.kill()
        self._asked.close()
        self._end.close()


@isolated()
def test_fork_waits_for_a_pass() -> None:
    """cheribsd:F23: a fork that begins during a pass is over after it, and the child's copies are swept, too."""
    with clean_machine(stop_timeout=LONG) as machine:
        forking, forked = Event(), Event()
        memory = anonymous()

        def fork() -> None:
            value = as_freed(memory)
            memory.store_capability(0, value)
            shadow_of(memory).paint(value)
            stop_here()
            forking.set()
            with Child(lambda: check_untagged(memory, value)) as child:
                forked.set()
                assert child.wait() == 0

        with Child(fork) as forker:
            assert forker.wait_stopped()
            with Scene(machine) as scene:
                scene.begin()
                forker.resume()
                forking.wait()
                assert not forked.is_set()
                scene.go_on()
                assert scene.ends() == [0, 0, 0]
                assert forker.wait() == 0
        forking.close()
        forked.close()


def check_untagged(memory: Capability, value: Capability) -> None:
    """The value is gone from a register and from memory."""
    assert not value.tag
    assert not memory.load_capability(0).tag


@isolated()
def test_the_asker_is_killed() -> None:
    """P2, P3: a pass goes on without the process that asked for it, and the machine after it."""
    with clean_machine(stop_timeout=LONG) as machine, Scene(machine) as scene:
        scene.begin()
        scene.asker.kill()
        scene.go_on()
        assert scene.ends() == [0, -signal.SIGKILL, 0]
        assert machine.revoke().epochs == (4, 4)


@isolated()
def test_the_straggler_is_killed() -> None:
    """P3: the pass is over as soon as the one that it waits for has died."""
    with clean_machine(stop_timeout=LONG) as machine, Scene(machine) as scene:
        scene.begin()
        scene.straggler.kill()
        assert scene.ends() == [-signal.SIGKILL, 0, 0]
        assert machine.revoke().epochs == (4, 4)


@isolated()
def test_the_broker_is_killed_during_a_pass() -> None:
    """P4: whoever waits, and every operation after that, gets BrokerGone; the machine ends without residue."""
    machine = Machine(stop_timeout=LONG)
    with machine, Scene(machine) as scene:
        memory = anonymous()
        scene.begin()
        os.kill(machine.broker_pid, signal.SIGKILL)
        for attempt in (lambda: memory.load_capability(0), lambda: memory.tag, machine.revoke, machine.processes):
            with pytest.raises(BrokerGone):
                attempt()
        scene.go_on()
        assert scene.ends() == [0, 1, 1]


@isolated()
def test_no_thread_uses_what_was_revoked() -> None:
    """P2: threads move values among registers, memory and objects as fast as they can; none yields what is revoked.

    Each round has a value of its own. A thread that has seen a round's revocation return finds no tagged value of it,
    and values that were never painted are never lost.
    """
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    with clean_machine(stop_timeout=LONG):
        arena, places = anonymous(64 * PAGE), [anonymous(), owned()]
        kept = as_freed(arena + 63 * PAGE)
        values = [kept]
        revoked = 0  # rounds
        is_over = threading.Event()
        wrong: list[str] = []

        def move(rng: random.Random) -> None:
            held = kept
            while not is_over.is_set():
                before = revoked
                source, target = rng.choice(places), rng.choice(places)
                loaded = source.load_capability(16 * rng.randrange(64))
                rounds = [(value.base - arena.base) // 16 for value in (loaded, held) if value.tag]
                wrong.extend(f"round {number} after {before}" for number in rounds if number < before)
                held = rng.choice([loaded, rng.choice(values), kept])
                if rng.random() < 0.3:
                    (source + 512).copy_to(target + 256, 256)
                target.store_capability(16 * rng.randrange(64), held)
                if not kept.tag:
                    wrong.append("lost")

        threads = [threading.Thread(target=move, args=[random.Random(seed + number)]) for number in range(2)]
        for thread in threads:
            thread.start()
        try:
            for number in range(60):
                value = as_freed(arena + 16 * number)
                values.append(value)
                revoke_painted(arena, value)
                assert not value.tag
                revoked = number + 1
        finally:
            is_over.set()
            for thread in threads:
                join(thread)
        assert wrong == []


@isolated()
def test_an_epoch_that_the_broker_cannot_close_later() -> None:
    """2.2: a pass for which the broker has no memory leaves the epoch open, and is in the audit; the next closes it."""
    with clean_machine() as machine:
        memory = owned()
        value = as_freed(memory)
        memory.store_capability(0, value)
        shadow_of(memory).paint(value)
        resource.prlimit(machine.broker_pid, resource.RLIMIT_AS, (1 << 20, resource.RLIM_INFINITY))
        bsd.cheri_revoke(ASYNC | IGNORE)
        while not (told := [each for each in machine.audit() if each.event == "revoke later"]):
            pass
        resource.prlimit(machine.broker_pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert [(each.rule, each.allowed) for each in told] == [("host", False)]
        assert has_tag(value)
        bsd.cheri_revoke(ASYNC | IGNORE)
        while has_tag(value):
            pass


def has_tag(value: Capability) -> bool:
    """Now: others may have taken it since the last look."""
    return value.tag
