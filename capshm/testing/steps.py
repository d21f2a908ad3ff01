"""Stops or kills the calling process at a named point in the middle of the core's next operation.

The points lie between the stores of each protocol; their names, and what is done and not yet done at each, stand in
native/step.h. They are in the core that `CAPSHM_CORE=steps` chooses, and cost nothing in the one that users run:

    if os.fork() == 0:
        with steps.armed("LINE_LOCKED", action="kill"):
            memory.store_capability(0, value)  # dies with the lock held
        os._exit(0)

Without conditions on the machine; for halts between any two instructions see `capshm.testing.stepping`.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import SupportsIndex

from capshm._native import ffi, lib
from capshm.errors import CapshmError

ACTIONS: dict[str, int] = {"kill": lib.STEP_ACTION_KILL, "stop": lib.STEP_ACTION_STOP}
"""By name what a process can do to itself at a point: SIGKILL; SIGSTOP, after which SIGCONT lets it go on."""

_MOST = (1 << 32) - 1


class StepPointsUnavailable(CapshmError):
    """The core of this process was built without step points."""


# Asked once and before anything can be armed: the question itself disarms.
_IS_AVAILABLE = bool(lib.capshm_step_arm(0, 1, lib.STEP_ACTION_NONE))


def is_available() -> bool:
    """Whether the core of this process has step points: whether it was started with CAPSHM_CORE=steps, or the like."""
    return _IS_AVAILABLE


@cache
def names() -> tuple[str, ...]:
    """All points in the order in which a store, a load, a data write and a call of others come by, in any core."""
    found: list[str] = []
    while (name := lib.capshm_step_name(len(found))) != ffi.NULL:
        found.append(ffi.string(name).decode())
    return tuple(found)


def arm(step: str, *, nth: SupportsIndex = 1, action: str = "stop") -> None:
    """Arm one point of the calling process: at the `nth` time that any of its threads comes by, `action` happens there.

    step: one of `names()`. nth: 1 to 2**32 - 1. action: "stop" or "kill". What was armed before is not any more; a
    point that has acted is disarmed. A child made by fork inherits what is armed.
    ValueError for what does not exist; StepPointsUnavailable with a core that has no points. Nothing is armed or
    disarmed then.
    """
    if step not in names():
        raise ValueError(f"the core has no step {step!r}: {', '.join(names())}")
    if action not in ACTIONS:
        raise ValueError(f"the action must be one of {sorted(ACTIONS)}, not {action!r}")
    passage = operator.index(nth)
    if not 1 <= passage <= _MOST:
        raise ValueError(f"nth must be 1 to {_MOST}, not {passage}")
    if not _IS_AVAILABLE:
        raise StepPointsUnavailable(
            f"process {os.getpid()} cannot arm {step}: its core was built without step points; run with "
            "CAPSHM_CORE=steps in the environment"
        )
    lib.capshm_step_arm(names().index(step), passage, ACTIONS[action])


def disarm() -> None:
    """Arm nothing any more; does nothing with a core that has no points."""
    lib.capshm_step_arm(0, 1, lib.STEP_ACTION_NONE)


@contextmanager
def armed(step: str, *, nth: SupportsIndex = 1, action: str = "stop") -> Iterator[None]:
    """As `arm`, and at the end of the block nothing is armed any more."""
    arm(step, nth=nth, action=action)
    try:
        yield
    finally:
        disarm()
