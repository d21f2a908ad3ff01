"""The tests still bite: each wrong variant of the core, or the model, is found by the test that is there to find it."""

import subprocess
import sys
from pathlib import Path

import pytest

from native.variants import ROOT, build_program, build_variant, environment
from tests.seeded_bugs.bugs import BUGS, Bug, Node, Program
from tests.seeded_bugs.model_bugs import MODEL_BUGS, ModelBug
from tests.seeded_bugs.modules import with_modules, write_modules

# What several histories together find is left to the soak: a single one may pass.
FINDERS = [pytest.param(bug, bug.found_by, id=bug.name) for bug in BUGS] + [
    pytest.param(bug, node, id=f"{bug.name}: {node.name}", marks=pytest.mark.soak)
    for bug in BUGS
    for node in bug.also_found_by
]


def find(bug: Bug, finder: Program | Node, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run what must find the bug, on a core, or with modules, that have it; folder: for those."""
    if isinstance(finder, Program):
        sources = ["tests/native/harness.h", f"tests/native/{finder.name}.c"]
        program = build_program(bug.name, sources, patches=bug.patches)
        command = [str(program), *finder.arguments]
        variables = environment()
    else:
        core = build_variant(bug.name, defines=["CAPSHM_STEP_POINTS"], patches=bug.patches) if bug.patches else None
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-rs", "-p", "no:cacheprovider", finder.name]
        variables = environment(core)
        if bug.modules:
            write_modules(folder, bug.modules)
            variables = with_modules(variables, folder)
    return subprocess.run(
        command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


def skipped_for(output: str) -> str:
    """Why pytest has run nothing of what it collected, in its own words; empty if it has run something."""
    *lines, last = output.strip().splitlines() or [""]
    is_nothing_run = "skipped" in last and "passed" not in last
    return next((line for line in lines if line.startswith("SKIPPED")), "") if is_nothing_run else ""


def test_a_finder_that_is_skipped_has_not_missed_the_bug() -> None:
    """A machine that lacks what a test needs cannot say whether the test bites; one that ran something can."""
    reason = "SKIPPED [1] tests/x.py:7: this machine does not let a process trace another (ptrace)"
    assert skipped_for(f"s\n=== short test summary info ===\n{reason}\n1 skipped in 0.30s\n") == reason
    assert skipped_for(f"s.\n{reason}\n1 passed, 1 skipped in 0.30s\n") == ""
    assert skipped_for("") == ""


@pytest.mark.slow
@pytest.mark.parametrize(("bug", "finder"), FINDERS)
def test_the_bug_is_found(bug: Bug, finder: Program | Node, tmp_path: Path) -> None:
    """What has this bug fails the tests that are named for it; and they fail, they do not merely break down."""
    run = find(bug, finder, tmp_path)
    if run.returncode == 0 and (reason := skipped_for(run.stdout)):
        pytest.skip(f"{finder.name}: {reason}")
    # Both say so with 1; anything else means that the test could not be run.
    assert run.returncode == 1, f"{bug.why}\nstatus {run.returncode}\n{run.stdout}"


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_the_patches_fit(bug: Bug, tmp_path: Path) -> None:
    """The sources have not moved on: what is built with each bug has it."""
    write_modules(tmp_path, [(f"native/{file}", old, new) for file, old, new in bug.patches])
    write_modules(tmp_path, bug.modules)


@pytest.mark.slow
@pytest.mark.parametrize("bug", MODEL_BUGS, ids=lambda bug: bug.name)
def test_the_bug_in_the_model_is_found(bug: ModelBug) -> None:
    """As above, for the model of VMARs; its tests are quick ones, without processes."""
    command = [sys.executable, "-m", "tests.seeded_bugs.planting", bug.name]
    run = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert run.returncode == 1, f"{bug.why}\nstatus {run.returncode}\n{run.stdout}{run.stderr}"
    assert f"FAILED {bug.found_by}" in run.stdout, run.stdout


def test_names_are_unique() -> None:
    """Each variant has a name of its own, after which its build is called."""
    names = [bug.name for bug in BUGS] + [bug.name for bug in MODEL_BUGS]
    assert len(set(names)) == len(names)
