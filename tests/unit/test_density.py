"""Maps of tags: what a look at a running cell's segments finds is there."""

from pathlib import Path

import pytest

from capshm.lab.comparison import Case, Comparison
from capshm.lab.plan import Cell, Plan
from capshm.lab.results import maps, results
from capshm.lab.results.filling import Results
from capshm.lab.results.results import Manifest, ResultsError
from tests.unit import report_scene as scene

SIZE = 1 << 20


@pytest.mark.slow
def test_a_map_shows_the_tags_of_a_real_run(tmp_path: Path) -> None:
    """prefork under open: full of tags at the begin, and more at the end, since workers store answers.

    churn has no segment, and plain memory no tags: neither has a map.
    """
    configurations = (scene.PLAIN, scene.OPEN)
    comparison = Comparison((Case("prefork", SIZE), Case("churn", SIZE)), configurations, "plain")
    plan = Plan(comparisons=(comparison,), repeats=1, seed=3, timeout=60)
    Results(tmp_path / "run", Manifest(plan, scene.FACTS)).close()
    looked_at = list(maps.take(plan, tmp_path / "run"))
    assert all(isinstance(each, Cell) for each in looked_at), looked_at
    (found,) = maps.read(tmp_path / "run")
    assert found.cell == Cell(Case("prefork", SIZE), scene.OPEN, 3)
    assert (found.length, found.granules) == (SIZE, SIZE // 16 // 64)
    assert found.times_ns == sorted(found.times_ns)
    assert 2 <= len(found.times_ns) == len(found.tags) <= 64
    first, last = sum(found.tags[0]), sum(found.tags[-1])
    assert 0 < first < last <= SIZE // 16
    assert all(0 <= count <= found.granules for moment in found.tags for count in moment)


def test_maps_are_read_as_they_were_written(tmp_path: Path) -> None:
    """A folder without any has none; one that is damaged is refused; a new run in the folder takes them away."""
    folder = scene.write(tmp_path / "run", found=[])
    assert [each.cell.configuration for each in maps.read(folder)] == [scene.OPEN, scene.CHERIBSD]
    with (folder / results.MAPS).open("a", encoding="utf-8") as file:
        file.write("{}\n")
    with pytest.raises(ResultsError, match="damaged"):
        maps.read(folder)
    with Results(folder, Manifest(scene.PLAN, scene.FACTS), is_forced=True):
        pass
    assert maps.read(folder) == []
