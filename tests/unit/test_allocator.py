"""malloc and its relatives in one thread: bounds, what is refused, what moves, and what is unmapped."""

import errno
import itertools
import os
import signal

import pytest

import capshm
from capshm import Capability, CapshmError, Permissions, encoding
from capshm import cheribsd as bsd
from capshm._native import ffi, lib
from capshm.cheribsd import quarantine
from tests.conformance.cheribsd.support import emulated
from tests.faults.isolation import isolated
from tests.faults.residue import wait_for_end
from tests.faults.revoking import revoke
from tests.unit.heap_scene import LARGE, own_mappings, reuse_at_once

pytestmark = pytest.mark.slow

CLASSES = [*range(16, 129, 16), *(size * part for size in (32, 64, 128, 256) for part in (5, 6, 7, 8))]
CLASSES += [4096, 8192, 16384, 32768]


def slot_of(pointer: Capability) -> tuple[int, int]:
    """Start and length of its slot."""
    found = ffi.new("struct allocator_range *")
    assert not lib.capshm_allocator_find(pointer._register, found)
    return found.start, found.length


@emulated()
def test_each_size_has_its_slot_and_its_bounds() -> None:
    """Slots are multiples of 16 to 128, four to a doubling to 2048, then doublings; bounds are what was asked for."""
    held = []
    for size in sorted({each + difference for each in CLASSES for difference in (-1, 0, 1)}):
        pointer = bsd.malloc(size)
        held.append(pointer)
        start, length = slot_of(pointer)
        assert length == next((each for each in CLASSES if each >= size), 9 * lib.PAGE_BYTES)
        assert (pointer.base, pointer.length) == (start, encoding.representable_length(max(size, 16)))
        assert pointer.address == start
        assert pointer.tag
        assert start % 16 == 0
        assert pointer.length <= length
        assert not pointer.permissions.contains(Permissions.SW_VMEM)
    slots = sorted(slot_of(pointer) for pointer in held)
    assert all(start + length <= after for (start, length), (after, _) in itertools.pairwise(slots))
    assert quarantine.statistics().heap == sum(length for _, length in slots)


@emulated()
def test_memory_that_is_not_there() -> None:
    """What no arena has room for is refused, sizes near the end of the address space too, and allocates nothing."""
    for size in (1 << 40, 1 << 62, (1 << 64) - 4096, (1 << 64) - 1):
        with pytest.raises(capshm.Refused) as caught:
            bsd.malloc(size)
        assert caught.value.errno == errno.ENOMEM
    for k, n in ((1 << 40, 1 << 40), (2, 1 << 63), ((1 << 64) - 1, (1 << 64) - 1)):
        with pytest.raises(capshm.Refused) as caught:
            bsd.calloc(k, n)
        assert caught.value.errno == errno.ENOMEM
    for size in (-1, 1 << 64):
        with pytest.raises(ValueError, match="n must be"):
            bsd.malloc(size)
    with pytest.raises(TypeError):
        bsd.malloc(1.5)  # type: ignore[arg-type]
    assert quarantine.statistics() == (0, 0, 0)


@emulated()
def test_a_free_of_what_is_not_allocated() -> None:
    """Freed before, never allocated, inside, another's, untagged, sealed: refused, with the reason; nothing changes."""
    pointer, other, freed = bsd.malloc(64), bsd.malloc(64), bsd.malloc(64)
    bsd.free(freed)
    own = bsd.mmap(None, 4096, bsd.PROT_READ | bsd.PROT_WRITE, bsd.MAP_ANON | bsd.MAP_PRIVATE)
    wrong = {
        "freed before": [freed, own, (pointer + 16).with_bounds(16)],
        "first byte": [pointer + 16, other.with_address(freed.address)],
        "no tag, or is sealed": [pointer.without_tag(), pointer.seal_entry()],
    }
    before = quarantine.statistics()
    for reason, pointers in wrong.items():
        for each in pointers:
            for call in (bsd.free, bsd.malloc_usable_size, lambda bad: bsd.realloc(bad, 1 << 16)):
                with pytest.raises(CapshmError, match=f"{reason}.*abort"):
                    call(each)
    for call in (bsd.free, bsd.malloc_usable_size):
        with pytest.raises(TypeError, match="Capability"):
            call(pointer.address)  # type: ignore[arg-type]
    assert quarantine.statistics() == before
    bsd.free(pointer.with_bounds(16))  # narrower, but the same first byte: as in CheriBSD it is the allocation
    os.environ["_RUNTIME_ABORT_DISABLE"] = "1"
    bsd.free(pointer)  # nothing, and nothing is said
    bsd.free(other)


@emulated()
def test_realloc() -> None:
    """What fits and wastes at most half stays as it is; else it moves, with its tags, and the old memory is free."""
    reuse_at_once()
    pointer = bsd.malloc(64)
    assert bsd.realloc(pointer, 64) is pointer
    assert bsd.realloc(pointer, 32) is pointer
    for size in (31, 65, LARGE):
        pointer = bsd.malloc(64)
        pointer.write(0, bytes(range(64)))
        pointer.store_capability(0, pointer)
        content = pointer.read(0, 31)
        moved = bsd.realloc(pointer, size)
        assert moved.base != pointer.base
        assert moved.read(0, 31) == content
        assert moved.load_capability(0) == pointer
        with pytest.raises(CapshmError, match="freed before"):
            bsd.free(pointer)
        bsd.free(moved)
    pointer = bsd.malloc(64)
    before = quarantine.statistics()
    with pytest.raises(capshm.Refused):
        bsd.realloc(pointer, 1 << 40)
    with pytest.raises(capshm.PermissionViolation):  # the copy fails, and what it was to go to is free again
        bsd.realloc(pointer.with_permissions(Permissions.STORE), 128)
    assert quarantine.statistics() == before
    assert bsd.realloc(pointer, 48) is pointer


@emulated()
def test_realloc_through_narrower_bounds() -> None:
    """Only those bytes move, and all of the old memory is free."""
    reuse_at_once()
    pointer = bsd.malloc(64)
    pointer.write(0, b"a" * 64)
    moved = bsd.realloc(pointer.with_bounds(16), 64)
    assert moved.read(0, 16) == b"a" * 16
    assert moved.read(16, 48) == bytes(48)  # as the chunk came from the kernel
    assert bsd.malloc(64).base == pointer.base


@isolated()
def test_a_realloc_whose_old_memory_cannot_be_unmapped() -> None:
    """The contents are in the copy, which is the caller's: the old memory is free, and a free says what is wrong."""
    reuse_at_once()
    machine = capshm.Machine()
    machine.__enter__()
    large, other = bsd.malloc(2 * LARGE), bsd.malloc(LARGE)
    large.write(0, b"all that there is")
    large.store_capability(32, large)
    bsd.malloc(1000)  # the next one needs nobody
    broker = machine.broker_pid
    assert broker is not None
    os.kill(broker, signal.SIGKILL)
    wait_for_end(broker)
    moved = bsd.realloc(large, 1000)
    assert moved.read(0, 17) == b"all that there is"
    assert moved.load_capability(32) == large
    assert bsd.malloc_usable_size(moved) == 1000
    assert quarantine.statistics().heap == slot_of(other)[1] + 2 * slot_of(moved)[1]
    with pytest.raises(CapshmError, match="freed before"):
        bsd.free(large)
    with pytest.raises(capshm.BrokerGone):
        bsd.free(other)
    with pytest.raises(CapshmError, match="freed before"):
        bsd.free(other)


@emulated()
def test_calloc_is_zero_where_something_was_before() -> None:
    """Bytes and tags of an earlier life are gone, up to the end of the bounds."""
    reuse_at_once()
    for size in (64, 4096 + 1):
        pointer = bsd.malloc(size)
        for offset in range(0, size - 15, 16):
            pointer.store_capability(offset, pointer)
        bsd.free(pointer)
        again = bsd.calloc(size, 1)
        assert again.base == pointer.base
        assert again.read(0, again.length) == bytes(again.length)
        assert not again.load_capability(0).tag


@emulated()
def test_large_memory_is_unmapped(machine: capshm.Machine) -> None:
    """A mapping of its own goes with its allocation, or, where there is a quarantine, with the pass that revokes it."""
    reuse_at_once()
    bsd.malloc(1)
    before = own_mappings(machine)
    pointer = bsd.malloc(1 << 20)
    assert own_mappings(machine) == before + 1
    bsd.free(pointer)
    assert own_mappings(machine) == before
    with pytest.raises(capshm.PageViolation):
        pointer.read(0, 1)
    del os.environ["_RUNTIME_REVOCATION_DISABLE"]
    quarantine.revoke_by(revoke)
    pointer = bsd.malloc(1 << 20)
    bsd.free(pointer)
    assert pointer.read(0, 1) == b"\0"
    bsd.malloc_revoke_quarantine_force_flush()
    assert own_mappings(machine) == before
    assert not pointer.tag


@isolated()
def test_a_machine_that_is_left_takes_its_heap_along() -> None:
    """In the next one nothing is allocated, and what is left of the first is refused."""
    with capshm.Machine():
        quarantine.revoke_by(revoke)
        old = bsd.malloc(64)
        bsd.free(bsd.malloc(LARGE))
    with pytest.raises(capshm.NotAttached):
        bsd.malloc(64)
    with capshm.Machine(revoker="none"):
        assert quarantine.statistics() == (0, 0, 0)
        assert not bsd.malloc_revoke_enabled()
        new = bsd.malloc(64)
        assert new.tag
        assert new.base == old.base
        with pytest.raises(CapshmError, match="no tag"):
            bsd.free(old)
        bsd.free(new)
