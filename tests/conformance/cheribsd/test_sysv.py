"""cheribsd:1.H: System V segments."""

import errno

import pytest

from capshm import Machine
from capshm import cheribsd as bsd
from tests.conformance.cheribsd.support import (
    PAGE,
    R,
    anonymous,
    bits,
    check_absent,
    check_tagged,
    emulated,
    free_address,
    guard,
    new_object,
    refused,
    shared,
    store,
)
from tests.faults.processes import ask_child


def new_segment(key: int = 0x77, size: int = PAGE) -> int:
    """A new segment."""
    return bsd.shmget(key, size, bsd.IPC_CREAT | bsd.IPC_EXCL | 0o600)


@pytest.mark.parametrize("is_private", [False, True])
@emulated()
def test_H1_segments_are_share_cap(is_private: bool, machine: Machine) -> None:
    """H1: a segment is always share-cap: every process that attaches it loads and stores tags."""
    segment = bsd.shmget(bsd.IPC_PRIVATE, PAGE, 0o600) if is_private else new_segment()
    memory = bsd.shmat(segment)
    value = store(memory)
    assert [each.is_share_cap for each in machine.objects()] == [True]

    def body() -> bytes:
        mine = bsd.shmat(segment if is_private else bsd.shmget(0x77, PAGE, 0o600))
        assert mine.base != memory.base
        check_tagged(mine, value)
        return bits(store(mine, 16))

    passed = ask_child(body)
    assert memory.load_capability(16).tag
    assert memory.read(16, 16) == passed


@emulated()
def test_H1_read_only_attachment() -> None:
    """H1: attached with SHM_RDONLY it is read with tags, and not written."""
    segment = new_segment()
    value = store(bsd.shmat(segment))
    memory = bsd.shmat(segment, None, bsd.SHM_RDONLY)
    check_tagged(memory, value)
    with refused("cheribsd:B6", errno.EACCES):
        bsd.mprotect(memory, PAGE, R | bsd.PROT_WRITE)


@emulated()
def test_H3_there_is_no_flag_for_it() -> None:
    """H3: there is no SHM_SHARECAP; an unknown flag does not make a segment anything else."""
    assert not hasattr(bsd, "SHM_SHARECAP")


@emulated()
def test_H4_attachment_is_inherited() -> None:
    """H4: a forked child stays attached, with the capabilities, also when the segment is removed meanwhile."""
    segment = new_segment()
    memory = bsd.shmat(segment)
    value = store(memory)

    def body() -> bytes:
        bsd.shmctl(segment, bsd.IPC_RMID)
        check_tagged(memory, value)
        passed = bits(store(memory, 16))
        bsd.shmdt(memory)
        check_absent(memory)
        return passed

    passed = ask_child(body)
    assert memory.load_capability(16).tag
    assert memory.read(16, 16) == passed
    bsd.shmdt(memory)
    check_absent(memory)


@emulated()
def test_H5_detaching_by_a_wrong_pointer() -> None:
    """H5: shmdt by an untagged pointer, a number, or a pointer to something else is refused with EPROT."""
    memory = bsd.shmat(new_segment())
    value = store(memory)
    for pointer in (memory.without_tag(), memory.address, anonymous(), shared(new_object())):
        with refused("cheribsd:H5", bsd.EPROT):
            bsd.shmdt(pointer)
    check_tagged(memory, value)
    bsd.shmdt(memory)
    check_absent(memory)
    with refused("cheribsd:H5", bsd.EPROT):
        bsd.shmdt(memory)


@emulated()
def test_H6_attaching_at_an_address() -> None:
    """H6: at a fixed address a segment goes where nothing is or into the caller's own reservation, nowhere else."""
    segment = new_segment()
    address = free_address()
    memory = bsd.shmat(segment, address)
    assert memory.address == address
    value = store(memory)
    place = guard()
    inside = bsd.shmat(segment, place + PAGE)
    assert inside.address == place.address + PAGE
    check_tagged(inside, value)
    other = anonymous()
    kept = store(other)
    for wrong in (address, other.address, place.address, other.without_tag(), place.with_bounds(PAGE) + PAGE):
        with refused("cheribsd:H6", errno.EINVAL):
            bsd.shmat(segment, wrong)
    check_tagged(other, kept)
