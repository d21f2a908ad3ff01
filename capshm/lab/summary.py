"""What a run says: a line for each case and policy, with its time, its overheads and its counts."""

from __future__ import annotations

import statistics as exact
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from capshm.lab import statistics
from capshm.lab.plan import Case, Plan
from capshm.lab.results import Canary, Failed, Measured, Record, Result
from capshm.lab.statistics import Median, Overhead

Measure: TypeAlias = Literal["wall", "cpu"]
"""Which time of the measured section is compared: of the clock, or of all the cell's processes."""


class Span(NamedTuple):
    """The least and the most of all rounds."""

    least: float
    most: float


class Line(msgspec.Struct, frozen=True):
    """One case under one policy. wall, cpu: nanoseconds. over: by what it is compared with. counts: of one cell.

    repeats: that finished; failures: that did not. With no repeats there is nothing else.
    """

    case: Case
    policy: str
    repeats: int
    failures: int
    wall: Median | None
    cpu: Median | None
    over: dict[str, Overhead]
    counts: dict[str, Span]


class Different(msgspec.Struct, frozen=True):
    """A case whose cells have not all done the same work, so that their times compare nothing.

    policies: by the checksum and the operations that cells of theirs have come to.
    """

    case: Case
    policies: dict[str, list[str]]


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
    measured: dict[tuple[Case, str], dict[int, Result]] = {}
    canary = []
    failed = []
    for record in records:
        match record:
            case Measured(round=number, cell=cell, result=result):
                measured.setdefault((cell.case, cell.policy), {})[number] = result
            case Failed():
                failed.append(record)
            case Canary(microseconds=float(microseconds)):
                canary.append(microseconds)
    different = [found for case in plan.cases if (found := _compare_work(plan, case, measured))]
    for each in different:
        for policy in plan.policies:
            measured.pop((each.case, policy), None)
    lines = []
    for case in plan.cases:
        for policy in plan.policies:
            failures = sum((each.cell.case, each.cell.policy) == (case, policy) for each in failed)
            lines.append(_line(plan, case, policy, measured, failures, measure))
    return Summary(measure, lines, _canary(canary), failed, different)


def _line(
    plan: Plan,
    case: Case,
    policy: str,
    measured: dict[tuple[Case, str], dict[int, Result]],
    failures: int,
    measure: Measure,
) -> Line:
    own = measured.get((case, policy), {})
    if not own:
        return Line(case, policy, 0, failures, None, None, {}, {})
    over = {}
    for reference in plan.references:
        theirs = measured.get((case, reference), {})
        pairs = [(_time(own[number], measure), _time(theirs[number], measure)) for number in own if number in theirs]
        if policy not in (plan.baseline, reference) and pairs:
            over[reference] = statistics.overhead(pairs, seed=plan.seed)
    results = list(own.values())
    return Line(
        case,
        policy,
        len(own),
        failures,
        statistics.median([result.wall_ns for result in results], seed=plan.seed),
        statistics.median([result.cpu_ns for result in results], seed=plan.seed),
        over,
        {name: _span([result.counts.get(name, 0) for result in results]) for name in results[0].counts},
    )


def _time(result: Result, measure: Measure) -> int:
    return result.wall_ns if measure == "wall" else result.cpu_ns


def _compare_work(plan: Plan, case: Case, measured: dict[tuple[Case, str], dict[int, Result]]) -> Different | None:
    """What different cells of a case have done, if it is not all the same."""
    policies: dict[str, list[str]] = {}
    for policy in plan.policies:
        for result in measured.get((case, policy), {}).values():
            work = f"checksum {result.checksum:#x}, {result.counts.get('operations', 0):,} operations"
            names = policies.setdefault(work, [])
            if policy not in names:
                names.append(policy)
    return Different(case, policies) if len(policies) > 1 else None


def _canary(round_trips: Sequence[float]) -> CanarySpan | None:
    return CanarySpan(exact.median(round_trips), *_span(round_trips)) if round_trips else None


def _span(values: Sequence[float]) -> Span:
    return Span(min(values), max(values))
