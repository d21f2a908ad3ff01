"""The gate beside operations that ended badly."""

import os
import threading

import pytest

from capshm._native import lib
from capshm.testing import Segment, closed_gate
from tests.faults.processes import join


@pytest.mark.parametrize("is_alone", [True, False], ids=["alone", "locking"])
def test_a_fault_leaves_the_operation(is_alone: bool) -> None:
    """A thread whose access faulted is outside: somebody else can stop the world at once."""
    with Segment(4096) as segment:
        if not is_alone:
            other = threading.Thread(target=segment.root.load_capability)  # from the second thread on, lines are locked
            other.start()
            join(other)
        faulted, end = threading.Event(), threading.Event()

        def access() -> None:
            os.ftruncate(segment.fd, 0)
            register = segment.root._register
            # Straight from the core: an error of Python would describe the capability, and that is an operation too.
            assert lib.capshm_store(register, 0, register) == lib.STATUS_PAGE_BEYOND_OBJECT
            faulted.set()
            end.wait()

        thread = threading.Thread(target=access)
        thread.start()
        faulted.wait()
        try:
            with closed_gate(timeout=0):
                pass
        finally:
            end.set()
            join(thread)
