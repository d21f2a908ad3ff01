"""What `capshm compare` does once its line is understood: run, go on, merge, show. Each returns the exit status."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from pathlib import Path

import msgspec

from capshm.errors import CapshmError
from capshm.lab import summary, table, workloads
from capshm.lab.plan import Cell, Plan
from capshm.lab.results import database, filling, merging, results
from capshm.lab.results.results import Failed, Manifest, Measured, Record
from capshm.lab.runner import places
from capshm.lab.runner.places import Place
from capshm.lab.runner.progress import Watch
from capshm.lab.runner.run import PlacesLost
from capshm.lab.runner.run import run as run_cells
from capshm.lab.summary import Measure, Summary

FAILED, WRONG_LINE, CELLS_FAILED, INTERRUPTED = 1, 2, 3, 130


def run(plan: Plan, folder: Path, measure: Measure, *, cluster: str | None, is_forced: bool, is_json: bool) -> int:
    """Run a plan, keep what there is, and print it, however the run ends."""
    with (
        _places(cluster, plan) as found,
        filling.Results(folder, Manifest(plan, found[0].facts), is_forced=is_forced) as filled,
    ):
        status = _fill(plan, filled, found, set())
    return _finish(folder, measure, status, is_json=is_json)


def resume(folder: Path, measure: Measure, *, cluster: str | None, is_retrying: bool, is_json: bool) -> int:
    """Run what an interruption has left of a plan, and print all."""
    plan = results.read(folder).manifest.plan
    _check_there(plan)
    with _places(cluster, plan) as found:
        filled, held = filling.Results.resume(folder, [place.facts for place in found], is_retrying=is_retrying)
        with filled:
            if held.tail:
                complain([f"{folder} ended in a half-written line of {held.tail} bytes, which is gone"])
            ended = {(each.round, each.cell) for each in held.records if isinstance(each, Measured | Failed)}
            complain([f"going on in {folder}, where {len(ended)} of {plan.repeats * len(plan.cells)} cells have ended"])
            status = _fill(plan, filled, found, ended)
    return _finish(folder, measure, status, is_json=is_json)


def merge(folders: Sequence[Path], output: Path, measure: Measure, *, is_forced: bool, is_json: bool) -> int:
    """Make one folder of several, and print it; they stay as they are."""
    manifest, records = merging.merge(folders)
    filling.Results(output, manifest, is_forced=is_forced, records=records).close()
    return _finish(output, measure, 0, is_json=is_json)


def show(folder: Path, measure: Measure, readme: Path | None, *, is_json: bool) -> int:
    """Print an existing folder's table, and put it into a README."""
    found = results.read(folder)
    shown, text = _summarize(found.manifest, found.records, measure)
    _print(found.manifest, shown, text, is_json=is_json)
    if readme is not None:
        try:
            table.rewrite_readme(readme, text, shown)
        except (OSError, ValueError) as error:
            raise CapshmError(str(error)) from error
    if found.tail:
        complain([f"{folder / results.RESULTS} ends in a half-written line of {found.tail} bytes, which is left out"])
    complain(found.damages)
    return FAILED if found.damages else _status(shown)


def show_plan(plan: Plan, *, is_json: bool) -> None:
    """Print which cells would run, and for about how long."""
    if is_json:
        print(msgspec.json.encode({"plan": plan, "seconds": plan.seconds}).decode())
        return
    print(f"{len(plan.cells)} cells a round, {plan.repeats} rounds, seed {plan.seed}:\n")
    told = set()
    for comparison in plan.comparisons:
        print(comparison.title)
        for case in comparison.cases:
            print(f"  {table.described(plan, case)}: {', '.join(map(comparison.name, comparison.configurations))}")
            if case.workload not in told:
                print(f"      {workloads.describe(case.workload)[0]}")
                told.add(case.workload)
        print()
    print(f"about {table.duration(plan.seconds * 1e9)} on two slow processors")


def _check_there(plan: Plan) -> None:
    """CapshmError: a workload or a file of the plan is gone since it was made."""
    for case in plan.cases:
        try:
            workloads.find(case.workload)
        except ValueError as error:
            raise CapshmError(f"the plan cannot be gone on with: {error}") from error
        if gone := [path for path in case.files if not Path(path).exists()]:
            raise CapshmError(f"the plan cannot be gone on with: {', '.join(gone)} is gone")


@contextmanager
def _places(cluster: str | None, plan: Plan) -> Iterator[list[Place]]:
    """Here, or the workers of a cluster."""
    if cluster is None:
        yield [places.here()]
        return
    if importlib.util.find_spec("distributed") is None:
        raise CapshmError("--cluster needs dask.distributed, which is not installed: pip install 'capshm[cluster]'")
    from capshm.lab.runner import cluster as clusters  # only here: it takes a second

    with clusters.connect(cluster, plan) as found:
        complain(f"workers on {node} disturb one another: start one there" for node in clusters.shared(found))
        yield found


def _fill(plan: Plan, filled: filling.Results, found: list[Place], ended: Set[tuple[int, Cell]]) -> int:
    """Run what has not ended. The exit status so far."""
    try:
        with Watch(plan, len(ended)) as watch:
            run_cells(plan, filled, watch, found, ended)
    except KeyboardInterrupt:
        complain([f"interrupted; this is what has finished, and --resume {filled.folder} goes on"])
        return INTERRUPTED
    except (results.ResultsError, PlacesLost) as error:
        complain([str(error)])
        return FAILED
    return 0


def _finish(folder: Path, measure: Measure, status: int, *, is_json: bool) -> int:
    """Make what goes with the records, and print it. status: how the run has ended."""
    manifest, records, _, _ = results.read(folder)
    shown, text = _summarize(manifest, records, measure)
    try:
        filling.write_table(folder, text)
        database.build(folder, manifest, records)
    except results.ResultsError as error:
        complain([str(error)])
        status = status or FAILED
    _print(manifest, shown, text, is_json=is_json)  # last: whoever reads it finds the folder whole
    print(f"results: {folder}", file=sys.stderr)
    return status or _status(shown)


def _summarize(manifest: Manifest, records: Iterable[Record], measure: Measure) -> tuple[Summary, str]:
    """The summary, and its table."""
    found = summary.summarize(manifest.plan, records, measure)
    return found, table.text(manifest, found)


def _print(manifest: Manifest, shown: Summary, text: str, *, is_json: bool) -> None:
    """Print the table, or the JSON document."""
    document = {"manifest": manifest} | msgspec.structs.asdict(shown)
    print(msgspec.json.encode(document).decode() if is_json else text, flush=True)


def _status(shown: Summary) -> int:
    return 0 if shown.is_whole else CELLS_FAILED


def complain(lines: Iterable[str]) -> None:
    """On standard error."""
    for line in lines:
        print(f"capshm compare: {line}", file=sys.stderr)
