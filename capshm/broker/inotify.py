"""Tells when an object's memory is gone: its last descriptor, mapping, and message in flight, in whichever process.

A watch on an unlinked inode fires IN_DELETE_SELF when the kernel drops it; the watch itself does not keep it alive. The
queue has a bound (fs.inotify.max_queued_events): after an overflow the watches that are still alive are read from
/proc/self/fdinfo, which misses none.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from capshm.errors import CapshmError

_IN_DELETE_SELF = 0x400
_IN_IGNORED = 0x8000
_IN_Q_OVERFLOW = 0x4000
_CHUNK = 64 << 10
_EVENT = struct.Struct("=iIII")

_libc = ctypes.CDLL(None, use_errno=True)  # Python has no binding; the broker emulates nobody, so ctypes may be here


class Watches:
    """The watches of one broker. fd: becomes readable when some of them have fired."""

    def __init__(self) -> None:
        self.fd: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise _refusal("max_user_instances")
        self._live: set[int] = set()

    def add(self, fd: int) -> int:
        """Watch the object of a descriptor; a number that `ended` returns once. CapshmError when all are in use."""
        watch: int = _libc.inotify_add_watch(self.fd, f"/proc/self/fd/{fd}".encode(), _IN_DELETE_SELF)
        if watch < 0:
            raise _refusal("max_user_watches")
        self._live.add(watch)
        return watch

    def ended(self) -> list[int]:
        """The watches that have fired since the last call."""
        fired: set[int] = set()
        has_overflowed = False
        for watch, mask in self._events():
            if mask & _IN_Q_OVERFLOW:
                has_overflowed = True
            elif mask & (_IN_DELETE_SELF | _IN_IGNORED):
                fired.add(watch)
        if has_overflowed:
            fired |= self._live - self._listed()
        fired &= self._live
        self._live -= fired
        return sorted(fired)

    def _events(self) -> Iterator[tuple[int, int]]:
        are_more = True
        while are_more:
            try:
                chunk = os.read(self.fd, _CHUNK)
            except BlockingIOError:
                return
            are_more = len(chunk) > _CHUNK // 2  # the kernel gives as many as have room
            offset = 0
            while offset < len(chunk):
                watch, mask, _, length = _EVENT.unpack_from(chunk, offset)
                yield watch, mask
                offset += _EVENT.size + length

    def _listed(self) -> set[int]:
        """The watches that the kernel still has."""
        with Path(f"/proc/self/fdinfo/{self.fd}").open(encoding="ascii") as lines:
            return {int(line.split()[1][3:], 16) for line in lines if line.startswith("inotify wd:")}

    def close(self) -> None:
        """Drop all."""
        os.close(self.fd)


def _refusal(limit: str) -> CapshmError:
    number = ctypes.get_errno()
    return CapshmError(
        f"the broker cannot watch for the end of objects: {os.strerror(number)}; the limits are fs.inotify.{limit} and "
        "the broker's descriptors"
    )
