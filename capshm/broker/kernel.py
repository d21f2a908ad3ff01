"""What Zircon's calls need of a broker: tables of handles, processes as objects, and the memory behind VMOs.

A VMO lives as long as something names it: a handle, a message on its way, or a mapping. The broker keeps one read-write
descriptor of each until then, since a mapping outlives the handles, and hands it out, or a read-only opening of it, to
be used and closed within one call. Its mode is 0400, as any other object's.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar
from weakref import WeakKeyDictionary

from capshm.broker.messages import Answer
from capshm.broker.segments import new_memfd, new_sealed, reopen
from capshm.model import zircon_constants as z
from capshm.model.address_space import AddressSpace
from capshm.model.handles import HandleTable, KernelObject, Koids
from capshm.model.regions import EVERYTHING
from capshm.model.vmar_options import handle_rights
from capshm.model.vmos import Vmo

ROOT_RIGHTS = z.DEFAULT_VMAR_RIGHTS | handle_rights(EVERYTHING)
_READ_ONLY = 0o400
_AREAS_RESERVE = 2048  # of the interpreter, its libraries, and sidebands


class ProcessObject(KernelObject):
    """A process as handles name it. space: None once it is gone. end: ends one that process_create has made."""

    type: ClassVar[int] = z.OBJ_TYPE_PROCESS

    def __init__(self, pid: int, space: AddressSpace) -> None:
        super().__init__()
        self.pid = pid
        self.space: AddressSpace | None = space
        self.end: Callable[[], None] | None = None

    def unnamed(self) -> None:
        """One that was only made to be named ends."""
        if self.end is not None and self.space is not None:
            self.end()


class Kernel:
    """All of one machine's."""

    def __init__(self) -> None:
        self._koids = Koids()
        self._tables: dict[int, HandleTable] = {}
        self._processes: dict[int, ProcessObject] = {}
        self._descriptors: WeakKeyDictionary[Vmo, int] = WeakKeyDictionary()
        self.has_xom = _has_xom()
        self.area_limit = _area_limit() - _AREAS_RESERVE

    def table(self, serial: int) -> HandleTable:
        """The handles of the process with this address space."""
        return self._tables.setdefault(serial, HandleTable(self._koids))

    def process(self, pid: int, space: AddressSpace) -> ProcessObject:
        """The process with this address space, as an object."""
        return self._processes.setdefault(space.serial, ProcessObject(pid, space))

    def handles_to(self, target: KernelObject) -> list[tuple[int, int]]:
        """Who has handles to it: the serial of an address space, and the rights; what is on its way is nobody's."""
        return [
            (serial, handle.rights)
            for serial, table in self._tables.items()
            for _, handle in table
            if handle.object is target
        ]

    def fork(self, parent: int, child: int) -> None:
        """The child has a copy of the parent's handles."""
        if parent in self._tables:
            self._tables[child] = self._tables[parent].copy()

    def end(self, space: AddressSpace) -> None:
        """The process is gone, and what handles name of it is of no use any more."""
        process = self._processes.pop(space.serial, None)
        if process is not None:
            process.space = None
        space.root.end_all()
        for vmo in self.vmos():
            if vmo.owner == space.serial:
                vmo.owner = None  # nobody's, for ever (F16)
        space.entries.clear()  # now, and not when somebody collects garbage: VMOs may end with it
        table = self._tables.pop(space.serial, None)
        if table is not None:
            table.close_all()

    def describe(self, serial: int, value: int) -> Answer:
        """A handle as the face has it."""
        handle = self._tables[serial].get(value)
        assert handle is not None
        pid = handle.object.pid if isinstance(handle.object, ProcessObject) else 0
        return {
            "value": value,
            "koid": handle.object.koid,
            "rights": handle.rights,
            "type": handle.object.type,
            "pid": pid,
        }

    # VMOs

    def add_vmo(self, vmo: Vmo) -> None:
        """Make the memory of a VMO. OSError: it cannot be."""
        fd = new_memfd(f"capshm-vmo-{vmo.id}", size=vmo.size)
        weakref.finalize(vmo, os.close, fd)
        os.fchmod(fd, _READ_ONLY)
        self._descriptors[vmo] = fd

    def vmos(self) -> Iterator[Vmo]:
        """Those that something names."""
        return iter(list(self._descriptors))

    def descriptor(self, vmo: Vmo) -> int:
        """The broker's own."""
        return self._descriptors[vmo]

    def opened(self, vmo: Vmo, *, is_writable: bool) -> int:
        """A descriptor to give away. A mapping through the one that is not writable can never be made so."""
        fd = self._descriptors[vmo]
        return os.dup(fd) if is_writable else reopen(fd, os.O_RDONLY)

    def beyond(self, vmo: Vmo, *, is_writable: bool) -> int:
        """The same, of a file without a page that nobody can give one to: what is mapped of it faults when touched."""
        fd = new_sealed(f"capshm-vmo-{vmo.id}", 0)
        if is_writable:
            return fd
        try:
            return reopen(fd, os.O_RDONLY)
        finally:
            os.close(fd)


def _area_limit() -> int:
    return int(Path("/proc/sys/vm/max_map_count").read_text(encoding="ascii"))


def _has_xom() -> bool:
    """Whether pages can be executed and not read: by protection keys."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return any("ospke" in line.split() for line in lines if line.startswith("flags"))
