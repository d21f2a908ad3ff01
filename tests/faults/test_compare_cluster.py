"""`capshm compare --cluster` on a real cluster of this machine: what its workers run, and deaths of all of it."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from capshm.lab.results import results
from capshm.lab.results.results import Measured
from tests.faults.isolation import isolated
from tests.faults.residue import wait_until_alone
from tests.faults.test_compare_faults import LISTENS, WORKS, Scene, scene

pytest.importorskip("distributed", reason="dask.distributed is not installed")


class Cluster:
    """address: the scheduler's. workers: their pids. program: has the scheduler in it."""

    def __init__(self, program: subprocess.Popen[str]) -> None:
        assert program.stdout is not None
        told = json.loads(program.stdout.readline())
        self.program = program
        self.address: str = told["address"]
        self.workers: list[int] = told["workers"]


@contextmanager
def cluster(here: Scene, workers: int) -> Iterator[Cluster]:
    """With none of it left at the end."""
    command = [sys.executable, "-m", "tests.faults.cluster", str(workers)]
    with subprocess.Popen(
        command,
        env=here.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as program:
        yield Cluster(program)
    wait_until_alone()


def parent(pid: int) -> int:
    """Of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])


def check_keeper(keeper: int, worker: int) -> None:
    """The worker's child, and another program: nothing of the worker is in it."""
    assert parent(keeper) == worker
    assert b"capshm.lab.cells.keeper" in Path(f"/proc/{keeper}/cmdline").read_bytes().split(b"\0")


@pytest.mark.slow
@isolated(bound=250)
def test_what_a_lost_worker_leaves_the_other_runs_and_ctrl_c_ends_it() -> None:
    """A round is on one worker; when that is killed its cell ends, and is run again on the other, until Ctrl-C."""
    with scene() as here, cluster(here, 2) as found:
        runner = here.start(LISTENS, repeats=1, options=["--cluster", found.address])
        cell, keeper = here.wait_for_listener()
        worker = parent(keeper)
        assert worker in found.workers
        check_keeper(keeper, worker)
        ended = os.pidfd_open(cell)
        os.kill(worker, signal.SIGKILL)
        select.select([ended], [], [])
        os.close(ended)
        cell, keeper = here.wait_for_listener()
        (other,) = set(found.workers) - {worker}
        check_keeper(keeper, other)
        ended = os.pidfd_open(cell)
        os.kill(runner.pid, signal.SIGINT)
        done = here.end(runner)
        assert done.status == 130
        assert "lost: tcp://" in done.messages
        select.select([ended], [], [])
        os.close(ended)
        assert not [each for each in here.records() if isinstance(each, Measured)]


@pytest.mark.slow
@isolated(bound=250)
def test_all_cells_run_on_a_cluster() -> None:
    """Every cell once; that two workers on one computer disturb one another is told."""
    with scene() as here, cluster(here, 2) as found:
        done = here.end(here.start(WORKS, repeats=2, options=["--cluster", found.address]))
        assert done.status == 0, done.messages
        assert "disturb one another" in done.messages
        plan = results.read(here.results).manifest.plan
        ended = [(each.round, each.cell) for each in here.records() if isinstance(each, Measured)]
        assert sorted(ended, key=str) == sorted(((1 + turn, cell) for turn in (0, 1) for cell in plan.cells), key=str)


@pytest.mark.slow
@isolated(bound=250)
def test_without_a_scheduler_no_cell_runs() -> None:
    """When it is killed the run ends and says so; neither the cell is left, nor a worker."""
    with scene() as here, cluster(here, 1) as found:
        runner = here.start(LISTENS, repeats=1, options=["--cluster", found.address])
        here.wait_for_listener()
        found.program.kill()
        found.program.wait()
        done = here.end(runner)
        assert done.status == 1
        assert "no place is left" in done.messages
