"""capshm.load: what a notebook gets of a results folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import capshm
from capshm.lab.comparison import Comparison
from capshm.lab.plan import Plan
from capshm.lab.results.results import Canary, Failed, ResultsError
from tests.unit import report_scene as scene

PLAN = Plan(
    comparisons=(Comparison((scene.PREFORK,), (scene.PLAIN, scene.OPEN), "plain"),), repeats=2, seed=5, timeout=60
)


def test_rows_and_columns(tmp_path: Path) -> None:
    """A row each finished cell; all have the same columns, those of counts and the round's canary too."""
    folder = scene.write(tmp_path / "run", PLAN)
    loaded = capshm.load(str(folder))
    assert len(loaded) == len(list(loaded)) == 4
    row = next(row for row in loaded if row["policy"] == "open")
    assert (row["workload"], row["size"], row["scope"], row["trace"]) == ("prefork", 4 << 20, "vmspace", None)
    assert (row["crossed"], row["canary_us"]) == (1_048_576, 0.15 + float(str(row["round"])) / 100)
    assert loaded.columns["policy"] == [row["policy"] for row in loaded.rows]
    assert {len(column) for column in loaded.columns.values()} == {4}


@pytest.mark.slow
def test_a_notebook_shows_the_table(tmp_path: Path) -> None:
    """Escaped: the machine's name is no mark-up. The short form says how much there is."""
    loaded = capshm.load(scene.write(tmp_path / "run", PLAN))
    shown = loaded._repr_html_()
    assert "A &lt;Processor&gt; &amp; Co" in shown
    assert loaded.table.splitlines()[0].startswith("capshm 0.9")
    assert repr(loaded) == f"<results of {tmp_path / 'run'}: 4 cells, 1 cases, 2 rounds>"


def test_what_has_failed_is_told(tmp_path: Path) -> None:
    """And a folder without a finished cell is one, too; what is no folder is refused."""
    loaded = capshm.load(scene.write(tmp_path / "run", PLAN, [Canary(1, None), Failed(1, PLAN.cells[0], "why")]))
    assert (loaded.rows, loaded.columns) == ([], {})
    assert [each.message for each in loaded.failed] == ["why"]
    assert "no cell has finished" in loaded._repr_html_()
    assert "1 failed" in repr(loaded)
    with pytest.raises(ResultsError, match="holds no results"):
        capshm.load(tmp_path / "nowhere")


@pytest.mark.slow
def test_a_frame_where_there_is_a_library(tmp_path: Path) -> None:
    """Polars goes first."""
    folder = scene.write(tmp_path / "run", PLAN)
    library = "class DataFrame(dict): pass\n"
    (tmp_path / "polars.py").write_text(library, encoding="utf-8")
    program = "import capshm, sys; print(type(capshm.load(sys.argv[1]).to_frame()).__module__)"
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert done.stdout == "polars\n"
