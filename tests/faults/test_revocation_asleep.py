"""P2 for those who are asleep when a pass is made, outside of an operation and inside of one that nobody can end."""

from array import array

import pytest

from capshm import Machine, RevocationIncomplete
from capshm import cheribsd as bsd
from capshm._native import ffi, lib
from tests.conformance.cheribsd.revocation import as_freed, info, shadow_of
from tests.conformance.cheribsd.support import anonymous
from tests.faults.isolation import isolated
from tests.faults.processes import Child, stop_here
from tests.faults.residue import Residue

pytestmark = pytest.mark.slow


@isolated()
def test_a_sleeper_clears_its_paint_last() -> None:
    """Who slept over a pass sweeps before it can clear the paint with which it was to sweep."""

    def sleep() -> None:
        memory = anonymous()
        value = as_freed(memory)
        memory.store_capability(16, value)
        shadow = shadow_of(memory)
        shadow.paint(value)
        painted = array("Q", [value.base, value.length])
        stop_here()
        assert not lib.capshm_paint_ranges(ffi.from_buffer("uint64_t[]", painted), 1, False)  # nothing comes before it
        assert not shadow.is_painted(painted[0])
        assert not value.tag
        assert not memory.load_capability(16).tag

    machine = Machine()
    with Residue(machine.name), machine, Child(sleep) as sleeper:
        assert sleeper.wait_stopped()
        machine.revoke()
        sleeper.resume()
        assert sleeper.wait() == 0


@isolated()
def test_malloc_keeps_what_could_not_be_revoked() -> None:
    """While somebody is stopped where a pass must wait for it, a flush fails and nothing is used again."""

    def stop_amid_fork() -> None:
        lib.capshm_fork_before()
        stop_here()
        lib.capshm_fork_in_parent()

    machine = Machine(stop_timeout=0.02)  # who waits in vain is not to wait long
    with Residue(machine.name), machine:
        freed = bsd.malloc(64)
        bsd.free(freed)
        with Child(stop_amid_fork) as straggler:
            assert straggler.wait_stopped()
            with pytest.raises(RevocationIncomplete) as caught:
                bsd.malloc_revoke_quarantine_force_flush()
            assert [pid for pid, _ in caught.value.processes] == [straggler.pid]
            assert info().enqueue == info().dequeue + 1
            assert freed.base not in {bsd.malloc(64).base for _ in range(64)}
            straggler.resume()
            assert straggler.wait() == 0
        bsd.malloc_revoke_quarantine_force_flush()
        assert not freed.tag
        assert freed.base in {bsd.malloc(64).base for _ in range(64)}
