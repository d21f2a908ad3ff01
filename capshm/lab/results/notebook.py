"""`capshm.load`: a results folder in a notebook, as rows, columns, a frame, or the table."""

from __future__ import annotations

import functools
import html
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from capshm.lab.results import results
from capshm.lab.results.results import Canary, Failed, Found, Manifest, Measured

if TYPE_CHECKING:
    from capshm.lab.summary import Measure, Summary

Value: TypeAlias = str | int | float | list[int] | None
Row: TypeAlias = dict[str, Value]

_LIBRARIES = ("polars", "pandas")  # each has a DataFrame


class Loaded:
    """What a results folder holds; a notebook shows it as the table that `capshm compare` prints.

    folder, manifest: of the run. failed: cells that have not finished. damages: lines that are no record. ResultsError:
    it is no results folder.
    """

    def __init__(self, folder: Path) -> None:
        self._found: Found = results.read(folder)
        self.folder = folder
        self.manifest: Manifest = self._found.manifest
        self.failed = [each for each in self._found.records if isinstance(each, Failed)]
        self.damages = self._found.damages

    @functools.cached_property
    def rows(self) -> list[Row]:
        """A cell that has finished each: round, case, configuration, times in nanoseconds, and a column a count.

        All have the same columns; None stands where a cell has no such thing. canary_us: of its round, in microseconds.
        """
        canaries = {each.round: each.microseconds for each in self._found.records if isinstance(each, Canary)}
        found = [_row(each, canaries.get(each.round)) for each in self._found.records if isinstance(each, Measured)]
        names = dict.fromkeys(name for row in found for name in row)
        return [{name: row.get(name) for name in names} for row in found]

    @property
    def columns(self) -> dict[str, list[Value]]:
        """The same by columns, as pandas, polars and Arrow take it."""
        return {name: [row[name] for row in self.rows] for name in (self.rows[0] if self.rows else ())}

    def to_frame(self) -> object:
        """A polars DataFrame, or one of pandas where there is no polars. ImportError: neither is installed."""
        for library in _LIBRARIES:
            try:
                frames = importlib.import_module(library)
            except ImportError:
                continue
            frame: object = frames.DataFrame(self.columns)
            return frame
        raise ImportError("to_frame() needs polars or pandas, and this Python has neither; columns needs none")

    def summarize(self, measure: Measure = "wall") -> Summary:
        """Medians, overheads and counts of each case in each configuration; it needs the extra `lab`."""
        from capshm.lab import summary  # only here: it brings scipy

        return summary.summarize(self.manifest.plan, self._found.records, measure)

    @functools.cached_property
    def table(self) -> str:
        """As `capshm compare` prints it; it needs the extra `lab`."""
        from capshm.lab import table

        return table.text(self.manifest, self.summarize())

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __repr__(self) -> str:
        plan = self.manifest.plan
        parts = [f"{len(self.rows):,} cells", f"{len(plan.cases)} cases", f"{plan.repeats} rounds"]
        parts += [f"{len(self.failed)} failed"] if self.failed else []
        parts += [f"{len(self.damages)} damaged lines"] if self.damages else []
        return f"<results of {self.folder}: {', '.join(parts)}>"

    def _repr_html_(self) -> str:
        shown = self.table if self.rows else "no cell has finished"
        return f"<p><code>{html.escape(repr(self))}</code></p><pre>{html.escape(shown)}</pre>"


def load(folder: str | os.PathLike[str]) -> Loaded:
    """What `capshm compare` has left in a results folder, for a notebook: rows, columns, a frame, the table.

    ResultsError: it is no results folder, or not to be read. A process that uses it should not be in a machine: it
    brings libraries that may have threads.
    """
    return Loaded(Path(folder))


def _row(record: Measured, canary: float | None) -> Row:
    cell, result = record.cell, record.result
    return {
        "round": record.round,
        **msgspec.structs.asdict(cell.case),
        **msgspec.structs.asdict(cell.configuration),
        "seed": cell.seed,
        "canary_us": canary,
        "wall_ns": result.wall_ns,
        "cpu_ns": result.cpu_ns,
        "setup_ns": result.setup_ns,
        "pauses_ns": result.pauses_ns,
        **result.counts,
    }
