"""The course is true: each example runs, prints what its docstring says, and cites rules that there are."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from capshm.model.rules import RULES

COURSE = Path(__file__).resolve().parents[2] / "examples"
EXAMPLES = sorted(COURSE.glob("[0-9][0-9]_*.py"))
_SUBJECTS = ["tags", "bounds", "fork", "owner", "sharecap", "hoards", "revocation", "vmars", "stress", "audit"]
_each_example = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)


def _docstring(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert text is not None
    return text


def test_the_course_is_whole() -> None:
    """Ten examples, in the order of the course."""
    assert [path.stem for path in EXAMPLES] == [f"{number:02}_{name}" for number, name in enumerate(_SUBJECTS, start=1)]


@pytest.mark.slow
@_each_example
def test_example_prints_what_it_says(path: Path) -> None:
    """Each, run as a reader runs it, prints the indented lines of its docstring; "..." there stands for a number."""
    run = subprocess.run([sys.executable, path], capture_output=True, text=True, check=False, cwd=COURSE.parent)
    assert (run.returncode, run.stderr) == (0, "")
    shown = "".join(f"{line[4:]}\n" for line in _docstring(path).splitlines() if line.startswith("    "))
    pattern = re.escape(shown).replace(r"\.\.\.", r"\d+")
    assert re.fullmatch(pattern, run.stdout), run.stdout


@_each_example
def test_rules_that_an_example_cites_exist(path: Path) -> None:
    """`capshm explain` has an answer for every rule that the docstring names, in full or for short."""
    text = _docstring(path)
    cited = re.findall(r"\b(?:cheribsd|vmar):[\w./]*\w", text)
    cited += [f"cheribsd:{short}" for short in re.findall(r"\b[A-K]\d+\b", text)]
    assert cited or path.stem == "09_stress"
    assert [name for name in cited if not any(f"{rule}/".startswith(f"{name}/") for rule in RULES)] == []
