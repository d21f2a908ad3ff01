"""`capshm compare`: the demonstration, and its command line."""

import json
import subprocess
import sys

import pytest


def capshm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does."""
    return subprocess.run([sys.executable, "-m", "capshm", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_demonstration_shows_what_crosses() -> None:
    """Tags reach a child that may load capabilities and no other, and a revocation reaches the child's variable."""
    run = capshm("compare", "--json", "--size", "65536", "--repeats", "3")
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert {row["mapping"]: row["tag_arrives"] for row in result["mappings"]} == {"rwRW": True, "rR": True, "rw": False}
    assert {row["tags_left_by_overwrite"] for row in result["mappings"]} == {65536 // 16 // 2}
    assert result["found"] == result["cleared"] == 65536 // 16 - 1
    assert result["child_tag"] == 0


@pytest.mark.slow
def test_table_is_for_people() -> None:
    """Without --json there is a table that says what it shows."""
    run = capshm("compare", "--size", "65536", "--repeats", "3")
    assert run.returncode == 0, run.stderr
    assert "tag arrives" in run.stdout
    assert "Baseline: rwRW" in run.stdout
    assert "revoked too" in run.stdout


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--size", "5"], ["--size", "many"], ["--repeats", "0"], ["--unknown"]])
def test_wrong_command_lines_are_refused(arguments: list[str]) -> None:
    """A wrong command line says what is wrong, and ends with status 2 before anything is done."""
    run = capshm("compare", *arguments)
    assert run.returncode == 2
    assert arguments[0] in run.stderr
    assert run.stdout == ""
