"""Curves: how pauses grow with processes and density, and overheads with size, and how steeply.

*Slope.* In each round the least-squares line through the logarithms of all points; its slope is the exponent: 1 is
growth in proportion, 0 is none. What is told is the median of the rounds' slopes, with its interval, and what it makes
of twice as much. Each round has a slope of its own because its cells ran on the same machine in about the same minute.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import numpy
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from capshm.lab import statistics
from capshm.lab.comparison import Case, Comparison, Configuration
from capshm.lab.report.drawing import add_legend, panels, show_times
from capshm.lab.report.exhibit import Exhibit, Missing
from capshm.lab.report.palette import style
from capshm.lab.report.runs import Run, distinguish, median_pause
from capshm.lab.results.results import Result
from capshm.lab.statistics import Median
from capshm.lab.table import duration, size

MISSING = Missing(
    "How pauses and times grow",
    "capshm compare --workloads bufferpool --policies cheribsd --revokers none stop-the-world --processes 1 4 16",
)

Place: TypeAlias = tuple[int, int]
"""Round and machine."""

Value: TypeAlias = Callable[[Result], float | None]


class Variable(NamedTuple):
    """What grows along the axis: a field of a case. say: one value of it in words."""

    field: str
    words: str
    say: Callable[[float], str]


class Outcome(NamedTuple):
    """What grows with it: nanoseconds."""

    key: str
    words: str
    of: Value


class Curve(NamedTuple):
    """One configuration. points: by what it grows with; slope: None with fewer than two points in any round."""

    configuration: Configuration
    points: dict[float, Median]
    slope: Median | None


VARIABLES = (
    Variable("processes", "processes", lambda value: f"{value:.0f}"),
    Variable("density", "granules that hold a capability", lambda value: f"{value:g} %"),
    Variable("size", "size", lambda value: size(int(value))),
)


OUTCOMES = (
    Outcome("pause", "pause of the machine", median_pause),
    Outcome("time", "time of the measured section", lambda result: result.wall_ns),
)


def exhibits(run: Run) -> Iterator[Exhibit]:
    """One for each outcome and each thing that it may grow with, in each comparison."""
    for place, comparison in enumerate(run.plan.comparisons):
        for variable in VARIABLES:
            for outcome in OUTCOMES:
                found = {
                    run.described_without(cases[0], variable.field): curves
                    for cases in run.families(comparison, variable.field)
                    if (curves := measure(run, comparison, cases, variable, outcome.of))
                }
                if found:
                    key = f"growth-{place + 1}-{outcome.key}-{variable.field}"
                    yield _exhibit(comparison, variable, outcome, found, key)


def measure(run: Run, comparison: Comparison, cases: list[Case], variable: Variable, of: Value) -> list[Curve]:
    """A curve for each configuration that has an outcome in at least two of these cases."""
    curves = []
    for configuration in comparison.configurations:
        points: dict[float, dict[Place, float]] = {}
        for case in cases:
            outcomes = {place: of(each) for place, each in run.rounds(case, configuration).items()}
            if told := {place: value for place, value in outcomes.items() if value is not None}:
                points[float(getattr(case, variable.field))] = told
        if len(points) > 1:
            medians = {x: statistics.median(list(told.values()), seed=run.plan.seed) for x, told in points.items()}
            curves.append(Curve(configuration, medians, _slope(points, run.plan.seed)))
    return curves


def _slope(points: dict[float, dict[Place, float]], seed: int) -> Median | None:
    """Of the rounds that have every point."""
    whole = set.intersection(*(set(told) for told in points.values()))
    logarithms = numpy.log(list(points))
    slopes = [
        float(numpy.polyfit(logarithms, numpy.log([told[number] for told in points.values()]), 1)[0])
        for number in sorted(whole)
    ]
    return statistics.median(slopes, seed=seed) if slopes else None


def steepness(slope: Median | None) -> str:
    """What it makes of twice as much: "× 1.93 [1.8, 2.1]"."""
    if slope is None:
        return "no round has all points"
    if slope.interval is None:
        return f"× {2**slope.value:.3g} [too few]"
    low, high = (2**end for end in slope.interval)
    return f"× {2**slope.value:.3g} [{low:.3g}, {high:.3g}]"


def spread(found: Median) -> str:
    """A time with its interval, in words."""
    if found.interval is None:
        return f"{duration(found.value)} [too few]"
    return f"{duration(found.value)} [{duration(found.interval.low)}, {duration(found.interval.high)}]"


def is_below(one: Median, other: Median) -> bool:
    """Whether the intervals say so; without them nothing does."""
    return one.interval is not None and other.interval is not None and one.interval.high < other.interval.low


def _exhibit(
    comparison: Comparison, variable: Variable, outcome: Outcome, found: dict[str, list[Curve]], key: str
) -> Exhibit:
    names = distinguish(
        [curve.configuration for curves in found.values() for curve in curves], comparison.configurations
    )
    rows = [
        (
            case,
            names[curve.configuration],
            ", ".join(f"{variable.say(x)}: {spread(point)}" for x, point in curve.points.items()),
            steepness(curve.slope),
        )
        for case, curves in found.items()
        for curve in curves
    ]
    return Exhibit(
        key=key,
        title=f"{outcome.words.capitalize()}, by {variable.words}",
        caption=f"Both axes are logarithmic: growth in proportion climbs at 45 degrees, a flat line does not grow "
        f"({comparison.title}). Points are medians of the rounds, lines through them their 95 % intervals.",
        alt=f"Curves of the {outcome.words} by {variable.words}. "
        + "; ".join(f"{case}, {name}: {steep} for twice as much" for case, name, _, steep in rows)
        + ".",
        columns=("case", "configuration", f"at {variable.words}", "growth for twice as much"),
        rows=rows,
        draw=functools.partial(_draw, comparison, variable, outcome, found, names),
    )


def _draw(
    comparison: Comparison,
    variable: Variable,
    outcome: Outcome,
    found: dict[str, list[Curve]],
    names: dict[Configuration, str],
) -> Figure:
    figure, axes = panels([3.6] * len(found))
    for panel, (case, curves) in zip(axes, found.items(), strict=True):
        panel.set_title(case)
        panel.set_xscale("log", base=2)
        for curve in curves:
            look = style(comparison, curve.configuration)
            values = [point.value for point in curve.points.values()]
            ends = [point.interval or (point.value, point.value) for point in curve.points.values()]
            panel.errorbar(
                list(curve.points),
                values,
                yerr=[
                    [max(0.0, value - end[0]) for value, end in zip(values, ends, strict=True)],
                    [max(0.0, end[1] - value) for value, end in zip(values, ends, strict=True)],
                ],
                color=look.colour,
                linestyle=look.dash,
                linewidth=2,
                marker=look.marker,
                markersize=6,
                capsize=3,
                label=names[curve.configuration],
            )
        panel.xaxis.set_major_locator(NullLocator())
        panel.set_xticks(sorted({x for curve in curves for x in curve.points}))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: variable.say(value)))
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.xaxis.set_minor_locator(NullLocator())
        show_times(panel, "y")
        panel.set_xlabel(variable.words)
        panel.set_ylabel(outcome.words)
    add_legend(figure)
    return figure
