"""cheribsd:1.G: shared memory without a descriptor."""

import errno
import os

import pytest

from capshm import Machine
from capshm import cheribsd as bsd
from tests.conformance.cheribsd.support import (
    PAGE,
    RC,
    RW,
    RWC,
    RWN,
    SHARED_ANON,
    anonymous,
    bits,
    check_no_store,
    check_stripped,
    check_tagged,
    emulated,
    new_object,
    refused,
    shared,
    store,
)
from tests.faults.processes import ask_child


@pytest.mark.parametrize("prot", [RWC, RC, RWN | bsd.PROT_MAX(RWC)])
@emulated()
def test_G1_new_reservation_with_cap_is_share_cap(prot: int, machine: Machine) -> None:
    """G1: MAP_ANON|MAP_SHARED whose maximum has CAP has its object at once, and that is share-cap."""
    anonymous(prot, flags=SHARED_ANON)
    (made,) = machine.objects()
    assert (made.is_share_cap, made.owner) == (True, None)


@pytest.mark.parametrize("is_zero", [False, True])
@emulated()
def test_G2_capabilities_flow_between_parent_and_child(is_zero: bool) -> None:
    """G2: through it, and through /dev/zero, capabilities flow both ways between parent and child."""
    memory = shared(new_object("zero")) if is_zero else anonymous(RWC, flags=SHARED_ANON)
    value = store(memory)

    def body() -> bytes:
        check_tagged(memory, value)
        return bits(store(memory, 16))

    passed = ask_child(body)
    assert memory.load_capability(16).tag
    assert memory.read(16, 16) == passed


@emulated()
def test_G2_without_cap_only_data_flows() -> None:
    """G2: without CAP in the maximum the same memory shares data alone."""
    memory = anonymous(RW, flags=SHARED_ANON)

    def body() -> None:
        memory.write(0, b"data")
        check_no_store(memory, 16)
        with refused("cheribsd:B3", errno.EACCES):
            bsd.mprotect(memory, PAGE, RWC)

    ask_child(body)
    assert memory.read(0, 4) == b"data"


@emulated()
def test_G3_fixed_into_a_reservation_is_not_share_cap(machine: Machine) -> None:
    """G3: mapped with MAP_FIXED into an existing reservation it is not share-cap: the child loses CAP, as by F2."""
    place = anonymous(RW, 2 * PAGE)
    memory = bsd.mmap(place, PAGE, RWC, SHARED_ANON | bsd.MAP_FIXED)
    value = store(memory)
    assert [each.is_share_cap for each in machine.objects()] == [False]

    def body() -> None:
        check_stripped(memory, value)
        check_no_store(memory, 16)
        memory.write(32, b"shared all the same")
        with refused("cheribsd:B3", errno.EACCES):
            bsd.mprotect(memory, PAGE, RWC)

    ask_child(body)
    check_tagged(memory, value)
    assert memory.read(32, 19) == b"shared all the same"


@emulated()
def test_G4_knob_is_the_permission_check(machine: Machine) -> None:
    """G4 (6): the check that upstream lacks is the knob of K1: with it off, such memory is refused."""
    store(anonymous(RWC, flags=SHARED_ANON))
    bsd.procctl(bsd.PROC_SHARECAP_CTL, bsd.PROC_SHARECAP_DISABLE)
    before = machine.mappings(os.getpid())
    with refused("cheribsd:K3", errno.EACCES):
        anonymous(RWC, flags=SHARED_ANON)
    assert machine.mappings(os.getpid()) == before
    anonymous(RW, flags=SHARED_ANON).write(0, b"data")
