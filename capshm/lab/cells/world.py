"""The two worlds of a workload: a machine under some policy, and plain shared memory without capshm.

A world makes areas of memory; the driver (native/driver.h) works in them, and the workload is the same program in both.
What a policy refuses is counted, and the world goes the way of a real program that was told no: it makes the object
without O_SHARECAP, and maps it without capability permission. It does not ask again for what was refused once.

Plain shared memory is `multiprocessing.shared_memory`, unlinked at once: the mappings that fork hands on keep it. Where
a descriptor travels it is a memfd, because SharedMemory shows none. A plain cell is in no machine, but it has imported
capshm: its forks copy that, too, and run hooks that find nothing to do.
"""

from __future__ import annotations

import mmap
import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

from capshm import _registers, client, errors
from capshm import cheribsd as bsd
from capshm._native import ffi, lib
from capshm.cheribsd.revoke import revoke_ranges
from capshm.lab.cells.crew import CellFailed
from capshm.permissions import Permissions

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterator
    from multiprocessing.shared_memory import SharedMemory

    from capshm._native import CData
    from capshm.capability import Capability
    from capshm.lab.cells.crew import Crew
    from capshm.lab.cells.loading import Loader
    from capshm.machine import Machine

_READ_WRITE = bsd.PROT_READ | bsd.PROT_WRITE


class Area(Protocol):
    """Memory that the driver works in."""

    driver: CData
    """The struct driver_area."""
    address: int
    """Where it begins."""
    length: int

    def close(self) -> None:
        """Unmap it."""


class World(Protocol):
    """Where areas come from. Lengths are in bytes; memory is zero at first."""

    is_plain: bool
    """Without a machine, and without capabilities."""

    def inherited(self, length: int) -> Area:
        """Shared memory of the calling process, for it and the children that it forks."""

    def exchange(self, length: int) -> Area:
        """The same, made so that all of them may exchange capabilities through it."""

    def revocable(self, length: int) -> Area:
        """As `inherited`, of which the calling process may revoke parts."""

    def can_revoke(self) -> bool:
        """Whether anything can be revoked here."""

    def revoke(self, ranges: array[int] | memoryview[int]) -> None:
        """Take all capabilities without SW_VMEM to these ranges of the process's memory, if that can be.

        ranges: pairs of start and length in bytes. What belongs to whom, and how far a revocation reaches, is the
        machine's matter.
        """

    def private(self, length: int) -> Area:
        """Memory of the process's own, which a fork copies."""

    def create(self, length: int) -> tuple[int, Area]:
        """A new object that may be handed to another process: its descriptor, and the area that it is mapped to."""

    def receive(self, descriptor: int, length: int, address: int) -> Area:
        """Map an object that another process has made and mapped at that address."""

    def loader(self) -> Loader:
        """Maps images in regions."""

    def cpu_ns(self) -> int:
        """User and system time that the world's own processes, the broker, have used up to now."""

    def take_pauses(self) -> list[int]:
        """How long the machine was stopped for each pass since the last call, in nanoseconds; the first 4,096."""


class CapabilityArea:
    """An area of the emulated world: what a capability speaks of.

    length: as it was asked for; the bounds may be padded, and there is nothing behind it.
    """

    def __init__(
        self, authority: Capability, length: int, *, is_shared: bool = True, is_data_only: bool = False
    ) -> None:
        self._authority = self._program = authority
        self._window = _registers.Window(lib.DRIVER_REGISTERS)
        self.address = authority.address
        self.length = length
        self.driver: CData = ffi.new("struct driver_area *")
        self.driver.authority = authority._register
        self.driver.registers = self._window.first
        self.driver.is_shared = is_shared
        self.driver.is_data_only = is_data_only

    def drop_permissions(self, permissions: Permissions) -> None:
        """The driver's capability loses these; what maps and unmaps keeps its own."""
        self._program = self._authority.with_permissions(self._authority.permissions.without(permissions))
        self.driver.authority = self._program._register

    def close(self) -> None:
        """By the capability that mmap has returned."""
        bsd.munmap(self._authority, self.length)


class Emulated:
    """A machine under some policy."""

    is_plain = False

    def __init__(self, machine: Machine, crew: Crew) -> None:
        self._machine = machine
        self._crew = crew
        self._may_share = self._may_receive = True  # nobody has said no yet

    def inherited(self, length: int) -> Area:
        """An object that belongs to this process's address space."""
        descriptor = bsd.shm_open(bsd.SHM_ANON, os.O_RDWR)
        try:
            return self._map_object(descriptor, length)
        finally:
            os.close(descriptor)

    def exchange(self, length: int) -> Area:
        """Anonymous shared memory, which is share-cap where the policy knows that."""
        flags = bsd.MAP_ANON | bsd.MAP_SHARED
        try:
            return CapabilityArea(bsd.mmap(None, length, _READ_WRITE | bsd.PROT_CAP, flags), length)
        except errors.Refused as refusal:
            self._count(refusal)
            return CapabilityArea(bsd.mmap(None, length, _READ_WRITE, flags), length, is_data_only=True)

    def revocable(self, length: int) -> Area:
        """By a capability without SW_VMEM, as an allocator's: what is derived from one that has it is not revoked."""
        area = self.inherited(length)
        assert isinstance(area, CapabilityArea)
        area.drop_permissions(Permissions.SW_VMEM)
        return area

    def can_revoke(self) -> bool:
        """Where an allocator would have it done."""
        return bsd.malloc_revoke_enabled()

    def revoke(self, ranges: array[int] | memoryview[int]) -> None:
        """As an allocator does: whoever could not be stopped in time is waited for again, until all were."""
        while self.can_revoke():
            with suppress(errors.RevocationIncomplete):
                revoke_ranges(ranges)
                return

    def private(self, length: int) -> Area:
        """An allocation; one that is so large is a private mapping."""
        return CapabilityArea(bsd.malloc(length), length, is_shared=False)

    def create(self, length: int) -> tuple[int, Area]:
        """With O_SHARECAP unless that was refused once."""
        descriptor = self._open_object()
        try:
            return descriptor, self._map_object(descriptor, length)
        except BaseException:
            os.close(descriptor)
            raise

    def receive(self, descriptor: int, length: int, address: int) -> Area:
        """At the same address, so that capabilities that come with their tags speak of this memory here, too."""
        flags = bsd.MAP_SHARED | bsd.MAP_FIXED
        if self._may_receive:
            try:
                return CapabilityArea(bsd.mmap(address, length, _READ_WRITE | bsd.PROT_CAP, flags, descriptor), length)
            except errors.Refused as refusal:
                self._count(refusal)
                self._may_receive = False
        return CapabilityArea(bsd.mmap(address, length, _READ_WRITE, flags, descriptor), length, is_data_only=True)

    def loader(self) -> Loader:
        """By VMARs."""
        from capshm.lab.cells.loading import VmarLoader  # only here: the other workloads do without

        return VmarLoader(self._crew)

    def cpu_ns(self) -> int:
        """Of the broker."""
        # The clock of all threads of another process, as Linux numbers it (clock_getcpuclockid(3)).
        return time.clock_gettime_ns(~self._machine.broker_pid << 3 | 2)

    def take_pauses(self) -> list[int]:
        """By the broker's clock."""
        return client.current().ask("take_pauses").numbers("pauses")

    def _open_object(self) -> int:
        if self._may_share:
            try:
                return bsd.shm_open(bsd.SHM_ANON, os.O_RDWR | bsd.O_SHARECAP)
            except errors.Refused as refusal:
                self._count(refusal)
                self._may_share = False
        return bsd.shm_open(bsd.SHM_ANON, os.O_RDWR)

    def _map_object(self, descriptor: int, length: int) -> Area:
        os.ftruncate(descriptor, length)
        authority = bsd.mmap(None, length, _READ_WRITE | bsd.PROT_CAP, bsd.MAP_SHARED, descriptor)
        return CapabilityArea(authority, length)

    def _count(self, refusal: errors.Refused) -> None:
        if refusal.rule == "host":  # this kernel's, and no policy's
            raise refusal
        self._crew.counts.refused += 1


class PlainArea:
    """An area of the plain world. memory: what holds it until it is closed; buffer: the memory itself."""

    def __init__(
        self, memory: mmap.mmap | SharedMemory, buffer: object, length: int, *, is_shared: bool = True
    ) -> None:
        self._memory = memory
        with ffi.from_buffer(buffer) as found:
            self.address = int(ffi.cast("uintptr_t", found))
        self.length = length
        self.driver: CData = ffi.new("struct driver_area *")
        self.driver.memory = self.address
        self.driver.is_shared = is_shared

    def close(self) -> None:
        """And what Python holds of it."""
        self._memory.close()


class Plain:
    """Shared memory as Linux has it."""

    is_plain = True

    def inherited(self, length: int) -> Area:
        """A segment without a name by the time that this returns."""
        from multiprocessing.shared_memory import SharedMemory  # only here: the other world does without

        room = os.statvfs("/dev/shm")
        if room.f_bavail * room.f_frsize < length:
            raise CellFailed(f"/dev/shm has no room for {length} bytes")
        segment = SharedMemory(create=True, size=length)
        segment.unlink()
        return PlainArea(segment, segment.buf, length)

    def exchange(self, length: int) -> Area:
        """No different."""
        return self.inherited(length)

    def revocable(self, length: int) -> Area:
        """No different."""
        return self.inherited(length)

    def can_revoke(self) -> bool:
        """What leads somewhere goes on leading there."""
        return False

    def revoke(self, ranges: array[int] | memoryview[int]) -> None:
        """Nothing."""

    def private(self, length: int) -> Area:
        """Anonymous memory."""
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        memory = mmap.mmap(-1, length, flags=flags)
        return PlainArea(memory, memory, length, is_shared=False)

    def create(self, length: int) -> tuple[int, Area]:
        """A memfd."""
        descriptor = os.memfd_create("capshm-lab", os.MFD_CLOEXEC)
        try:
            os.ftruncate(descriptor, length)
            return descriptor, self.receive(descriptor, length, 0)
        except BaseException:
            os.close(descriptor)
            raise

    def receive(self, descriptor: int, length: int, address: int) -> Area:
        """Wherever the kernel likes: plain pointers count from where the area begins."""
        memory = mmap.mmap(descriptor, length)
        return PlainArea(memory, memory, length)

    def loader(self) -> Loader:
        """By mmap."""
        from capshm.lab.cells.loading import PlainLoader  # only here, as above

        return PlainLoader()

    def cpu_ns(self) -> int:
        """There are none."""
        return 0

    def take_pauses(self) -> list[int]:
        """Nobody stops anybody."""
        return []


@contextmanager
def enter(machine: Machine | None, crew: Crew) -> Iterator[World]:
    """The world of a machine, which is entered; plain without one."""
    if machine is None:
        yield Plain()
        return
    with machine:
        yield Emulated(machine, crew)
