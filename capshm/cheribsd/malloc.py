"""Memory for the program's own data: a plain allocator by size classes over private mappings.

Every allocation has a granule of its own at least, and bounds of its own; the capabilities lack SW_VMEM, so mappings
cannot be changed through them (C17). Up to 32 KiB, slots of one size come from chunks that are kept for it;
what is larger is a mapping of its own, given back when it is freed. Freed memory keeps its contents until it is used
again, capabilities included, as in C.

The bookkeeping is this process's, in Python; a fork copies it with the memory. A free of what is not allocated ends a
CheriBSD process by abort(); here it raises CapshmError and changes nothing.
"""

from __future__ import annotations

import os
import threading
from typing import NamedTuple, SupportsIndex

from capshm import client, encoding, errors
from capshm.capability import GRANULE, Capability
from capshm.cheribsd.memory import mmap, munmap, word
from capshm.model.constants import MAP_ANON, MAP_PRIVATE, PROT_READ, PROT_WRITE
from capshm.permissions import Permissions

_LARGEST_SLOT = 32 << 10
_SLOTS_IN_CHUNK = 64
_SMALLEST_CHUNK = 64 << 10


def _size_classes() -> list[int]:
    """Multiples of 16, four to a doubling; from 4096 on doublings alone, so that bounds can be represented."""
    sizes = list(range(GRANULE, 8 * GRANULE + 1, GRANULE))
    while sizes[-1] < 2048:
        sizes += [sizes[-1] // 4 * quarter for quarter in (5, 6, 7, 8)]
    while sizes[-1] < _LARGEST_SLOT:
        sizes.append(sizes[-1] * 2)
    return sizes


_CLASSES = _size_classes()


class _Slot(NamedTuple):
    """Where an allocation lives. memory: the capability of its chunk or mapping, with SW_VMEM."""

    memory: Capability
    size: int
    is_own_mapping: bool


class _Heap:
    """The allocations of one process in one machine."""

    def __init__(self, owner: client.Client) -> None:
        self.owner = owner
        self.live: dict[int, _Slot] = {}  # by address
        self._free: dict[int, list[tuple[int, _Slot]]] = {size: [] for size in _CLASSES}

    def take(self, size: int) -> Capability:
        """A new allocation of at least `size` bytes."""
        length = encoding.representable_length(max(size, GRANULE))
        if length > _LARGEST_SLOT:
            memory = _map(length)
            address, slot = memory.address, _Slot(memory, memory.length, True)
        else:
            chosen = next(each for each in _CLASSES if each >= length)
            if not self._free[chosen]:
                self._fill(chosen)
            address, slot = self._free[chosen].pop()
        self.live[address] = slot
        return _bounded(slot, address, length)

    def _fill(self, size: int) -> None:
        chunk = max(_SMALLEST_CHUNK, size * _SLOTS_IN_CHUNK)
        memory = _map(chunk)
        base, slot = memory.address, _Slot(memory, size, False)
        self._free[size].extend((base + offset, slot) for offset in reversed(range(0, chunk - size + 1, size)))

    def give_back(self, address: int) -> None:
        """The allocation at this address is no more."""
        slot = self.live[address]
        if slot.is_own_mapping:
            munmap(slot.memory, slot.size)
            del self.live[address]
        else:
            del self.live[address]
            self._free[slot.size].append((address, slot))

    def find(self, call: str, pointer: Capability) -> tuple[int, _Slot]:
        """The allocation that a pointer is; CapshmError if it is none, or no longer."""
        if not isinstance(pointer, Capability):
            raise TypeError(f"{call} needs a Capability, not {type(pointer).__name__}")
        address = pointer.address
        slot = self.live.get(address)
        if slot is None or not pointer.tag or pointer.is_sealed:
            reason = "nothing is allocated there (freed before?)" if slot is None else "it has no tag, or is sealed"
            raise errors.CapshmError(f"process {os.getpid()}: {call}({pointer}): {reason}; CheriBSD would abort() here")
        return address, slot


def _map(length: int) -> Capability:
    return mmap(None, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON)


def _bounded(slot: _Slot, address: int, length: int) -> Capability:
    pointer = slot.memory.with_address(address).with_bounds(length)
    return pointer.with_permissions(pointer.permissions.without(Permissions.SW_VMEM))


_lock = threading.RLock()
_heap: _Heap | None = None


def _heap_of_process() -> _Heap:
    global _heap
    mine = client.current()
    if _heap is None or _heap.owner is not mine:
        _heap = _Heap(mine)
    return _heap


def malloc(n: SupportsIndex) -> Capability:
    """At least one granule of private memory; bounds of `n` bytes, up to the next that can be represented."""
    size = word("n", n)
    with _lock:
        return _heap_of_process().take(size)


def calloc(k: SupportsIndex, n: SupportsIndex) -> Capability:
    """Memory for k times n bytes, all zero."""
    size = word("k", k) * word("n", n)
    pointer = malloc(size)
    pointer.write(0, bytes(pointer.length))
    return pointer


def realloc(p: Capability | None, n: SupportsIndex) -> Capability:
    """The allocation with another size: where it is if it fits and wastes at most half, else moved with its tags.

    None: a new one. CapshmError if `p` is not allocated; then nothing has changed. Source: cheribsd.md 2.7.
    """
    size = word("n", n)
    if p is None:
        return malloc(size)
    with _lock:
        heap = _heap_of_process()
        address, slot = heap.find("realloc", p)
        length = encoding.representable_length(max(size, GRANULE))
        if length <= slot.size <= 2 * length:
            return _bounded(slot, address, length)
        moved = heap.take(size)
        p.copy_to(moved, min(p.length, moved.length))
        heap.give_back(address)
        return moved


def free(p: Capability | None) -> None:
    """Give an allocation back; None: nothing. CapshmError: it is not allocated, or was freed before."""
    if p is None:
        return
    with _lock:
        heap = _heap_of_process()
        heap.give_back(heap.find("free", p)[0])


def malloc_usable_size(p: Capability | None) -> int:
    """The bytes that may be used: those of its bounds. 0 for None."""
    if p is None:
        return 0
    with _lock:
        _heap_of_process().find("malloc_usable_size", p)
    return p.length


def _new_lock() -> None:
    global _lock
    _lock = threading.RLock()


# No thread may be in the middle of the bookkeeping when it is copied.
os.register_at_fork(before=lambda: _lock.acquire(), after_in_parent=lambda: _lock.release(), after_in_child=_new_lock)
