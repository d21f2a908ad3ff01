"""Step points: what they are called, and in which builds they can be armed."""

import pytest

from capshm._native import ffi, lib
from tests.faults.isolation import isolated


def names() -> list[str]:
    """All that the core names."""
    found: list[str] = []
    while (name := lib.capshm_step_name(len(found))) != ffi.NULL:
        found.append(ffi.string(name).decode())
    return found


def test_names_are_unique_and_listed() -> None:
    """Every step point has a name of its own, in capitals; past the last there is none."""
    found = names()
    assert len(set(found)) == len(found) > 0
    assert all(name.replace("_", "").isupper() for name in found)
    assert lib.capshm_step_name(2**32 - 1) == ffi.NULL


def arm_all() -> set[bool]:
    """The answers to well-formed requests, none of which does anything: their hundredth passage never comes."""
    actions = (lib.STEP_ACTION_NONE, lib.STEP_ACTION_KILL, lib.STEP_ACTION_STOP)
    answers = {lib.capshm_step_arm(step, 2**32 - 1, action) for step in range(len(names())) for action in actions}
    lib.capshm_step_arm(0, 1, lib.STEP_ACTION_NONE)
    return answers


@pytest.mark.slow
@isolated(core="release")
def test_the_release_build_refuses() -> None:
    """What users run has no step points: arming is refused."""
    assert arm_all() == {False}


@pytest.mark.slow
@isolated(core="steps")
def test_the_build_with_steps_checks_its_arguments() -> None:
    """The other build arms what exists, and refuses other points, a passage of 0 and unknown actions."""
    assert arm_all() == {True}
    assert not lib.capshm_step_arm(len(names()), 1, lib.STEP_ACTION_NONE)
    assert not lib.capshm_step_arm(0, 0, lib.STEP_ACTION_NONE)
    assert not lib.capshm_step_arm(0, 1, lib.STEP_ACTION_STOP + 1)
