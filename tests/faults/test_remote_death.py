"""Deaths and stops at each named step of a call on another process's VMAR, as broker/zircon/remote.py promises."""

import os
import signal
from contextlib import suppress

import pytest

from capshm import BrokerGone, Machine
from capshm import zircon as zx
from tests.faults.guests import PAGES, RW, Guest, R, agreed, refused, wait_for_ever
from tests.faults.isolation import isolated
from tests.faults.processes import Child, Event

STEPS = ["REMOTE_ASKED", "REMOTE_TAKEN", "REMOTE_CHANGED", "REMOTE_REPORTED"]
PATIENT = 60.0
SHORT = 5.0  # seconds after which a call on a stopped process is given up; it comes to its step long before


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
@isolated(core="steps")
def test_the_target_dies(step: str) -> None:
    """BAD_STATE, unless it had reported; and so is every call after that."""
    with Machine(stop_timeout=PATIENT) as machine, Guest(step=step, action="kill") as guest:
        if step == "REMOTE_REPORTED":  # the report and the death come at once
            with suppress(zx.ZxError):
                guest.protect(RW)
        else:
            with refused(zx.ERR_BAD_STATE, "vmar:1.3/6"):
                guest.protect(RW)
        assert guest.child.wait() == -signal.SIGKILL
        with refused(zx.ERR_BAD_STATE, "vmar:1.3/6"):
            guest.protect(R)
        with Guest() as another:
            another.protect(RW)
            assert agreed(machine, another.pid, another.place.address) == ["rw"] * PAGES


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
@isolated(core="steps")
def test_the_target_stops_and_goes_on(step: str) -> None:
    """Stopped with orders in hand it is in progress, which is told; when it goes on it finishes, and all agrees."""
    with Machine(stop_timeout=SHORT) as machine, Guest(step=step, action="stop") as guest:

        def call(options: int, pages: int) -> None:
            with refused(zx.ERR_UNAVAILABLE, "vmar:REMOTE/2"):
                guest.protect(options, 0, pages)

        if step == "REMOTE_REPORTED":
            guest.protect(RW)
            assert guest.child.wait_stopped()
        else:
            with Child(lambda: call(RW, PAGES)) as first:
                assert guest.child.wait_stopped()
                with Child(lambda: call(R, 1)) as second:
                    assert (first.wait(), second.wait()) == (0, 0)
        guest.child.resume()
        guest.protect(R, 2, 1)
        assert agreed(machine, guest.pid, guest.place.address) == ["rw", "rw", "r", "rw", "rw", "rw"]


@pytest.mark.slow
@isolated()
def test_a_target_that_was_stopped_before() -> None:
    """The call is given up, and changes nothing, then or later."""
    with Machine(stop_timeout=0.2) as machine, Guest() as guest:
        guest.child.stop()
        before = agreed(machine, guest.pid, guest.place.address)
        with refused(zx.ERR_UNAVAILABLE, "vmar:REMOTE/1"):
            guest.protect(RW)
        with refused(zx.ERR_ACCESS_DENIED, "vmar:1.3/8b"):  # what the rules refuse is refused nonetheless
            guest.protect(R | zx.VM_PERM_EXECUTE)
        guest.child.resume()
        assert agreed(machine, guest.pid, guest.place.address) == before
        guest.child.kill()
        with refused(zx.ERR_BAD_STATE, "vmar:1.3/6"):
            guest.protect(RW)


@pytest.mark.slow
@isolated(core="steps")
def test_a_target_that_is_stopped_inside_an_operation() -> None:
    """It cannot come by before the operation has ended; then it does."""
    from capshm import cheribsd as bsd
    from capshm.testing import steps

    def life() -> None:
        memory = bsd.mmap(None, 4096, bsd.PROT_READ | bsd.PROT_WRITE, bsd.MAP_ANON | bsd.MAP_PRIVATE)
        with steps.armed("OPERATION_ENTERED"):
            memory.write(0, b"inside")
        wait_for_ever()

    with Machine(stop_timeout=SHORT) as machine, Guest(life) as guest:
        assert guest.child.wait_stopped()
        with refused(zx.ERR_UNAVAILABLE, "vmar:REMOTE/1"):
            guest.protect(RW)
        guest.child.resume()
        guest.protect(RW)
        assert agreed(machine, guest.pid, guest.place.address) == ["rw"] * PAGES


@pytest.mark.slow
@pytest.mark.parametrize("step", ["REMOTE_TAKEN", "REMOTE_CHANGED"])
@isolated(core="steps")
def test_the_caller_dies(step: str) -> None:
    """The target, which has the orders, carries them out, and everything agrees; one that has not never gets them."""
    with Machine(stop_timeout=PATIENT) as machine, Guest(step=step, action="stop") as guest, Guest() as stopped:
        stopped.child.stop()
        before = agreed(machine, stopped.pid, stopped.place.address)
        with Child(lambda: guest.protect(RW)) as caller, Child(lambda: stopped.protect(RW)) as waiting:
            assert guest.child.wait_stopped()
            caller.kill()
            waiting.kill()
        guest.child.resume()
        guest.protect(R, 2, 1)
        assert agreed(machine, guest.pid, guest.place.address) == ["rw", "rw", "r", "rw", "rw", "rw"]
        stopped.child.resume()
        stopped.protect(R, 0, 1)
        assert agreed(machine, stopped.pid, stopped.place.address) == ["r", *before[1:]]


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS[:3])
@isolated(core="steps")
def test_the_broker_dies(step: str) -> None:
    """The caller gets BrokerGone; the target's handler ends, and so does the wait of its next request."""
    with Machine(stop_timeout=PATIENT) as machine:
        told = Event()

        def call() -> None:
            try:
                guest.protect(RW)
            except BrokerGone:
                told.set()

        def life() -> None:
            try:
                while True:
                    zx.vmar_root_self()
            except BrokerGone:
                os._exit(7)

        with Guest(life, step=step, action="stop") as guest, Child(call) as caller:
            assert guest.child.wait_stopped()
            os.kill(machine.broker_pid, signal.SIGKILL)
            told.wait()
            assert caller.wait() == 0
            guest.child.resume()
            assert guest.child.wait() == 7
