"""One cell in a fresh process, by a keeper; and the canary. This process itself forks nothing.

It may have threads, and be a worker of a cluster (`cluster`).
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError

import msgspec

from capshm.lab.plan import Cell
from capshm.lab.results.results import Canary, Failed, Measured, Result
from capshm.lab.runner import canary

_MESSAGE = 2000  # characters of what a failed cell said; the end says why
_LOOK = 1  # seconds, between looks whether a cell is still wanted


def measure(
    number: int,
    machine: int,
    cell: Cell,
    timeout: int,
    *,
    environment: Mapping[str, str] | None = None,
    is_wanted: Callable[[], bool] = lambda: True,
    map_into: str | None = None,
) -> Measured | Failed:
    """Run one cell of a round, for no longer than so many seconds. None of its processes is left, whatever happens.

    environment: the cell's, in place of this process's. CancelledError: the cell was not wanted any more.
    map_into: a file for the map of its tags (capshm.lab.cells.density).
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
            [sys.executable, "-P", "-m", "capshm.lab.cells.keeper"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=messages,
            process_group=0,
            env=environment,
        )
        assert keeper.stdin is not None
        is_in_time = True
        try:
            os.write(keeper.stdin.fileno(), msgspec.json.encode(order) + b"\n")
            is_in_time = _ends_within(keeper, timeout, is_wanted)
        except BrokenPipeError:
            pass  # it was killed at once: its status says so
        finally:
            keeper.stdin.close()  # the cell's lifeline
            status = keeper.wait()
        output.seek(0)
        messages.seek(0)
        said = messages.read().decode(errors="replace").strip()[-_MESSAGE:]
        if not is_in_time:
            late = f"{said}\nit had not ended after {timeout:,} seconds, and was ended".lstrip()
            return Failed(number, cell, late, machine)
        if status != 0:
            return Failed(number, cell, said or f"it ended with status {status}, and said nothing", machine)
        try:
            return Measured(number, cell, _decoder.decode(output.read()), machine)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return Failed(number, cell, f"its answer is no result: {error}", machine)


def _ends_within(process: subprocess.Popen[bytes], seconds: int, is_wanted: Callable[[], bool]) -> bool:
    descriptor = os.pidfd_open(process.pid)
    try:
        watch = select.poll()
        watch.register(descriptor, select.POLLIN)
        for _ in range(0, seconds, _LOOK):
            if watch.poll(1000 * _LOOK):
                return True
            if not is_wanted():
                raise CancelledError
        return False
    finally:
        os.close(descriptor)


_decoder = msgspec.json.Decoder(Result, strict=True)


def take_canary(number: int, machine: int) -> Canary:
    """At the begin of a round."""
    try:
        return Canary(number, canary.measure(), machine)
    except canary.NoCanary:
        return Canary(number, None, machine)
