"""Where histories are kept: records that processes write into shared memory at once, and that survive their deaths.

The records lie in a memfd that every process has mapped, in blocks that belong to one thread each, so nobody waits for
anybody and a death costs no one anything but the end of the operation that it interrupted. Blocks are handed out by the
kernel: a process opens a second memfd anew, appends one byte, and the position where that byte went is the number of a
block that nobody else gets. (A counter in shared memory would need an atomic addition, which Python does not have; a
lock would have to survive its holder's death.) A process is named by the number of its first block, which its parent
takes for it before the fork: so a fork is known to both sides though either may die at once.
"""

from __future__ import annotations

import mmap
import operator
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import SupportsIndex

from capshm.errors import CapshmError, NotAttached
from capshm.testing.operations import (
    RECORD,
    Kind,
    Operation,
    Result,
    Value,
    in_order,
    read_records,
    write_begin,
    write_end,
)

_BLOCK = 256  # records
_LARGEST = 1 << 28

_recorders: weakref.WeakSet[Recorder] = weakref.WeakSet()
_now = time.monotonic_ns


_LONGEST = (1 << 64) - 1


class HistoryFull(CapshmError):
    """There is no room for another operation; it was not carried out."""


class _Place(threading.local):
    """Where a thread writes next; a thread that is new, also in a child, has no place yet."""

    pid = 0
    next = 0
    end = 0


class Recorder:
    """Room for `capacity` records, shared with all processes that are forked from this one.

    HistoryFull: there is no room, nothing was recorded. NotAttached: this process was forked by code that ran no hooks.
    """

    def __init__(self, capacity: SupportsIndex) -> None:
        self._fd = self._cursor = -1
        capacity = operator.index(capacity)
        if not 0 < capacity <= _LARGEST:
            raise ValueError(f"a history holds 1 to {_LARGEST} operations, not {capacity}")
        self._blocks = -(-capacity // _BLOCK)
        self._fd = os.memfd_create("capshm-history", os.MFD_CLOEXEC)
        try:
            self._cursor = os.memfd_create("capshm-history-blocks", os.MFD_CLOEXEC)
            os.ftruncate(self._fd, self._blocks * _BLOCK * RECORD)
            self._memory = memoryview(mmap.mmap(self._fd, self._blocks * _BLOCK * RECORD))
        except BaseException:
            self._close_descriptors()
            raise
        self._here = _Place()
        self._child: tuple[int, int] | None = None  # number of the next child, and its record in the parent
        self._pid = os.getpid()
        self._process = self._take_block()
        self._settle(self._process)
        _recorders.add(self)

    def begin(
        self,
        kind: Kind,
        place: int = 0,
        length: int = 0,
        *,
        object_number: int = 0,
        child: int = 0,
        authority: Value | None = None,
        value: Value | None = None,
    ) -> int:
        """Write the first part of a record, stamped now; a handle for `end`."""
        here = self._here
        pid = os.getpid()
        if here.pid != pid or here.next == here.end:
            self._find_place(pid)
        at = here.next * RECORD
        here.next += 1
        who = self._process, pid
        length = min(length, _LONGEST)  # the whole address space is one byte longer than a word can say
        write_begin(self._memory, at, kind, who, _now(), place, length, object_number, child, authority, value)
        return at

    def end(
        self,
        at: int,
        *,
        stamp: int | None = None,
        result: Result = Result.DONE,
        value: Value | None = None,
        error: str = "",
    ) -> None:
        """Write the second part of a record, stamped now if `stamp` says nothing else."""
        write_end(self._memory, at, _now() if stamp is None else stamp, result, value, error)

    def operations(self) -> list[Operation]:
        """All that was recorded up to now by any process, ordered by when it began.

        What others are doing meanwhile appears as maybe done. A process that was killed in a record's first part has
        not begun the operation, and there is nothing of it. ValueError after `close`.
        """
        self._check_open()
        claimed = min(os.fstat(self._cursor).st_size, self._blocks)
        return in_order(read_records(self._memory, 0, claimed * _BLOCK))

    def close(self) -> None:
        """Unmap it in this process; it is gone when the last process has closed it or ended."""
        _recorders.discard(self)
        self._here = _Place()  # nobody has a place any more
        self._memory.release()  # the mapping goes with it
        self._close_descriptors()

    # Places

    def _find_place(self, pid: int) -> None:
        self._check_open()
        if pid != self._pid:
            raise NotAttached(f"process {pid} was forked by code that ran no hooks, or the history was full: no record")
        self._settle(self._take_block())

    def _settle(self, block: int) -> None:
        here = self._here
        here.pid, here.next, here.end = self._pid, block * _BLOCK, (block + 1) * _BLOCK

    def _take_block(self) -> int:
        # A position belongs to an open file, and forked processes share those: so a new one each time.
        own = os.open(f"/proc/self/fd/{self._cursor}", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            if os.fstat(own).st_size < self._blocks:
                os.write(own, b"!")
                block = os.lseek(own, 0, os.SEEK_CUR) - 1
                if block < self._blocks:
                    return block
        finally:
            os.close(own)
        raise HistoryFull(f"process {os.getpid()}: all {self._blocks} blocks of {_BLOCK} operations are taken")

    def _check_open(self) -> None:
        if self._fd < 0:
            raise ValueError("the history is closed")

    def _close_descriptors(self) -> None:
        for fd in (self._fd, self._cursor):
            if fd >= 0:
                os.close(fd)
        self._fd = self._cursor = -1

    # Forking

    def _before_fork(self) -> None:
        self._child = None
        child = self._take_block()
        self._child = child, self.begin(Kind.FORK, child=child)

    def _after_in_parent(self) -> None:
        if self._child is not None:
            self.end(self._child[1])

    def _after_in_child(self) -> None:
        if self._child is not None:
            self._process, self._pid = self._child[0], os.getpid()
            self._settle(self._process)


def _each(method: Callable[[Recorder], None]) -> Callable[[], None]:
    def hook() -> None:
        for recorder in list(_recorders):
            method(recorder)

    return hook


os.register_at_fork(
    before=_each(Recorder._before_fork),
    after_in_parent=_each(Recorder._after_in_parent),
    after_in_child=_each(Recorder._after_in_child),
)
