"""The table of a comparison, for people: a line for each case and policy, and below it what the words mean."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capshm.lab.results import Manifest
    from capshm.lab.statistics import Overhead
    from capshm.lab.summary import Line, Summary

WIDTH = 118
_COUNTS = ("crossed", "rederived", "refused")
_TIMES = 3.0  # an overhead from here on is shown as a multiple
_LEGEND = """\
median: wall time of the measured section, without starting and filling. over X: how much longer it takes than X, the
median of the rounds' ratios, with its 95 % interval. none seen, < 3 %: a difference of 3 % would have been seen, and
there was none. too few: not enough repeats for an interval, which needs five.

crossed: capabilities that a process loaded with the tag that another had stored. rederived: values that came without,
so that the program made a capability of its own from them. refused: calls that the policy refused. Counts of one run.
"""


def text(manifest: Manifest, summary: Summary) -> str:
    """The table with its heading and its legend."""
    plan, facts = manifest.plan, manifest.facts
    finished = max((line.repeats for line in summary.lines), default=0)
    heading = (
        f"capshm {facts.capshm}, {facts.core} core, Python {facts.python}, Linux {facts.kernel}, "
        f"{facts.processors} × {facts.machine}\n"
        f"{finished} of {plan.repeats} rounds, seed {plan.seed}, {facts.time}; {_canary(summary.canary)}"
    )
    parts = [heading, "\n".join(_rows(summary.lines, plan.references))]
    if summary.failed:
        parts.append("\n".join(_failures(summary)))
    return "\n\n".join([*parts, _LEGEND])


def _rows(lines: Sequence[Line], references: Sequence[str]) -> Iterator[str]:
    counts = [name for name in _COUNTS if any(name in line.counts for line in lines)]
    rows = [["workload", "size", "policy", "median", *(f"over {name}" for name in references), *counts]]
    previous = None
    for line in lines:
        is_first = line.case != previous
        previous = line.case
        if is_first:
            rows.append([])
        rows.append(
            [
                line.case.label if is_first else "",
                size(line.case.size) if is_first and line.case.trace is None else "",
                line.policy,
                "failed" if line.wall is None else duration(line.wall.value),
                *(overhead(line.over[name]) if name in line.over else "" for name in references),
                *(f"{line.counts[name]:,}" if name in line.counts else "" for name in counts),
            ]
        )
    widths = [max(len(row[column]) for row in rows if row) for column in range(len(rows[0]))]
    sides = ["<", ">", "<", ">", *("<" * len(references)), *(">" * len(counts))]
    for row in rows:
        cells = [f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=False)]
        yield "  ".join(cells).rstrip()


def _failures(summary: Summary) -> Iterator[str]:
    yield f"{len(summary.failed)} cells failed:"
    for each in summary.failed:
        reason = each.message.splitlines()[-1] if each.message else ""
        name = f"round {each.round}, {each.cell.case.label} of {size(each.cell.case.size)}, {each.cell.policy}"
        yield textwrap.shorten(f"  {name}: {reason}", WIDTH * 2, placeholder=" …")


def _canary(round_trips: Sequence[float]) -> str:
    if not round_trips:
        return "no canary: two processes cannot spin here"
    return (
        f"canary {statistics.median(round_trips):.3f} µs ({min(round_trips):.3f} – {max(round_trips):.3f}): a spinning "
        "round trip"
    )


def overhead(found: Overhead) -> str:
    """In words: "+19.6 % [+18.1, +21.0]", "× 3.4 [3.3, 3.6]", "none seen, < 2.1 %", or "+20.0 % [too few]"."""
    if found.interval is None or found.smallest is None:
        return f"{_change(found.ratio)} [too few]"
    if not found.is_seen:
        return f"none seen, < {significant(100 * max(found.smallest, *_distances(found)))} %"
    number = significant if found.ratio >= _TIMES else _percent
    low, high = (number(end) for end in found.interval)
    return f"{_change(found.ratio)} [{low}, {high}]"


def _distances(found: Overhead) -> Iterator[float]:
    """How far from none the interval reaches: what may be there, unseen."""
    assert found.interval is not None
    yield abs(found.interval.low - 1)
    yield abs(found.interval.high - 1)


def _change(ratio: float) -> str:
    return f"× {significant(ratio)}" if ratio >= _TIMES else f"{_percent(ratio)} %"


def _percent(ratio: float) -> str:
    change = 100 * (ratio - 1)
    return f"{change:+,.1f}" if abs(change) < 100 else f"{change:+,.0f}"


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
