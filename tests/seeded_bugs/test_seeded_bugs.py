"""The tests still bite: each wrong variant of the core is found by the test that is there to find it."""

import subprocess
import sys

import pytest

from native.variants import ROOT, build_program, build_variant, environment
from tests.seeded_bugs.bugs import BUGS, Bug, Program


def find(bug: Bug) -> subprocess.CompletedProcess[str]:
    """Run what must find the bug, on a core that has it."""
    if isinstance(bug.found_by, Program):
        sources = ["tests/native/harness.h", f"tests/native/{bug.found_by.name}.c"]
        program = build_program(bug.name, sources, patches=bug.patches)
        command = [str(program), *bug.found_by.arguments]
        variables = environment()
    else:
        core = build_variant(bug.name, defines=["CAPSHM_STEP_POINTS"], patches=bug.patches)
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", bug.found_by.name]
        variables = environment(core)
    return subprocess.run(
        command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS, ids=[bug.name for bug in BUGS])
def test_the_bug_is_found(bug: Bug) -> None:
    """A core with this bug fails the test that is named for it; and it fails, it does not merely break down."""
    run = find(bug)
    # Both say so with 1; anything else means that the test could not be run.
    assert run.returncode == 1, f"{bug.why}\nstatus {run.returncode}\n{run.stdout}"


def test_names_are_unique() -> None:
    """Each variant has a name of its own, after which its build is called."""
    assert len({bug.name for bug in BUGS}) == len(BUGS)
