"""What a run says: in each comparison a line for each case and configuration, with its time, overheads and counts."""

from __future__ import annotations

import statistics as exact
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from capshm.lab import statistics
from capshm.lab.comparison import Case, Comparison, Configuration
from capshm.lab.plan import Cell, Plan
from capshm.lab.results.results import Canary, Failed, Measured, Record, Result
from capshm.lab.statistics import Median, Overhead

Measure: TypeAlias = Literal["wall", "cpu"]
"""Which time of the measured section is compared: of the clock, or of all the cell's processes."""


Results: TypeAlias = dict[tuple[int, int], Result]
"""Of one cell, by round and machine."""


class Span(NamedTuple):
    """The least and the most of all rounds."""

    least: float
    most: float


class Line(msgspec.Struct, frozen=True):
    """One case in one configuration. wall, cpu: nanoseconds. over: by what it is compared with. counts: of one cell.

    comparison: its place in the plan. repeats: that finished; failures: that did not. With no repeats there is nothing
    else.
    """

    comparison: int
    case: Case
    configuration: Configuration
    repeats: int
    failures: int
    wall: Median | None
    cpu: Median | None
    over: dict[str, Overhead]
    counts: dict[str, Span]


class Different(msgspec.Struct, frozen=True):
    """A case whose cells have not all done the same work, so that their times compare nothing.

    configurations: by the checksum and the operations that cells of theirs have come to; named as the plan does.
    """

    case: Case
    configurations: dict[str, list[str]]


class CanarySpan(msgspec.Struct, frozen=True):
    """Microseconds, of all rounds that had one."""

    median: float
    least: float
    most: float


class Summary(msgspec.Struct, frozen=True):
    """All lines, in the plan's order. measure: of the overheads. failed: cells. different: cases without times."""

    measure: Measure
    lines: list[Line]
    canary: CanarySpan | None
    failed: list[Failed]
    different: list[Different]

    @property
    def is_whole(self) -> bool:
        """Nothing of what was run has failed."""
        return not self.failed and not self.different


def summarize(plan: Plan, records: Iterable[Record], measure: Measure = "wall") -> Summary:
    """Make the lines of a whole run, or of one that was cut short."""
    measured: dict[Cell, Results] = {cell: {} for cell in plan.cells}
    canary = []
    failed = []
    for record in records:
        match record:
            case Measured(round=number, cell=cell, result=result, machine=machine):
                measured.setdefault(cell, {})[number, machine] = result
            case Failed():
                failed.append(record)
            case Canary(microseconds=float(microseconds)):
                canary.append(microseconds)
    different = [found for case in plan.cases if (found := _compare_work(plan, case, measured))]
    for cell, results in measured.items():
        if any(each.case == cell.case for each in different):
            results.clear()
    lines = []
    for place, comparison in enumerate(plan.comparisons):
        for case in comparison.cases:
            for configuration in comparison.configurations:
                failures = sum((each.cell.case, each.cell.configuration) == (case, configuration) for each in failed)
                own = {each: measured[Cell(case, each, plan.seed)] for each in comparison.configurations}
                over = _overheads(comparison, configuration, own, plan.seed, measure)
                lines.append(_line(place, case, configuration, own[configuration], failures, over, plan.seed))
    return Summary(measure, lines, _canary(canary), failed, different)


def _overheads(
    comparison: Comparison,
    configuration: Configuration,
    measured: dict[Configuration, Results],
    seed: int,
    measure: Measure,
) -> dict[str, Overhead]:
    """Of one case, by what it is compared with."""
    over = {}
    for reference in comparison.references:
        counterpart = comparison.counterpart(configuration, reference)
        own, theirs = measured[configuration], {} if counterpart is None else measured[counterpart]
        pairs = [(_time(own[place], measure), _time(theirs[place], measure)) for place in own if place in theirs]
        if pairs:
            over[reference] = statistics.overhead(pairs, seed=seed)
    return over


def _line(
    comparison: int,
    case: Case,
    configuration: Configuration,
    measured: Results,
    failures: int,
    over: dict[str, Overhead],
    seed: int,
) -> Line:
    results = list(measured.values())
    if not results:
        return Line(comparison, case, configuration, 0, failures, None, None, {}, {})
    return Line(
        comparison,
        case,
        configuration,
        len(results),
        failures,
        statistics.median([result.wall_ns for result in results], seed=seed),
        statistics.median([result.cpu_ns for result in results], seed=seed),
        over,
        {name: _span([result.counts.get(name, 0) for result in results]) for name in results[0].counts},
    )


def _time(result: Result, measure: Measure) -> int:
    return result.wall_ns if measure == "wall" else result.cpu_ns


def _compare_work(plan: Plan, case: Case, measured: dict[Cell, Results]) -> Different | None:
    """What different cells of a case have done, if it is not all the same."""
    configurations: dict[str, list[str]] = {}
    for cell in plan.cells:
        for result in measured[cell].values() if cell.case == case else ():
            work = f"checksum {result.checksum:#x}, {result.counts.get('operations', 0):,} operations"
            names = configurations.setdefault(work, [])
            if (name := plan.name(cell.configuration)) not in names:
                names.append(name)
    return Different(case, configurations) if len(configurations) > 1 else None


def _canary(round_trips: Sequence[float]) -> CanarySpan | None:
    return CanarySpan(exact.median(round_trips), *_span(round_trips)) if round_trips else None


def _span(values: Sequence[float]) -> Span:
    return Span(min(values), max(values))
