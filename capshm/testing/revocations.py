"""What revocation owes to those who watch: the rules "use after revocation" and "lost" of `check_history`.

Whom a revocation concerns. The processes of a `Segment` share one shadow: `History.revoke` takes what anybody has
painted from all of them. In a machine each address space has its own: a pass takes what a process has painted from that
process, and from all that fork from it afterwards. A child that was forked before has copies of its own, which stay. So
what a revoked value still has, with its tag, is judged by who has it:

    the concerned     it must be new: granted since, or derived since from a base elsewhere
    anybody else      it must have come from one who is not concerned: who derived it, or was forked while its parent
                      had it. What only the concerned ever had is gone for everybody

Lost. A missing tag has many lawful reasons: rights, sweeps, deaths, clears under way. So it counts only for what is
kept (`History.keep`): a promise that nobody paints it. And it must have been there: in a register, or in a place that
nobody else writes (`History.look`); or in a granule of which all that may have been stored there last is kept and had
its tag, where a load may load tags. What a dead process has stored goes with its address space: where a machine makes
passes, nothing is counted that was stored by one who may be dead.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from capshm.testing.authority import Broken, Holdings, Rights, rights
from capshm.testing.operations import GRANULE, Kind, Operation, Result, in_order

_REVOCATIONS = (Kind.REVOKE, Kind.PASS, Kind.PASS_OF_ALL)
_NEVER = 1 << 64  # later than any stamp


# No use after revocation


class _Paint(NamedTuple):
    """Painted memory, and the revocations that certainly found it painted, by when they ended."""

    start: int
    end: int
    paint: Operation
    revocations: list[Operation]


_Made = dict[int, list[tuple[Operation, Rights]]]  # by base: what came into being


def find_used(operations: Sequence[Operation]) -> Iterator[Broken]:
    """What was used after it was revoked."""
    revocations = sorted((one for one in operations if one.kind in _REVOCATIONS and _is_done(one)), key=_until)
    paints = [_painted(one, operations, revocations) for one in operations if one.kind is Kind.PAINT and _is_done(one)]
    paints = [paint for paint in paints if paint.revocations]
    if not paints:
        return
    made: _Made = {}
    by_base: dict[int, list[tuple[Operation, Rights]]] = {}
    for operation in operations:
        if not _is_seen(operation):
            continue
        have = rights(operation.value)
        if operation.kind in (Kind.DERIVE, Kind.GRANT):
            made.setdefault(have.base, []).append((operation, have))
        if operation.kind is not Kind.GRANT and have.is_revocable:
            by_base.setdefault(have.base, []).append((operation, have))
    bases = sorted(by_base)
    families = {one.child: one for one in operations if one.kind is Kind.FORK}
    for paint in paints:
        for base in bases[bisect_left(bases, paint.start) : bisect_left(bases, paint.end)]:
            for operation, have in by_base[base]:
                gone = [one for one in paint.revocations if one.until < operation.begin]
                near = [one for one in gone if _concerns(one, paint, operation.process, families)]
                if not gone or _is_new(operation, have, (near or gone)[-1], paint, made.get(base, [])):
                    continue
                if near or not _is_anothers(operation, paint, gone[-1], made.get(base, []), families):
                    yield _used(operation, paint.paint, (near or gone)[-1])


def _until(operation: Operation) -> int:
    return operation.until


def _is_done(operation: Operation) -> bool:
    return operation.result is Result.DONE


def _is_seen(operation: Operation) -> bool:
    return (
        operation.kind in (Kind.LOAD, Kind.LOOK, Kind.DERIVE, Kind.GRANT)
        and _is_done(operation)
        and operation.value is not None
        and operation.value.tag
    )


def _painted(paint: Operation, operations: Sequence[Operation], revocations: Sequence[Operation]) -> _Paint:
    start = paint.place // GRANULE * GRANULE
    end = -(-(paint.place + paint.length) // GRANULE) * GRANULE
    clears = [
        one
        for one in operations
        if one.kind is Kind.CLEAR_PAINT
        and one.result is not Result.REFUSED
        and one.place < end
        and one.place + one.length > start
        and one.until >= paint.begin
    ]
    found = []
    for one in revocations:
        # Where some of it is clear, none is counted; a shadow of one's own nobody else clears.
        own = [each.begin for each in clears if one.kind is Kind.REVOKE or each.process == paint.process]
        is_for_it = one.kind is not Kind.PASS or one.process == paint.process
        if is_for_it and paint.until < one.begin and one.until < min(own, default=_NEVER):
            found.append(one)
    return _Paint(start, end, paint, found)


def _concerns(revocation: Operation, paint: _Paint, process: int, families: dict[int, Operation]) -> bool:
    """Whether the process must not have what was painted: it painted, or was forked from one that must not, later."""
    if revocation.kind is Kind.REVOKE:
        return True
    while process != paint.paint.process:
        fork = families.get(process)
        if fork is None or fork.begin <= revocation.until:
            return False
        process = fork.process
    return True


def _is_new(
    operation: Operation, have: Rights, revocation: Operation, paint: _Paint, made: Sequence[tuple[Operation, Rights]]
) -> bool:
    """Whether it may stem from what came into being after the sweep: a grant, or derived from a base elsewhere."""
    for maker, bounds in made:
        if maker.until <= revocation.begin or maker.begin > operation.until or not have.is_within(bounds):
            continue
        if maker.kind is Kind.GRANT or maker.authority is None:
            return True
        if not paint.start <= rights(maker.authority).base < paint.end:
            return True
    return False


def _is_anothers(
    operation: Operation,
    paint: _Paint,
    revocation: Operation,
    made: Sequence[tuple[Operation, Rights]],
    families: dict[int, Operation],
) -> bool:
    """Whether it may be the own value of somebody whom the revocation does not concern."""
    painter = paint.paint.process
    makers = [maker for maker, _ in made if maker.begin <= operation.until]
    if any(not _concerns(revocation, paint, maker.process, families) for maker in makers):
        return True
    since = min((maker.begin for maker in makers), default=0)
    children = [fork for fork in families.values() if fork.process == painter]
    return any(since < fork.until and fork.begin <= revocation.until for fork in children)


def _used(operation: Operation, paint: Operation, revocation: Operation) -> Broken:
    verb = {Kind.LOAD: "loaded", Kind.LOOK: "had"}.get(operation.kind, "derived")
    message = (
        f"process {operation.process} {verb} {operation.value} with its tag after revocation #{revocation.number} had "
        f"returned; #{paint.number} had painted its base before that"
    )
    return "use after revocation", message, _show(paint, revocation, operation)


# Nothing is lost


class Keeping:
    """What is kept, and where it was found without its tag; fed with operations in the order of `walk`."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        painted = [one for one in operations if one.kind is Kind.PAINT and one.result is not Result.REFUSED]
        self._kept = [
            one
            for one in operations
            if one.kind is Kind.KEEP
            and _is_done(one)
            and not any(
                paint.place < one.place + one.length and one.place < paint.place + paint.length for paint in painted
            )
        ]
        passes = [one.begin for one in operations if one.kind in (Kind.PASS, Kind.PASS_OF_ALL)]
        self._first_pass = min(passes, default=_NEVER)
        self._last: dict[int, int] = {}  # when a process was certainly alive
        self._storers: dict[int, list[Operation]] = {}  # by base
        self._writers: dict[tuple[int, int], list[Operation]] = {}
        self._loads: dict[tuple[int, int], list[Operation]] = {}
        self._looks: list[Operation] = []

    def take(self, operation: Operation, holdings: Holdings) -> None:
        """Note what matters of an operation."""
        if not self._kept:
            return
        self._last[operation.process] = max(operation.begin, self._last.get(operation.process, 0))
        value = operation.value
        if operation.kind in (Kind.STORE, Kind.WRITE, Kind.RAW_WRITE) and operation.result is not Result.REFUSED:
            for place in operation.granules:
                self._writers.setdefault(holdings.granule(operation.process, place), []).append(operation)
            if value is not None and value.tag:
                self._storers.setdefault(rights(value).base, []).append(operation)
        elif value is None or value.tag or not _is_done(operation):
            return
        elif operation.kind is Kind.LOOK:
            self._looks.append(operation)
        elif operation.kind is Kind.LOAD and holdings.may_load_tags(operation):
            self._loads.setdefault(holdings.granule(operation.process, operation.place), []).append(operation)

    def finish(self) -> Iterator[Broken]:
        """What was lost, after the last operation."""
        for look in self._looks:
            base = rights(look.value).base
            keep = self._keep_of(base, look.begin)
            if keep is not None and self._are_alive([base], look):
                yield _lost(look, keep)
        for granule, loads in self._loads.items():
            writers = self._writers.get(granule, [])
            latest = list(accumulate((one.until for one in writers), max))
            for load in loads:
                yield from self._check_load(load, writers, latest)

    def _check_load(self, load: Operation, writers: Sequence[Operation], latest: Sequence[int]) -> Iterator[Broken]:
        last = _possibly_last(load, writers, latest)
        keeps = []
        for one in last:
            is_stored = one.kind is Kind.STORE and _is_done(one) and one.value is not None and one.value.tag
            keep = self._keep_of(rights(one.value).base, one.begin) if is_stored else None
            if keep is None:
                return
            keeps.append(keep)
        if last and self._are_alive([rights(one.value).base for one in last], load):
            yield _lost(load, keeps[-1], last[-1])

    def _keep_of(self, base: int, by: int) -> Operation | None:
        return next((one for one in self._kept if one.place <= base < one.place + one.length and one.until < by), None)

    def _are_alive(self, bases: Iterable[int], operation: Operation) -> bool:
        """Whether all that have stored such a value were certainly alive then, or no machine has made a pass yet."""
        if self._first_pass > operation.until:
            return True
        storers = [one for base in bases for one in self._storers.get(base, []) if one.begin <= operation.until]
        return all(self._last[one.process] > operation.until for one in storers)


def _possibly_last(load: Operation, writers: Sequence[Operation], latest: Sequence[int]) -> list[Operation]:
    """What may have been written last when it loaded; empty if there may have been nothing.

    writers: ordered by when they began; latest: by when all up to each had ended.
    """
    count = bisect_right(writers, load.until, key=lambda one: one.begin)
    sure = next((writers[i] for i in reversed(range(count)) if writers[i].until < load.begin), None)
    if sure is None:
        return []
    first = bisect_left(latest, sure.begin)  # what ended before that was overwritten
    return [one for one in writers[first:count] if one.until >= sure.begin]


def _lost(operation: Operation, keep: Operation, *stored: Operation) -> Broken:
    verb = "had" if operation.kind is Kind.LOOK else "loaded"
    message = (
        f"process {operation.process} {verb} {operation.value}, which nobody has painted; #{keep.number} had said that "
        "it is kept"
    )
    return "lost", message, _show(keep, *stored, operation)


def _show(*operations: Operation) -> tuple[Operation, ...]:
    return tuple(in_order(set(operations)))
