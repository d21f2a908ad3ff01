"""The course is true: each example runs and prints what its docstring says, and the guide knows all of them."""

import ast
import re
import runpy
import subprocess
import sys
from errno import EACCES
from pathlib import Path

import pytest

from capshm import Refused
from capshm.model.rules import RULES

COURSE = Path(__file__).resolve().parents[2] / "examples"
GUIDE = COURSE / "README.md"
EXAMPLES = sorted(COURSE.glob("[0-9][0-9]_*.py"))
_SUBJECTS = ["tags", "bounds", "fork", "owner", "sharecap", "hoards", "revocation", "vmars", "stress", "audit"]


def _docstring(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert text is not None
    return text


def _shown(path: Path) -> list[str]:
    """The lines that the docstring says are printed: those that are indented."""
    return [line.removeprefix("    ") for line in _docstring(path).splitlines() if line.startswith("    ")]


def test_the_course_is_whole() -> None:
    """Ten examples, in the order of the course."""
    assert [path.stem for path in EXAMPLES] == [f"{number:02}_{name}" for number, name in enumerate(_SUBJECTS, start=1)]


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_prints_what_it_says(path: Path) -> None:
    """Each, run as a reader runs it, prints the lines of its docstring; "..." there stands for a number."""
    run = subprocess.run([sys.executable, path], capture_output=True, text=True, check=False, cwd=COURSE.parent)
    assert (run.returncode, run.stderr) == (0, "")
    pattern = re.escape("".join(f"{line}\n" for line in _shown(path))).replace(r"\.\.\.", r"\d+")
    assert re.fullmatch(pattern, run.stdout), run.stdout


def test_an_example_that_does_not_show_what_it_claims_fails() -> None:
    """A wrong value, a block that nothing stops, and one that another rule stops."""
    course = runpy.run_path(str(COURSE / "course.py"))
    with pytest.raises(AssertionError, match="one: 1 was expected"):
        course["show"]("one", 2, 1)
    with pytest.raises(AssertionError, match="a call: nothing stopped it"), course["expect"](Refused, "a call"):
        pass
    with (
        pytest.raises(AssertionError, match="E2 was expected"),
        course["expect"](Refused, "a call", rule="cheribsd:E2"),
    ):
        raise Refused("a call", errno=EACCES, rule="cheribsd:B3")


@pytest.mark.parametrize("path", [*EXAMPLES, GUIDE], ids=lambda path: path.stem)
def test_rules_that_are_cited_exist(path: Path) -> None:
    """`capshm explain` has an answer for every rule that a docstring or the guide names, in full or for short."""
    text = GUIDE.read_text(encoding="utf-8") if path == GUIDE else _docstring(path)
    cited = re.findall(r"\b(?:cheribsd|vmar):[\w./]*\w", text)
    short = re.findall(r"\b[A-K]\d+\b", text)
    for names in re.findall(r"`capshm explain ([^`]+)`", text):
        short += names.split()
    cited += [f"cheribsd:{name}" for name in short]
    assert cited or path.stem == "09_stress"
    assert [name for name in cited if not any(f"{rule}/".startswith(f"{name}/") for rule in RULES)] == []


def test_the_guide_has_a_lesson_for_each_example() -> None:
    """The table and the lessons are in the order of the examples, each with its three parts; links lead somewhere."""
    text = GUIDE.read_text(encoding="utf-8")
    assert re.findall(r"^\| \d+ \| \[(\w+)\.py\]", text, re.MULTILINE) == [path.stem for path in EXAMPLES]
    lessons = re.split(r"^## \d+\. ", text, flags=re.MULTILINE)[1:]
    parts = [re.findall(r"^\*\*(\w+)", lesson, re.MULTILINE) for lesson in lessons]
    assert parts == [["See", "Think", "Try"]] * len(EXAMPLES)
    assert [link for link in re.findall(r"\]\(([^)#]+)", text) if not (COURSE / link).is_file()] == []


def test_the_readme_shows_what_an_example_prints() -> None:
    """The first lines of one, and that there are more."""
    text = (COURSE.parent / "README.md").read_text(encoding="utf-8")
    ((name, lines),) = re.findall(
        r"^\$ \.venv/bin/python examples/(\w+\.py)\n(.+?)^\.\.\.\n", text, re.MULTILINE | re.DOTALL
    )
    assert _shown(COURSE / name)[: len(lines.splitlines())] == lines.splitlines()
