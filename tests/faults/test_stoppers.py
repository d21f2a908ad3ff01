"""The three stoppers, side by side: whom they stop, whom they leave alone, and what they leave behind when they die."""

import ctypes
import mmap
import os
import signal
import struct
import threading
from collections.abc import Callable
from functools import partial

import pytest

from capshm import BrokerGone, Capability, Machine, capability
from capshm._native import lib
from capshm.broker.revocation.stoppers import NAMES, Signal, SigStop
from capshm.broker.segments import new_sealed
from capshm.model.constants import ARENA_SIZE, ARENA_START
from capshm.testing.stepping import Stepper
from tests.conformance.cheribsd.revocation import as_freed, revoke_painted
from tests.faults.isolation import isolated
from tests.faults.processes import Child, Event, join, stop_here
from tests.faults.scene import chosen
from tests.faults.victims import (
    OPERATIONS,
    Freed,
    anonymous,
    assert_still_stopped,
    clean_machine,
    stragglers_of,
)

LONG = 100.0  # seconds; no pass of these tests runs into it
SHORT = 0.02  # who waits in vain is not to wait long
PARKING = signal.SIGWINCH
_PR_SET_CHILD_SUBREAPER = 36

pytestmark = pytest.mark.slow


# Processes in all conditions


def load_until(end: Event, memory: Capability) -> None:
    """Be inside operations most of the time."""
    while not end.is_set():
        memory.load_capability(0)


def load_in_threads(end: Event, memory: Capability) -> None:
    """... in two threads."""
    other = threading.Thread(target=load_until, args=(end, memory))
    other.start()
    load_until(end, memory)
    join(other)


def sleep_until(end: Event, memory: Capability) -> None:
    """Be asleep in a system call, which goes on after it was interrupted."""
    memory.load_capability(0)
    end.wait()
    memory.load_capability(0)


def block_until(end: Event, memory: Capability) -> None:
    """Take no signal."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    load_until(end, memory)


def handle_until(end: Event, memory: Capability) -> None:
    """Have a handler of one's own for the signal that parks."""
    signal.signal(PARKING, lambda number, frame: None)
    load_until(end, memory)


def die(end: Event, memory: Capability) -> None:
    """Be gone soon."""
    memory.load_capability(0)


CONDITIONS: list[Callable[[Event, Capability], None]] = [
    load_until,
    load_in_threads,
    sleep_until,
    block_until,
    handle_until,
    die,
]


@pytest.mark.parametrize("stopper", NAMES)
@isolated()
def test_processes_in_all_conditions(stopper: str) -> None:
    """Passes are complete, take what was painted, and everybody goes on as if nothing had happened."""
    with clean_machine(stopper=stopper, stop_timeout=LONG):
        memory, end = anonymous(), Event()
        children = [Child(partial(body, end, memory)) for body in CONDITIONS]
        with Child(stop_here) as stopped:
            assert stopped.wait_stopped()
            for _ in range(5):
                value = as_freed(memory)
                revoke_painted(memory, value)
                assert not value.tag
            assert_still_stopped(stopped.pid)
            stopped.resume()
            assert stopped.wait() == 0
        end.set()
        assert [child.wait() for child in children] == [0] * len(children)
        end.close()


@isolated()
def test_a_handler_that_was_there_before_still_gets_its_signals() -> None:
    """Those of others; and when the process has left the machine it is its own again."""
    seen = []
    signal.signal(PARKING, lambda number, frame: seen.append(number))
    with clean_machine(stopper="signal") as machine:
        with Child(lambda: None) as child:  # so that somebody else attaches, too
            assert child.wait() == 0
        machine.revoke()
        assert seen == []
        os.kill(os.getpid(), PARKING)
        assert seen == [PARKING]
    signal.raise_signal(PARKING)
    assert seen == [PARKING] * 2


# What is parked does nothing at all


class World:
    """A keeper and a worker without machine: the worker counts, the keeper stops it by one of the broker's stoppers."""

    def __init__(self, stopper: str) -> None:
        self._name = stopper
        self._gate = new_sealed("capshm-gate/world", lib.capshm_gate_size())
        self._kept, self._ready = Event(), Event()
        self._count = mmap.mmap(-1, mmap.PAGESIZE)
        self.worker = Child(self._work)
        assert lib.capshm_keep_gate(self._gate) == lib.STATUS_OK
        self._kept.set()
        self._ready.wait()

    def _work(self) -> None:
        self._kept.wait()
        assert lib.capshm_attach(ARENA_START, ARENA_SIZE, self._gate) == lib.STATUS_OK
        if self._name == "signal":
            assert lib.capshm_take_halt_signals(True) == lib.STATUS_OK
        root = capability.make(ARENA_START, lib.METADATA_ROOT, tag=True)
        assert root.tag
        self._ready.set()
        try:
            while True:
                struct.pack_into("Q", self._count, 0, self.count() + 1)
                if not self.count() % (1 << 16):
                    assert root.tag
        except BrokerGone:
            os._exit(3)

    def count(self) -> int:
        """How far the worker is."""
        return int(struct.unpack_from("Q", self._count, 0)[0])

    def stopper(self) -> Signal | SigStop:
        """As the broker has it. With a guard for "sigstop", which this process must close."""
        if self._name == "signal":
            return Signal(LONG)
        return SigStop(LONG, lambda: [(self.worker.pid, os.pidfd_open(self.worker.pid))])

    def wait_until_it_counts(self) -> None:
        """It runs."""
        before = self.count()
        while self.count() == before:
            os.sched_yield()


@pytest.mark.parametrize("stopper", NAMES[1:])
@isolated()
def test_who_is_halted_does_nothing(stopper: str) -> None:
    """It does not even count, where the gate alone would let it; and goes on afterwards."""
    world = World(stopper)
    with world.worker:
        halting = world.stopper()
        for _ in range(20):
            world.wait_until_it_counts()
            with halting.stopped():
                before = world.count()
                for _ in range(100):
                    os.sched_yield()
                assert world.count() == before
        halting.close()


@pytest.mark.parametrize("stopper", NAMES[1:])
@isolated()
def test_the_keeper_is_killed_while_others_are_halted(stopper: str) -> None:
    """P3, P4: whoever was halted goes on by itself, and its next operation raises BrokerGone."""
    ready, dying = Event(), Event()

    def keep() -> None:
        world = World(stopper)
        ready.set()
        with world.stopper().stopped():
            dying.set()
            os.kill(os.getpid(), signal.SIGKILL)

    assert not ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with Child(keep) as keeper:
        ready.wait()
        dying.wait()
        assert keeper.wait() == -signal.SIGKILL
        ends = [3] if stopper == "signal" else [0, 3]  # of the worker, and of the guard
        assert sorted(os.waitstatus_to_exitcode(os.wait()[1]) for _ in ends) == ends


# At each instruction


def step_into(name: str) -> Stepper:
    """A child with a freed value that is about to do the first instruction of an operation.

    After the operation it stops itself, and then it looks for tags.
    """
    made: list[Freed] = []

    def body() -> None:
        made[0].use(name)
        stop_here()
        made[0].check()

    return Stepper(body, at=f"capshm_{name}", prepare=lambda: made.append(Freed()))


def check_at_instructions(stopper: str, sample: int | None) -> None:
    """P2: stopped or traced at an instruction, a pass, and on: it is incomplete, or there are no tags afterwards."""
    with clean_machine(stopper=stopper, stop_timeout=SHORT) as machine:
        for name in OPERATIONS:
            with step_into(name) as victim:
                path = victim.trace()
            for is_traced in (False, True):
                for instructions in chosen(len(path), sample):
                    with step_into(name) as victim:
                        victim.advance(path, instructions)
                        check_halted(machine, victim, is_traced=is_traced)


def check_halted(machine: Machine, victim: Stepper, *, is_traced: bool) -> None:
    """A victim that is halted at some instruction."""
    if not is_traced:
        victim.stop()
    stragglers = stragglers_of(machine)
    assert {pid for pid, _ in stragglers} <= {victim.pid}
    if is_traced:
        victim.stop()
    victim.resume()
    assert victim.wait_stopped()
    if stragglers:
        machine.revoke()
    victim.resume()
    assert victim.wait() == 0


@pytest.mark.parametrize("stopper", NAMES)
@isolated()
def test_stopped_at_some_instructions(stopper: str) -> None:
    """A few of each operation's."""
    check_at_instructions(stopper, sample=3)


@pytest.mark.soak
@pytest.mark.parametrize("stopper", NAMES)
@isolated(bound=3600)
def test_stopped_at_each_instruction(stopper: str) -> None:
    """All of them."""
    check_at_instructions(stopper, sample=None)
