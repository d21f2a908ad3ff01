"""Where a segment held its tags, over time: a map of each segment that was looked at."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy
import numpy.typing
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from capshm.lab.comparison import Configuration
from capshm.lab.report.drawing import panels
from capshm.lab.report.exhibit import Exhibit, Missing
from capshm.lab.report.runs import Run, distinguish
from capshm.lab.results.maps import Map
from capshm.lab.table import duration, size

MISSING = Missing("Where a segment held its tags", "capshm report --maps FOLDER")

_COLOURS = "cividis"  # uniform to the eye, and the same to colour-blind people


def exhibits(run: Run) -> Iterator[Exhibit]:
    """One for each case, with a panel for each configuration."""
    by_case: dict[str, list[Map]] = {}
    for each in run.maps:
        by_case.setdefault(run.described(each.cell.case), []).append(each)
    for number, (case, found) in enumerate(by_case.items(), 1):
        yield _exhibit(run, case, found, f"map-{number}")


def _shares(found: Map) -> numpy.typing.NDArray[numpy.float64]:
    """Percent of the granules that are tagged, by parts and moments."""
    percent: numpy.typing.NDArray[numpy.float64] = 100 * numpy.array(found.tags, float).T / found.granules
    return percent


def _exhibit(run: Run, case: str, found: list[Map], key: str) -> Exhibit:
    names = distinguish([each.cell.configuration for each in found])
    rows = [
        (
            names[each.cell.configuration],
            size(each.length),
            str(len(each.times_ns)),
            duration(each.times_ns[-1]),
            f"{sum(each.tags[0]):,}",
            f"{max(map(sum, each.tags)):,}",
            f"{sum(each.tags[-1]):,}",
        )
        for each in found
    ]
    return Exhibit(
        key=key,
        title=f"Where the segment of {case} held its tags",
        caption="From left to right the measured section goes by; from top to bottom lies the segment. Yellow: every "
        "granule holds a capability; dark blue: none does. It is the segment with the most tags, in a run of its own "
        "that no time was taken of. Counted from outside, while all went on, out of tag bits and clear map: what a "
        "program has overwritten past capshm still counts.",
        alt=f"Maps of tags in the segment of {case}. "
        + "; ".join(f"{name}: {first} tags at the begin, {last} at the end" for name, _, _, _, first, _, last in rows)
        + ".",
        columns=("configuration", "segment", "moments", "over", "tags at the begin", "at most", "at the end"),
        rows=rows,
        draw=functools.partial(_draw, found, names),
    )


def _draw(found: list[Map], names: dict[Configuration, str]) -> Figure:
    figure, axes = panels([3.0] * len(found))
    for panel, each in zip(axes, found, strict=True):
        panel.set_title(names[each.cell.configuration])
        parts, times = len(each.tags[0]), numpy.array(each.times_ns, float)
        ends = numpy.concatenate([times, [2 * times[-1] - times[-2]]])
        bounds = numpy.linspace(0, each.length, parts + 1)
        drawn = panel.pcolormesh(ends, bounds, _shares(each), cmap=_COLOURS, vmin=0, vmax=100, rasterized=True)
        panel.invert_yaxis()
        panel.grid(visible=False)
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: duration(value) if value else "0"))
        panel.xaxis.set_major_locator(MaxNLocator(4))
        panel.set_yticks([0, each.length // 2, each.length])
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: size(int(value)) if value else "0"))
        bar = figure.colorbar(drawn, ax=panel, format=FuncFormatter(lambda value, _: f"{value:.0f} %"))
        bar.set_label("granules with a tag")
    return figure
