"""Cells on the workers of a dask cluster (distributed), one at a time on each, by `Client.get_executor`.

A worker forks no emulated process: it starts the keeper's program, as the runner does on its own machine. Figures of
different machines compare nothing, so all workers must be of one kind. Files that a plan names must be there, too.

Nobody can interrupt a task that runs in a worker's thread. So the task itself looks every second whether it is still
wanted, and ends its cell if the runner has gone, or cares for it no more.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import dask
from distributed import Client, Status, get_worker
from distributed.comm.addressing import normalize_address, resolve_address

from capshm.errors import CapshmError
from capshm.lab.plan import Cell, Plan
from capshm.lab.results import facts
from capshm.lab.results.facts import Facts
from capshm.lab.results.filling import check_alike
from capshm.lab.results.results import Failed, Measured
from capshm.lab.runner import measuring
from capshm.lab.runner.places import Place

_CONNECTING = 10  # seconds
_LOOK = 1.0  # seconds


class ClusterError(CapshmError):
    """A cluster that no cell can run on: why. Nothing has been run."""


@contextmanager
def connect(address: str, plan: Plan) -> Iterator[list[Place]]:
    """The workers of the scheduler at that address. ClusterError: there are none, or not such as the plan needs."""
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters of it the runner says itself
    try:
        resolve_address(normalize_address(address))  # a client that could not even begin would say so twice, and hang
        client = Client(address, timeout=_CONNECTING, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ClusterError(f"there is no scheduler at {address}: {error}") from error
    with client:
        found = _look_at_workers(client, address, plan)
        first = next(iter(found.values()))
        for name, own in found.items():
            check_alike(f"worker {name}", first, own)
        yield [_place(client, name, own) for name, own in found.items()]


def shared(places: Sequence[Place]) -> list[str]:
    """Computers that have several of these workers, whose cells disturb one another."""
    return [node for node, count in Counter(place.facts.node for place in places).items() if count > 1]


def _look_at_workers(client: Client, address: str, plan: Plan) -> dict[str, Facts]:
    files = {path: _digest(path) for case in plan.cases for path in case.files}
    found: dict[str, tuple[Facts, list[str]] | Exception] = client.run(_look, files, on_error="return")
    if not found:
        raise ClusterError(f"the scheduler at {address} has no workers")
    told = {}
    for name, answer in found.items():
        if isinstance(answer, Exception):
            raise ClusterError(f"worker {name} cannot run capshm: {type(answer).__name__}: {answer}")
        told[name], lacking = answer
        if lacking:
            raise ClusterError(f"worker {name} has no such file, or another: {', '.join(lacking)}")
    return told


def _look(files: Mapping[str, str | None]) -> tuple[Facts, list[str]]:
    """On a worker: its facts, and which files are not there as they are with the runner."""
    return facts.gather(), [path for path, digest in files.items() if _digest(path) != digest]


def _digest(path: str) -> str | None:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _place(client: Client, name: str, own: Facts) -> Place:
    # Not "pure": the same cell of another run would be answered from memory.
    executor = client.get_executor(pure=False, workers=[name], allow_other_workers=False, retries=0)
    return Place(name, own, executor, measure, partial(_is_there, client, name))


def _is_there(client: Client, name: str) -> bool:
    try:
        return client.status == "running" and name in client.nthreads()
    except (OSError, CancelledError):
        return False


_turn = threading.Lock()  # one cell at a time, whatever several runners ask of a worker with several threads


def measure(number: int, machine: int, cell: Cell, timeout: int) -> Measured | Failed:
    """On a worker: run one cell. CancelledError: nobody wants it any more; nothing of it is left."""
    worker = get_worker()
    key = worker.get_current_task()

    def is_wanted() -> bool:
        task = worker.state.tasks.get(key)
        return worker.status in (Status.running, Status.paused) and task is not None and task.state == "executing"

    while not _turn.acquire(timeout=_LOOK):
        if not is_wanted():
            raise CancelledError
    try:
        return measuring.measure(number, machine, cell, timeout, environment=_environment(), is_wanted=is_wanted)
    finally:
        _turn.release()


def _environment() -> dict[str, str]:
    """Without what dask gives its workers for their own allocator and threads."""
    given = dask.config.get("distributed.nanny.pre-spawn-environ", {})
    return {name: value for name, value in os.environ.items() if value != str(given.get(name))}
