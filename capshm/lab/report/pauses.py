"""How long the machine stood, each time: the distribution of the pauses that revocation makes."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TypeAlias

import numpy
from matplotlib.figure import Figure

from capshm.lab.comparison import Case, Comparison, Configuration
from capshm.lab.report.drawing import add_legend, panels, show_times
from capshm.lab.report.exhibit import Exhibit, Missing, split
from capshm.lab.report.palette import style
from capshm.lab.report.runs import Run, distinguish
from capshm.lab.table import duration

MISSING = Missing(
    "How long the machine stood",
    "capshm compare --workloads churn --policies cheribsd --revokers none stop-the-world "
    "--stoppers gate signal sigstop",
)

_PANELS = 8
_MARKS = 6  # on each curve

_Pauses: TypeAlias = dict[Configuration, list[int]]


def exhibits(run: Run) -> Iterator[Exhibit]:
    """One for each comparison in which the machine has stood."""
    for place, comparison in enumerate(run.plan.comparisons):
        found: dict[Case, _Pauses] = {}
        for case in comparison.cases:
            own = {each: pauses(run, case, each) for each in comparison.configurations}
            if own := {each: taken for each, taken in own.items() if taken}:
                found[case] = own
        for key, cases in split(list(found), _PANELS, f"pauses-{place + 1}"):
            yield _exhibit(run, comparison, {case: found[case] for case in cases}, key)


def pauses(run: Run, case: Case, configuration: Configuration) -> list[int]:
    """All of them, in nanoseconds, the shortest first."""
    return sorted(pause for each in run.rounds(case, configuration).values() for pause in each.pauses_ns)


def _exhibit(run: Run, comparison: Comparison, found: dict[Case, _Pauses], key: str) -> Exhibit:
    names = distinguish(list(dict.fromkeys(each for own in found.values() for each in own)), comparison.configurations)
    rows = [
        (
            run.described(case),
            names[each],
            f"{len(taken):,}",
            *(duration(float(value)) for value in numpy.quantile(taken, [0.5, 0.95, 1])),
        )
        for case, own in found.items()
        for each, taken in own.items()
    ]
    return Exhibit(
        key=key,
        title="How long the machine stood",
        caption="Each curve climbs from 0 to 100 % of the pauses: where it crosses 50 %, half of them were shorter. "
        f"The farther left, the less the machine was disturbed ({comparison.title}). The whole machine stands "
        "meanwhile: no process of it can touch a capability.",
        alt="Distributions of pauses. "
        + "; ".join(f"{case}, {name}: {count} pauses, half below {half}" for case, name, count, half, *_ in rows)
        + ".",
        columns=("case", "configuration", "pauses", "half below", "95 % below", "longest"),
        rows=rows,
        draw=functools.partial(_draw, run, comparison, found, names),
    )


def _draw(run: Run, comparison: Comparison, found: dict[Case, _Pauses], names: dict[Configuration, str]) -> Figure:
    figure, axes = panels([2.8] * len(found))
    for panel, (case, own) in zip(axes, found.items(), strict=True):
        panel.set_title(run.described(case))
        for configuration, taken in own.items():
            look = style(comparison, configuration)
            panel.ecdf(
                taken,
                color=look.colour,
                linestyle=look.dash,
                linewidth=2,
                marker=look.marker,
                markevery=max(1, len(taken) // _MARKS),
                markersize=5,
                label=names[configuration],
            )
        show_times(panel, "x")
        panel.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        panel.set_xlabel("pause")
    add_legend(figure)
    return figure
