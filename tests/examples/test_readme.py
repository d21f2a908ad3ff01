"""The README is true: its programs run and print what it says they print."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.figures import FIGURES
from capshm.lab import choice, plan, workloads
from capshm.lab.readme import markers

BEGIN, END = markers("bench")

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
_SOURCES = {".py", ".c", ".h", ".cdef"}
# A Python program, and the block of output that follows it directly.
PROGRAMS = re.findall(r"^```python\n(.*?)^```\n\n^```\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_readme_has_a_program() -> None:
    """There is something to run; a changed layout of the README does not make the test below empty."""
    assert PROGRAMS


@pytest.mark.slow
@pytest.mark.parametrize(("program", "output"), PROGRAMS)
def test_program_prints_what_the_readme_says(program: str, output: str) -> None:
    """Each program of the README, run as it stands, prints the block behind it."""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert sorted(run.stdout.splitlines()) == sorted(output.splitlines())
    assert run.stderr == ""


def test_plan_of_the_readme_is_one(tmp_path: Path) -> None:
    """The plan file that the README shows can be run as it stands."""
    (text,) = re.findall(r"^```toml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    (tmp_path / "plan.toml").write_text(text, encoding="utf-8")
    chosen = plan.complete(choice.Choice(), choice.read(tmp_path / "plan.toml"))
    assert (len(chosen.cases), chosen.repeats, chosen.seed) == (4, 15, 7)


def test_workloads_of_the_readme_are_all() -> None:
    """Its table has each workload that comes with capshm, and no other."""
    (section,) = re.findall(r"^### The workloads\n(.*?)^##", README, re.MULTILINE | re.DOTALL)
    assert re.findall(r"^\| `([a-z]+)` \|", section, re.MULTILINE) == [*workloads.BUILT_IN, *workloads.FROM_FILES]


def test_commands_of_the_readme_are_targets() -> None:
    """Each `make` command that the README shows is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    shown = set(re.findall(r"\bmake ([a-z]+)", README))
    assert {"test", "compare"} <= shown <= targets


def test_the_table_of_figures_is_whole() -> None:
    """The README shows every figure of the benchmark, and no other; `python -m bench --readme` fills its table."""
    table = README.partition(BEGIN)[2].partition(END)[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [figure.key for figure in FIGURES]


def test_documents_that_are_cited_exist() -> None:
    """No docstring, comment or table sends a reader to a document that the repository does not have."""
    files = [path for name in ("capshm", "native") for path in (ROOT / name).rglob("*.*") if path.suffix in _SOURCES]
    sources = [README, *(path.read_text(encoding="utf-8") for path in files)]
    cited = {name for text in sources for name in re.findall(r"[\w./-]+\.md\b", text)}
    assert cited
    assert [name for name in cited if not (ROOT / name).is_file()] == []


def test_errors_of_the_readme_exist() -> None:
    """The table of troubles is keyed by names that capshm has."""
    import capshm.testing

    troubles = README.split("## When something goes wrong")[1]
    names = re.findall(r"`([A-Z][A-Za-z]+)`", troubles.replace("`SIGBUS`", "").replace("`W`", ""))
    assert names
    assert [name for name in names if not (hasattr(capshm, name) or hasattr(capshm.testing, name))] == []
