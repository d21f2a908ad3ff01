"""How every verb shows rows: a table for people, or one JSON document with the same names."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, TypeAlias

import cyclopts
from rich.console import Console
from rich.table import Table
from rich.text import Text

Json: TypeAlias = Annotated[bool, cyclopts.Parameter(name="--json", negative=())]
"""The option that every verb has."""

Cell: TypeAlias = str | int | float | bool | None


def print_json(document: Mapping[str, object]) -> None:
    """One document, an object, on one line."""
    print(json.dumps(document))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Columns under capital headings, as procstat has them: numbers to the right, what is missing as a dash.

    Where the output is no terminal nothing is cut off, so that it can be searched, and no line ends in blanks.
    """
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    lines = [list(row) for row in rows]
    for number, column in enumerate(columns):
        are_numbers = all(isinstance(line[number], int | float | None) for line in lines)
        table.add_column(column, justify="right" if lines and are_numbers else "left", no_wrap=True)
    for line in lines:
        table.add_row(*(Text(_text(cell)) for cell in line))
    if console.is_terminal:
        console.print(table)
        return
    console.width = 10_000
    with console.capture() as text:
        console.print(table)
    print("\n".join(shown.rstrip() for shown in text.get().splitlines()))


def _text(cell: Cell) -> str:
    if cell is None or cell == "":
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return str(cell)
