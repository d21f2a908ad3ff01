"""What tests of malloc share."""

import os

from capshm import Machine

LARGE = (32 << 10) + 1  # bytes: the smallest allocation that is a mapping of its own


def reuse_at_once() -> None:
    """Have no quarantine in this process, whatever the machine can do."""
    os.environ["_RUNTIME_REVOCATION_DISABLE"] = ""


def own_mappings(machine: Machine) -> int:
    """How many mappings this process has."""
    return len(machine.mappings(os.getpid()))
