"""Pages full of pointers in an area of memory, as the driver lays them out: of a heap, or of a pool that many read."""

from __future__ import annotations

import os
from array import array
from random import Random
from typing import TYPE_CHECKING

from capshm._native import ffi, lib
from capshm.client import check

if TYPE_CHECKING:
    from capshm.lab.cells.crew import Crew
    from capshm.lab.cells.world import Area, World

PAGE = lib.DRIVER_PAGE_SIZE
DENSITY = 10.0
"""Percent of granules that hold a capability, where nobody says another number."""

_SPARE_PART = 5  # of a pool's frames, one in so many has no page


def pointers_in_page(density: float | None) -> int:
    """How many of a page's granules hold a capability: so many percent of them, but one at least."""
    share = (DENSITY if density is None else density) / 100
    return max(1, round(int(lib.DRIVER_PAGE_POINTERS) * share))


class Heap:
    """As many pages as the area has room for."""

    def __init__(self, area: Area, crew: Crew, density: float | None) -> None:
        self._area = area
        self._crew = crew
        self._pointers = pointers_in_page(density)
        self.pages = area.length // PAGE

    def fill(self, seed: int) -> None:
        """Write all pages."""
        status = lib.driver_heap_fill(self._area.driver, self.pages, self._pointers, seed, self._crew.counts)
        check(status, "fill the heap")

    def touch(self, pages: int, seed: int) -> None:
        """Write to so many of the pages, in the order that the seed gives."""
        drawn = seed % (1 << 64)
        status = lib.driver_heap_touch(self._area.driver, self.pages, pages, self._pointers, drawn, self._crew.counts)
        check(status, "write to the heap")


class Pool:
    """A pool of about so many bytes, with a page in the frame of each descriptor, and some frames to spare.

    Its maker replaces pages, and revokes the frames that it has taken them out of before it uses these again.
    """

    def __init__(self, world: World, crew: Crew, size: int, seed: int, density: float | None) -> None:
        count = size // PAGE // _SPARE_PART * _SPARE_PART
        self._spare = count // _SPARE_PART
        self._descriptors = self._pages = count - self._spare
        self._world, self._crew, self._random, self._seed = world, crew, Random(seed), seed
        self._pool = ffi.new("struct driver_pool *")
        self._pool.descriptors, self._pool.frames = self._descriptors, count
        self._pool.pointers = pointers_in_page(density)
        self._area = world.revocable(lib.driver_pool_frame(self._pool, count))
        self._pool.area = self._area.driver
        self._frames = ffi.new("uint32_t[]", list(range(count)))  # of the descriptors, and then those to spare
        check(lib.driver_pool_fill(self._pool, self._frames, seed, crew.counts), "fill the pool")

    def read(self, seed: int) -> None:
        """Pin and read the page of each descriptor once, in the order that the seed gives."""
        check(lib.driver_pool_read(self._pool, seed % (1 << 64), self._crew.counts), "read pages")

    def replace(self) -> None:
        """Read as many new pages as there are frames to spare, and revoke what leads to the emptied ones.

        CellFailed: one of those that read has failed.
        """
        crew, done = self._crew, ffi.new("uint32_t *")
        candidates = ffi.new("uint32_t[]", self._random.sample(range(self._descriptors), self._descriptors))
        while True:
            status = lib.driver_pool_replace(
                self._pool, self._frames, candidates, self._pages, self._seed, crew.counts, done
            )
            check(status, "replace pages")
            if done[0] == self._spare:
                break
            crew.check()  # whoever has pinned the others may be dead
            os.sched_yield()
        self._pages += self._spare
        if self._world.can_revoke():
            emptied = self._frames[self._descriptors : self._descriptors + self._spare]
            starts = [self._area.address + lib.driver_pool_frame(self._pool, frame) for frame in emptied]
            self._world.revoke(array("Q", [number for start in starts for number in (start, PAGE)]))
            crew.counts.passes += 1
