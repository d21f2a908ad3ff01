"""Faults and signals that are not the core's go where they went before it came."""

import ctypes
import faulthandler
import os
import signal

import pytest

from capshm import PageViolation
from capshm.testing import Segment
from tests.faults.isolation import isolated
from tests.faults.processes import Child

PAGE = 4096


def _touch_nothing() -> None:
    ctypes.string_at(8)


def _attach() -> Segment:
    """Install the core's handlers in front of the present ones."""
    return Segment(2 * PAGE)


def _assert_core_works(segment: Segment) -> None:
    os.ftruncate(segment.fd, PAGE)
    with pytest.raises(PageViolation):
        segment.root.store_capability(PAGE, segment.root)


@pytest.mark.slow
@isolated()
def test_fault_outside_the_core() -> None:
    """A wild pointer elsewhere ends the process by SIGSEGV, as it would without the core."""
    faulthandler.disable()
    with _attach() as segment:
        with Child(_touch_nothing) as child:
            assert child.wait() == -signal.SIGSEGV
        with Child(lambda: os.kill(os.getpid(), signal.SIGBUS)) as child:
            assert child.wait() == -signal.SIGBUS
        _assert_core_works(segment)


@pytest.mark.slow
@isolated()
def test_faulthandler_prints() -> None:
    """Python's faulthandler, switched on before, still prints the stack of such a process."""
    read, write = os.pipe()
    faulthandler.enable(write)
    with _attach() as segment:
        with Child(_touch_nothing) as child:
            assert child.wait() == -signal.SIGSEGV
        assert b"_touch_nothing" in os.read(read, 1 << 16)
        _assert_core_works(segment)
        faulthandler.disable()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGSEGV", "SIGBUS"])
@isolated()
def test_python_handler_runs(name: str) -> None:
    """A handler written in Python gets the signals that are sent, and the core its faults."""
    faulthandler.disable()
    came: list[int] = []
    number = signal.Signals[name]
    signal.signal(number, lambda received, frame: came.append(received))
    with _attach() as segment:
        os.kill(os.getpid(), number)
        assert came == [number]
        _assert_core_works(segment)
        os.kill(os.getpid(), number)
        assert came == [number, number]


@pytest.mark.slow
@isolated()
def test_ignored_signals_stay_ignored() -> None:
    """Who ignored SIGBUS before goes on when somebody sends one."""
    faulthandler.disable()
    signal.signal(signal.SIGBUS, signal.SIG_IGN)
    with _attach() as segment:
        with Child(lambda: os.kill(os.getpid(), signal.SIGBUS)) as child:
            assert child.wait() == 0
        _assert_core_works(segment)
