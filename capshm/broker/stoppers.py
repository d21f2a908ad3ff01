"""How a broker stops the processes of its machine for a pass: one name, one context manager.

Whichever is chosen, the gate is what makes a stop sound (native/gate.h): a thread that is not inside an operation
cannot begin one, and one that is inside is waited for, whatever state its process is in. `gate` needs nothing else, and
disturbs nobody.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from capshm._native import ffi, lib

_MOST_STRAGGLERS = 256


class Incomplete(Exception):
    """Not everybody could be stopped in time; everybody goes on. processes: (pid, reason) of each that could not."""

    def __init__(self, processes: list[tuple[int, str]]) -> None:
        super().__init__(str(processes))
        self.processes = processes


class Gate:
    """Closes the gate of which this process is the keeper. timeout: seconds."""

    name = "gate"

    def __init__(self, timeout: float) -> None:
        self._timeout = int(timeout * 1e9)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Inside, nobody touches a capability. Incomplete."""
        count = ffi.new("size_t *")
        pids = ffi.new("int32_t[]", _MOST_STRAGGLERS)
        if lib.capshm_gate_close(self._timeout, pids, _MOST_STRAGGLERS, count):
            raise Incomplete([(pid, _reason(pid)) for pid in sorted(set(pids[0 : min(count[0], _MOST_STRAGGLERS)]))])
        try:
            yield
        finally:
            lib.capshm_gate_open(False)


def _reason(pid: int) -> str:
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        state = b"?"
    return "stopped inside an operation" if state in (b"T", b"t") else "inside an operation"
