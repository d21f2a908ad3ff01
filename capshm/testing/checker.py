"""Judges what a `History` has recorded: `check_history`.

Four rules, each of which real processes can break only if the memory underneath does:

    tag from nowhere       every capability that was loaded with its tag was stored there, as it is, in some order that
                           explains all loads of that granule and respects real time (capshm.testing.linearize)
    rights grew            what was loaded or derived is a subset, by bounds and permissions, of what somebody held
    use after revocation   once a revocation has returned, nothing whose base was painted before it is loaded, or
                           results from a derivation, with its tag; unless it was derived anew since, from elsewhere
    never granted          a process uses, stores and derives from only what it was granted, inherited in a fork, loaded
                           or derived, and loads capabilities only from memory that it was granted and has not dropped

Maybe-done operations, those whose process died, count as done where that explains what others saw and as not done where
that does. The memory is taken to hold no capability when the history begins. No verdict depends on how operations that
overlap in time were really ordered: a violation is one in every possible order.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from capshm.testing.authority import Holdings, Rights, rights, walk
from capshm.testing.history import History
from capshm.testing.linearize import Access, unexplained
from capshm.testing.operations import GRANULE, Kind, Operation, Result, in_order

_NEVER = 1 << 64  # later than any stamp


class Violation(NamedTuple):
    """A rule that was broken: what happened, and the operations that show it, in the order in which they began."""

    rule: str
    message: str
    operations: tuple[Operation, ...]

    def __str__(self) -> str:
        return "\n".join([f"{self.rule}: {self.message}", *(f"    {operation}" for operation in self.operations)])


def check_history(history: History | Iterable[Operation]) -> list[Violation]:
    """All violations, ordered by when the operation ended that shows it; an empty list if there are none.

    history: a `History`, which no process writes into any more, or operations (`read_history`). HistoryTooDense: too
    many operations overlap at one granule to try all their orders. TypeError: it is something else.
    """
    operations = in_order(_operations(history))
    granules: dict[tuple[int, int], list[Access]] = {}
    violations = []
    holdings = Holdings()
    for operation in walk(operations):
        violations += [Violation(*broken) for broken in holdings.take(operation)]
        _add_accesses(granules, operation, holdings)
    violations += [Violation(*broken) for broken in holdings.finish()]
    for accesses in granules.values():
        if any(access.is_load for access in accesses):
            violations += [_explain(load, accesses) for load in unexplained(accesses)]
    violations += _check_revocations(operations)
    return sorted(violations, key=lambda violation: _end(violation.operations[-1]))


def _operations(history: History | Iterable[Operation]) -> list[Operation]:
    if isinstance(history, History):
        return history.operations()
    if not isinstance(history, Iterable):
        raise TypeError(f"a History or operations are checked, not {type(history).__name__}")
    operations = list(history)
    for operation in operations:
        if not isinstance(operation, Operation):
            raise TypeError(f"operations are checked, not {type(operation).__name__}")
    return operations


def _end(operation: Operation) -> int:
    return _NEVER if operation.end is None else operation.end


def _show(*operations: Operation) -> tuple[Operation, ...]:
    return tuple(in_order(set(operations)))


# No tag from nowhere


def _add_accesses(granules: dict[tuple[int, int], list[Access]], operation: Operation, holdings: Holdings) -> None:
    kind, value = operation.kind, operation.value
    if operation.result is Result.REFUSED or operation.length == 0:
        return
    if kind is Kind.STORE and value is not None:
        access = Access(operation, False, value if value.tag else None)
    elif kind is Kind.LOAD and value is not None and value.tag and operation.result is Result.DONE:
        access = Access(operation, True, value)
    elif kind in (Kind.WRITE, Kind.RAW_WRITE):
        access = Access(operation, False, None)
    else:
        return
    for place in operation.granules:
        granules.setdefault(holdings.granule(operation.process, place), []).append(access)


def _explain(load: Access, accesses: Sequence[Access]) -> Violation:
    """Say, as far as a few operations can, why no order explains the load."""
    end = _end(load.operation)
    value = load.value
    writers = [access for access in accesses if not access.is_load]
    sources = [access.operation for access in writers if access.value == value]
    what = f"process {load.operation.process} loaded {value} from {load.operation.place:#x}"
    if not sources:
        before = [access.operation for access in writers if access.operation.begin <= end]
        return _nowhere(f"{what}, and nobody ever stored that there", *before[-1:], load.operation)
    possible = [source for source in sources if source.begin <= end]
    if not possible:
        return _nowhere(f"{what}, and it was stored there only later", sources[0], load.operation)
    source = max(possible, key=_end)
    for access in writers:
        between = access.operation
        if access.value != value and _end(source) < between.begin and _end(between) < load.operation.begin:
            change = "cleared" if access.value is None else "replaced"
            message = f"{what}, but what #{source.number} stored there had been {change} by #{between.number} before"
            return _nowhere(message, source, between, load.operation)
    around = [
        access.operation
        for access in accesses
        if access.operation.begin <= end and _end(access.operation) >= min(source.begin, load.operation.begin)
    ]
    return _nowhere(f"{what}, and no order of what happened around it explains that", *around, load.operation)


def _nowhere(message: str, *operations: Operation) -> Violation:
    return Violation("tag from nowhere", message, _show(*operations))


# No use after revocation


class _Paint(NamedTuple):
    """Painted memory, and the revocations that certainly found it painted, by when they ended."""

    start: int
    end: int
    paint: Operation
    revocations: list[Operation]


def _check_revocations(operations: Sequence[Operation]) -> list[Violation]:
    revocations = sorted((one for one in operations if _is_done(one, Kind.REVOKE)), key=_end)
    paints = [_painted(one, operations, revocations) for one in operations if _is_done(one, Kind.PAINT)]
    paints = [paint for paint in paints if paint.revocations]
    if not paints:
        return []
    seen = [(one, rights(one.value)) for one in operations if _is_seen(one)]
    made: dict[int, list[tuple[Operation, Rights]]] = {}  # by base: what came into being
    by_base: dict[int, list[tuple[Operation, Rights]]] = {}
    for operation, have in seen:
        if operation.kind is not Kind.LOAD:
            made.setdefault(have.base, []).append((operation, have))
        if operation.kind is not Kind.GRANT and have.is_revocable:
            by_base.setdefault(have.base, []).append((operation, have))
    bases = sorted(by_base)
    violations = []
    for paint in paints:
        for base in bases[bisect_left(bases, paint.start) : bisect_left(bases, paint.end)]:
            for operation, have in by_base[base]:
                gone = [one for one in paint.revocations if _end(one) < operation.begin]
                if gone and not _is_new(operation, have, gone[-1], paint, made.get(base, [])):
                    violations.append(_used(operation, paint.paint, gone[-1]))
    return violations


def _is_done(operation: Operation, kind: Kind) -> bool:
    return operation.kind is kind and operation.result is Result.DONE


def _is_seen(operation: Operation) -> bool:
    return (
        operation.kind in (Kind.LOAD, Kind.DERIVE, Kind.GRANT)
        and operation.result is Result.DONE
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
        and _end(one) >= paint.begin
    ]
    cleared = min((one.begin for one in clears), default=_NEVER)  # where some of it is clear, none is counted
    found = [one for one in revocations if _end(paint) < one.begin and _end(one) < cleared]
    return _Paint(start, end, paint, found)


def _is_new(
    operation: Operation, have: Rights, revocation: Operation, paint: _Paint, made: Sequence[tuple[Operation, Rights]]
) -> bool:
    """Whether it may stem from what came into being after the sweep: a grant, or derived from a base elsewhere."""
    for maker, bounds in made:
        if _end(maker) <= revocation.begin or maker.begin > _end(operation) or not have.is_within(bounds):
            continue
        if maker.kind is Kind.GRANT or maker.authority is None:
            return True
        if not paint.start <= rights(maker.authority).base < paint.end:
            return True
    return False


def _used(operation: Operation, paint: Operation, revocation: Operation) -> Violation:
    verb = "loaded" if operation.kind is Kind.LOAD else "derived"
    message = (
        f"process {operation.process} {verb} {operation.value} with its tag after revocation #{revocation.number} had "
        f"returned; #{paint.number} had painted its base before that"
    )
    return Violation("use after revocation", message, _show(paint, revocation, operation))
