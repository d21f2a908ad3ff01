"""How a broker stops the processes of its machine for a pass: one name, one context manager.

Whichever is chosen, the gate is what makes a stop sound (native/gate.h): a thread that is not inside an operation
cannot begin one, and one that is inside is waited for, whatever state its process is in.

    gate      nothing else: disturbs nobody
    sigstop   before that every process is stopped by SIGSTOP, and goes on by SIGCONT afterwards, also if the pass could
              not be made: to compare what that costs. Who is stopped inside an operation is let go on until it is
              outside. Their parents see them stop; one that was stopped before stays so. If the broker dies amid a
              pass, its machine's creator ends them all.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from capshm._native import ffi, lib

_MOST_STRAGGLERS = 256


class Incomplete(Exception):
    """Not everybody could be stopped in time; everybody goes on. processes: (pid, reason) of each that could not."""

    def __init__(self, processes: list[tuple[int, str]]) -> None:
        super().__init__(str(processes))
        self.processes = processes


class Stopper(Protocol):
    """Stops everybody, but for its own process."""

    def stopped(self) -> contextlib.AbstractContextManager[None]:
        """Inside, nobody touches a capability. Incomplete."""


class Gate:
    """Closes the gate of which this process is the keeper. timeout: seconds."""

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


class SigStop:
    """SIGSTOP, and the gate. pids: tells the processes of the machine; timeout: seconds for each of the two."""

    def __init__(self, timeout: float, pids: Callable[[], Iterable[int]]) -> None:
        self._timeout = timeout
        self._pids = pids

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Inside, everybody is stopped. Incomplete: one that was stopped before, or does not leave its operation."""
        with contextlib.ExitStack() as undo:
            pidfds = []
            for pid in self._pids():
                with contextlib.suppress(ProcessLookupError):
                    if _state(pid) not in _STOPPED:
                        pidfds.append((pid, os.pidfd_open(pid)))
                        undo.callback(os.close, pidfds[-1][1])
                        _send(pidfds[-1][1], signal.SIGSTOP)
                        undo.callback(_send, pidfds[-1][1], signal.SIGCONT)
            deadline = time.monotonic() + self._timeout
            for pid, _ in pidfds:
                while _state(pid) not in (*_STOPPED, *_ENDED) and time.monotonic() < deadline:
                    os.sched_yield()
            while True:
                try:
                    undo.enter_context(Gate(0).stopped())
                    break
                except Incomplete as incomplete:
                    inside = {pid for pid, _ in incomplete.processes}
                    for pid, pidfd in pidfds:
                        if pid in inside:
                            _send(pidfd, signal.SIGCONT)
                    if time.monotonic() >= deadline:
                        raise
            yield


_STOPPED = ("T", "t")
_ENDED = ("Z", "X", "")


def _send(pidfd: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)


def _state(pid: int) -> str:
    """The letter of a process's state as /proc has it; "" of one that has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0].decode()
    except (OSError, IndexError):
        return ""


def _reason(pid: int) -> str:
    return "stopped inside an operation" if _state(pid) in _STOPPED else "inside an operation"
