"""Permutation tests: could chance alone have made the difference between two configurations?

The rounds are pairs: in each, both ran on the same machine in about the same minute. If the two were equal, each
round's ratio could as well be its inverse. The test (scipy.stats.permutation_test, "samples") swaps them in every way,
or in 9,999 random ones, and asks how often the mean logarithm is then as far from 0 as it was. So of n rounds no p can
be less than 2 in 2^n: six rounds reach 0.03, ten 0.002.

One test in twenty of equal things says "below 5 %", so many tests need correction: that of Benjamini and Hochberg
(1995, scipy.stats.false_discovery_control), for all tests of a run. Of what is then below 5 %, at most one in twenty is
wrong, on the average. (Holm's, which allows one wrong test in no more than one of twenty runs, would let eight rounds
say nothing as soon as there are more than six tests: their least p is 0.008.)
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from scipy import stats

from capshm.lab.comparison import Case, Comparison, Configuration
from capshm.lab.report.drawing import INK, panels
from capshm.lab.report.exhibit import Exhibit, Missing, split
from capshm.lab.report.palette import COLOURS
from capshm.lab.report.runs import Run, distinguish
from capshm.lab.statistics import ENOUGH
from capshm.lab.table import overhead

MISSING = Missing("Could chance alone have made the differences?", f"capshm compare --repeats {ENOUGH + 2}")

LEVEL = 0.05
_RESAMPLES = 9999
_ROWS = 30
"""In one picture; the rest goes into the next."""


class Difference(NamedTuple):
    """Of a configuration and the one it is compared with. p: of this test alone; corrected: of all tests of a run."""

    comparison: Comparison
    case: Case
    configuration: Configuration
    reference: str
    p: float
    corrected: float


def exhibits(run: Run) -> Iterator[Exhibit]:
    """All tests of a run."""
    found = test(run)
    for key, rows in split(found, _ROWS, "differences"):
        yield _exhibit(run, rows, len(found), key)


def test(run: Run) -> list[Difference]:
    """Of every pair that is compared and has enough rounds."""
    found = []
    for place, comparison in enumerate(run.plan.comparisons):
        for line in run.summary.lines:
            for reference in line.over if line.comparison == place else ():
                counterpart = comparison.counterpart(line.configuration, reference)
                assert counterpart is not None
                own, theirs = run.rounds(line.case, line.configuration), run.rounds(line.case, counterpart)
                pairs = [(own[number].wall_ns, theirs[number].wall_ns) for number in own if number in theirs]
                if len(pairs) >= ENOUGH:
                    p = permutation_p(pairs, run.plan.seed)
                    found.append(Difference(comparison, line.case, line.configuration, reference, p, p))
    corrected = stats.false_discovery_control([each.p for each in found]) if found else []
    return [each._replace(corrected=float(p)) for each, p in zip(found, corrected, strict=True)]


def permutation_p(pairs: Sequence[tuple[float, float]], seed: int) -> float:
    """How often chance alone makes so large a mean logarithm of the ratios, or a larger one, in either direction."""
    one, other = numpy.log(numpy.array(pairs, float).T)
    tested = stats.permutation_test(
        (one, other),
        lambda first, second, axis: numpy.mean(first - second, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=_RESAMPLES,
        rng=seed,
    )
    return float(tested.pvalue)


def _exhibit(run: Run, found: Sequence[Difference], tests: int, key: str) -> Exhibit:
    over = {
        (line.comparison, line.case, line.configuration, reference): value
        for line in run.summary.lines
        for reference, value in line.over.items()
    }
    names = distinguish([each.configuration for each in found])
    rows = [
        (
            run.described(each.case),
            names[each.configuration],
            each.reference,
            overhead(over[run.plan.comparisons.index(each.comparison), each.case, each.configuration, each.reference]),
            _probability(each.p),
            _probability(each.corrected),
        )
        for each in found
    ]
    certain = sum(each.corrected < LEVEL for each in found)
    return Exhibit(
        key=key,
        title="Could chance alone have made the differences?",
        caption="The farther left, the less likely it is that two equal configurations would have differed so much: "
        f"permutation tests of paired rounds, corrected for {tests} tests by Benjamini's and Hochberg's method. Blue "
        f"discs left of the line ({LEVEL:.0%}) are differences that chance does not explain; hollow diamonds may be "
        "chance. Few rounds cannot say much: six reach 0.03 before correction, ten 0.002.",
        alt=f"Corrected probabilities of {len(found)} differences; {certain} are below {LEVEL:.0%}.",
        columns=("case", "configuration", "over", "difference", "p", "p, corrected"),
        rows=rows,
        draw=functools.partial(_draw, run, found, names),
    )


def _probability(p: float) -> str:
    return f"{p:.2g}" if p >= 0.001 else f"{p:.1e}"


def _draw(run: Run, found: Sequence[Difference], names: dict[Configuration, str]) -> Figure:
    figure, (axes,) = panels([1.1 + 0.27 * len(found)])
    for place, each in enumerate(found):
        is_certain = each.corrected < LEVEL
        axes.plot(
            each.corrected,
            place,
            marker="o" if is_certain else "D",
            markersize=7,
            color=COLOURS[0],
            markerfacecolor=COLOURS[0] if is_certain else "none",
            markeredgewidth=1.4,
        )
    labels = [f"{run.described(each.case)}: {names[each.configuration]} over {each.reference}" for each in found]
    axes.set_yticks(range(len(labels)), labels, fontsize=8.5)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xscale("log")
    axes.set_xlim(min(0.008, 0.5 * min(each.corrected for each in found)), 1.3)
    axes.axvline(LEVEL, color=INK, linewidth=1.2, linestyle="--")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("corrected probability of such a difference by chance")
    return figure
