"""How a broker stops the processes of its machine for a pass: one name, one context manager.

Whichever is chosen, the gate is what makes a stop sound (native/gate.h), and it is closed first: a thread that is not
inside an operation cannot begin one, and one that is inside is waited for, whatever state its process is in. A process
that is stopped inside one is run out of it and stays stopped, where the kernel lets the broker trace it
(native/run_out.h).

    gate      nothing else: disturbs nobody
    signal    then a signal parks each thread that has touched a capability, in a handler of the core, until the gate
              opens (native/halt.h)
    sigstop   then SIGSTOP stops each process, and SIGCONT lets it go on. Their parents see them stop. One that was
              stopped before stays so; one that somebody else stops meanwhile goes on. If the broker dies amid a pass
              its guard lets them go on (capshm.broker.revocation.guard)

The last two are there to compare what they cost. Whom they do not halt within the timeout, because he keeps the signal
from himself or sleeps where nothing wakes him, the gate holds alone.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from capshm._native import ffi, lib
from capshm.broker.revocation.guard import Guard

NAMES = ("gate", "signal", "sigstop")

_MOST_STRAGGLERS = 256

Processes = Callable[[], Iterable[tuple[int, int]]]
"""Tells pid and pidfd of each process of the machine."""


class Incomplete(Exception):
    """Not everybody could be stopped in time; everybody goes on. processes: (pid, reason) of each that could not."""

    def __init__(self, processes: list[tuple[int, str]]) -> None:
        super().__init__(str(processes))
        self.processes = processes


class Stopper(Protocol):
    """Stops everybody, but for its own process."""

    def stopped(self) -> contextlib.AbstractContextManager[None]:
        """Inside, nobody touches a capability. Incomplete."""

    def close(self) -> None:
        """No more."""


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

    def close(self) -> None:
        """No more."""


class Signal(Gate):
    """The gate, and a signal to each thread. timeout: seconds for each of the two."""

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Inside, nobody touches a capability. Incomplete."""
        with super().stopped():
            lib.capshm_halt_by_signal(self._timeout)
            yield  # the opening of the gate wakes them


class SigStop(Gate):
    """The gate, and SIGSTOP. timeout: seconds for each of the two."""

    def __init__(self, timeout: float, processes: Processes) -> None:
        super().__init__(timeout)
        self._processes = processes
        self._guard = Guard()

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Inside, nobody touches a capability. Incomplete."""
        # Asked first: who is run out of an operation does not look stopped for a moment.
        running = [(pid, pidfd) for pid, pidfd in self._processes() if lib.capshm_is_running(pid)]
        with super().stopped(), self._halted([pid for pid, _ in running], [pidfd for _, pidfd in running]):
            yield

    @contextlib.contextmanager
    def _halted(self, pids: list[int], pidfds: list[int]) -> Iterator[None]:
        self._guard.watch(pidfds)
        try:
            lib.capshm_halt_by_sigstop(self._timeout, pidfds, pids, len(pids))
            yield
        finally:
            for pidfd in pidfds:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGCONT)
            self._guard.watch([])

    def close(self) -> None:
        """The guard ends."""
        self._guard.close()


def make(name: str, timeout: float, processes: Processes) -> Stopper:
    """The stopper of that name, one of `NAMES`."""
    if name == "signal":
        return Signal(timeout)
    return SigStop(timeout, processes) if name == "sigstop" else Gate(timeout)


def _reason(pid: int) -> str:
    return "inside an operation" if lib.capshm_is_running(pid) else "stopped inside an operation"
