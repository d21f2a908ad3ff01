"""Sidebands as a pass has them mapped: made while the machine runs, used while it stands, dropped when it runs on.

Every page is put into the broker's page table beforehand, so that the sweep meets no fault. Between that and the stop
processes go on storing: what they write to for the first time then is mapped when it is asked for.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from capshm._native import ffi, lib
from capshm.broker.segments import Sideband, written

if TYPE_CHECKING:
    from capshm._native import CData

_LINE = ffi.sizeof("struct tag_line")


class Area(NamedTuple):
    """Some tag lines, their twins, and their origins if they were asked for. For as long as its `Maps` is open."""

    lines: CData
    twins: CData
    origins: CData
    line_count: int


class Maps:
    """Those of one pass. has_origins: it is to know whose each capability is."""

    def __init__(self, *, has_origins: bool) -> None:
        self._has_origins = has_origins
        self._areas: dict[tuple[int, int, int], Area] = {}
        self._opened: list[tuple[CData, mmap.mmap]] = []

    def prepare(self, sideband: Sideband) -> None:
        """Map what is written of it now."""
        for start, end in written(sideband.tags, lib.TWINS_OFFSET):
            self._area(sideband, start, end, is_populated=True)

    def areas(self, sideband: Sideband) -> Iterator[Area]:
        """What is written of it now."""
        for start, end in written(sideband.tags, lib.TWINS_OFFSET):
            yield self._area(sideband, start, end, is_populated=False)

    def _area(self, sideband: Sideband, start: int, end: int, *, is_populated: bool) -> Area:
        key = (sideband.tags, start, end)
        if key not in self._areas:
            first, count = start // _LINE, (end - start) // _LINE
            data, size = first * lib.LINE_DATA_SIZE, count * lib.LINE_DATA_SIZE
            parts = [("struct tag_line *", start, end - start), ("struct granule *", lib.TWINS_OFFSET + data, size)]
            if self._has_origins:
                origins = lib.ORIGINS_OFFSET + data // lib.ORIGIN_UNIT
                parts.append(("uint32_t *", origins, size // lib.ORIGIN_UNIT))
            mapped = [ffi.cast(kind, self._map(sideband.tags, offset, length)) for kind, offset, length in parts]
            if is_populated:
                for place, (_, offset, length) in zip(mapped, parts, strict=True):
                    lib.capshm_populate(place, sideband.tags, offset, length)
            lines, twins, *others = mapped
            self._areas[key] = Area(lines, twins, others[0] if others else ffi.NULL, count)
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
