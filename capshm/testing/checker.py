"""Judges what a `History` has recorded: `check_history`.

Five rules, each of which real processes can break only if the memory underneath does:

    tag from nowhere       every capability that was loaded with its tag was stored there, as it is, in some order that
                           explains all loads of that granule and respects real time (capshm.testing.linearize)
    rights grew            what was loaded or derived is a subset, by bounds and permissions, of what somebody held
    use after revocation   once a revocation has returned, nothing whose base was painted before it is loaded, or
                           results from a derivation, with its tag; unless it was derived anew since, from elsewhere
    lost                   what is kept (`History.keep`) and was never painted is never found without its tag
    never granted          a process uses, stores and derives from only what it was granted, inherited in a fork, loaded
                           or derived, and loads capabilities only from memory that it was granted and has not dropped

Maybe-done operations, those whose process died, count as done where that explains what others saw and as not done where
that does. The memory is taken to hold no capability when the history begins. No verdict depends on how operations that
overlap in time were really ordered: a violation is one in every possible order. The rules about revocation are in
capshm.testing.revocations, which also says whom it concerns where each process revokes its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from capshm.testing.authority import Holdings, walk
from capshm.testing.history import History
from capshm.testing.linearize import Access, unexplained
from capshm.testing.operations import Kind, Operation, Result, in_order
from capshm.testing.revocations import Keeping, find_used


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
    keeping = Keeping(operations)
    violations = []
    holdings = Holdings()
    for operation in walk(operations):
        violations += [Violation(*broken) for broken in holdings.take(operation)]
        _add_accesses(granules, operation, holdings)
        keeping.take(operation, holdings)
    violations += [Violation(*broken) for broken in holdings.finish()]
    for accesses in granules.values():
        if any(access.is_load for access in accesses):
            violations += [_explain(load, accesses) for load in unexplained(accesses)]
    violations += [Violation(*broken) for broken in (*find_used(operations), *keeping.finish())]
    return sorted(violations, key=lambda violation: violation.operations[-1].until)


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
    end = load.operation.until
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
    source = max(possible, key=lambda source: source.until)
    for access in writers:
        between = access.operation
        if access.value != value and source.until < between.begin and between.until < load.operation.begin:
            change = "cleared" if access.value is None else "replaced"
            message = f"{what}, but what #{source.number} stored there had been {change} by #{between.number} before"
            return _nowhere(message, source, between, load.operation)
    around = [
        access.operation
        for access in accesses
        if access.operation.begin <= end and access.operation.until >= min(source.begin, load.operation.begin)
    ]
    return _nowhere(f"{what}, and no order of what happened around it explains that", *around, load.operation)


def _nowhere(message: str, *operations: Operation) -> Violation:
    return Violation("tag from nowhere", message, _show(*operations))
