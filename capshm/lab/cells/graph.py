"""Requests and responses in an area of memory, as the driver lays them out: filled, served, collected."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capshm._native import ffi, lib
from capshm.client import check
from capshm.lab.cells.crew import CellFailed

if TYPE_CHECKING:
    from capshm.lab.cells.crew import Crew
    from capshm.lab.cells.world import Area

_MULTIPLE = lib.LINE_DATA_SIZE // lib.GRANULE_SIZE  # of items: each part begins at a tag line of its own


class Graph:
    """As many items as the area has room for."""

    def __init__(self, area: Area, crew: Crew) -> None:
        self.area = area
        self.count = area.length // lib.DRIVER_ITEM_SIZE // _MULTIPLE * _MULTIPLE
        self._crew = crew

    def fill(self, seed: int) -> None:
        """Write requests and responses, and the capabilities that lead to them."""
        check(lib.driver_fill(self.area.driver, self.count, seed, self._crew.counts), "fill the memory")

    def serve(self, number: int, shares: int, seed: int) -> None:
        """Serve share `number` of the requests, of so many, each once and in the order that the seed gives."""
        first, end = (self.count * each // shares for each in (number, number + 1))
        status = lib.driver_serve(self.area.driver, self.count, first, end - first, seed % (1 << 64), self._crew.counts)
        check(status, "serve requests")

    def collect(self) -> int:
        """The sum of all answers; every request must have been served."""
        answer = ffi.new("uint64_t *")
        check(lib.driver_collect(self.area.driver, self.count, self._crew.counts, answer), "collect answers")
        return int(answer[0])


def compare_sums(collected: int, crew: Crew) -> None:
    """CellFailed unless what was collected is what the children have served."""
    served = crew.checksum(first=1)
    if collected % (1 << 64) != served:
        raise CellFailed(
            f"the answers that were collected add up to {collected:#x}, those that were given to {served:#x}"
        )
