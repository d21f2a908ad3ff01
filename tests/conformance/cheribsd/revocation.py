"""What tests of revocation share: values that can be revoked, passes, and upstream's library test (row 77)."""

import random

from capshm import Capability, CapabilityArray, Permissions
from capshm import cheribsd as bsd
from capshm.cheribsd import Epochs, RevokeInfo, RevokeResult, Shadow

LAST = bsd.CHERI_REVOKE_LAST_PASS
IGNORE = bsd.CHERI_REVOKE_IGNORE_START
ASYNC = bsd.CHERI_REVOKE_ASYNC
SLOTS = 4096
GRANULE = 16
RW = bsd.PROT_READ | bsd.PROT_WRITE


def as_freed(memory: Capability, length: int = GRANULE) -> Capability:
    """A value that revocation takes: the first bytes of the memory, without SW_VMEM."""
    value = memory.with_bounds(length)
    return value.with_permissions(value.permissions.without(Permissions.SW_VMEM))


def shadow_of(arena: Capability) -> Shadow:
    """The shadow of what mmap returned."""
    shadow = bsd.cheri_revoke_get_shadow(bsd.CHERI_REVOKE_SHADOW_NOVMEM, arena)
    assert isinstance(shadow, Shadow)
    return shadow


def info() -> RevokeInfo:
    """The published clock, live."""
    found = bsd.cheri_revoke_get_shadow(bsd.CHERI_REVOKE_SHADOW_INFO_STRUCT)
    assert isinstance(found, RevokeInfo)
    return found


def revoke() -> RevokeResult:
    """A whole epoch."""
    return bsd.cheri_revoke(LAST | IGNORE)


def revoke_painted(arena: Capability, value: Capability) -> RevokeResult:
    """Paint, a whole epoch, and clear."""
    shadow = shadow_of(arena)
    shadow.paint(value)
    result = revoke()
    shadow.clear(value)
    return result


def run_library(seed: int, *, is_split: bool) -> Epochs:
    """Row 77: slots that point to themselves; random chunks of them are painted, revoked, checked and restored.

    Returned: the clock as it was before the first of these passes.
    """
    rng = random.Random(seed)
    arena = bsd.mmap(None, SLOTS * GRANULE, RW, bsd.MAP_ANON | bsd.MAP_PRIVATE)
    slots = [as_freed(arena + number * GRANULE) for number in range(SLOTS)]
    arena.store_capabilities(0, slots)
    shadow = shadow_of(arena)
    before = Epochs(info().enqueue, info().dequeue)
    for _ in range(4):
        first = rng.randrange(SLOTS)
        count = rng.randint(1, min(512, SLOTS - first))
        chunk = (arena + first * GRANULE).with_bounds(count * GRANULE)
        shadow.paint(chunk)
        start = info().dequeue
        if is_split:
            assert bsd.cheri_revoke(IGNORE).epochs == (start + 1, start)
        assert revoke().epochs == (start + 2, start + 2)
        expected = bytes(not first <= number < first + count for number in range(SLOTS))
        assert arena.load_capabilities(0, SLOTS).tags == expected, f"seed {seed}"
        assert bytes(slot.tag for slot in slots) == expected, f"seed {seed}"
        shadow.clear(chunk)
        for number in range(first, first + count):
            slots[number] = as_freed(arena + number * GRANULE)
        arena.store_capabilities(first * GRANULE, slots[first : first + count])
    loaded = arena.load_capabilities(0, SLOTS)
    assert isinstance(loaded, CapabilityArray)
    assert loaded.tags == b"\1" * SLOTS
    return before
