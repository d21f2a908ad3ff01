"""Rings through which one process hands capabilities over to others, as the driver lays them out in one area or two."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capshm._native import ffi, lib
from capshm.client import check
from capshm.lab.cells.crew import CellFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from capshm.lab.cells.crew import Crew
    from capshm.lab.cells.world import Area

_MULTIPLE = lib.LINE_DATA_SIZE // lib.GRANULE_SIZE  # of slots: each part of a ring begins at a tag line of its own
SMALLEST = lib.DRIVER_RING_HEADER + _MULTIPLE * lib.DRIVER_RING_ITEM_SIZE
"""Bytes of a ring with its objects."""
MOST = lib.DRIVER_RINGS


class Rings:
    """So many rings with their objects, as large as `size` bytes have room for, or the smallest.

    make: an area of so many bytes. are_apart: slots and objects are in two of them, and not in one.
    """

    def __init__(
        self, make: Callable[[int], Area], crew: Crew, size: int, count: int, *, are_apart: bool = False
    ) -> None:
        of_each = max(size // count, SMALLEST) - lib.DRIVER_RING_HEADER
        self.capacity = of_each // lib.DRIVER_RING_ITEM_SIZE // _MULTIPLE * _MULTIPLE
        self._crew = crew
        slots = count * (lib.DRIVER_RING_HEADER + self.capacity * lib.GRANULE_SIZE)
        objects = count * self.capacity * lib.DRIVER_OBJECT_SIZE
        self._rings = ffi.new("struct driver_rings *")
        self._rings.count, self._rings.capacity = count, self.capacity
        self._rings.first_object = 0 if are_apart else slots
        self._areas = [make(length) for length in ((slots, objects) if are_apart else (slots + objects,))]
        self._rings.slots, self._rings.objects = self._areas[0].driver, self._areas[-1].driver

    def produce(self, total: int, seed: int) -> None:
        """Hand so many over through each ring, and wait until all were given back."""
        check(lib.driver_produce(self._rings, total, seed % (1 << 64), self._crew.counts), "hand capabilities over")

    def consume(self, ring: int, first: int, end: int) -> None:
        """Take those from `first` up to `end` out of a ring, in which those before have been taken."""
        check(lib.driver_consume(self._rings, ring, first, end, self._crew.counts), "take capabilities")


def compare_sums(crew: Crew, producers: int) -> None:
    """CellFailed unless what the other processes have taken is what the first so many have handed over."""
    handed_over, taken = crew.checksum(first=1, end=1 + producers), crew.checksum(first=1 + producers)
    if handed_over != taken:
        raise CellFailed(f"what was taken adds up to {taken:#x}, what was handed over to {handed_over:#x}")
