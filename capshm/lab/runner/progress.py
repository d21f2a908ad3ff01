"""How far a run is: a bar on a terminal, a line for each round elsewhere; on standard error, away from the table.

The bar has a thread of its own. The runner may have one, since it forks no emulated process: cells are programs.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from capshm.lab.plan import Cell, Plan
from capshm.lab.results.results import Failed, Measured
from capshm.lab.table import described, duration, last_line


class Watch:
    """Watches a run; a context manager. ended: how many cells have ended before."""

    def __init__(self, plan: Plan, ended: int = 0) -> None:
        self._plan = plan
        self._ended = self._before = ended
        self._begun = time.monotonic()
        console = Console(file=sys.stderr, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),  # names of files are in it
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._total = plan.repeats * len(plan.cells)
        self._task = self._bar.add_task("", total=self._total, completed=ended)

    def begin_round(self, number: int) -> None:
        """A round begins, or is gone on with; from 1."""
        if self._bar.disable:
            each = self._plan.seconds / self._total  # a guess, until cells have told
            if self._ended > self._before:
                each = (time.monotonic() - self._begun) / (self._ended - self._before)
            seconds = each * (self._total - self._ended)
            done = f"{self._ended:,} of {self._total:,} cells done, about {duration(seconds * 1e9)} left"
            print(f"round {number} of {self._plan.repeats}: {done}", file=sys.stderr, flush=True)

    def begin_cell(self, number: int, cell: Cell) -> None:
        """A cell of that round begins."""
        name = f"{self._plan.label(cell.case)}, {self._plan.name(cell.configuration)}"
        self._bar.update(self._task, description=f"round {number} of {self._plan.repeats}: {name}")

    def end_cell(self, outcome: Measured | Failed) -> None:
        """It has ended; one that failed is told at once."""
        self._ended += 1
        self._bar.advance(self._task)
        if isinstance(outcome, Failed):
            name = f"{described(self._plan, outcome.cell.case)}, {self._plan.name(outcome.cell.configuration)}"
            self._bar.console.print(f"failed: {name}: {last_line(outcome.message)}", markup=False)

    def lose(self, name: str) -> None:
        """A place is lost."""
        self._bar.console.print(f"lost: {name}; what it leaves of its round others will run", markup=False)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()
