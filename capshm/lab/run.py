"""The runner: every cell of the plan once a round, each in a fresh process, and each on the disk before the next.

A cell that fails is a record like others, and the run goes on. Ctrl-C ends the cell that runs, and everything that it
has started, before KeyboardInterrupt goes on; so does the runner's own death, by the keeper (capshm.lab.keeper).
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from typing import Protocol

import msgspec

from capshm.lab import canary
from capshm.lab.plan import Cell, Plan
from capshm.lab.results import Canary, Failed, Measured, Result, Results

_MESSAGE = 2000  # characters of what a failed cell said; the end says why


class Progress(Protocol):
    """Who watches a run."""

    def begin_round(self, number: int) -> None:
        """A round begins; from 1."""

    def begin_cell(self, cell: Cell) -> None:
        """A cell begins."""

    def end_cell(self, outcome: Measured | Failed) -> None:
        """It has ended, and is on the disk."""


def run(plan: Plan, results: Results, progress: Progress) -> None:
    """Run a plan. ResultsError ends it, and so does KeyboardInterrupt: what has finished is in the folder."""
    for number in range(1, plan.repeats + 1):
        progress.begin_round(number)
        results.append(_take_canary(number))
        for cell in plan.round(number):
            progress.begin_cell(cell)
            outcome = measure(number, cell, plan.timeout)
            results.append(outcome)
            progress.end_cell(outcome)


def measure(number: int, cell: Cell, timeout: int, *, map_into: str | None = None) -> Measured | Failed:
    """Run one cell of a round, for no longer than so many seconds. None of its processes is left, whatever happens.

    map_into: a file for the map of its tags (capshm.lab.density).
    """
    order = {
        **msgspec.structs.asdict(cell.case),
        **msgspec.structs.asdict(cell.configuration),
        "seed": cell.seed,
        "map_into": map_into,
    }
    # Memory files, and no pipes: nobody needs to read while the cell runs, and a full disk is not in the way.
    with (
        os.fdopen(os.memfd_create("cell-output"), "w+b") as output,
        os.fdopen(os.memfd_create("cell-messages"), "w+b") as messages,
    ):
        # A process group of its own: a terminal's Ctrl-C is for the runner, who ends the cell in order.
        keeper = subprocess.Popen(
            [sys.executable, "-P", "-m", "capshm.lab.keeper"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=messages,
            process_group=0,
        )
        assert keeper.stdin is not None
        is_in_time = True
        try:
            os.write(keeper.stdin.fileno(), msgspec.json.encode(order) + b"\n")
            is_in_time = _ends_within(keeper, timeout)
        except BrokenPipeError:
            pass  # it was killed at once: its status says so
        finally:
            keeper.stdin.close()  # the cell's lifeline
            status = keeper.wait()
        output.seek(0)
        messages.seek(0)
        said = messages.read().decode(errors="replace").strip()[-_MESSAGE:]
        if not is_in_time:
            return Failed(number, cell, f"{said}\nit had not ended after {timeout:,} seconds, and was ended".lstrip())
        if status != 0:
            return Failed(number, cell, said or f"it ended with status {status}, and said nothing")
        try:
            return Measured(number, cell, _decoder.decode(output.read()))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return Failed(number, cell, f"its answer is no result: {error}")


def _ends_within(process: subprocess.Popen[bytes], seconds: int) -> bool:
    descriptor = os.pidfd_open(process.pid)
    try:
        watch = select.poll()
        watch.register(descriptor, select.POLLIN)
        return bool(watch.poll(1000 * seconds))
    finally:
        os.close(descriptor)


_decoder = msgspec.json.Decoder(Result, strict=True)


def _take_canary(number: int) -> Canary:
    try:
        return Canary(number, canary.measure())
    except canary.NoCanary:
        return Canary(number, None)
