"""What a broker shares with address spaces for revocation: the records that it writes, the shadows that they write.

All records lie in one memory file that every process maps read-only: nobody needs a mapping of its own for it, and a
fork costs no descriptor. A number is used again when its address space is gone. A shadow is made when somebody asks
for it, and for the child of a fork whose parent has one.
"""

from __future__ import annotations

import mmap
import os

from capshm._native import ffi, lib
from capshm.broker.segments import new_sealed, reopen
from capshm.errors import CapshmError
from capshm.model.epochs import Epochs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capshm._native import CData

_GRANULES_IN_BYTE = 8
_GRANULE = lib.GRANULE_SIZE


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
        self._records: CData = ffi.cast("struct revocation_record *", ffi.from_buffer(self._memory))
        self._free: list[int] = []
        self._next = 1  # number 0 is nobody's

    def take(self, epochs: Epochs) -> int:
        """The number of a record for a new address space. CapshmError: none is left."""
        if self._free:
            number = self._free.pop()
        elif self._next < lib.REVOCATION_RECORDS:
            number = self._next
            self._next += 1
        else:
            raise CapshmError(f"a machine has room for {lib.REVOCATION_RECORDS - 1} address spaces at once")
        record = self._records[number]
        record.passes = record.leaving = record.leaving_limit = record.leaving_pass = 0
        self.publish(number, epochs)
        return number

    def give_back(self, number: int) -> None:
        """Its address space is gone."""
        self._free.append(number)

    def publish(self, number: int, epochs: Epochs) -> None:
        """Show the clock: `dequeue` last, because it frees memory."""
        self._records[number].enqueue, self._records[number].dequeue = epochs

    def add_pass(self, number: int, leaving: tuple[int, int] | None) -> None:
        """With the gate closed: the process sweeps what is its own before its next operation.

        leaving: the reservation that leaves quarantine.
        """
        record = self._records[number]
        if leaving is not None:
            record.leaving, record.leaving_limit = leaving
            record.leaving_pass = record.passes + 1
        record.passes += 1

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

    def close(self) -> None:
        """Its address space is gone."""
        self._memory.close()
        os.close(self.fd)
