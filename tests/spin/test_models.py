"""The stop protocol and the locks of tag lines as models, gone through state by state by spin (Debian has it).

Right models hold in every order of steps and deaths; each wrong variant is found, so that the models still bite.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

_HERE = Path(__file__).parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("spin") is None, reason="spin is not installed; on Debian: apt-get install spin"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="spin's verifiers need a C compiler"),
]


@dataclass(frozen=True)
class Verdict:
    """What a verifier says."""

    errors: int
    states: int
    text: str


def verify(name: str, defines: tuple[str, ...], folder: Path, *, optimization: str = "-O1") -> Verdict:
    """Go through all states of a model. An assertion is the only error that counts: the dead stand where they died."""
    model = _HERE / f"{name}.pml"
    _run(folder, "spin", "-a", *(f"-D{define}" for define in defines), str(model))
    # NOREDUCE: with processes that may die, the reduction by partial orders does not hold.
    _run(folder, "cc", optimization, "-w", "-DSAFETY", "-DNOREDUCE", "-DCOLLAPSE", "-o", "pan", "pan.c")
    text = _run(folder, "./pan", "-E", "-n", "-m1000000")
    assert "max search depth too small" not in text
    counts = [re.search(pattern, text) for pattern in (r"errors: (\d+)", r"(\d+) states, stored")]
    errors, states = (int(each[1]) if each is not None else pytest.fail(text) for each in counts)
    return Verdict(errors, states, text)


def _run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


RIGHT = [("gate", "WITHOUT=1"), ("gate", "WITHOUT=2"), ("lock",)]
WRONG = [
    *(("gate", "WITHOUT=2", bug) for bug in ("NO_BARRIER", "CLOSES_EARLY=true", "STALE_REGISTERS")),
    ("gate", "WITHOUT=1", "FORGETS_THE_DEAD"),
    *(("lock", bug) for bug in ("NO_VERSION", "LOOKS_ONCE", "NO_RECOVERY", "BLIND_RECOVERY")),
]
LONG = [("gate", f"WITHOUT={number}", "OPERATIONS=2", "ATTEMPTS=2") for number in (1, 2)]


@pytest.mark.parametrize("model", RIGHT, ids=" ".join)
def test_right_in_every_order(model: tuple[str, ...], tmp_path: Path) -> None:
    """Whatever the order, and whoever dies: no assertion fails, and nobody waits for ever."""
    verdict = verify(model[0], model[1:], tmp_path)
    assert verdict.errors == 0, verdict.text
    assert verdict.states > 100_000


@pytest.mark.parametrize("model", WRONG, ids=" ".join)
def test_wrong_is_found(model: tuple[str, ...], tmp_path: Path) -> None:
    """A model that was made wrong on purpose fails an assertion."""
    verdict = verify(model[0], model[1:], tmp_path, optimization="-O0")  # there are few states to go through
    assert verdict.errors == 1, verdict.text
    assert "assertion violated" in verdict.text


@pytest.mark.soak
@pytest.mark.parametrize("model", LONG, ids=" ".join)
def test_right_for_longer(model: tuple[str, ...], tmp_path: Path) -> None:
    """The same with more operations, and closers that try again."""
    verdict = verify(model[0], model[1:], tmp_path)
    assert verdict.errors == 0, verdict.text
