"""cheri_revoke and what belongs to it: paint, open an epoch, close it, clear (cheribsd:2).

    shadow = cheri_revoke_get_shadow(CHERI_REVOKE_SHADOW_NOVMEM, arena)      # arena: what mmap returned
    shadow.paint(freed)
    cheri_revoke(CHERI_REVOKE_LAST_PASS | CHERI_REVOKE_IGNORE_START)
    shadow.clear(freed)             # no capability whose base was painted is left; but for those with SW_VMEM

The broker stops the machine and sweeps objects; what is this process's own is swept here, before the call returns
(native/revoke.h). A machine made with revoker="none" refuses all of it with ENOSYS.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, NamedTuple, cast

from capshm import client, errors
from capshm._native import ffi, lib
from capshm._status import fail
from capshm.cheribsd._arguments import as_argument, flag_bits, word
from capshm.model.constants import (
    CHERI_REVOKE_LAST_PASS,
    CHERI_REVOKE_SHADOW_INFO_STRUCT,
    CHERI_REVOKE_SHADOW_NOVMEM_ENTIRE,
    CHERI_REVOKE_TAKE_STATS,
)
from capshm.model.epochs import Epochs, is_cleared
from capshm.shadow import Shadow

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable
    from typing import SupportsIndex

    from capshm.capability import Capability
    from capshm.cheribsd._arguments import Address
    from capshm.client import Client
    from capshm.connection import Answer

_LINES_IN_PAGE = lib.PAGE_BYTES // lib.LINE_DATA_SIZE


class Statistics(NamedTuple):
    """What passes have met since CHERI_REVOKE_TAKE_STATS was given last.

    page_scan_cycles: nanoseconds in which this process swept its own. pages_scan_rw: private pages, and pages of
    objects with tag lines; pages_scan_ro: pages of objects that are seen through MAP_PRIVATE. pages_skip: clean ones,
    beside others that are not. lines_scan: tag lines, of 1 KiB of data each. caps_found: tag bits met in objects,
    memory and registers; caps_found_revoked: those of them that were painted; caps_cleared: those that have lost their
    tag, which are the same. What belongs to faults and to fast ways round them stays zero: no load sweeps here.
    """

    page_scan_cycles: int = 0
    fault_cycles: int = 0
    pages_scan_ro: int = 0
    pages_scan_rw: int = 0
    pages_faulted_ro: int = 0
    pages_faulted_rw: int = 0
    fault_visits: int = 0
    pages_skip_fast: int = 0
    pages_skip_nofill: int = 0
    pages_skip: int = 0
    caps_found: int = 0
    caps_found_revoked: int = 0
    caps_cleared: int = 0
    lines_scan: int = 0
    pages_mark_clean: int = 0


class RevokeResult(NamedTuple):
    """epochs: the clock as it is now. statistics: since they were taken last."""

    epochs: Epochs
    statistics: Statistics


class RevokeInfo:
    """The published clock of this address space, live: each look sees it as it is then."""

    @property
    def enqueue(self) -> int:
        """What a freer records after it has painted."""
        return _epochs().enqueue

    @property
    def dequeue(self) -> int:
        """What has been finished: `is_cleared(dequeue, recorded)` says whether memory may be used again."""
        return _epochs().dequeue


_kept: tuple[int, Statistics] = (0, Statistics())  # vmspace, and what it has met


def cheri_revoke(flags: SupportsIndex, start_epoch: SupportsIndex = 0) -> RevokeResult:
    """Open an epoch, close it, or both, as `flags` and the clock say (cheribsd:2.2).

    flags: CHERI_REVOKE_LAST_PASS closes, CHERI_REVOKE_ASYNC has the broker close it after this call,
    CHERI_REVOKE_IGNORE_START goes on although what was recorded at `start_epoch` is cleared, CHERI_REVOKE_TAKE_STATS
    zeroes the statistics after reporting them. When an epoch is closed, no capability that was painted as it was
    opened is left in registers, private memory, kqueues, and objects that this address space owns, wherever they are.
    With Machine(scope="machine") no capability that is this address space's is left in objects for everybody, and in
    other processes; nor one whose address space is gone. What their own forks had copied before stays theirs.

    Refused: EINVAL for flags, ENOSYS without a revoker. RevocationIncomplete: somebody could not be stopped; the epoch
    stays open, and the next call tries again. BrokerGone. Source: cheribsd:2.1 to 2.3, J.
    """
    bits, start = flag_bits("flags", flags), word("start_epoch", start_epoch)
    is_taken = bool(bits & CHERI_REVOKE_TAKE_STATS)
    return _revoke("cheri_revoke", lambda mine: mine.ask("revoke", flags=bits, start=start), is_taken=is_taken)


def revoke_machine() -> RevokeResult:
    """What `Machine.revoke` does: an epoch of every address space of this process's machine, in one pass."""
    return _revoke("Machine.revoke", lambda mine: mine.ask("revoke_all"), is_taken=False)


def _revoke(call: str, ask: Callable[[Client], Answer], *, is_taken: bool) -> RevokeResult:
    mine = client.current()
    _catch_up()  # a reservation leaves quarantine only when what left before has been swept (native/revoke.h)
    answer = ask(mine)
    _catch_up()
    statistics = _collect(mine.facts.vmspace, *answer.numbers("found"), is_taken=is_taken)
    stragglers = [cast("tuple[int, str]", tuple(row)) for row in answer.rows("incomplete")]
    if stragglers:
        who = ", ".join(f"process {pid} is {reason}" for pid, reason in stragglers)
        raise errors.RevocationIncomplete(
            f"process {mine.facts.pid}: {call}: {who}; the epoch stays open, nothing may be taken for revoked",
            processes=stragglers,
        )
    enqueue, dequeue = answer.numbers("epochs")
    return RevokeResult(Epochs(enqueue, dequeue), statistics)


def cheri_revoke_get_shadow(selector: SupportsIndex, arena: Capability | None = None) -> Shadow | RevokeInfo:
    """What a freer paints in, or what it reads; from now on, reservations that are unmapped go into quarantine.

    selector: CHERI_REVOKE_SHADOW_NOVMEM for the part of the shadow that stands for `arena`, which needs SW_VMEM and
    multiples of 128; CHERI_REVOKE_SHADOW_NOVMEM_ENTIRE for all of it; CHERI_REVOKE_SHADOW_INFO_STRUCT for the clock.
    Refused: EINVAL, EPERM (no SW_VMEM), ENOSYS (no revoker; CHERI_REVOKE_SHADOW_OTYPE, at which none looks).
    """
    which = flag_bits("selector", selector)
    mine = client.current()
    _ask_shadow(mine, which, arena)
    if which == CHERI_REVOKE_SHADOW_INFO_STRUCT:
        return RevokeInfo()
    if which == CHERI_REVOKE_SHADOW_NOVMEM_ENTIRE or arena is None:
        return Shadow()
    return Shadow(arena.base, arena.top)


def revoke_ranges(ranges: array[int] | bytes | bytearray | memoryview[int]) -> RevokeResult:
    """Paint ranges, revoke, clear the paint: for allocators.

    ranges: pairs of start and length in bytes, uint64 in a row as array("Q") has them, multiples of 16, in the arena.
    Afterwards no capability whose base lies there is left in this address space, but for those with SW_VMEM.

    ValueError: no such ranges, and nothing is done. Refused, RevocationIncomplete, BrokerGone as of `cheri_revoke`:
    nothing may be used again. The paint is cleared in every case; forks wait.
    """
    pairs = memoryview(ranges).cast("B").cast("Q")
    if len(pairs) % 2:
        raise ValueError(f"ranges are pairs of numbers, not {len(pairs)} of them")
    mine = client.current()

    def revoke() -> RevokeResult:
        _ask_shadow(mine, CHERI_REVOKE_SHADOW_NOVMEM_ENTIRE, None)
        _paint(pairs, True)
        try:
            then = _epochs().enqueue
            while True:
                result = cheri_revoke(CHERI_REVOKE_LAST_PASS, then)
                if is_cleared(result.epochs.dequeue, then):
                    return result
        finally:
            _paint(pairs, False)

    return mine.undisturbed(revoke)


def _paint(pairs: memoryview[int], is_painted: bool) -> None:
    status = lib.capshm_paint_ranges(ffi.from_buffer("uint64_t[]", pairs), len(pairs) // 2, is_painted)
    if status == lib.STATUS_BOUNDS_VIOLATION:
        raise ValueError(f"ranges are multiples of 16 in the arena, and {lib.capshm_fault().address:#x} begins none")
    if status:
        fail(status, "paint" if is_painted else "clear paint")


def _ask_shadow(mine: Client, selector: int, arena: Address) -> None:
    def join() -> None:
        answer = mine.ask("get_shadow", selector=selector, address=as_argument(arena), has_shadow=mine.has_shadow)
        try:
            for descriptor in answer.descriptors:
                client.check(lib.capshm_join_shadow(descriptor), "map the shadow")
                mine.has_shadow = True
        finally:
            answer.close()

    mine.undisturbed(join)


def _catch_up() -> None:
    status = lib.capshm_catch_up()
    if status:
        fail(status, "sweep registers and private memory")


def _epochs() -> Epochs:
    enqueue, dequeue = ffi.new("uint64_t *"), ffi.new("uint64_t *")
    lib.capshm_epochs(enqueue, dequeue)
    return Epochs(int(enqueue[0]), int(dequeue[0]))


def take_statistics() -> Statistics:
    """What passes have met since the statistics were taken last, and take them; no pass is made. NotAttached."""
    return _collect(client.current().facts.vmspace, 0, 0, 0, is_taken=True)


def _collect(vmspace: int, lines: int, found: int, cleared: int, *, is_taken: bool) -> Statistics:
    """Add what the broker has found in objects, and this process's own sweeps, to what is kept."""
    global _kept
    own = ffi.new("struct revocation_counts *")
    lib.capshm_take_counts(own)
    cleared += own.tags.cleared
    new = Statistics(
        page_scan_cycles=own.nanoseconds,
        pages_scan_ro=own.pages_read_only,
        pages_scan_rw=own.pages + lines // _LINES_IN_PAGE,
        pages_skip=own.pages_skipped,
        caps_found=found + own.tags.found,
        caps_found_revoked=cleared,
        caps_cleared=cleared,
        lines_scan=lines + own.tags.lines,
        pages_mark_clean=own.pages_cleaned,
    )
    before = _kept[1] if _kept[0] == vmspace else Statistics()
    total = Statistics(*map(operator.add, before, new))
    _kept = (vmspace, Statistics() if is_taken else total)
    return total
