"""The processes of a cell: made, counted, waited for, and ended.

The cell's first process watches the others by pidfds. When one ends by itself, and not with status 0, nothing that the
cell has counted means anything, and perhaps somebody waits for the dead: so the crew kills the rest and the cell fails.
When the first process dies, the kernel kills its children.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from capshm._native import ffi, lib
from capshm.errors import CapshmError
from capshm.testing.children import fork_to_run

if TYPE_CHECKING:
    from types import TracebackType

    from capshm._native import CData

_COUNTED = ("operations", "crossed", "rederived", "refused")


class CellFailed(CapshmError):
    """A cell has come to no result: what it has counted and measured is void."""


def ending(status: int) -> str:
    """How a process has ended, from its status or the negative number of the signal that ended it."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal: only the first and the last have names
        return f"was ended by signal {-status}"


class Crew:
    """A context manager; leaving it kills and reaps whoever still runs.

    most: how many processes may be forked. counts: what the calling process has done (struct driver_counts); each
    process has its own, in memory that all share.
    """

    def __init__(self, most: int) -> None:
        self._memory = mmap.mmap(-1, (1 + most) * ffi.sizeof("struct driver_counts"))
        self._all: CData = ffi.cast("struct driver_counts *", ffi.from_buffer(self._memory))
        self.most = most
        self._pidfds: dict[int, int] = {}  # pid by descriptor
        self.counts: CData = self._all
        self.forks = 0

    def fork(self, body: Callable[[], object]) -> None:
        """Have `body` run in a new process, which ends with it. CellFailed: there have been as many as there may be."""
        if self.forks == self.most:
            raise CellFailed(f"this crew was made for {self.most} processes")
        self.forks += 1
        counts, parent = self._all + self.forks, os.getpid()

        def child() -> None:
            self.counts = counts
            if not lib.driver_end_with(parent):
                raise CellFailed(f"process {parent} has ended before its child {os.getpid()} could begin")
            body()

        pid = fork_to_run(child)
        self._pidfds[os.pidfd_open(pid)] = pid

    def wait(self, at_most: int = 0) -> None:
        """Return when no more than so many processes run. CellFailed: one has not ended with status 0."""
        while len(self._pidfds) > at_most:
            watch = select.poll()
            for pidfd in self._pidfds:
                watch.register(pidfd, select.POLLIN)
            for pidfd, _ in watch.poll():
                pid, status = self._reap(pidfd)
                if status:
                    raise CellFailed(f"process {pid} of the cell {ending(status)}; the others were ended too")

    def total(self) -> dict[str, int]:
        """What all processes have counted together."""
        everyone = [self._all + number for number in range(1 + self.forks)]
        return {name: sum(getattr(counts, name) for counts in everyone) for name in _COUNTED} | {"forks": self.forks}

    def checksum(self, first: int = 0, end: int | None = None) -> int:
        """The sum of the checksums of the processes from number `first` up to `end`; 0 is the one that forks."""
        numbers = range(first, 1 + self.forks if end is None else end)
        return sum(int((self._all + number).checksum) for number in numbers) % (1 << 64)

    def _reap(self, pidfd: int) -> tuple[int, int]:
        pid = self._pidfds.pop(pidfd)
        os.close(pidfd)
        return pid, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for pid in self._pidfds.values():
            os.kill(pid, signal.SIGKILL)
        for pidfd in list(self._pidfds):
            self._reap(pidfd)
