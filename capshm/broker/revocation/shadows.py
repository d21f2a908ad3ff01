"""What a broker shares with address spaces for revocation: the records that it writes, the shadows that they write.

All records lie in one memory file that every process maps read-only: nobody needs a mapping of its own for it, and a
fork costs no descriptor. A record is used again when its address space is gone, with another origin (native/origin.h).
Behind the records are the stamps of what was revoked machine-wide. A shadow is made when somebody asks for it, and for
the child of a fork whose parent has one.
"""

from __future__ import annotations

import mmap
import os

from capshm._native import ffi, lib
from capshm.broker.segments import new_sealed, reopen, written
from capshm.errors import CapshmError
from capshm.model.constants import ARENA_START
from capshm.model.epochs import Epochs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from capshm._native import CData

_GRANULES_IN_BYTE = 8
_GRANULE = lib.GRANULE_SIZE
_GENERATIONS = (1 << 32) // lib.REVOCATION_RECORDS  # of address spaces in one record: origins have 32 bits
_LAST_PASS = (1 << 32) - 1  # stamps have as many
_WORD = 8


class Records:
    """The records of all address spaces (native/revoke.h). fd: of the file, for reading only."""

    def __init__(self) -> None:
        size = lib.capshm_records_size()
        fd = new_sealed("capshm-records", size)
        try:
            self._memory = mmap.mmap(fd, size)
            self.fd = reopen(fd, os.O_RDONLY)
            os.fchmod(fd, 0o400)
        finally:
            os.close(fd)
        self.native: CData = ffi.cast("struct revocation_record *", ffi.from_buffer(self._memory))
        self._free: list[int] = []
        self._generations = [0]  # of each record; number 0 is the machine's
        self._last_pass = 0
        memory = ffi.cast("char *", self.native)
        first = lib.REVOCATION_RECORDS * ffi.sizeof("struct revocation_record") // lib.STAMP_BLOCK
        self._stamps: CData = ffi.new("struct stamps *", {"memory": memory, "next": first})

    def take(self, epochs: Epochs, parent: int | None = None) -> int:
        """The number of a record for a new address space, forked by that of `parent`. CapshmError: none is left."""
        if not self._free and len(self._generations) < lib.REVOCATION_RECORDS:
            self._free.append(len(self._generations))
            self._generations.append(0)
        if not self._free:
            raise CapshmError(
                f"a machine has room for {lib.REVOCATION_RECORDS - 1} address spaces at once, and in the place of each "
                f"for {_GENERATIONS}, one after the other"
            )
        number = self._free[-1]
        record = self.native[number]
        record.passes = record.leaving = record.leaving_limit = record.leaving_pass = 0
        if parent is not None:
            self._copy_stamps(parent, number)
        self._free.pop()
        record.origin = self._generations[number] * lib.REVOCATION_RECORDS + number
        self.publish(number, epochs)
        return number

    def _copy_stamps(self, parent: int, child: int) -> None:
        for old, new in zip(self._roots(parent), self._roots(child), strict=True):
            if not lib.stamps_copy(self._stamps, old[0], new):
                self._drop_stamps(child)
                raise CapshmError("there is no room left to note what was revoked machine-wide")

    def _drop_stamps(self, number: int) -> None:
        for root in self._roots(number):
            lib.stamps_drop(self._stamps, root)

    def _roots(self, number: int) -> list[CData]:
        """Of the stamps of what was painted, and of what has left quarantine."""
        record = self.native[number]
        return [ffi.addressof(record, field) for field in ("painted_stamps", "left_stamps")]

    def give_back(self, number: int) -> None:
        """Its address space is gone."""
        self.native[number].origin = 0  # before the stamps: native/origin.h
        self._drop_stamps(number)
        self._generations[number] += 1
        if self._generations[number] < _GENERATIONS:
            self._free.append(number)

    def publish(self, number: int, epochs: Epochs) -> None:
        """Show the clock: `dequeue` last, because it frees memory."""
        self.native[number].enqueue, self.native[number].dequeue = epochs

    def add_pass(self, number: int, leaving: tuple[int, int] | None) -> None:
        """With the gate closed: the process sweeps what is its own before its next operation.

        leaving: the reservation that leaves quarantine.
        """
        record = self.native[number]
        if leaving is not None:
            record.leaving, record.leaving_limit = leaving
            record.leaving_pass = record.passes + 1
        record.passes += 1

    def begin_machine_pass(self) -> int:
        """The number of an attempt at a machine-wide pass. CapshmError: the last was the last."""
        if self._last_pass == _LAST_PASS:
            raise CapshmError(f"a machine makes {_LAST_PASS} machine-wide passes, and this one has made them")
        self._last_pass += 1
        return self._last_pass

    def stamp(self, number: int, shadow: Shadow | None, leaving: tuple[int, int] | None, pass_number: int) -> None:
        """With the gate closed: note what this pass revokes for an address space. CapshmError: there is no room."""
        painted, left = self._roots(number)
        is_noted = all(
            lib.stamps_mark_painted(self._stamps, painted, words, count, first, pass_number)
            for words, count, first in (shadow.words() if shadow is not None else ())
        )
        if leaving is not None and is_noted:
            start, end = ((each - ARENA_START) // _GRANULE for each in leaving)
            is_noted = bool(lib.stamps_mark(self._stamps, left, start, end, pass_number))
        if not is_noted:
            raise CapshmError("there is no room left to note what is revoked machine-wide")

    def count_machine_pass(self, number: int) -> None:
        """With the gate closed: every process sweeps its copies of others' values before its next operation."""
        self.native[0].passes = number

    def close(self) -> None:
        """No more."""
        os.close(self.fd)


class Shadow:
    """The shadow of one address space over the arena [start, end). fd: for the process to write."""

    def __init__(self, start: int, end: int) -> None:
        size = (end - start) // _GRANULE // _GRANULES_IN_BYTE
        self.fd = new_sealed("capshm-shadow", size)
        try:
            self._memory = mmap.mmap(self.fd, size, prot=mmap.PROT_READ)
        except BaseException:
            os.close(self.fd)
            raise
        self._start, self._end = start, end

    def as_native(self, leaving: tuple[int, int] | None) -> CData:
        """For a sweep, while this object lives. leaving: the reservation that leaves quarantine."""
        shadow = ffi.new("struct shadow *")
        shadow.bits = ffi.cast("const uint64_t *", ffi.from_buffer(self._memory))
        shadow.first, shadow.limit = self._start, self._end
        if leaving is not None:
            shadow.leaving, shadow.leaving_limit = leaving
        return shadow

    def words(self) -> Iterator[tuple[CData, int, int]]:
        """The parts in which something may be painted: where, how many words, and the number of the first granule."""
        bits = ffi.cast("char *", ffi.from_buffer(self._memory))
        for start, end in written(self.fd, len(self._memory)):
            yield ffi.cast("const uint64_t *", bits + start), (end - start) // _WORD, start * _GRANULES_IN_BYTE

    def close(self) -> None:
        """Its address space is gone."""
        self._memory.close()
        os.close(self.fd)
