"""The memory behind objects: data segments, sidebands, and when they end.

Only the broker creates them. POSIX and System V objects are files of the host's shared-memory file system, as
`shm_open` makes them there, but without a name from the first instant (O_TMPFILE): a kill at any moment leaves nothing,
and nobody can open one in passing. Everything else is a memfd.

An inode's mode is 0400, so that a process that has a read-only descriptor cannot reopen it for writing. That binds the
broker as well unless it is root; it therefore makes the read-write descriptors of an object that can be opened again
beforehand. It does not bind a process that changes the mode first: the inode is its user's own.

A sideband is two sparse memfds: tags (tag lines, and behind them twins and origins) and clear map, made when first
needed. It goes when the kernel says that the object is gone, and no earlier: an object may be unmapped everywhere and
yet lie in a socket's queue, with its tags. The broker itself holds no descriptor of an object without name, else it
would never end.

An object is known by device and inode, which are not used again while it is alive.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import resource
from collections.abc import Iterable, Iterator
from pathlib import Path

from capshm._native import lib
from capshm.broker.inotify import Watches
from capshm.model.pointer import round_up

Key = tuple[int, int]
"""st_dev, st_ino"""

_READ_ONLY = 0o400
_PLACES = ("/memfd:", "/dev/shm/")  # where objects are, as the links of /proc/PID/fd have it
_SPARE_OPENINGS = 16
_CLEARED_AT_ONCE = _READ_AT_ONCE = 1 << 20  # bytes


def raise_descriptor_limit() -> None:
    """As many descriptors as this machine lets a process have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def reopen(fd: int, flags: int) -> int:
    """A new description of the same file; PermissionError where the mode forbids it."""
    return os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)


def new_segment() -> int:
    """A descriptor of a new POSIX shared memory segment of 0 bytes that never has a name."""
    return os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)


def new_sealed(name: str, size: int) -> int:
    """A descriptor of a new memory file whose size nobody can change: whoever has it mapped would end by SIGBUS."""
    fd = new_memfd(name, size=size, allow_sealing=True)
    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except BaseException:
        os.close(fd)
        raise
    return fd


def new_memfd(name: str, *, size: int = 0, allow_sealing: bool = False) -> int:
    """A descriptor of a new memory file."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | (os.MFD_ALLOW_SEALING if allow_sealing else 0))
    try:
        os.ftruncate(fd, size)
    except BaseException:
        os.close(fd)
        raise
    return fd


class Sideband:
    """Tags and clear map of one object; sparse, sized for the largest object there can be."""

    def __init__(self, number: int) -> None:
        made: list[int] = []
        try:
            self.tags = new_sealed(f"capshm-tags-{number}", lib.ORIGINS_OFFSET + lib.OBJECT_SIZE_MAX // lib.ORIGIN_UNIT)
            made.append(self.tags)
            self.clear = new_sealed(f"capshm-clear-{number}", lib.OBJECT_SIZE_MAX // 128)
            made.append(self.clear)
            os.fchmod(self.tags, _READ_ONLY)
            os.fchmod(self.clear, _READ_ONLY)
        except BaseException:
            for fd in made:
                os.close(fd)
            raise

    def count_tags(self) -> int:
        """How many tag bits are set. What is written past capshm may have changed granules that still count."""
        count = 0
        for start, end in written(self.tags, lib.TWINS_OFFSET):
            words = memoryview(os.pread(self.tags, end - start, start)).cast("Q")
            count += sum(word.bit_count() for word in words[::2])  # a tag line is its tags, then its lock
        return count

    def clear_tags(self, start: int, end: int) -> None:
        """Take the tags of bytes away, before they change, by units of 128 bytes that lie in the range as a whole.

        It is done as a process does it that may not write tag lines (native/sideband.h): all bits of the clear map, a
        barrier, and after that the bytes.
        """
        start, end = -(-start // 128), end // 128  # a bit a granule
        for offset in range(start, end, _CLEARED_AT_ONCE):
            os.pwrite(self.clear, b"\xff" * min(_CLEARED_AT_ONCE, end - offset), offset)
        lib.capshm_barrier_everywhere()

    def close(self) -> None:
        """Drop it; processes that have it mapped keep their view."""
        for fd in (self.tags, self.clear):
            os.close(fd)


@functools.cache
def _may_reopen_anything() -> bool:
    """Whether the mode binds this process at all."""
    fd = os.memfd_create("capshm-probe", os.MFD_CLOEXEC)
    try:
        os.fchmod(fd, _READ_ONLY)
        os.close(reopen(fd, os.O_RDWR))
    except PermissionError:
        return False
    finally:
        os.close(fd)
    return True


def copy_bytes(source: int, target: int, start: int, end: int) -> None:
    """Copy this part of a file to the beginning of an empty one; holes stay holes."""
    for first, last in written(source, end, start):
        os.pwrite(target, os.pread(source, last - first, first), first - start)


def written(fd: int, end: int, start: int = 0) -> Iterator[tuple[int, int]]:
    """The parts of a sparse file from `start` to `end` that are no holes."""
    offset = start
    while offset < end:
        try:
            first = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole is left
            return
        offset = min(os.lseek(fd, first, os.SEEK_HOLE), end)
        for part in range(first, offset, _READ_AT_ONCE):
            yield part, min(part + _READ_AT_ONCE, offset)


class Kept:
    """The broker's own descriptors of an object that has a name or a System V identifier: more can be given out."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        # With its own offset each, as every open has; made now, because later only root may (the mode, see above).
        self._spares = [reopen(fd, os.O_RDWR) for _ in range(0 if _may_reopen_anything() else _SPARE_OPENINGS)]

    def open(self, *, is_writable: bool) -> int:
        """A descriptor to give away. When a machine that is not root's has used up an object's openings, later
        read-write descriptors share one file offset.
        """
        if not is_writable:
            return reopen(self._fd, os.O_RDONLY)
        if self._spares:
            return self._spares.pop()
        try:
            return reopen(self._fd, os.O_RDWR)
        except PermissionError:
            return os.dup(self._fd)

    def truncate(self, size: int) -> None:
        """Set the size of the data."""
        os.ftruncate(self._fd, size)

    def size(self) -> int:
        """Bytes of the data."""
        return os.fstat(self._fd).st_size

    def close(self) -> None:
        """Nobody can open it any more."""
        for fd in (self._fd, *self._spares):
            os.close(fd)


class Segments:
    """All memory of one machine; objects go by their numbers in the model."""

    def __init__(self) -> None:
        self.watches = Watches()
        self._numbers: dict[Key, int] = {}
        self._keys: dict[int, Key] = {}
        self._watched: dict[int, int] = {}  # watch: number
        self._watch_of: dict[int, int] = {}
        self._sidebands: dict[int, Sideband] = {}
        self._kept: dict[int, Kept] = {}

    def adopt(self, number: int, fd: int, *, has_name: bool = False) -> None:
        """Make the new file of `fd` known as object `number`, and watch for its end. fd stays the caller's."""
        key = key_of(fd)
        kept = Kept(reopen(fd, os.O_RDWR)) if has_name else None
        try:
            os.fchmod(fd, _READ_ONLY)
            self._watch(number, fd)
        except BaseException:
            if kept is not None:
                kept.close()
            raise
        if kept is not None:
            self._kept[number] = kept
        self._numbers[key] = number
        self._keys[number] = key

    def _watch(self, number: int, fd: int) -> None:
        watch = self.watches.add(fd)
        self._watched[watch] = number
        self._watch_of[number] = watch

    def number_of(self, fd: int) -> int | None:
        """The object that a descriptor is, if it is one of this machine's."""
        return self._numbers.get(key_of(fd))

    def sideband(self, number: int) -> Sideband:
        """The object's sideband, made now if there is none yet."""
        if number not in self._sidebands:
            self._sidebands[number] = Sideband(number)
        return self._sidebands[number]

    def made_sideband(self, number: int) -> Sideband | None:
        """The object's sideband; None if nobody has needed one, and it holds no tags."""
        return self._sidebands.get(number)

    def drop_sideband(self, number: int) -> None:
        """The object is gone; for those that nothing watches."""
        sideband = self._sidebands.pop(number, None)
        if sideband is not None:
            sideband.close()

    def count_tags(self, number: int) -> int:
        """How many granules of the object have their tag bit set."""
        sideband = self._sidebands.get(number)
        return 0 if sideband is None else sideband.count_tags()

    def sizes(self, pids: Iterable[int]) -> dict[int, int]:
        """The sizes of the objects that these processes hold descriptors of: the broker itself has none of most."""
        found: dict[int, int] = {}
        for pid in pids:
            with contextlib.suppress(OSError):  # it has ended, or may not be looked into
                for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                    with contextlib.suppress(OSError):
                        # Nothing else is looked at: what lies on a server that does not answer would keep the broker.
                        if not str(descriptor.readlink()).startswith(_PLACES):
                            continue
                        status = descriptor.stat()
                        number = self._numbers.get((status.st_dev, status.st_ino))
                        if number is not None:
                            found[number] = status.st_size
        return found

    def truncate(self, number: int) -> None:
        """Make an object with a name empty: its tags first, then its bytes."""
        kept = self._kept[number]
        self.clear_tags(number, 0, round_up(kept.size()))
        kept.truncate(0)

    def clear_tags(self, number: int, start: int, end: int) -> None:
        """Take the tags of bytes that are about to change; at the edges (`Sideband.clear_tags`) other bytes do that."""
        sideband = self._sidebands.get(number)
        if sideband is not None:
            sideband.clear_tags(start, end)

    def kept(self, number: int) -> Kept | None:
        """What opens an object that has a name."""
        return self._kept.get(number)

    def release(self, number: int) -> None:
        """The object has lost its name: from now on it lives as long as others hold it."""
        kept = self._kept.pop(number, None)
        if kept is not None:
            kept.close()

    def ended(self) -> list[int]:
        """The numbers of the objects that have ended since the last call; their sidebands are dropped."""
        numbers = []
        for watch in self.watches.ended():
            number = self._watched.pop(watch)
            del self._watch_of[number]
            key = self._keys.pop(number)
            if self._numbers.get(key) == number:  # unless a new file has got its inode number in the meantime
                del self._numbers[key]
            self.release(number)
            self.drop_sideband(number)
            numbers.append(number)
        return numbers

    def close(self) -> None:
        """Drop all descriptors."""
        for kept in self._kept.values():
            kept.close()
        for number in list(self._sidebands):
            self.drop_sideband(number)
        self.watches.close()


def key_of(fd: int) -> Key:
    """Device and inode."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino
