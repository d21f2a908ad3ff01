"""cheribsd:1.B: mprotect."""

import errno
import os

import pytest

from capshm import Machine, PageViolation
from capshm import cheribsd as bsd
from tests.conformance.cheribsd.support import (
    PAGE,
    PRIVATE_ANON,
    RW,
    RWC,
    RWN,
    R,
    anonymous,
    check_no_store,
    check_stripped,
    check_tagged,
    emulated,
    free_address,
    new_object,
    refused,
    shared,
    store,
    without_vmem,
)

NONE = bsd.PROT_NONE


@pytest.mark.parametrize("kind", ["anonymous", "shm", "memfd"])
@emulated()
def test_B1_cap_is_implied_from_the_maximum(kind: str) -> None:
    """B1: mprotect without a flag for capabilities gives back what the maximum has, also after PROT_NONE and NO_CAP."""
    memory = anonymous() if kind == "anonymous" else shared(new_object(kind), RWC)
    value = store(memory)
    for between in (RW, R, NONE, RWN):
        bsd.mprotect(memory, PAGE, between)
        bsd.mprotect(memory, PAGE, RW)
        check_tagged(memory, value)
        store(memory, 16)


@emulated()
def test_B1_what_lies_between() -> None:
    """B1: READ alone implies load-capability permission, and PROT_NONE implies nothing."""
    memory = anonymous()
    value = store(memory)
    bsd.mprotect(memory, PAGE, R)
    check_tagged(memory, value)
    with pytest.raises(PageViolation):
        memory.store_capability(16, value)
    bsd.mprotect(memory, PAGE, NONE)
    with pytest.raises(PageViolation):
        memory.load_capability()


@emulated()
def test_B2_cap_is_implied_for_the_whole_range() -> None:
    """B2: where only some of the range has CAP in its maximum, it is implied for all, and refused; nothing changes."""
    memory = anonymous(RW, 2 * PAGE)
    second = bsd.mmap(memory + PAGE, PAGE, RWN, PRIVATE_ANON | bsd.MAP_FIXED)
    value = store(memory)
    with refused("cheribsd:B2", errno.EACCES):
        bsd.mprotect(memory, 2 * PAGE, RW)
    with refused("cheribsd:B2", errno.EACCES):
        bsd.mprotect(memory, 2 * PAGE, R)
    store(memory, 16)
    second.write(0, b"still writable")
    check_no_store(second)
    bsd.mprotect(memory, 2 * PAGE, R | bsd.PROT_NO_CAP)
    check_stripped(memory, value)
    with pytest.raises(PageViolation):
        second.write(0, b"no more")


@pytest.mark.parametrize("kind", ["shm", "memfd", "share-cap", "file"])
@emulated()
def test_B3_cap_beyond_the_maximum(kind: str) -> None:
    """B3: mprotect that asks for CAP where the maximum lacks it is refused; without a flag nothing is implied there."""
    memory = shared(new_object(kind), RW)
    with refused("cheribsd:B3", errno.EACCES):
        bsd.mprotect(memory, PAGE, RWC)
    bsd.mprotect(memory, PAGE, RW)
    check_no_store(memory)


@pytest.mark.parametrize("kind", ["anonymous", "shm"])
@emulated()
def test_B4_no_cap_takes_capability_permission(kind: str) -> None:
    """B4: after mprotect with PROT_NO_CAP tagged stores fault and loads are stripped, in this mapping alone."""
    descriptor = new_object()
    memory = anonymous() if kind == "anonymous" else shared(descriptor, RWC)
    value = store(memory)
    bsd.mprotect(memory, PAGE, RWN)
    check_stripped(memory, value)
    check_no_store(memory, 16)
    if kind == "shm":
        check_tagged(shared(descriptor, RWC), value)


@emulated()
def test_B4_on_one_page_of_several() -> None:
    """B4: pages beside the range keep their permission."""
    memory = anonymous(RW, 3 * PAGE)
    bsd.mprotect(memory + PAGE, PAGE, RWN)
    store(memory, PAGE - 16)
    check_no_store(memory, PAGE)
    check_no_store(memory, 2 * PAGE - 16)
    store(memory, 2 * PAGE)


@emulated()
def test_B5_new_maximum_below_the_protection() -> None:
    """B5: a new maximum that is no superset of the protection is refused, and the old one stays."""
    memory = anonymous()
    for prot in (RW | bsd.PROT_MAX(R), R | bsd.PROT_MAX(bsd.PROT_WRITE)):
        with refused("cheribsd:B5", errno.ENOTSUP):
            bsd.mprotect(memory, PAGE, prot)
    bsd.mprotect(memory, PAGE, RW)
    store(memory)


@emulated()
def test_B6_beyond_the_maximum() -> None:
    """B6: protection that the maximum lacks is refused with EACCES, whether mmap or mprotect has set the maximum."""
    memory = anonymous(R | bsd.PROT_MAX(R))
    with refused("cheribsd:B6", errno.EACCES):
        bsd.mprotect(memory, PAGE, RW)
    memory = anonymous()
    value = store(memory)
    bsd.mprotect(memory, PAGE, R | bsd.PROT_MAX(R))
    with refused("cheribsd:B6", errno.EACCES):
        bsd.mprotect(memory, PAGE, RW)
    with pytest.raises(PageViolation):
        memory.write(0, b"x")
    check_tagged(memory, value)


@emulated()
def test_B6_a_descriptor_that_cannot_write() -> None:
    """B6: a shared mapping of a read-only descriptor cannot be made writable, whatever maximum was asked for."""
    bsd.shm_open("/read-only", os.O_RDWR | os.O_CREAT)
    descriptor = bsd.shm_open("/read-only", os.O_RDONLY)
    writable = bsd.shm_open("/read-only", os.O_RDWR)
    os.ftruncate(writable, PAGE)
    memory = shared(descriptor, R | bsd.PROT_MAX(RW))
    with refused("cheribsd:B6", errno.EACCES):
        bsd.mprotect(memory, PAGE, RW)


@emulated()
def test_B7_pointer_that_does_not_authorise(machine: Machine) -> None:
    """B7: a pointer without tag, bounds or SW_VMEM for the range is refused, and the mapping is unchanged."""
    memory = anonymous(RW, 2 * PAGE)
    before = machine.mappings(os.getpid())
    short = memory.with_bounds(PAGE)
    for pointer in (memory.without_tag(), short, short + PAGE, memory + PAGE, without_vmem(memory), memory.address):
        with refused("cheribsd:B7", bsd.EPROT):
            bsd.mprotect(pointer, 2 * PAGE, NONE)
    assert machine.mappings(os.getpid()) == before
    store(memory)
    bsd.mprotect(memory, 2 * PAGE, NONE)
    with pytest.raises(PageViolation):
        memory.read(PAGE, 1)


@emulated()
def test_B7_a_number_where_nothing_is() -> None:
    """B7: a number is an untagged pointer, wherever it points."""
    with refused("cheribsd:B7", bsd.EPROT):
        bsd.mprotect(free_address(), PAGE, RW)
