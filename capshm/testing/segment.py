"""Tagged memory without a broker, and what is needed to stop and sweep it: for tests, benchmarks and first experiments.

A `Segment` is real shared memory with a sideband. Processes made by `os.fork` share it with their parent, tags
included; any other program may map its descriptor and sees plain bytes. All segments of a process and of the processes
forked from it belong to one gate, so one `closed_gate` stops them all.
"""

from __future__ import annotations

import bisect
import contextlib
import operator
import os
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import SupportsIndex

from capshm import encoding, errors, process
from capshm._native import ffi, lib
from capshm._status import fail
from capshm.capability import Capability, make
from capshm.permissions import Permissions

PAGE: int = lib.PAGE_BYTES
_LETTERS = {"r": lib.PAGE_READ, "w": lib.PAGE_WRITE, "R": lib.PAGE_LOAD_CAP, "W": lib.PAGE_STORE_CAP}
_KERNELS = {
    "automatic": lib.SWEEP_AUTOMATIC,
    "portable": lib.SWEEP_PORTABLE,
    "avx2": lib.SWEEP_AVX2,
    "avx512": lib.SWEEP_AVX512,
}
# What a program's data needs, without SW_VMEM: a capability that has it is out of a revocation's reach (cheribsd:2.3).
_ROOT_PERMISSIONS = (
    Permissions.GLOBAL
    | Permissions.LOAD
    | Permissions.STORE
    | Permissions.LOAD_CAP
    | Permissions.STORE_CAP
    | Permissions.STORE_LOCAL
)
_LARGEST = 16 << 30

_taken: list[tuple[int, int]] = []  # (first address, first address past the end) of the mappings in the arena, sorted


_arena_lock = threading.Lock()


def _new_arena_lock() -> None:
    global _arena_lock
    _arena_lock = threading.Lock()  # a thread of the parent may hold the copy


os.register_at_fork(after_in_child=_new_arena_lock)


def _round_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit


def _nanoseconds(what: str, seconds: float) -> int:
    if not 0 <= seconds <= 1e6:
        raise ValueError(f"{what} must be 0 to 1,000,000 seconds, not {seconds}")
    return int(seconds * 1e9)


def _take_arena(length: int, alignment: int) -> int:
    """The first free place of the arena, with a page left free behind it so that an overrun faults."""
    with _arena_lock:
        return _first_free(length, alignment)


def _first_free(length: int, alignment: int) -> int:
    candidate = _round_up(process.ARENA_BASE, alignment)
    for first, end in _taken:
        if candidate + length + PAGE <= first:
            break
        candidate = _round_up(max(candidate, end + PAGE), alignment)
    if candidate + length > process.ARENA_BASE + process.ARENA_SIZE:
        raise MemoryError(f"the arena of {process.ARENA_SIZE >> 30} GiB has no room for {length} bytes")
    bisect.insort(_taken, (candidate, candidate + length))
    return candidate


def _map_memory(address: int, length: int, fd: int, *, writable: bool) -> int:
    place = ffi.new("uint64_t *", address)
    if lib.capshm_map_memory(place, length, fd, 0, writable):
        raise OSError(ffi.errno, f"mmap of {length} bytes: {os.strerror(ffi.errno)}")
    return int(place[0])


def _memory_file(name: str, length: int) -> int:
    fd = os.memfd_create(f"capshm-{name}", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, length)
    except BaseException:
        os.close(fd)
        raise
    return fd


class Segment:
    """Shared memory of `size` bytes whose granules can hold capabilities.

    size: 1 to 16 GiB; the memory is padded to whole pages and to representable bounds. fd: an open descriptor to use
    for the data instead of a new memfd, at least so large; it stays the caller's. isa: "v9" or "rvy", for the whole
    process. lock_timeout: seconds that an operation waits for a living process that has stopped in the middle of a
    store, for the whole process.

    root: a capability over all of it. fd: of the data. Closing unmaps the memory in this process only; the memory
    itself is gone when every process has closed it or ended, however it ended. ValueError, TypeError and OSError leave
    nothing behind.
    """

    def __init__(
        self, size: SupportsIndex, *, fd: int | None = None, isa: str = "v9", lock_timeout: float = 1.0
    ) -> None:
        self._mappings: list[tuple[int, int, list[tuple[int, int]]]] = []
        self._sideband: list[int] = []
        self._owns_fd = False
        self.fd = -1
        size = operator.index(size)
        if not 0 < size <= _LARGEST:
            raise ValueError(f"a segment has 1 to {_LARGEST} bytes, not {size}")
        if isa not in ("v9", "rvy"):
            raise ValueError(f"isa must be 'v9' or 'rvy', not {isa!r}")
        lock_nanoseconds = _nanoseconds("lock_timeout", lock_timeout)
        self.size = size
        self.length = _round_up(encoding.representable_length(_round_up(size, PAGE)), PAGE)
        if fd is not None and not -(1 << 31) <= operator.index(fd) < 1 << 31:
            raise ValueError(f"a descriptor is a small number, not {fd}")
        if fd is not None and os.fstat(fd).st_size < size:
            raise ValueError(f"descriptor {fd} has {os.fstat(fd).st_size} bytes, fewer than {size}")
        process.ensure_alone()
        lib.capshm_set_isa(isa == "rvy")
        lib.capshm_set_lock_timeout(lock_nanoseconds)
        self._object = lib.capshm_new_object()
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self._owns_fd = fd is None
            self.fd = _memory_file("data", self.length) if fd is None else fd
            # Tag lines, then twins, in one file; the clear map in another, which processes without capability
            # permission get.
            self._lines_length = _round_up(self.length // 64, PAGE)
            self._sideband.append(_memory_file("tags", self._lines_length + self.length))
            self._sideband.append(_memory_file("clear", _round_up(self.length // 128, PAGE)))
            self.root = self.map(_is_exclusive=True)
            undo.pop_all()

    def map(self, permissions: str = "rwRW", *, _is_exclusive: bool = False) -> Capability:
        """Map the memory once more and return a capability over it: an alias with its own page permissions.

        permissions: procstat's letters, "r" among them: r and w data, R and W capabilities. Without R and W the mapping
        cannot reach tags at all; without W it maps them read-only. Tags belong to the memory, permissions to the
        mapping.
        """
        if self.fd < 0:
            raise ValueError("the segment is closed")
        bits = 0
        for letter in permissions:
            if letter not in _LETTERS:
                raise ValueError(f"permissions are letters out of 'rwRW', not {permissions!r}")
            bits |= _LETTERS[letter]
        if "r" not in permissions or ("W" in permissions and "w" not in permissions):
            raise ValueError(f"permissions need 'r', and 'w' beside 'W': {permissions!r} cannot be mapped")
        sideband: list[tuple[int, int]] = []
        tags, clear = self._sideband
        alignment = max(PAGE, (1 << 64) - encoding.representable_mask(self.length))
        address = _take_arena(self.length, alignment)
        self._mappings.append((address, self.length, sideband))
        process.count_segment(1)
        _map_memory(address, self.length, self.fd, writable="w" in permissions)
        mapping = ffi.new("struct capshm_mapping *")
        mapping.address = address
        mapping.length = self.length
        mapping.object = self._object
        mapping.permissions = bits
        mapping.is_exclusive = _is_exclusive
        clear_length = _round_up(self.length // 128, PAGE)
        mapping.clear = _map_memory(0, clear_length, clear, writable=True)
        sideband.append((mapping.clear, clear_length))
        if bits & (lib.PAGE_LOAD_CAP | lib.PAGE_STORE_CAP):
            length = self._lines_length + self.length
            mapping.is_lines_writable = bool(bits & lib.PAGE_STORE_CAP)
            mapping.lines = _map_memory(0, length, tags, writable=mapping.is_lines_writable)
            mapping.twins = mapping.lines + self._lines_length
            sideband.append((mapping.lines, length))
        status = lib.capshm_map(mapping)
        if status:
            fail(status, "map a segment")
        return make(address, lib.METADATA_ROOT, tag=True).with_bounds(self.length).with_permissions(_ROOT_PERMISSIONS)

    def sweep(self, *, kernel: str = "automatic") -> SweepCounts:
        """Clear the tags that the shadow revokes; the gate must be closed by the calling thread (`closed_gate`).

        kernel: "automatic", "portable", "avx2" or "avx512". ValueError if this machine lacks it.
        """
        if kernel not in _KERNELS or not lib.sweep_kernel_is_available(_KERNELS[kernel]):
            available = [name for name, number in _KERNELS.items() if lib.sweep_kernel_is_available(number)]
            raise ValueError(f"kernel must be one of {available} on this machine, not {kernel!r}")
        if not lib.capshm_gate_is_mine():
            raise errors.CapshmError("a sweep needs the gate closed by the calling thread: with closed_gate(): ...")
        for address, length, sideband in self._mappings:
            if len(sideband) == 2:
                counts = ffi.new("struct sweep_counts *")
                status = lib.capshm_sweep_memory(address, length, _KERNELS[kernel], counts)
                if status:
                    fail(status, "sweep a segment")
                return SweepCounts(counts.lines, counts.found, counts.cleared)
        raise ValueError("the segment is closed")

    def close(self) -> None:
        """Unmap it in this process and close its descriptors. Capabilities to it then fault with `PageViolation`."""
        while self._mappings:
            address, length, sideband = self._mappings.pop()
            lib.capshm_unmap(address, length)
            lib.capshm_unmap_memory(address, length)
            for place, extent in sideband:
                lib.capshm_unmap_memory(place, extent)
            _taken.remove((address, address + length))
            process.count_segment(-1)
        while self._sideband:
            os.close(self._sideband.pop())
        fd, self.fd = self.fd, -1
        if self._owns_fd and fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        if getattr(self, "_mappings", None):  # none, too, if the arguments were refused
            warnings.warn(
                f"a segment of {self.size} bytes was never closed", ResourceWarning, source=self, stacklevel=1
            )
            self.close()

    def __enter__(self) -> Segment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class SweepCounts:
    """What a sweep did: tag lines (1 KiB of data each) visited, tagged capabilities found, tags cleared."""

    lines: int
    found: int
    cleared: int


class Shadow:
    """The revocation bitmap over the arena, one bit a granule, shared by all processes of the gate (cheribsd:2.3)."""

    def paint(self, capability: Capability) -> None:
        """Paint every granule of the capability's bounds; the tag is not looked at.

        BoundsViolation outside the arena.
        """
        self._set(capability, True)

    def clear(self, capability: Capability) -> None:
        """The reverse."""
        self._set(capability, False)

    def is_painted(self, address: SupportsIndex) -> bool:
        """Whether the granule of this address is painted."""
        return bool(lib.capshm_is_painted(operator.index(address) % (1 << 64)))

    @staticmethod
    def _set(capability: Capability, is_painted: bool) -> None:
        if not isinstance(capability, Capability):
            raise TypeError(f"a Capability is needed, not {type(capability).__name__}")
        status = lib.capshm_paint(capability._register, is_painted)
        if status:
            fail(status, "paint" if is_painted else "clear paint", capability)


@contextlib.contextmanager
def closed_gate(*, timeout: float = 1.0, new_epoch: bool = True) -> Iterator[None]:
    """Stop the world: inside, no thread of any process of the gate touches a capability, and none is interrupted.

    With a new epoch, the default, every process sweeps its registers before its next operation after the gate opens;
    what is painted must stay painted until all of them have come by.
    Capability operations of the calling thread are refused inside (`CapshmError`), but for the sweeps.
    RevocationIncomplete: somebody stayed inside an operation for `timeout` seconds; the gate is open again.
    """
    nanoseconds = _nanoseconds("timeout", timeout)
    is_new_epoch = bool(new_epoch)  # whatever it is, it must not fail when the gate is to be opened
    process.ensure_attached()
    count = ffi.new("size_t *")
    stragglers = ffi.new("int32_t[]", 256)
    was_mine = lib.capshm_gate_is_mine()
    try:  # from here on: an interrupt may come as soon as the gate is closed
        status = lib.capshm_gate_close(nanoseconds, stragglers, len(stragglers), count)
        if status == lib.STATUS_INCOMPLETE:
            pids = sorted(set(stragglers[0 : min(count[0], len(stragglers))]))
            raise errors.RevocationIncomplete(
                f"process {os.getpid()} could not stop {len(pids)} process(es) within {timeout} s: {pids}",
                processes=[(pid, "inside an operation") for pid in pids],
            )
        if status:
            fail(status, "close the gate")
        yield
    finally:
        if not was_mine:
            lib.capshm_gate_open(is_new_epoch)  # nothing, unless this thread has closed it


def sweep_registers() -> SweepCounts:
    """Clear the tags in this process's registers that the shadow revokes, as `Segment.sweep` does in memory.

    The gate must be closed by the calling thread.
    """
    counts = ffi.new("struct sweep_counts *")
    if lib.capshm_sweep_registers(counts):
        raise errors.CapshmError("a sweep needs the gate closed by the calling thread: with closed_gate(): ...")
    return SweepCounts(0, counts.found, counts.cleared)
