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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat
from types import TracebackType
from typing import TYPE_CHECKING, SupportsFloat, SupportsIndex

from capshm import encoding, errors, process
from capshm._native import ffi, lib
from capshm._status import fail
from capshm.capability import Capability, make
from capshm.model.constants import ARENA_SIZE, ARENA_START
from capshm.permissions import Permissions

if TYPE_CHECKING:
    from capshm._native import CData

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

# Whoever makes, maps or closes a segment holds the lock. The garbage collector may close one in the middle of that, in
# the same thread. A fork holds it too, so that no child finds half a change, and takes it before the core's own lock.
_lock = threading.RLock()
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)

_taken: list[tuple[int, int]] = []  # places in the arena: first address, first address behind; sorted
_next = ARENA_START  # where the last mapping ended
_isa = "v9"


def _round_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit


def _nanoseconds(what: str, seconds: SupportsFloat) -> int:
    if not hasattr(seconds, "__float__"):
        raise TypeError(f"{what} must be a number of seconds, not {type(seconds).__name__}")
    try:
        number = float(seconds)
    except OverflowError:  # an int that is larger than all of them
        number = -1.0
    if not 0 <= number <= 1e6:
        raise ValueError(f"{what} must be 0 to 1,000,000 seconds, not {seconds}")
    return int(number * 1e9)


def _take_place(mapping: CData, alignment: int) -> None:
    """Give the mapping the next free place of the arena after the one that was taken last, and a page for overruns.

    Round the arena, so that capabilities to what was closed fault for long before something else lies there.
    """
    global _next
    length = mapping.length + PAGE
    for begin in (_next, ARENA_START):
        place = _round_up(begin, alignment)
        for first, end in tuple(_taken):
            if place < end and first < place + length:
                place = _round_up(end, alignment)
        if place + length <= ARENA_START + ARENA_SIZE:
            mapping.address = place  # first: what undoes it looks here
            bisect.insort(_taken, (place, place + length))
            process.count_segment(1)
            _next = place + length
            return
    raise MemoryError(f"the arena of {ARENA_SIZE >> 30} GiB has no room for {length} bytes")


def _map_memory(place: CData, length: int, fd: int, *, writable: bool) -> None:
    """Map a descriptor at *place, or anywhere if that is 0, and put the address there."""
    if lib.capshm_map_memory(place, length, fd, 0, writable):
        raise OSError(ffi.errno, f"mmap of {length} bytes: {os.strerror(ffi.errno)}")


class Segment:
    """Shared memory of `size` bytes whose granules can hold capabilities.

    size: 1 to 16 GiB; the memory is padded to whole pages and to representable bounds. fd: an open descriptor to use
    for the data instead of a new memfd, at least so large; it stays the caller's. Tags belong to the segment and the
    processes forked after it was made: two segments over the same descriptor share the bytes, but each has tags of its
    own, and takes what the other stores for plain bytes.

    isa, lock_timeout: of the whole process; None leaves them as they are, at first "v9" and 1 second. isa: "v9" or
    "rvy"; it cannot change while the process has a segment (ValueError). lock_timeout: seconds that an operation waits
    for a living process that has stopped in the middle of a store.

    root: a capability over all of it. fd: of the data. Closing unmaps the memory in this process only; the memory
    itself is gone when every process has closed it or ended, however it ended. Capabilities outlive it: they fault
    until a later mapping of this process lies at their address, which takes once round the arena of 64 GiB.

    May be used from several threads. ValueError, TypeError, OSError, MemoryError (no place left in the arena), and
    whatever interrupts the making, leave nothing behind.
    """

    def __init__(
        self,
        size: SupportsIndex,
        *,
        fd: int | None = None,
        isa: str | None = None,
        lock_timeout: SupportsFloat | None = None,
    ) -> None:
        self._mappings: list[CData] = []  # struct capshm_mapping; an address of 0: not mapped yet, or not at all
        self._descriptors: list[int] = []  # of tags, clear map, data; those that are its own
        self.fd = -1
        self.size = size = operator.index(size)
        if not 0 < size <= _LARGEST:
            raise ValueError(f"a segment has 1 to {_LARGEST} bytes, not {size}")
        if isa not in (None, "v9", "rvy"):
            raise ValueError(f"isa must be 'v9' or 'rvy', not {isa!r}")
        lock_nanoseconds = None if lock_timeout is None else _nanoseconds("lock_timeout", lock_timeout)
        if fd is not None and not -(1 << 31) <= operator.index(fd) < 1 << 31:
            raise ValueError(f"a descriptor is a small number, not {fd}")
        if fd is not None and os.fstat(fd).st_size < size:
            raise ValueError(f"descriptor {fd} has {os.fstat(fd).st_size} bytes, fewer than {size}")
        self.length = _round_up(encoding.representable_length(_round_up(size, PAGE)), PAGE)
        self._clear_length = _round_up(self.length // 128, PAGE)
        self._lines_length = _round_up(self.length // 64, PAGE)
        process.ensure_alone()
        with _lock, contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self._set_isa(isa)
            self._object = lib.capshm_new_object()
            if not self._object:
                raise MemoryError(f"process {os.getpid()} and those it shares a gate with have made 2**24 - 1 segments")
            # Tag lines, then twins, in one file; the clear map in another, which processes without capability
            # permission get.
            lengths = {"tags": self._lines_length + self.length, "clear": self._clear_length}
            if fd is None:
                lengths["data"] = self.length
            names = [f"capshm-{name}" for name in lengths]
            # In one go, within which no signal handler runs: each is either not there or in the list.
            self._descriptors.extend(map(os.memfd_create, names, repeat(os.MFD_CLOEXEC)))
            for descriptor, length in zip(self._descriptors, lengths.values(), strict=True):
                os.ftruncate(descriptor, length)
            self.fd = self._descriptors[-1] if fd is None else fd
            self.root = self._map(_LETTERS.values(), is_exclusive=True)
            if lock_nanoseconds is not None:
                lib.capshm_set_lock_timeout(lock_nanoseconds)
            undo.pop_all()

    @staticmethod
    def _set_isa(isa: str | None) -> None:
        global _isa
        if isa is None or isa == _isa:
            return
        if _taken:
            raise ValueError(f"isa is of the whole process: {isa!r} needs all segments of {_isa!r} closed before")
        lib.capshm_set_isa(isa == "rvy")
        _isa = isa

    def map(self, permissions: str = "rwRW") -> Capability:
        """Map the memory once more and return a capability over it: an alias with its own page permissions.

        permissions: letters for the page, "r" among them: r and w, data may be read and written; R and W, capabilities
        may be loaded and stored with their tags. Without R and W the mapping cannot reach tags at all; without W it
        maps them read-only. Tags belong to the memory, page permissions to the mapping. Both must allow an access: the
        page, and the pointer, whose own permissions (`Capability.permissions`) have the same letters in its text; the
        one that is returned has all of them, whatever the page allows.

        ValueError if the segment is closed, or the letters cannot be mapped; OSError and MemoryError leave nothing.
        """
        if not isinstance(permissions, str):
            raise TypeError(f"permissions are a string of letters out of 'rwRW', not {type(permissions).__name__}")
        if not set(permissions) <= set(_LETTERS):
            raise ValueError(f"permissions are letters out of 'rwRW', not {permissions!r}")
        if "r" not in permissions or ("W" in permissions and "w" not in permissions):
            raise ValueError(f"permissions need 'r', and 'w' beside 'W': {permissions!r} cannot be mapped")
        with _lock:
            if self.fd < 0:
                raise ValueError("the segment is closed")
            return self._map({_LETTERS[letter] for letter in permissions}, is_exclusive=False)

    def _map(self, permissions: Iterable[int], *, is_exclusive: bool) -> Capability:
        """is_exclusive: nobody else can have stored anything yet."""
        mapping = ffi.new("struct capshm_mapping *")
        mapping.length = self.length
        mapping.object = self._object
        mapping.permissions = bits = sum(permissions)
        mapping.is_lines_writable = bool(bits & lib.PAGE_STORE_CAP)
        mapping.is_exclusive = is_exclusive
        tags, clear, *_ = self._descriptors
        with contextlib.ExitStack() as undo:
            self._mappings.append(mapping)
            process.count_segment(1)
            undo.callback(self._unmap, mapping)
            _take_place(mapping, max(PAGE, (1 << 64) - encoding.representable_mask(self.length)))
            _map_memory(ffi.addressof(mapping, "address"), self.length, self.fd, writable=bool(bits & lib.PAGE_WRITE))
            _map_memory(ffi.addressof(mapping, "clear"), self._clear_length, clear, writable=True)
            if bits & (lib.PAGE_LOAD_CAP | lib.PAGE_STORE_CAP):
                length = self._lines_length + self.length
                _map_memory(ffi.addressof(mapping, "lines"), length, tags, writable=mapping.is_lines_writable)
                mapping.twins = mapping.lines + self._lines_length
            status = lib.capshm_map(mapping)
            if status:
                fail(status, "map a segment")
            root = make(mapping.address, lib.METADATA_ROOT, tag=True)
            mapped = root.with_bounds(self.length).with_permissions(_ROOT_PERMISSIONS)
            undo.pop_all()
        return mapped

    def _unmap(self, mapping: CData) -> None:
        if mapping.address:
            lib.capshm_unmap(mapping.address, self.length)
            # With the page behind it, so that the kernel makes one reservation of all that were closed side by side.
            lib.capshm_unmap_memory(mapping.address, self.length + PAGE)
            place = mapping.address, mapping.address + self.length + PAGE
            if place in _taken:  # unless the taking was interrupted
                _taken.remove(place)
                process.count_segment(-1)
        if mapping.clear:
            lib.capshm_unmap_memory(mapping.clear, self._clear_length)
        if mapping.lines:
            lib.capshm_unmap_memory(mapping.lines, self._lines_length + self.length)
        self._mappings.remove(mapping)
        process.count_segment(-1)

    def sweep(self, *, kernel: str = "automatic") -> SweepCounts:
        """Clear the tags that the shadow revokes; the gate must be closed by the calling thread (`closed_gate`).

        kernel: "automatic", "portable", "avx2" or "avx512". ValueError if this machine lacks it.
        """
        if kernel not in _KERNELS or not lib.sweep_kernel_is_available(_KERNELS[kernel]):
            available = [name for name, number in _KERNELS.items() if lib.sweep_kernel_is_available(number)]
            raise ValueError(f"kernel must be one of {available} on this machine, not {kernel!r}")
        if not lib.capshm_gate_is_mine():
            raise errors.CapshmError("a sweep needs the gate closed by the calling thread: with closed_gate(): ...")
        if not self._mappings:
            raise ValueError("the segment is closed")
        counts = ffi.new("struct sweep_counts *")
        status = lib.capshm_sweep_memory(self._mappings[0].address, self.length, _KERNELS[kernel], counts)
        if status:
            fail(status, "sweep a segment")
        return SweepCounts(counts.lines, counts.found, counts.cleared)

    def close(self) -> None:
        """Unmap it in this process and close its descriptors. Capabilities to it then fault with `PageViolation`."""
        with _lock:
            self.fd = -1
            while self._mappings:
                self._unmap(self._mappings[-1])
            while self._descriptors:
                os.close(self._descriptors.pop())

    def __del__(self) -> None:
        if getattr(self, "_mappings", None):  # none, if the making failed
            self.close()  # first: a warning may be made an error
            warnings.warn(
                f"a segment of {self.size} bytes was never closed", ResourceWarning, source=self, stacklevel=1
            )

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


@contextlib.contextmanager
def closed_gate(*, timeout: SupportsFloat = 1.0, new_epoch: bool = True) -> Iterator[None]:
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
