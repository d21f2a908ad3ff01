"""An exhibit: a picture, the table of what it shows, and the words that go with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure


class Exhibit(NamedTuple):
    """key: its name as a file. caption: how to read it. alt: what it shows, for who cannot see it.

    columns, rows: the same in numbers. draw: makes the picture, each time anew.
    """

    key: str
    title: str
    caption: str
    alt: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    draw: Callable[[], Figure]


class Missing(NamedTuple):
    """A kind of picture that the folders cannot give, and the command that would give it."""

    title: str
    command: str
