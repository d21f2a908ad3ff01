"""Images and the regions that they are loaded into, in both worlds of a workload: by VMARs, and by mmap and mprotect.

A region is taken whole, and the sections of an image lie in it one behind the other, each mapped in a region of its
own where there are regions. What is lowered is lowered from above, by the root's handle: nobody keeps another.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple, Protocol

from capshm import zircon as zx
from capshm._native import ffi
from capshm.lab.cells.crew import CellFailed
from capshm.lab.cells.world import CapabilityArea

if TYPE_CHECKING:
    from collections.abc import Sequence

    from capshm._native import CData
    from capshm.lab.cells.crew import Crew
    from capshm.lab.cells.world import Area

PAGE = mmap.PAGESIZE
_MAP_FIXED = 0x10  # mmap(2); Python's module has none
_MAP_FAILED = ctypes.c_size_t(-1).value


class Image(NamedTuple):
    """What components are loaded from. memory: a VMO's handle, or a descriptor. address: where, if not anywhere."""

    memory: int
    length: int
    address: int | None = None


class Loader(Protocol):
    """The calls of one world. Lengths are in bytes, of whole pages."""

    def prepare(self, length: int) -> Image:
        """An empty image, for the calling process and the children that it forks."""

    def load(self, image: Image, sections: Sequence[int]) -> Area:
        """Map these lengths of an image one behind the other, to be read and written."""

    def lower(self, area: Area, start: int, length: int, *, is_readable: bool) -> None:
        """Take the permission to write, or all."""

    def unload(self, area: Area) -> None:
        """Unmap all that `load` has mapped."""

    def release(self, image: Image) -> None:
        """It is loaded no more."""


class VmarLoader:
    """The emulated world's. An image is made to share capabilities unless that was refused once."""

    _FLAGS = zx.VM_CAN_MAP_READ | zx.VM_CAN_MAP_WRITE | zx.VM_CAN_MAP_CAP | zx.VM_CAN_MAP_SPECIFIC
    _READ_WRITE = zx.VM_PERM_READ | zx.VM_PERM_WRITE

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._option = zx.VMO_SHARE_CAP

    def prepare(self, length: int) -> Image:
        """At the address where there is room for it now, so that its capabilities speak of it wherever it is loaded."""
        try:
            memory = zx.vmo_create(length, self._option)
        except zx.ZxError as refusal:
            self._count(refusal)
            self._option = zx.VMO_CAP
            memory = zx.vmo_create(length, self._option)
        align = max(length.bit_length() - 12, 12) << zx.VM_ALIGN_BASE  # so that bounds can be represented
        with zx.vmar_root_self() as root:
            region, address = zx.vmar_allocate(root, self._FLAGS | align, 0, length)
            with region:
                zx.vmar_destroy(region)
        return Image(memory.value, length, address)

    def load(self, image: Image, sections: Sequence[int]) -> Area:
        """A VMAR for the image, and one in it for each section, whose handle is closed."""
        assert image.address is not None
        with zx.vmar_root_self() as root:
            whole = zx.object_get_info(root, zx.INFO_VMAR)
            assert isinstance(whole, zx.VmarInfo)
            region, _ = zx.vmar_allocate(root, self._FLAGS | zx.VM_SPECIFIC, image.address - whole.base, image.length)
            with region:
                may_hold = True
                for start, length in zip(accumulate(sections, initial=0), sections, strict=False):
                    inner, _ = zx.vmar_allocate(region, self._FLAGS | zx.VM_SPECIFIC, start, length)
                    with inner:
                        may_hold = self._map(inner, image, start, length, may_hold=may_hold)
            authority = zx.vmar_capability(root, image.address, image.length)
        return CapabilityArea(authority, image.length, is_data_only=not may_hold)

    def _map(self, region: zx.Handle, image: Image, start: int, length: int, *, may_hold: bool) -> bool:
        """Whether it could be mapped with capability permission."""
        if may_hold:
            try:
                zx.vmar_map(region, self._READ_WRITE | zx.VM_PERM_CAP, 0, image.memory, start, length)
                return True
            except zx.ZxError as refusal:
                self._count(refusal)
        zx.vmar_map(region, self._READ_WRITE, 0, image.memory, start, length)
        return False

    def lower(self, area: Area, start: int, length: int, *, is_readable: bool) -> None:
        """By the root's handle; capabilities can be loaded from what can be read, if they could before."""
        assert isinstance(area, CapabilityArea)
        options = 0
        if is_readable:
            options = zx.VM_PERM_READ | (0 if area.driver.is_data_only else zx.VM_PERM_CAP)
        with zx.vmar_root_self() as root:
            zx.vmar_protect(root, options, area.address + start, length)

    def unload(self, area: Area) -> None:
        """By the root's handle, all regions at once."""
        with zx.vmar_root_self() as root:
            zx.vmar_unmap(root, area.address, area.length)

    def release(self, image: Image) -> None:
        """Its memory goes with the handles of those that were forked since."""
        zx.handle_close(image.memory)

    def _count(self, refusal: zx.ZxError) -> None:
        if not refusal.rule.startswith("vmar:CAP/"):  # not the policy's
            raise refusal
        self._crew.counts.refused += 1


class _Mapped:
    """An area of the plain world that no object of Python's holds."""

    def __init__(self, address: int, length: int) -> None:
        self.address = address
        self.length = length
        self.driver: CData = ffi.new("struct driver_area *")
        self.driver.memory = address
        self.driver.is_shared = True

    def close(self) -> None:
        """Its loader unmaps it."""


class PlainLoader:
    """mmap, mprotect and munmap, which Python has not all of."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        word, number = ctypes.c_size_t, ctypes.c_int
        self._mmap, self._mprotect, self._munmap = libc.mmap, libc.mprotect, libc.munmap
        self._mmap.restype = word
        self._mmap.argtypes = [word, word, number, number, number, ctypes.c_int64]
        self._mprotect.argtypes = [word, word, number]
        self._munmap.argtypes = [word, word]

    def prepare(self, length: int) -> Image:
        """A memfd."""
        descriptor = os.memfd_create("capshm-lab", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, length)
        return Image(descriptor, length)

    def load(self, image: Image, sections: Sequence[int]) -> Area:
        """Reserve the range, then map each section over its part."""
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        address = self._map(0, image.length, 0, private, -1, 0)
        for start, length in zip(accumulate(sections, initial=0), sections, strict=False):
            flags = mmap.MAP_SHARED | _MAP_FIXED
            self._map(address + start, length, mmap.PROT_READ | mmap.PROT_WRITE, flags, image.memory, start)
        return _Mapped(address, image.length)

    def _map(self, *arguments: int) -> int:
        address: int = self._mmap(*arguments)
        if address == _MAP_FAILED:
            raise CellFailed(f"mmap: {os.strerror(ctypes.get_errno())}")
        return address

    def lower(self, area: Area, start: int, length: int, *, is_readable: bool) -> None:
        """mprotect."""
        if self._mprotect(area.address + start, length, mmap.PROT_READ if is_readable else 0):
            raise CellFailed(f"mprotect: {os.strerror(ctypes.get_errno())}")

    def unload(self, area: Area) -> None:
        """munmap."""
        if self._munmap(area.address, area.length):
            raise CellFailed(f"munmap: {os.strerror(ctypes.get_errno())}")

    def release(self, image: Image) -> None:
        """Close the descriptor."""
        os.close(image.memory)
