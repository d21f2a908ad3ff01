"""The machine against a reference of all of it: the same verdicts, tags, bytes and mappings after every step.

A walk (`machine_walk`) is done by real processes (`machine_workers`) and by the reference. A run that fails prints the
program that it was.
"""

import os
import random

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as with_seed
from hypothesis.stateful import run_state_machine_as_test

from tests.faults.isolation import isolated, print_traceback
from tests.properties.machine_walk import Walk


@isolated(bound=280)
def walk(policy: str, seed: int, runs: int, length: int) -> None:
    """Run it in a process that may fork; a failure is told before a shorter way to it is looked for."""
    compare(policy, seed, runs, length)


@isolated(bound=3600)
def walk_far(policy: str, seed: int, runs: int, length: int) -> None:
    """The same, with more patience."""
    compare(policy, seed, runs, length)


def compare(policy: str, seed: int, runs: int, length: int) -> None:
    """Walk."""
    print(f"policy {policy}, seed {seed}", flush=True)

    class Machine(Walk):
        """With its own counters."""

    machine: type[Walk] = Machine
    machine.policy, machine.seed = policy, seed
    try:
        run(machine, seed, runs, length, Phase.generate)
    except Exception as error:
        print_traceback(error)
        print(machine.program, flush=True)
        print("# A shorter way, if there is time to find one:", flush=True)
        try:
            run(machine, seed, runs, length, Phase.generate, Phase.shrink)
        finally:
            print(machine.program, flush=True)
        raise
    print(f"{machine.steps_done} steps", flush=True)


def run(machine: type[Walk], seed: int, runs: int, length: int, *phases: Phase) -> None:
    """Once."""
    thoroughly = settings(
        phases=phases,
        max_examples=runs,
        stateful_step_count=length,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(with_seed(seed)(machine), settings=thoroughly)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["cheribsd", "open", "isolated"])
def test_a_machine_is_as_the_reference_says(policy: str) -> None:
    """Any steps of any processes: a hundred or more of them."""
    walk(policy=policy, seed=random.randrange(1 << 32), runs=4, length=50)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("policy", ["cheribsd", "open", "isolated"])
def test_a_machine_stays_as_the_reference_says(policy: str) -> None:
    """The same for ten thousand steps, in all three together."""
    walk_far(policy=policy, seed=random.randrange(1 << 32), runs=67, length=50)


if __name__ == "__main__":
    import sys

    compare(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else 50)
    os._exit(0)
