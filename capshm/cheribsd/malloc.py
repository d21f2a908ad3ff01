"""Memory for the program's own data: malloc, over private mappings.

Every allocation has a granule of its own at least, and bounds of its own; the capabilities lack SW_VMEM, so mappings
cannot be changed through them (C17). Up to 32 KiB, slots of one size come from chunks that are kept for it; what is
larger is a mapping of its own. Freed memory keeps its contents until it is used again, capabilities included, as in C;
when that may be is the quarantine's matter (capshm.cheribsd.quarantine).

The bookkeeping is the core's (native/allocator.h), in private memory that a fork copies. Here is what needs the broker:
more memory is mapped, and what is not needed any more unmapped, undisturbed by signal handlers and forks. An exception
that a handler raises in the middle of an allocation may lose that one; nothing else.

A free of what is not allocated ends a CheriBSD process by abort(); here it raises CapshmError and changes nothing.
"""

from __future__ import annotations

import os

from capshm import _registers, client, errors
from capshm._native import ffi, lib
from capshm._status import fail
from capshm.capability import Capability, needed, untagged
from capshm.cheribsd import quarantine
from capshm.cheribsd.memory import mmap, word
from capshm.model.constants import MAP_ANON, MAP_PRIVATE, PROT_READ, PROT_WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn, SupportsIndex

_LARGEST_SLOT: int = lib.SLOT_LARGEST_IN_CHUNK
_WORD_LAST = (1 << 64) - 1
_FREED = (lib.STATUS_MEMORY_UNUSED, lib.STATUS_REVOCATION_DUE)  # and there is something left to do

# Bound once, as in capshm.capability: a malloc is a few calls in all.
_allocate = lib.capshm_allocator_take
_deallocate = lib.capshm_allocator_give_back
_take = _registers.take
_give_back = _registers.give_back
_new = object.__new__


def malloc(n: SupportsIndex) -> Capability:
    """At least one granule of private memory; bounds of `n` bytes, up to the next that can be represented.

    Refused with ENOMEM: the arena has no room. What else mapping may raise; nothing is allocated then.
    """
    if type(n) is not int or not 0 <= n <= _WORD_LAST:
        n = word("n", n)
    try:
        register = _take()
    except IndexError:
        register = _registers.refill()
    if _allocate(n, register):
        _give_back(register)
        return _allocate_slowly(n)
    pointer = _new(Capability)
    pointer._register = register
    return pointer


def _allocate_slowly(size: int) -> Capability:
    """After a pass, or with more memory, if that is what it takes; or raise what stands against it."""
    return client.current().undisturbed(lambda: _allocate_undisturbed(size))


def _allocate_undisturbed(size: int) -> Capability:
    pointer = untagged(0, 0)  # its register is filled only here: the caller may have been interrupted meanwhile
    while status := _allocate(size, pointer._register):  # another thread may have been here meanwhile
        if provide(status, f"malloc({size})", size, pointer._register):
            break
    return pointer


def provide(status: int, call: str, size: int = 0, into: int = 0) -> bool:
    """Do what the core's allocator asks for with this status (native/allocator.h); within `undisturbed`.

    Returns whether the register `into` has been filled with an allocation of `size` bytes: it was memory that was
    needed. call: what an error names. Raises that for all other statuses, and what mapping and unmapping may raise.
    """
    if status == lib.STATUS_MEMORY_NEEDED:
        _add_memory(call, size, into)
        return True
    if status == lib.STATUS_REVOCATION_DUE:
        quarantine.run_due_pass()
    elif status == lib.STATUS_MEMORY_UNUSED:
        quarantine.unmap_unused()
    else:
        fail(status, call)
    return False


def _add_memory(call: str, size: int, into: int) -> None:
    quarantine.choose_policy()
    length = ffi.new("uint64_t *")
    status = lib.capshm_allocator_needed(size, length)
    if not status:
        memory = mmap(None, length[0], PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON)
        status = lib.capshm_allocator_add(memory._register, size, into)
    if status:
        fail(status, call)


def calloc(k: SupportsIndex, n: SupportsIndex) -> Capability:
    """Memory for k times n bytes, all zero. Refused with ENOMEM, as malloc, also where no word can say how many."""
    pointer = malloc(min(word("k", k) * word("n", n), _WORD_LAST))
    length = pointer.length
    if length <= _LARGEST_SLOT:  # a mapping of its own is zero
        pointer.write(0, bytes(length))
    return pointer


def realloc(p: Capability | None, n: SupportsIndex) -> Capability:
    """The allocation with another size: `p` itself if `n` bytes fit and waste at most half, else moved with its tags.

    None: a new one. Through a pointer with narrower bounds only those bytes move, and all of the allocation is freed.
    CapshmError if `p` is not allocated, or what malloc and copying may raise; then nothing has changed. What unmapping
    the old memory raises is not heard of: `p` is freed, and is unmapped with the next one. As CheriBSD's mrs_realloc.
    """
    size = word("n", n)
    if p is None:
        return malloc(size)
    status = lib.capshm_allocator_resize(needed(p)._register, size)
    if not status:
        return p
    if status != lib.STATUS_MUST_MOVE:
        _refuse(status, "realloc", p)
    moved = malloc(size)
    try:
        p.copy_to(moved, min(p.length, moved.length))
    except BaseException:
        free(moved)
        raise
    status = _deallocate(p._register)  # from here on what it held is in the copy alone
    if status in _FREED:
        try:
            _finish_free(status)
        except errors.CapshmError:
            pass  # the next free has it too
    elif status:
        free(moved)
        _refuse(status, "realloc", p)
    return moved


def free(p: Capability | None) -> None:
    """Give an allocation back; None: nothing. CapshmError: it is not allocated, or was freed before.

    p: points to the first byte of its bounds and of the allocation. BrokerGone, or another error of unmapping what was
    a mapping of its own: it is freed, and unmapped with the next one.
    """
    if p is None:
        return
    status = _deallocate(needed(p)._register)
    if status:
        _deallocate_slowly(status, p)


def _finish_free(status: int) -> None:
    client.current().undisturbed(lambda: provide(status, "free"))


def _deallocate_slowly(status: int, p: Capability) -> None:
    if status in _FREED:
        _finish_free(status)
    elif status != lib.STATUS_NOT_ALLOCATED or "_RUNTIME_ABORT_DISABLE" not in os.environ:
        _refuse(status, "free", p)


def malloc_usable_size(p: Capability | None) -> int:
    """The bytes that may be used: those of its bounds. 0 for None."""
    if p is None:
        return 0
    status = lib.capshm_allocator_find(needed(p)._register, ffi.new("struct allocator_range *"))
    if status:
        _refuse(status, "malloc_usable_size", p)
    return p.length


def _refuse(status: int, call: str, p: Capability) -> NoReturn:
    if status != lib.STATUS_NOT_ALLOCATED:
        fail(status, f"{call}({p})")
    if not p.tag or p.is_sealed:
        reason = "it has no tag, or is sealed"
    elif p.offset:
        reason = "it does not point to the first byte of its bounds"
    else:
        reason = "nothing is allocated there (freed before?)"
    raise errors.CapshmError(f"process {os.getpid()}: {call}({p}): {reason}; CheriBSD would abort() here")
