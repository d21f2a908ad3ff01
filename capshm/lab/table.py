"""The tables of a run, for people: a line for each case and configuration, and below them what the words mean."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from capshm.lab.readme import replace_block
from capshm.lab.statistics import ENOUGH

if TYPE_CHECKING:
    from capshm.lab.comparison import Case
    from capshm.lab.plan import Plan
    from capshm.lab.results.results import Manifest
    from capshm.lab.statistics import Overhead
    from capshm.lab.summary import CanarySpan, Line, Span, Summary

WIDTH = 118
_COUNTS = {"policy": ("crossed", "rederived", "refused")}
"""What is told of the axis that is compared; of the others, which have to do with revocation:"""
_COUNTS_OF_REVOCATION = ("passes",)
_FINE = 2.0  # a ratio below this is shown to a thousandth
_MEASURES = {
    "wall": "wall time of the measured section, without starting and filling",
    "cpu": "processor time of all processes in the measured section, the broker's too",
}
_LEGEND = """
median: {measure}.
over X: its time divided by that of plain memory, or of the same machine but with X; the median of the rounds' ratios,
with its 95 % interval. none seen, < 3 %: a difference of 3 % would have been seen 95 times in 100, and there was none;
equal things are called different once in 1,000 comparisons, or less. too few: not enough repeats for an interval, which
needs {enough}. Wide intervals: the machine was busy; try again, or --repeats.

crossed: capabilities that a process loaded with the tag that another had stored. rederived: values that came without,
so that the program made a capability of its own from them. refused: calls that the policy refused. passes: revocations
that gave a process memory to use again; small heaps have none. Counts of one run; where runs differed, the least and
the most. Traces, images, churn and forkstorm exchange nothing, so nothing crosses in them.
"""


def text(manifest: Manifest, summary: Summary) -> str:
    """The table with its heading and its legend."""
    plan, facts = manifest.plan, manifest.facts
    finished = min((line.repeats + line.failures for line in summary.lines), default=0)
    heading = (
        f"capshm {facts.capshm}, {facts.core} core, Python {facts.python}, Linux {facts.kernel}, "
        f"{facts.processors} × {facts.machine}\n"
        f"{finished} of {plan.repeats} rounds, seed {plan.seed}, {facts.time}; {canary(summary.canary)}"
    )
    parts = [heading, *("\n".join(_rows(plan, summary, place)) for place in range(len(plan.comparisons)))]
    if summary.failed:
        parts.append("\n".join(_failures(plan, summary)))
    if summary.different:
        parts.append("\n".join(_differences(plan, summary)))
    return "\n\n".join([*parts, _legend(summary.measure)])


def _legend(measure: str) -> str:
    filled = _LEGEND.format(measure=_MEASURES[measure], enough=ENOUGH)
    return "\n\n".join(textwrap.fill(part, WIDTH) for part in filled.strip().split("\n\n")) + "\n"


def _rows(plan: Plan, summary: Summary, place: int) -> Iterator[str]:
    """The lines of one of the plan's comparisons."""
    comparison = plan.comparisons[place]
    lines = [line for line in summary.lines if line.comparison == place]
    choices = ["policy", *(axis for axis in comparison.axes if axis != "policy")]
    told = [name for axis in comparison.axes or choices for name in _COUNTS.get(axis, _COUNTS_OF_REVOCATION)]
    counts = [name for name in dict.fromkeys(told) if any(name in line.counts for line in lines)]
    references = comparison.references
    told_of_cases = [name for name in _OF_CASES if any(getattr(case, name) is not None for case in comparison.cases)]
    rows = [["workload", "size", *told_of_cases, *choices, "median", *(f"over {name}" for name in references), *counts]]
    previous = None
    for line in lines:
        is_first = line.case != previous
        time = line.wall if summary.measure == "wall" else line.cpu
        previous = line.case
        if is_first:
            rows.append([])
        rows.append(
            [
                plan.label(line.case) if is_first else "",
                size(line.case.size) if is_first and not line.case.files else "",
                *(_OF_CASES[name](line.case) if is_first else "" for name in told_of_cases),
                *(line.configuration.on(axis) or "" for axis in choices),
                _absence(line, summary) if time is None else duration(time.value),
                *(overhead(line.over[name]) if name in line.over else "" for name in references),
                *(_count(line.counts[name]) if name in line.counts else "" for name in counts),
            ]
        )
    yield comparison.title
    yield ""
    widths = [max(len(row[column]) for row in rows if row) for column in range(len(rows[0]))]
    sides = [
        "<",
        ">",
        *(">" * len(told_of_cases)),
        *("<" * len(choices)),
        ">",
        *("<" * len(references)),
        *(">" * len(counts)),
    ]
    for row in rows:
        cells = [f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=False)]
        yield "  ".join(cells).rstrip()


def _count(found: Span) -> str:
    return " – ".join(f"{each:,.0f}" for each in dict.fromkeys(found))


def _absence(line: Line, summary: Summary) -> str:
    is_different = any(each.case == line.case for each in summary.different)
    return "failed" if line.failures or is_different else "not run"


def _failures(plan: Plan, summary: Summary) -> Iterator[str]:
    yield f"{len(summary.failed)} cells failed:"
    for each in summary.failed:
        name = f"round {each.round}, {described(plan, each.cell.case)}, {plan.name(each.cell.configuration)}"
        yield _shortened(f"{name}: {last_line(each.message)}")


def _differences(plan: Plan, summary: Summary) -> Iterator[str]:
    yield "cells of one case have not done the same work, so their times compare nothing:"
    for each in summary.different:
        works = "; ".join(f"{', '.join(names)}: {work}" for work, names in each.configurations.items())
        yield _shortened(f"{described(plan, each.case)}: {works}")


def _shortened(line: str) -> str:
    return "  " + textwrap.shorten(line, 2 * WIDTH, placeholder=" …")


def described(plan: Plan, case: Case) -> str:
    """A case in words: "prefork of 4 MiB, 16 processes, 10 %"."""
    words = [plan.label(case) + ("" if case.files else f" of {size(case.size)}")]
    if case.processes is not None:
        words.append(f"{case.processes:,} {'process' if case.processes == 1 else 'processes'}")
    if case.density is not None:
        words.append(density(case))
    return ", ".join(words)


def density(case: Case) -> str:
    """Of a case: "10 %"; empty if it is the workload's own."""
    return "" if case.density is None else f"{case.density:g} %"


def _processes(case: Case) -> str:
    return "" if case.processes is None else f"{case.processes:,}"


_OF_CASES: dict[str, Callable[[Case], str]] = {"processes": _processes, "density": density}
"""Columns that a table has where one of its cases says so."""


def last_line(message: str) -> str:
    """The line that says why, of what a failed cell has said; empty if it has said nothing."""
    return next(reversed(message.splitlines()), "")


def canary(found: CanarySpan | None) -> str:
    """A line on how far apart the processors were."""
    if found is None:
        return "no canary: two processes cannot spin here"
    return f"canary {found.median:.3f} µs ({found.least:.3f} – {found.most:.3f}): a spinning round trip"


def overhead(found: Overhead) -> str:
    """In words: "× 1.196 [1.181, 1.210]", "none seen, < 2.1 %", or "× 1.200 [too few]"."""
    if found.interval is None or found.smallest is None:
        return f"× {_ratio(found.ratio)} [too few]"
    if not found.is_seen:
        return f"none seen, < {significant(100 * found.smallest)} %"
    return f"× {_ratio(found.ratio)} [{_ratio(found.interval.low)}, {_ratio(found.interval.high)}]"


def _ratio(ratio: float) -> str:
    return f"{ratio:.3f}" if ratio < _FINE else significant(ratio)


def duration(nanoseconds: float) -> str:
    """Three significant digits, in the unit that suits."""
    for unit, length in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if nanoseconds >= length:
            return f"{significant(nanoseconds / length)} {unit}"
    return f"{nanoseconds:.0f} ns"


def significant(value: float) -> str:
    """Three significant digits, and all digits before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def size(length: int) -> str:
    """Bytes, in the largest binary unit that is exact."""
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if length and length % (1 << shift) == 0:
            return f"{length >> shift:,} {unit}"
    return f"{length:,} B"


def rewrite_readme(path: Path, table: str, summary: Summary) -> None:
    """Replace the block `compare` of a README.

    ValueError, and nothing is changed: it has no such block, or something in the run has failed or has too few repeats.
    """
    if not summary.is_whole or any(line.repeats < ENOUGH for line in summary.lines):
        raise ValueError(f"{path} shows results: a run with failures, or with fewer than {ENOUGH} repeats, is none")
    replace_block(path, "compare", f"```\n{table.rstrip()}\n```")
