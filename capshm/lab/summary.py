"""What a run says: a line for each case and policy, with its time, its overheads and its counts."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from capshm.lab import statistics
from capshm.lab.plan import Case, Plan
from capshm.lab.results import Canary, Failed, Measured, Record
from capshm.lab.statistics import Median, Overhead


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
    counts: dict[str, int]


class Summary(msgspec.Struct, frozen=True):
    """All lines, in the plan's order. canary: microseconds, of each round that had one. failed: cells."""

    lines: list[Line]
    canary: list[float]
    failed: list[Failed]


def summarize(plan: Plan, records: Iterable[Record]) -> Summary:
    """Make the lines of a whole run, or of one that was cut short."""
    measured: dict[tuple[Case, str], dict[int, Measured]] = {}
    canary = []
    failed = []
    for record in records:
        match record:
            case Measured(round=number, cell=cell):
                measured.setdefault((cell.case, cell.policy), {})[number] = record
            case Failed():
                failed.append(record)
            case Canary(microseconds=float(microseconds)):
                canary.append(microseconds)
    lines = [
        _line(
            plan, case, policy, measured, sum((each.cell.case, each.cell.policy) == (case, policy) for each in failed)
        )
        for case in plan.cases
        for policy in plan.policies
    ]
    return Summary(lines, canary, failed)


def _line(
    plan: Plan, case: Case, policy: str, measured: dict[tuple[Case, str], dict[int, Measured]], failures: int
) -> Line:
    own = measured.get((case, policy), {})
    if not own:
        return Line(case, policy, 0, failures, None, None, {}, {})
    over = {}
    for reference in plan.references:
        theirs = measured.get((case, reference), {})
        pairs = [(own[number].result.wall_ns, theirs[number].result.wall_ns) for number in own if number in theirs]
        if policy not in (plan.baseline, reference) and pairs:
            over[reference] = statistics.overhead(pairs, seed=plan.seed)
    results = [each.result for each in own.values()]
    return Line(
        case,
        policy,
        len(own),
        failures,
        statistics.median([result.wall_ns for result in results], seed=plan.seed),
        statistics.median([result.cpu_ns for result in results], seed=plan.seed),
        over,
        results[-1].counts,
    )
