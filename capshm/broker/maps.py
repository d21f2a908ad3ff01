"""Sidebands as a pass has them mapped: made while the machine runs, used while it stands, dropped when it runs on.

Every page is put into the broker's page table beforehand, so that the sweep meets no fault. Between that and the stop
processes go on storing: what they write to for the first time then is mapped when it is asked for.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, NamedTuple

from capshm._native import ffi, lib
from capshm.broker.segments import Sideband, written

if TYPE_CHECKING:
    from capshm._native import CData

_LINE = ffi.sizeof("struct tag_line")


class Area(NamedTuple):
    """Some tag lines, and their twins. For as long as its `Maps` is open."""

    lines: CData
    twins: CData
    line_count: int


class Maps:
    """Those of one pass."""

    def __init__(self) -> None:
        self._areas: dict[tuple[int, int, int], Area] = {}
        self._opened: list[tuple[CData, mmap.mmap]] = []

    def prepare(self, sideband: Sideband) -> None:
        """Map what is written of it now."""
        for start, end in written(sideband.tags, lib.TWINS_OFFSET):
            area = self.at(sideband, start, end)
            lib.capshm_populate(area.lines, sideband.tags, start, end - start)
            lib.capshm_populate(area.twins, sideband.tags, _twins_of(start), area.line_count * lib.LINE_DATA_SIZE)

    def at(self, sideband: Sideband, start: int, end: int) -> Area:
        """The tag lines between these offsets, which `written` gives."""
        key = (sideband.tags, start, end)
        if key not in self._areas:
            count = (end - start) // _LINE
            lines = self._map(sideband.tags, start, end - start)
            twins = self._map(sideband.tags, _twins_of(start), count * lib.LINE_DATA_SIZE)
            self._areas[key] = Area(ffi.cast("struct tag_line *", lines), ffi.cast("struct granule *", twins), count)
        return self._areas[key]

    def _map(self, fd: int, offset: int, length: int) -> CData:
        memory = mmap.mmap(fd, length, offset=offset)
        content = ffi.from_buffer(memory)
        self._opened.append((content, memory))
        return content

    def close(self) -> None:
        """Unmap all of it."""
        self._areas.clear()
        while self._opened:
            content, memory = self._opened.pop()
            ffi.release(content)
            memory.close()


def _twins_of(start: int) -> int:
    """Where the twins of the tag line at this offset begin."""
    return int(lib.TWINS_OFFSET + start // _LINE * lib.LINE_DATA_SIZE)
