"""What measured figures depend on beside the program: the machine, its kernel, and the versions of what ran."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

import msgspec

import capshm


class Facts(msgspec.Struct, frozen=True):
    """machine: the processor's name. processors: how many this process may use. time: when, in UTC. node: which one."""

    capshm: str
    core: str
    python: str
    machine: str
    kernel: str
    processors: int
    time: str
    node: str = ""

    def differences(self, other: Facts) -> list[str]:
        """What makes figures of both incomparable: "kernel 6.1 and 6.18". When they are from, and which of several
        like machines they are, does not."""
        found = []
        for name in ("capshm", "core", "python", "machine", "kernel", "processors"):
            own, theirs = getattr(self, name), getattr(other, name)
            if own != theirs:
                found.append(f"{name} {own} and {theirs}")
        return found


def gather() -> Facts:
    """Of this machine, now."""
    return Facts(
        capshm=capshm.__version__,
        core=os.environ.get("CAPSHM_CORE") or "release",
        python=platform.python_version(),
        machine=_processor(),
        kernel=platform.release(),
        processors=len(os.sched_getaffinity(0)),
        time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        node=platform.node(),
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
