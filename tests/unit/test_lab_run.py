"""The order of a run: what is left of an interrupted one, several places at a time, and places that are lost.

Cells are answered at once here: what real ones do, and real deaths, is in tests/faults/test_compare_faults.py and
test_compare_cluster.py.
"""

import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path

import pytest

from capshm.commands import comparisons
from capshm.errors import CapshmError
from capshm.lab.comparison import Case, Comparison, Configuration
from capshm.lab.plan import Cell, Plan
from capshm.lab.results import results
from capshm.lab.results.facts import Facts
from capshm.lab.results.filling import Results
from capshm.lab.results.results import Another, Canary, Failed, Manifest, Measured, Record, Result, ResultsError
from capshm.lab.runner.places import Here, P, Place, T
from capshm.lab.runner.run import PlacesLost, run
from capshm.lab.summary import summarize

CASES = (Case("prefork", 1 << 20), Case("ring", 1 << 20))
CONFIGURATIONS = (Configuration("plain"), Configuration("open", "stop-the-world", "gate", "vmspace"))
PLAN = Plan(comparisons=(Comparison(CASES, CONFIGURATIONS, "plain"),), repeats=3, seed=5, timeout=60)
FACTS = Facts("0.9", "release", "3.11.7", "A Processor", "6.1", 2, "2026-01-02T03:04:05Z", "one")
LIKE = Facts("0.9", "release", "3.11.7", "A Processor", "6.1", 2, "2026-03-04T05:06:07Z", "two")
UNLIKE = Facts("0.9", "release", "3.11.7", "A Processor", "6.2", 2, "2026-03-04T05:06:07Z", "three")
ALL = Counter((number, cell) for number in (1, 2, 3) for cell in PLAN.cells)


@pytest.fixture(autouse=True)
def _no_canary(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a process of its own, and takes a tenth of a second; nor is there anything to be patient with."""
    monkeypatch.setattr("capshm.lab.runner.run._LOOK", 0.001)
    monkeypatch.setattr("capshm.lab.runner.run.take_canary", lambda number, machine: Canary(number, None, machine))


class Nobody:
    """Watches nothing, but remembers which places were lost."""

    def __init__(self) -> None:
        self.lost: list[str] = []

    def begin_round(self, number: int) -> None:
        """Nothing."""

    def begin_cell(self, number: int, cell: Cell) -> None:
        """Nothing."""

    def end_cell(self, outcome: Measured | Failed) -> None:
        """Nothing."""

    def lose(self, name: str) -> None:
        """Remember it."""
        self.lost.append(name)


class Silent(Executor):
    """Takes what it is given, and never answers."""

    def __init__(self) -> None:
        self.taken: list[Future[object]] = []

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """For ever."""
        future: Future[T] = Future()
        self.taken.append(future)  # type: ignore[arg-type] # of whatever
        return future


def measured(number: int, machine: int, cell: Cell, timeout: int) -> Measured:
    """Each cell has a time of its own."""
    assert timeout == PLAN.timeout
    return Measured(number, cell, Result(1000 + number + machine, 1, 1, {"operations": 1}, 7), machine)


def a_place(facts: Facts = FACTS, executor: Executor | None = None, *, is_there: bool = True) -> Place:
    """One that answers at once, if nothing else is said."""
    return Place(facts.node, facts, executor or Here(), measured, lambda: is_there)


def cells(records: list[Record]) -> Counter[tuple[int, Cell]]:
    """What has ended."""
    return Counter((each.round, each.cell) for each in records if isinstance(each, Measured | Failed))


def a_whole_folder(folder: Path) -> bytes:
    """Its records, of a run to the end."""
    with Results(folder, Manifest(PLAN, FACTS)) as filling:
        run(PLAN, filling, Nobody(), [a_place()])
    return (folder / results.RESULTS).read_bytes()


def go_on(folder: Path, *places: Place, is_retrying: bool = False) -> list[Record]:
    """To the end; what the folder holds."""
    where = places or (a_place(),)
    filling, held = Results.resume(folder, [place.facts for place in where], is_retrying=is_retrying)
    with filling:
        run(PLAN, filling, Nobody(), where, cells(held.records))
    found = results.read(folder)
    assert (found.tail, found.damages) == (0, [])
    return found.records


def test_wherever_a_run_was_cut_going_on_ends_in_the_same_cells(tmp_path: Path) -> None:
    """Cut at thirty places of its file, in the middle of lines and between them; what was whole stays as it was."""
    whole = a_whole_folder(tmp_path)
    assert cells(results.read(tmp_path).records) == ALL
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    for end in random.Random(seed).sample(range(len(whole)), 30):
        (tmp_path / results.RESULTS).write_bytes(whole[:end])
        kept = results.read(tmp_path).records
        records = go_on(tmp_path)
        assert records[: len(kept)] == kept
        assert cells(records) == ALL, end


def test_a_run_that_is_whole_stays_as_it_is(tmp_path: Path) -> None:
    """Nothing runs, and no canary is taken."""
    whole = a_whole_folder(tmp_path)
    go_on(tmp_path)
    assert (tmp_path / results.RESULTS).read_bytes() == whole


def test_failed_cells_run_again_only_if_asked(tmp_path: Path) -> None:
    """Then in place of their failures."""
    a_whole_folder(tmp_path / "run")
    with Results(tmp_path / "new", Manifest(PLAN, FACTS)) as filling:
        for record in results.read(tmp_path / "run").records:
            is_chosen = isinstance(record, Measured) and record.round == 2
            filling.append(Failed(2, record.cell, "why") if is_chosen else record)  # type: ignore[union-attr]
    records = go_on(tmp_path / "new")
    assert cells(records) == ALL
    assert len([each for each in records if isinstance(each, Failed)]) == len(PLAN.cells)
    records = go_on(tmp_path / "new", is_retrying=True)
    assert cells(records) == ALL
    assert not [each for each in records if isinstance(each, Failed)]


def test_another_kind_of_machine_goes_on_with_nothing(tmp_path: Path) -> None:
    """Nor is a folder that is damaged, or none; the file is as it was, its half-written tail, too."""
    cut = a_whole_folder(tmp_path / "run")[:-10]
    path = tmp_path / "run" / results.RESULTS
    path.write_bytes(cut)
    with pytest.raises(ResultsError, match=r"different machines or versions compare nothing: kernel 6\.1 and 6\.2$"):
        Results.resume(tmp_path / "run", [FACTS, UNLIKE])
    assert path.read_bytes() == cut
    damaged = cut.replace(b"wall_ns", b"wall_nz", 1)
    path.write_bytes(damaged)
    with pytest.raises(ResultsError, match=r"line 2: no record: .*not gone on with"):
        Results.resume(tmp_path / "run", [FACTS])
    assert path.read_bytes() == damaged
    with pytest.raises(ResultsError, match="holds no results"):
        Results.resume(tmp_path / "nowhere", [FACTS])
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("case", [Case("trace", 4096, "/nowhere/build.trace"), Case("uninstalled", 65_536)])
def test_a_plan_that_cannot_be_run_any_more_is_not_gone_on_with(tmp_path: Path, case: Case) -> None:
    """Its trace is gone, or its plug-in; the folder stays as it is."""
    plan = Plan(comparisons=(Comparison((case,), CONFIGURATIONS, "plain"),), repeats=1, seed=5, timeout=60)
    Results(tmp_path, Manifest(plan, FACTS)).close()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(CapshmError, match=r"the plan cannot be gone on with: .*(build\.trace|uninstalled)"):
        comparisons.resume(tmp_path, "wall", cluster=None, is_retrying=False, is_json=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_is_gone_on_with_by_one_at_a_time(tmp_path: Path) -> None:
    """As it is filled by one."""
    a_whole_folder(tmp_path)
    filling, _ = Results.resume(tmp_path, [FACTS])
    with filling, pytest.raises(ResultsError, match="another comparison"):
        Results.resume(tmp_path, [FACTS])
    assert cells(go_on(tmp_path)) == ALL


def test_each_round_has_one_machine_and_records_name_it(tmp_path: Path) -> None:
    """Two places run it; a third computer that is alike gets a number when it goes on."""
    with Results(tmp_path, Manifest(PLAN, FACTS)) as filling:
        run(PLAN, filling, Nobody(), [a_place(), a_place(LIKE), a_place()])
    found = results.read(tmp_path)
    assert cells(found.records) == ALL
    assert found.machines == {0: FACTS, 1: LIKE}
    by_round = {(each.round, each.machine) for each in found.records if not isinstance(each, Another)}
    assert len(by_round) == PLAN.repeats
    assert {machine for _, machine in by_round} == {0, 1}


def test_what_a_lost_place_leaves_another_runs(tmp_path: Path) -> None:
    """Its future is cancelled; no cell is missing, and none is there twice."""
    silent = Silent()
    watch = Nobody()
    with Results(tmp_path, Manifest(PLAN, FACTS)) as filling:
        run(PLAN, filling, watch, [a_place(LIKE, silent, is_there=False), a_place()])
    assert watch.lost == ["two"]
    assert [future.cancelled() for future in silent.taken] == [True]
    assert cells(results.read(tmp_path).records) == ALL


def test_without_any_place_the_run_ends(tmp_path: Path) -> None:
    """And says so; what has finished is there, and another place goes on."""
    with Results(tmp_path, Manifest(PLAN, FACTS)) as filling, pytest.raises(PlacesLost):
        run(PLAN, filling, Nobody(), [a_place(executor=Silent(), is_there=False)])
    assert cells(go_on(tmp_path)) == ALL


def test_cells_of_one_round_are_compared_only_on_one_machine() -> None:
    """A ratio of two machines is none, though they are alike."""
    own, other = (Cell(CASES[0], configuration, PLAN.seed) for configuration in CONFIGURATIONS)
    result = Result(100, 100, 1, {}, 7)
    for machine, ratios in ((0, {"plain": 1.0}), (1, {})):
        records: list[Record] = [Canary(1, None), Measured(1, own, result), Measured(1, other, result, machine)]
        line = next(line for line in summarize(PLAN, records).lines if line.configuration == CONFIGURATIONS[1])
        assert {name: over.ratio for name, over in line.over.items()} == ratios
