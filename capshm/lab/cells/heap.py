"""An image loaded into memory: in a machine, or plainly (native/image.h).

An area holds an image from its second page on: what a capability to the whole area has at its base belongs to no object
of the image, and is never revoked with one.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from capshm._native import ffi, lib
from capshm.client import check
from capshm.lab.cells.world import CapabilityArea
from capshm.lab.inputs import image

if TYPE_CHECKING:
    from capshm._native import CData
    from capshm.capability import Capability
    from capshm.lab.cells.world import Area
    from capshm.lab.inputs.image import Image


class Heap:
    """What an image makes of areas. objects: how many it has. length: bytes that an area needs."""

    def __init__(self, found: Image) -> None:
        self._bits, self._targets = ffi.from_buffer("uint8_t[]", found.bits), ffi.from_buffer("char[]", found.targets)
        self._begins = ffi.new("uint8_t[]", max(len(found.bits), 1))
        self._image: CData = ffi.new("struct image *")
        self._image.bits, self._image.begins = self._bits, self._begins
        self._image.targets = ffi.cast("uint32_t *", self._targets)
        self._image.pages, self._image.offset = found.pages, image.PAGE
        self.objects = int(lib.image_find_objects(self._image))
        self.length = (1 + found.pages) * image.PAGE
        self._ranges = array("Q", bytes(self.objects * ffi.sizeof("struct image_range")))

    def fill(self, area: Area, counts: CData) -> None:
        """Store the capabilities of the image there."""
        check(lib.image_fill(area.driver, self._image, counts), "fill the memory")

    def free(self, area: Area, seed: int) -> memoryview[int]:
        """Start and length, in bytes, of all that a round frees in this area; good until the next call."""
        ranges = ffi.from_buffer("struct image_range[]", self._ranges)
        count = lib.image_free(self._image, seed % (1 << 64), area.address, ranges)
        return memoryview(self._ranges)[: 2 * count]

    def work(self, area: Area, seed: int, counts: CData) -> None:
        """Do the rest of that round: allocate again, store, load."""
        check(lib.image_work(area.driver, self._image, seed % (1 << 64), counts), "work in the memory")


def load(found: Image, into: Capability) -> None:
    """Store an image's capabilities in memory of a machine: in the pages behind the first that `into` speaks of.

    They are derived from `into`, without SW_VMEM: granule n of the image lies at its base + 4096 + 16 * n. ValueError:
    it has fewer bytes than one page more than the image. The errors of a store; what was stored before that stays.
    """
    heap = Heap(found)
    if into.length < heap.length:
        raise ValueError(f"the image needs {heap.length:,} bytes, and {into} has {into.length:,}")
    at_base = into.with_address(into.base)
    heap.fill(CapabilityArea(at_base, heap.length), ffi.new("struct driver_counts *"))
