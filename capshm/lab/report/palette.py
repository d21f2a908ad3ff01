"""Colours that colour-blind people can tell apart, and a second cue beside each of them.

The colours are those of Okabe and Ito, "Color Universal Design" (2008), without black, which is that of the ink. The
order is such that neighbours differ most. Beyond seven they come again, with other hatches, dashes and markers.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from capshm.lab.comparison import Comparison, Configuration

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
_HATCHES = ("", "///", "...", "xxx", "---", "\\\\\\", "ooo", "+++", "|||", "**")
_MARKERS = "osD^vPX*<>"

Dash: TypeAlias = tuple[int, tuple[float, ...] | None]
_DASHES: tuple[Dash, ...] = (
    (0, None),
    (0, (5, 2)),
    (0, (1, 1.5)),
    (0, (6, 2, 1, 2)),
    (0, (3, 1.5, 1, 1.5, 1, 1.5)),
    (0, (8, 3)),
    (0, (2, 3)),
    (0, (10, 2, 2, 2)),
    (0, (4, 4)),
    (0, (1, 4)),
)


class Style(NamedTuple):
    """How one series looks: as a bar, and as a line."""

    colour: str
    hatch: str
    dash: Dash
    marker: str


def style(comparison: Comparison, configuration: Configuration) -> Style:
    """The same in all pictures of a comparison. The first, which the others are compared with, has the last."""
    count = len(comparison.configurations)
    number = (comparison.configurations.index(configuration) - 1) % count
    return Style(
        COLOURS[number % len(COLOURS)],
        _HATCHES[number % len(_HATCHES)],
        _DASHES[number % len(_DASHES)],
        _MARKERS[number % len(_MARKERS)],
    )
