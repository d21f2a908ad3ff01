"""When memory that `free` was given may be used again: quarantine, its policy, and its passes (mrs(3) of CheriBSD).

Where memory can be revoked, what is freed waits in quarantine. An allocation that finds too much waiting runs a pass:
all that waits is revoked at once, and is free. While a pass runs, allocations of other threads go on and what they free
waits for the next one. Where a pass cannot stop everybody nothing leaves quarantine, and the allocation gets other
memory: quarantine is then larger than its share for a while, as CheriBSD's is when its passes are late.

A pass, and what it unmaps, is undisturbed (capshm.connection), so a fork falls between passes. The child has a copy of
the quarantine, and revokes it for itself. The bookkeeping is native/allocator.h.

Environment, as in CheriBSD's mrs(3); only whether a variable is set counts, but for the first two:

    _RUNTIME_QUARANTINE_NUMERATOR, _DENOMINATOR    the share of the heap that may wait, each 1 to 256; without them 1/4
    _RUNTIME_REVOCATION_DISABLE, _ENABLE           no quarantine, or one whatever procctl and the program's note say
    _RUNTIME_REVOCATION_EVERY_FREE_ENABLE          a pass after each free
    _RUNTIME_ABORT_DISABLE                         a free of what is not allocated does nothing, and says nothing
"""

from __future__ import annotations

import errno
import os
import sys
from collections import namedtuple

from capshm import client, errors
from capshm._native import ffi, lib
from capshm._status import fail
from capshm.capability import Capability, untagged
from capshm.cheribsd.memory import munmap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NamedTuple, NoReturn, TypeAlias

    from capshm._native import CData

    Revoke: TypeAlias = Callable[[memoryview], object]

    class Statistics(NamedTuple):
        """Of this process's heap, in bytes of slots, which are as long as what was asked for or longer.

        heap: live and in quarantine. quarantine: of which freed and not revoked yet. passes: that were completed.
        """

        heap: int
        quarantine: int
        passes: int

else:
    Statistics = namedtuple("Statistics", "heap quarantine passes", module=__name__)
    Statistics.__doc__ = "Of this process's heap, in bytes of slots; see the type."

FLOOR = 8 << 20
"""Bytes of heap below which no allocation runs a pass."""

_LARGEST_TERM = 256
_EXIT_CODE = 7  # CheriBSD's, of a process whose environment asks for nonsense

_revoke: Revoke | None = None


def revoke_by(revoke: Revoke, *, is_enabled: bool = True) -> None:
    """Have what this process frees wait in quarantine until `revoke` has been called with it.

    revoke: is given pairs of start and length in bytes, as native 64-bit words, of memory that was freed. When it has
    returned, nobody has a capability whose base lies there, but for those with SW_VMEM; if it raises, the same memory
    belongs to the next call too. is_enabled: what procctl, the program's note and the machine say; the environment
    comes before them. Until the process leaves its machine. A share that is no number from 1 to 256: the process exits
    with 7.
    """
    global _revoke
    policy = ffi.new("struct allocator_policy *")
    policy.floor = FLOOR
    policy.numerator = _term("_RUNTIME_QUARANTINE_NUMERATOR", 1)
    policy.denominator = _term("_RUNTIME_QUARANTINE_DENOMINATOR", 4)
    policy.is_quarantining = _is_set("_RUNTIME_REVOCATION", is_enabled)
    policy.is_every_free = _is_set("_RUNTIME_REVOCATION_EVERY_FREE", False)
    _revoke = revoke
    status = lib.capshm_allocator_set_policy(policy)
    if status:
        fail(status, "set the policy of the quarantine")
    client.current().has_heap = True  # the choice is made


def choose_policy() -> None:
    """Have the quarantine that the machine, procctl and the program's note say: at a process's first allocation.

    What they say later is for programs that are started then.
    """
    mine = client.current()
    if mine.has_heap:
        return
    mine.has_heap = True
    answer = mine.ask("knob", is_for_revocation=True)
    if answer.body["is_possible"]:
        from capshm.cheribsd.revoke import revoke_ranges  # only here: many programs allocate nothing

        revoke_by(revoke_ranges, is_enabled=bool(answer.body["is_enabled"]))


def _is_set(name: str, otherwise: bool) -> bool:
    if f"{name}_DISABLE" in os.environ:
        return False
    return f"{name}_ENABLE" in os.environ or otherwise


def _term(name: str, otherwise: int) -> int:
    text = os.environ.get(name)
    if text is None:
        return otherwise
    try:
        number = int(text, 0)
    except ValueError:
        _refuse_environment(name, text)
    if not 1 <= number <= _LARGEST_TERM:
        _refuse_environment(name, text)
    return number


def _refuse_environment(name: str, text: str) -> NoReturn:
    print(f"capshm: process {os.getpid()}: {name}={text!r}: must be a number from 1 to 256", file=sys.stderr)
    raise SystemExit(_EXIT_CODE)


def malloc_revoke_enabled() -> bool:
    """Whether what this process frees waits in quarantine until it has been revoked."""
    choose_policy()
    return bool(_count().is_quarantining)


def malloc_revoke_quarantine_force_flush() -> None:
    """Revoke all that was freed so far, whatever the policy says.

    Refused with ENOTSUP where there is no quarantine. RevocationIncomplete: nothing has left it.
    """
    if not malloc_revoke_enabled():
        raise errors.Refused(
            f"process {os.getpid()}: malloc_revoke_quarantine_force_flush: what this process frees is not quarantined; "
            "needed: a machine whose revoker revokes, and quarantine that neither procctl, program_note nor the "
            "environment has switched off",
            errno=errno.ENOTSUP,
            rule="cheribsd:MAN",
        )
    client.current().undisturbed(run_pass)


def malloc_revoke() -> None:
    """The same, and nothing where there is no quarantine. CheriBSD calls it deprecated."""
    if malloc_revoke_enabled():
        malloc_revoke_quarantine_force_flush()


def statistics() -> Statistics:
    """What this process's heap holds. NotAttached."""
    counts = _count()
    return Statistics(counts.heap, counts.quarantine, counts.passes)


def run_pass() -> None:
    """Revoke all that waits, and free it; within `undisturbed`. RevocationIncomplete: nothing has left quarantine."""
    ranges, count = ffi.new("struct allocator_range **"), ffi.new("uint64_t *")
    status = lib.capshm_allocator_begin_pass(ranges, count)
    if status in (lib.STATUS_NOT_ALLOCATED, lib.STATUS_PASS_UNDER_WAY):
        return
    if status:
        fail(status, "begin a pass over what was freed")
    is_revoked = False
    try:
        assert _revoke is not None  # else nothing would be in quarantine
        with memoryview(ffi.buffer(ranges[0], count[0] * ffi.sizeof("struct allocator_range"))).cast("Q") as pairs:
            _revoke(pairs)
        is_revoked = True
    finally:
        status = lib.capshm_allocator_end_pass(is_revoked)
    if status == lib.STATUS_MEMORY_UNUSED:
        unmap_unused()
    elif status:
        fail(status, "free what was revoked")


def run_due_pass() -> None:
    """The same for an allocation, which does not fail where somebody could not be stopped."""
    try:
        run_pass()
    except errors.RevocationIncomplete:
        pass  # what waits stays; the next pass has it too


def unmap_unused() -> None:
    """Unmap the mappings that no allocation uses any more; within `undisturbed`. What an error leaves comes again."""
    memory: Capability = untagged(0, 0)
    mapping = ffi.new("uint32_t *")
    while True:
        status = lib.capshm_allocator_begin_unmap(memory._register, mapping)
        if status == lib.STATUS_NOT_ALLOCATED:
            return
        if not status:
            is_unmapped = False
            try:
                munmap(memory, memory.length)
                is_unmapped = True
            finally:
                status = lib.capshm_allocator_end_unmap(mapping[0], is_unmapped)
        if status:
            fail(status, "unmap what was freed")


def _count() -> CData:
    counts = ffi.new("struct allocator_counts *")
    status = lib.capshm_allocator_count(counts)
    if status:
        fail(status, "count what is allocated")
    return counts
