"""The processes of a cell: made, counted, waited for, and ended.

Each watches those that it has forked by pidfds; most crews are forked by the cell's first process alone. When one ends
otherwise than with status 0, nothing that the cell has counted means anything, and perhaps somebody waits for the dead:
so who has forked it kills the rest of its own and fails, and so on up to the cell. When a process dies, the kernel
kills its children.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Self

from capshm import client
from capshm._children import fork_to_run
from capshm._native import ffi, lib
from capshm.cheribsd.revoke import take_statistics
from capshm.errors import CapshmError

if TYPE_CHECKING:
    from types import TracebackType

    from capshm._native import CData

_COUNTED = ("operations", "crossed", "rederived", "refused", "forks")
_MET_BY_PASSES = ("pages", "tag_words", "tags", "cleared")


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


class _Child(NamedTuple):
    pid: int
    number: int
    name: str


class Crew:
    """A context manager; leaving it kills and reaps whoever still runs of those that the calling process has forked.

    most: how many processes may be forked. counts: what the calling process has done (struct driver_counts); each
    process has its own, in memory that all share. counted: the names of those that mean something in this cell; what
    passes have met always does.
    """

    def __init__(self, most: int) -> None:
        self._memory = mmap.mmap(-1, (1 + most) * ffi.sizeof("struct driver_counts"))
        self._all: CData = ffi.cast("struct driver_counts *", ffi.from_buffer(self._memory))
        self.most = most
        self.counted: Sequence[str] = _COUNTED
        self._running: dict[int, _Child] = {}  # by pidfd
        self.counts: CData = self._all

    def fork(self, body: Callable[[], object], *, number: int | None = None, name: str = "of the cell") -> None:
        """Have `body` run in a new process, which ends with it and with what it has forked itself.

        number: from 1 to `most`, that of its counts alone. It may be left out where only the first process forks. name:
        what follows "process 1234" where it fails. CellFailed: there have been as many as there may be. OSError: none
        was made, or none that could be watched, which was ended.
        """
        number = self.counts.forks + 1 if number is None else number
        if not 1 <= number <= self.most:
            raise CellFailed(f"this crew was made for {self.most:,} processes, and this would be number {number:,}")
        parent = os.getpid()

        def child() -> None:
            self._join(number)
            if not lib.driver_end_with(parent):
                raise CellFailed(f"process {parent} has ended before its child {os.getpid()} could begin")
            with self:
                body()
                self.wait()
                self.count_sweeps()

        pid = fork_to_run(child)
        try:
            self._running[os.pidfd_open(pid)] = _Child(pid, number, name)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        self.counts.forks += 1

    def _join(self, number: int) -> None:
        """In a new process: what it has inherited of its parent is not its own."""
        self.counts = self._all + number
        for pidfd in self._running:
            os.close(pidfd)
        self._running.clear()

    def wait(self, at_most: int = 0) -> None:
        """Return when no more than so many of this process's children run. CellFailed: one has not ended with 0."""
        while len(self._running) > at_most:
            self._reap_some()

    def wait_for(self, number: int) -> None:
        """Return when this child has ended. CellFailed: it, or another meanwhile, has not ended with status 0."""
        while any(child.number == number for child in self._running.values()):
            self._reap_some()

    def check(self) -> None:
        """Go on at once. CellFailed: one of this process's children has ended otherwise than with 0."""
        self._reap_some(timeout=0)

    def wait_for_readable(self, descriptor: int) -> None:
        """Return when there is something to be read from it. CellFailed: a child has not ended with status 0."""
        while descriptor not in self._reap_some(descriptor):
            pass

    def _reap_some(self, *others: int, timeout: int | None = None) -> list[int]:
        """Wait for an end, or for one of these descriptors, and return those."""
        watch = select.poll()
        for descriptor in (*self._running, *others):
            watch.register(descriptor, select.POLLIN)
        ready = [descriptor for descriptor, _ in watch.poll(timeout)]
        for pidfd in self._running.keys() & ready:
            child, status = self._reap(pidfd)
            if status:
                raise CellFailed(f"process {child.pid} {child.name} {ending(status)}; the others were ended too")
        return [descriptor for descriptor in ready if descriptor in others]

    def forget_sweeps(self) -> None:
        """What passes have met for this process until now is not counted."""
        if client.is_attached():
            take_statistics()

    def count_sweeps(self) -> None:
        """Add to this process's counts what passes have met for it since that, or since its fork.

        That is, in objects by the passes that it has asked for, and in its own memory by all.
        """
        if client.is_attached():
            met = take_statistics()
            self.counts.pages += met.pages_scan_rw + met.pages_scan_ro
            self.counts.tag_words += met.lines_scan
            self.counts.tags += met.caps_found
            self.counts.cleared += met.caps_cleared

    def total(self) -> dict[str, int]:
        """What all processes have counted together."""
        everyone = [self._all + number for number in range(1 + self.most)]
        names = (*self.counted, *_MET_BY_PASSES)
        return {name: sum(getattr(counts, name) for counts in everyone) for name in names}

    def checksum(self, first: int = 0, end: int | None = None) -> int:
        """The sum of the checksums of the processes from number `first` up to `end`; 0 is the one that began."""
        numbers = range(first, 1 + self.most if end is None else end)
        return sum(int((self._all + number).checksum) for number in numbers) % (1 << 64)

    def _reap(self, pidfd: int) -> tuple[_Child, int]:
        child = self._running.pop(pidfd)
        os.close(pidfd)
        return child, os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for child in self._running.values():
            os.kill(child.pid, signal.SIGKILL)
        for pidfd in list(self._running):
            self._reap(pidfd)
