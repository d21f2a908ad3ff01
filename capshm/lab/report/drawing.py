"""How every picture looks, and its files.

The page shows pictures as part of itself, so that they follow its light or dark: there the ink is the page's text
colour, and the ground is the page's. As files they stand on white. The same picture is the same file, byte for byte:
no date, and identifiers from a fixed salt.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from capshm.lab.report.exhibit import Exhibit
from capshm.lab.table import duration

INK = "#20262d"
FAINT = "#8a929b"
"""Of what must not stand out: grids, and the line that means "no difference". It can be read on white and on black."""
WIDTH = 9.0
"""Inches."""
_WIDE = 4.0
"""Ratios that lie farther apart than this are shown on a logarithmic axis."""
_LONG = 30  # letters of a name in a legend
_MARGIN = 4  # pixels right of a title
KINDS = ("svg", "pdf", "png")

_NO_DATES: dict[str, dict[str, str | None]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
_LOOK: dict[str, object] = {
    "svg.fonttype": "path",  # looks the same wherever it is opened
    "font.family": "DejaVu Sans",  # which comes with matplotlib
    "font.size": 10,
    "text.parse_math": False,  # names may have dollar signs
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.alpha": 0.35,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.7,
    "legend.frameon": False,
    "savefig.dpi": 144,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"), INK
    ),
}


def panels(heights: Sequence[float], *, columns: int = 2) -> tuple[Figure, list[Axes]]:
    """A figure of some panels. heights: inches that each needs; a row gets the most of its own."""
    count = len(heights)
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    tall = [max(heights[row * columns : (row + 1) * columns]) for row in range(rows)]
    figure = Figure(figsize=(WIDTH, sum(tall)), layout="constrained")
    grid = figure.add_gridspec(rows, columns, height_ratios=tall)
    return figure, [figure.add_subplot(grid[place // columns, place % columns]) for place in range(count)]


def show_times(axes: Axes, axis: str) -> None:
    """Make an axis of nanoseconds logarithmic, and label it in the units that suit."""
    (axes.set_xscale if axis == "x" else axes.set_yscale)("log")
    chosen = axes.xaxis if axis == "x" else axes.yaxis
    chosen.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=6))
    chosen.set_major_formatter(FuncFormatter(lambda value, _: duration(value)))
    chosen.set_minor_locator(NullLocator())


def add_legend(figure: Figure) -> None:
    """One for all panels, below them."""
    found = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    columns = 3 if max(map(len, found), default=0) < _LONG else 2
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=columns, handlelength=4)


def show_ratios(axes: Axes, axis: str, low: float, high: float, *, room: float) -> None:
    """Label an axis of ratios from `low` to `high`; it is logarithmic if they lie far apart.

    room: so many times as long as they are, for what is written behind the ends.
    """
    chosen = axes.xaxis if axis == "x" else axes.yaxis
    limit = axes.set_xlim if axis == "x" else axes.set_ylim
    if high / low > _WIDE:
        (axes.set_xscale if axis == "x" else axes.set_yscale)("log")
        limit(low * 0.93, low * (high / low) ** room * 1.1)
        chosen.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=6))
        chosen.set_minor_locator(NullLocator())
    else:
        limit(low - 0.05 * (high - low), low + (high - low) * room + 0.02)
        chosen.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    chosen.set_major_formatter(FuncFormatter(lambda value, _: f"× {value:.4g}"))


def keep_titles_inside(figure: Figure) -> None:
    """Move titles that would be cut off at the right edge of a figure to the left, as far as they need."""
    for axes in figure.axes:
        for title in axes.findobj(Text):
            if title.get_text() and title.get_text() == axes.get_title(loc="left"):
                beyond = title.get_window_extent().x1 - (figure.bbox.x1 - _MARGIN)
                if beyond > 0:
                    title.set_x(-beyond / axes.bbox.width)


class Picture(NamedTuple):
    """One exhibit's, as a file of each kind, and as a part of a page."""

    files: dict[str, bytes]
    inline: str


def picture(exhibit: Exhibit) -> Picture:
    """Draw it, once for all its forms."""
    with style.context([_LOOK, {"svg.hashsalt": exhibit.key}]):
        figure = exhibit.draw()
        figure.draw_without_rendering()  # which finds where all is placed
        figure.set_layout_engine("none")
        keep_titles_inside(figure)
        svg = _save(figure, "svg", is_transparent=True)
        pictures = {"svg": _on_white(svg), "pdf": _save(figure, "pdf"), "png": _save(figure, "png")}
        return Picture(pictures, _inline(exhibit.key, svg.decode()))


def _save(figure: Figure, kind: str, *, is_transparent: bool = False) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format=kind, transparent=is_transparent, metadata=_NO_DATES[kind])
    return content.getvalue()


def _on_white(svg: bytes) -> bytes:
    first = b'<g id="figure_1">'
    return svg.replace(first, b'<rect width="100%" height="100%" fill="#ffffff"/>\n ' + first, 1)


def _inline(key: str, text: str) -> str:
    """As an <svg> whose identifiers are its own, in the page's colour, and as wide as the page lets it be."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{key}-", text)
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt" ', "", text, count=1)
    return text.replace(INK, "currentColor")
