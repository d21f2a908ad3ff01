"""An exhibit: a picture, the table of what it shows, and the words that go with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from matplotlib.figure import Figure

T = TypeVar("T")


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


def split(found: Sequence[T], most: int, key: str) -> Iterator[tuple[str, Sequence[T]]]:
    """What goes into one picture, so many at a time, with the picture's key: the first has the given one itself."""
    for begin in range(0, len(found), most):
        yield key + (f"-{begin // most + 1}" if begin else ""), found[begin : begin + most]
