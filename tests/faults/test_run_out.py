"""A process that is stopped inside an operation is run out of it by a pass, and nobody sees more than its end."""

import os
import random
import signal
import threading
from functools import partial

import pytest

from capshm import Capability
from capshm.testing.stepping import Stepper
from tests.faults.isolation import isolated
from tests.faults.processes import Child, Event, join, stop_here
from tests.faults.victims import (
    Freed,
    anonymous,
    assert_still_stopped,
    clean_machine,
    field_of,
    finish,
    skip_without_tracing,
    state_of,
    stop_amid_fork,
    stop_inside,
    stragglers_of,
)

LONG = 100.0  # seconds; no pass of these tests runs into it
SHORT = 0.02  # who waits in vain is not to wait long

pytestmark = pytest.mark.slow


def stop_inside_and_outside(memory: Capability) -> None:
    """Stop inside an operation, and again after it."""
    stop_inside(lambda: memory.load_capability(0))
    stop_here()


@isolated(core="steps")
def test_what_its_parent_sees() -> None:
    """The stop that there was, once, whether it has looked before the pass or looks after it; then that it goes on."""
    skip_without_tracing()
    with clean_machine(stop_timeout=LONG) as machine:
        memory = anonymous()
        for looks_before in (True, False):
            end = Event()

            def body(end: Event) -> None:
                stop_inside(lambda: memory.load_capability(0))
                end.wait()

            with Child(partial(body, end)) as child:
                if looks_before:
                    assert child.wait_stopped()
                while state_of(child.pid) != "T":
                    os.sched_yield()
                machine.revoke()
                if not looks_before:
                    assert child.wait_stopped()
                assert_still_stopped(child.pid)
                assert field_of(child.pid, "TracerPid") == "0"
                child.resume()
                assert os.WIFCONTINUED(os.waitpid(child.pid, os.WCONTINUED)[1])
                end.set()
                assert child.wait() == 0
            end.close()


@isolated(core="steps")
def test_signals_wait_until_it_goes_on() -> None:
    """Those that came while it was stopped are taken when somebody continues it; its mask is its own again."""
    skip_without_tracing()
    with clean_machine(stop_timeout=LONG) as machine:
        memory = anonymous()
        seen: list[int] = []

        def body() -> None:
            signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
            stop_inside_and_outside(memory)
            assert seen == [signal.SIGUSR1]

        with Child(body) as child:
            assert child.wait_stopped()
            os.kill(child.pid, signal.SIGUSR1)
            before = [field_of(child.pid, title) for title in ("SigBlk", "ShdPnd")]
            machine.revoke()
            assert_still_stopped(child.pid)
            assert [field_of(child.pid, title) for title in ("SigBlk", "ShdPnd")] == before
            child.resume()
            assert child.wait_stopped()
            finish(child)


@isolated(core="steps")
def test_a_thread_inside_an_operation() -> None:
    """It is that thread that is run out; the others of its process stay where they are."""
    skip_without_tracing()
    with clean_machine(stop_timeout=LONG) as machine:
        memory = anonymous()

        def body() -> None:
            memory.load_capability(0)
            thread = threading.Thread(target=lambda: stop_inside(lambda: memory.load_capability(0)))
            thread.start()
            join(thread)

        with Child(body) as child:
            assert child.wait_stopped()
            machine.revoke()
            assert_still_stopped(child.pid)
            child.resume()
            assert child.wait() == 0


@isolated()
def test_nobody_is_run_through_a_fork() -> None:
    """A stopped process makes no child: amid a fork it keeps the pass from being complete."""
    with clean_machine(stop_timeout=SHORT) as machine, Child(stop_amid_fork) as child:
        assert child.wait_stopped()
        assert stragglers_of(machine) == [(child.pid, "stopped inside an operation")]
        child.resume()
        assert child.wait() == 0
        machine.revoke()


@isolated()
def test_who_is_traced_by_another() -> None:
    """A debugger's process is the debugger's: the pass is incomplete, and the next one is not."""
    with clean_machine(stop_timeout=SHORT) as machine:
        memory = anonymous()
        with Stepper(lambda: memory.load_capability(0), at="capshm_load") as child:
            while not (stragglers := stragglers_of(machine)):
                assert child.step()
            assert stragglers == [(child.pid, "stopped inside an operation")]
            child.resume()
            assert child.wait() == 0
        machine.revoke()


def be_victim() -> None:
    """Stop inside a store of a freed value, and once more; look for tags then."""
    freed = Freed()
    stop_inside(lambda: freed.use("store"), "TWIN_STORED")
    stop_here()
    freed.check()


def disturb(asking: Event, pid: int, number: signal.Signals, delay: int) -> None:
    """Send the signal some time after the event."""
    asking.wait()
    for _ in range(delay):
        os.getppid()
    os.kill(pid, number)


@isolated(core="steps")
def test_killed_or_continued_meanwhile() -> None:
    """P2, P3: whatever comes while it is run out, the pass ends, and no tag is left."""
    skip_without_tracing()
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    with clean_machine(stop_timeout=LONG) as machine:
        for number in [signal.SIGKILL, signal.SIGCONT] * 10:
            asking = Event()
            with Child(be_victim) as victim:
                assert victim.wait_stopped()
                delay = rng.randrange(4000)
                with Child(partial(disturb, asking, victim.pid, number, delay)) as disturber:
                    asking.set()
                    machine.revoke()
                    assert disturber.wait() == 0
                if number == signal.SIGCONT:
                    assert victim.wait_stopped()
                    finish(victim)
                else:
                    assert victim.wait() == -signal.SIGKILL
            asking.close()
