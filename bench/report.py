"""What is made of the samples: medians and spreads, the table, the JSON document, the table in the README."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypedDict

from bench.figures import Figure
from bench.run import Sample, Samples
from capshm.lab.readme import replace_block
from capshm.lab.results import facts

ENOUGH_REPEATS = 5
WIDTH = 100
_NEAR = 0.25  # microseconds: between 0.15 for near processors and 0.4 for far ones
_LEGEND = (
    "ratio: value / limit, the median of the repeats. seen: the limit where the goals were set; a limit that is slower "
    "than 0.8 of it on such a machine is itself at fault."
)


class Spread(TypedDict):
    """Of all repeats."""

    median: float
    least: float
    most: float


class FigureResult(TypedDict):
    """One figure in the document; `samples` are [value, limit] of each repeat. seen, share_of_seen: see `Figure`."""

    key: str
    what: str
    unit: str
    conditions: str
    limit_is: str
    seen: float | None
    share_of_seen: float | None
    value: Spread
    limit: Spread
    ratio: Spread
    goal: str
    is_met: bool
    samples: list[list[float]]


class Curve(TypedDict):
    """How a cost grows. points: [size, microseconds]; slope: the exponent of the power that fits them best; per_unit:
    microseconds that one more unit costs, between the ends.
    """

    key: str
    what: str
    unit: str
    conditions: str
    points: list[list[float]]
    slope: float
    per_unit: float


class Document(TypedDict):
    """What `--json` writes. canary: microseconds, None where two processes cannot spin. growth: with --growth only."""

    format: int
    capshm: str
    core: str
    python: str
    machine: str
    kernel: str
    processors: int
    time: str
    is_quick: bool
    repeats: int
    canary: Spread | None
    figures: list[FigureResult]
    growth: list[Curve]


def spread(numbers: Sequence[float]) -> Spread:
    """Median, least and most of at least one number."""
    return {"median": statistics.median(numbers), "least": min(numbers), "most": max(numbers)}


def summarize(figure: Figure, samples: Sequence[Sample]) -> FigureResult:
    """A figure's result. Its ratio is the median of the repeats' ratios: a repeat's value and limit belong together."""
    value = spread([sample.value for sample in samples])
    limit = spread([sample.limit for sample in samples])
    ratio = spread([sample.ratio for sample in samples])
    return {
        "key": figure.key,
        "what": figure.what,
        "unit": figure.unit,
        "conditions": figure.conditions,
        "limit_is": figure.limit,
        "seen": figure.seen,
        "share_of_seen": figure.share_of_seen(limit["median"]),
        "value": value,
        "limit": limit,
        "ratio": ratio,
        "goal": str(figure.goal),
        "is_met": figure.goal.is_met((ratio if figure.goal.of == "ratio" else value)["median"]),
        "samples": [[sample.value, sample.limit] for sample in samples],
    }


def document(
    figures: Iterable[Figure], samples: Samples, repeats: int, *, quick: bool, growth: Sequence[Curve] = ()
) -> Document:
    """Everything about a run."""
    measured_on = facts.gather()
    return {
        "format": 1,
        "capshm": measured_on.capshm,
        "core": measured_on.core,
        "python": measured_on.python,
        "machine": measured_on.machine,
        "kernel": measured_on.kernel,
        "processors": measured_on.processors,
        "time": measured_on.time,
        "is_quick": quick,
        "repeats": repeats,
        "canary": spread(samples.canary) if samples.canary else None,
        "figures": [summarize(figure, samples.figures[figure.key]) for figure in figures],
        "growth": list(growth),
    }


def _is_a_look(found: Document) -> bool:
    return found["is_quick"] or found["repeats"] < ENOUGH_REPEATS


def number(value: float) -> str:
    """Three significant digits, and all digits before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _span(of: Spread) -> str:
    return f"{number(of['least'])} – {number(of['most'])}"


def text(found: Document) -> str:
    """The document for people: the machine, the canary, the table, the conditions."""
    rows = [["figure", "value", "limit", "", "seen", "of seen", "ratio", "least – most", "goal", ""]]
    for figure in found["figures"]:
        seen, share = figure["seen"], figure["share_of_seen"]
        rows.append(
            [
                figure["key"],
                number(figure["value"]["median"]),
                number(figure["limit"]["median"]),
                figure["unit"],
                "" if seen is None else number(seen),
                "" if share is None else f"{share:.2f}",
                number(figure["ratio"]["median"]),
                _span(figure["ratio"]),
                figure["goal"],
                "met" if figure["is_met"] else "NOT MET",
            ]
        )
    lines = [*_heading(found), "", *_aligned(rows), "", *textwrap.wrap(_LEGEND, WIDTH)]
    for conditions in dict.fromkeys(figure["conditions"] for figure in found["figures"]):
        keys = [figure["key"] for figure in found["figures"] if figure["conditions"] == conditions]
        lines += ["", f"{', '.join(keys)}:"]
        lines += textwrap.wrap(conditions, WIDTH, initial_indent="    ", subsequent_indent="    ")
    if found["growth"]:
        lines += ["", *_growth(found["growth"])]
    return "\n".join(lines)


def _growth(curves: Iterable[Curve]) -> Iterator[str]:
    """Of each curve the points in one line, and what they say in another."""
    for curve in curves:
        points = ", ".join(f"{size:g}: {number(cost)}" for size, cost in curve["points"])
        yield f"{curve['key']}: {curve['what']}"
        yield from textwrap.wrap(curve["conditions"], WIDTH, initial_indent="    ", subsequent_indent="    ")
        yield f"    µs by {curve['unit']}: {points}"
        yield f"    grows as {curve['unit']}^{curve['slope']:.2f}; one more costs {number(curve['per_unit'])} µs"


def _heading(found: Document) -> list[str]:
    canary = found["canary"]
    look = ", for a first look only" if _is_a_look(found) else ""
    lines = [
        f"capshm {found['capshm']}, {found['core']} core, Python {found['python']}, Linux {found['kernel']}",
        f"{found['processors']} × {found['machine']}",
        f"{found['repeats']} interleaved repeats{look}, {found['time']}",
    ]
    if canary is None:
        lines.append("canary: none, two processes cannot spin here")
    else:
        where = "near" if canary["median"] < _NEAR else "far"
        lines.append(
            f"canary: two processes pass a cache line back and forth in {number(canary['median'])} µs "
            f"({_span(canary)}): the processors are {where}"
        )
    return lines


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns side by side: numbers to the right, words to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = "<>><>>><<<"
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()
        for row in rows
    ]


def markdown(found: Document) -> str:
    """The table for the README."""
    lines = [
        "| figure | | value | limit | ratio (least – most) | goal | |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for figure in found["figures"]:
        value, limit, unit = number(figure["value"]["median"]), number(figure["limit"]["median"]), figure["unit"]
        lines.append(
            f"| `{figure['key']}` | {figure['what']} | {value} {unit} | {limit} {unit} | "
            f"{number(figure['ratio']['median'])} ({_span(figure['ratio'])}) | {figure['goal']} | "
            f"{'met' if figure['is_met'] else 'not met'} |"
        )
    canary = found["canary"]
    lines += [
        "",
        f"`make bench`, {found['repeats']} repeats on {found['processors']} × {found['machine']}, "
        f"Python {found['python']}" + (f", canary {number(canary['median'])} µs" if canary else "") + ".",
    ]
    return "\n".join(lines)


def rewrite_readme(path: Path, found: Document) -> None:
    """Replace the block `bench` of a README.

    ValueError, and nothing is changed: it has no such block, or the run was a quick one or of too few repeats.
    """
    if _is_a_look(found):
        raise ValueError(f"{path} shows results: a quick run, or one of fewer than {ENOUGH_REPEATS} repeats, is none")
    replace_block(path, "bench", markdown(found))


def met(found: Document) -> str:
    """One sentence."""
    count = sum(figure["is_met"] for figure in found["figures"])
    return f"{count} of {len(found['figures'])} goals met"
