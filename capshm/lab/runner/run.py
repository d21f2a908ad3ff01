"""The runner: every cell of the plan once a round, each in a fresh process, and each on the disk before the next.

A round is run in one place, so that its cells have one machine in common; several places run several rounds at a time.
A cell that fails is a record like others, and the run goes on. What a place that is lost leaves of its round is run in
another. Ctrl-C ends the cells that run, and everything that they have started; so does the runner's own death.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import NamedTuple, Protocol

from capshm.errors import CapshmError
from capshm.lab.plan import Cell, Plan
from capshm.lab.results.filling import Results
from capshm.lab.results.results import Failed, Measured, Record
from capshm.lab.runner.measuring import take_canary
from capshm.lab.runner.places import P, Place

_LOOK = 1.0  # seconds, between looks whether a place is lost


class PlacesLost(CapshmError):
    """No place is left to run cells in; what has finished is in the folder."""


class Progress(Protocol):
    """Who watches a run."""

    def begin_round(self, number: int) -> None:
        """A round begins, or is gone on with; from 1."""

    def begin_cell(self, number: int, cell: Cell) -> None:
        """A cell of that round begins."""

    def end_cell(self, outcome: Measured | Failed) -> None:
        """It has ended, and is on the disk."""

    def lose(self, name: str) -> None:
        """A place is lost; its cell will run in another, if there is one."""


class _Round(NamedTuple):
    """What is left of one."""

    number: int
    cells: deque[Cell]


class _Turn(NamedTuple):
    """A place at work. machine: its number in the results."""

    place: Place
    machine: int
    round: _Round


def run(
    plan: Plan, results: Results, progress: Progress, places: Sequence[Place], ended: Collection[tuple[int, Cell]] = ()
) -> None:
    """Run what has not ended of a plan. ended: cells with their rounds.

    ResultsError, PlacesLost and KeyboardInterrupt end it: what has finished is in the folder.
    """
    free = deque((place, results.machine(place.facts)) for place in places)
    rounds = deque(_rounds(plan, ended))
    running: dict[Future[Record], _Turn] = {}
    try:
        while rounds or running:
            while rounds and free:
                turn = _Turn(*free.popleft(), rounds.popleft())
                progress.begin_round(turn.round.number)
                running[_submit(turn, take_canary, turn.round.number, turn.machine)] = turn
            if not running:
                raise PlacesLost("no place is left to run cells in")
            wait(running, _LOOK, FIRST_COMPLETED)
            for future, turn in list(running.items()):
                if not future.done() and turn.place.is_there():
                    continue
                del running[future]
                record = _outcome(future, turn.place)
                if record is None:
                    future.cancel()
                    rounds.appendleft(turn.round)
                    progress.lose(turn.place.name)
                    continue
                results.append(record)
                if isinstance(record, Measured | Failed):
                    turn.round.cells.popleft()
                    progress.end_cell(record)
                if not turn.round.cells:
                    free.append((turn.place, turn.machine))
                    continue
                cell = turn.round.cells[0]
                progress.begin_cell(turn.round.number, cell)
                order = (turn.round.number, turn.machine, cell, plan.timeout)
                running[_submit(turn, turn.place.measure, *order)] = turn
    finally:
        for future in running:
            future.cancel()


def _rounds(plan: Plan, ended: Collection[tuple[int, Cell]]) -> Iterator[_Round]:
    for number in range(1, plan.repeats + 1):
        left = deque(cell for cell in plan.round(number) if (number, cell) not in ended)
        if left:
            yield _Round(number, left)


def _submit(turn: _Turn, task: Callable[P, Record], *args: P.args, **kwargs: P.kwargs) -> Future[Record]:
    return turn.place.executor.submit(task, *args, **kwargs)


def _outcome(future: Future[Record], place: Place) -> Record | None:
    """None: the place is lost."""
    if not future.done():
        return None
    try:
        return future.result()
    except (Exception, asyncio.CancelledError):
        if place.is_there():
            raise
        return None
