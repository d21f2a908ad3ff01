"""Bars: what each configuration costs, with intervals; a panel for each case."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import TypeAlias

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from capshm.lab.comparison import Case, Comparison, Configuration
from capshm.lab.report.drawing import FAINT, INK, panels, show_ratios
from capshm.lab.report.exhibit import Exhibit, Missing, split
from capshm.lab.report.palette import style
from capshm.lab.report.runs import Run, distinguish
from capshm.lab.statistics import Overhead
from capshm.lab.table import overhead

MISSING = Missing("What each configuration costs", "capshm compare")

_PANELS = 12
"""In one picture; the rest goes into the next."""
_MOST_NONE = 1.0
"""What was not seen is drawn up to this share, and beyond it says so in words alone."""

_ROOM = 1.45
"""Beside the longest bar, for its figures."""

_Bars: TypeAlias = dict[Configuration, Overhead]


def exhibits(run: Run) -> Iterator[Exhibit]:
    """One for each comparison, and for each thing that it compares with."""
    for place, comparison in enumerate(run.plan.comparisons):
        for reference in comparison.references:
            bars: dict[Case, _Bars] = {}
            for line in run.summary.lines:
                if line.comparison == place and reference in line.over:
                    bars.setdefault(line.case, {})[line.configuration] = line.over[reference]
            word = re.sub(r"[^\w-]", "_", reference)  # a name of anything, for a file and for identifiers of a page
            for key, cases in split(list(bars), _PANELS, f"overhead-{place + 1}-{word}"):
                yield _exhibit(run, comparison, reference, {case: bars[case] for case in cases}, key)


def _exhibit(run: Run, comparison: Comparison, reference: str, bars: dict[Case, _Bars], key: str) -> Exhibit:
    names = distinguish(list(dict.fromkeys(each for own in bars.values() for each in own)), comparison.configurations)
    base = "plain shared memory" if reference == "plain" else f"the same machine with {reference}"
    said = [
        f"{run.described(case)}: " + ", ".join(f"{names[each]} {overhead(over)}" for each, over in own.items())
        for case, own in bars.items()
    ]
    return Exhibit(
        key=key,
        title=f"Time over {base}",
        caption=f"How many times as long the measured section took as in {base} ({comparison.title}). A bar is the "
        "median of the rounds' ratios, the thin line at its end the 95 % interval. A hollow bar: no difference was "
        "seen: one that reaches as far as the bar would have been. (None is drawn longer than × 2.)",
        alt=f"Bars of time over {base}. {'; '.join(said)}.",
        columns=("case", "configuration", f"over {reference}", "rounds"),
        rows=[
            (run.described(case), names[each], overhead(over), str(len(run.rounds(case, each))))
            for case, own in bars.items()
            for each, over in own.items()
        ],
        draw=functools.partial(_draw, run, comparison, bars, names),
    )


def _draw(run: Run, comparison: Comparison, bars: dict[Case, _Bars], names: dict[Configuration, str]) -> Figure:
    figure, axes = panels([0.75 + 0.3 * len(own) for own in bars.values()])
    ends = [1.0]
    for panel, (case, own) in zip(axes, bars.items(), strict=True):
        panel.set_title(run.described(case))
        ends += _draw_panel(panel, comparison, own)
        panel.set_yticks(range(len(own)), [names[each] for each in own])
    for panel in axes:
        show_ratios(panel, "x", min(ends), max(ends), room=_ROOM)
    return figure


def _draw_panel(axes: Axes, comparison: Comparison, bars: _Bars) -> list[float]:
    """The ratios where something of it ends."""
    ends: list[float] = []
    for place, (configuration, over) in enumerate(bars.items()):
        look = style(comparison, configuration)
        is_absent = over.interval is not None and not over.is_seen
        reach = 1 + min(over.smallest or 0, _MOST_NONE) if is_absent else over.ratio
        axes.barh(
            place,
            reach - 1,
            left=1,
            height=0.62,
            color="none" if is_absent else look.colour,
            edgecolor=INK,
            linewidth=0.8,
            linestyle="--" if is_absent else "-",
            hatch="" if is_absent else look.hatch,
        )
        if over.interval is not None and not is_absent:
            axes.errorbar(
                over.ratio,
                place,
                xerr=[[max(0, over.ratio - over.interval.low)], [max(0, over.interval.high - over.ratio)]],
                color=INK,
                capsize=3,
                linewidth=1.4,
            )
            ends += over.interval
        ends.append(reach)
        axes.annotate(
            overhead(over).partition(" [")[0],
            (max(1, reach, 1 if is_absent or over.interval is None else over.interval.high), place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
        )
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.axvline(1, color=FAINT, linewidth=1.2)
    return ends
