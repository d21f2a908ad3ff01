"""Where a segment holds its tags, over time: looked at from outside, in a run of its own that no time is taken of.

Beside the cell runs a process, `python -m capshm.lab.cells.density BROKER FILE`, that is in no machine. It opens the
sidebands of the broker's objects by /proc, read-only, and counts from time to time: tag bits that the clear map does
not take back (native/sideband.h). Nobody waits for it but at the ends of the measured section, where the cell does, so
that the first and the last look are of its begin and its end. In between it looks every millisecond; whenever there are
MOST_MOMENTS, it drops every other and looks half as often. What a program has overwritten past capshm still counts.

Private memory, the heaps of `churn` and of traces, is in no segment, and not seen.

What it writes is a JSON object, of the segment that held the most tags, or `null` if none held any:

    {"length": …, "granules": …, "times_ns": [0, …], "tags": [[…, …], …]}

`length` is in bytes, up to the last 256 KiB that ever held a tag; `granules` that of each part; `times_ns` count from
the begin of the section; and `tags` has for each of these moments how many each part held.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from capshm._native import ffi, lib

if TYPE_CHECKING:
    import numpy
    import numpy.typing

MOST_MOMENTS = MOST_PARTS = 64
_INTERVAL_NS = 1_000_000
_BEGIN, _END, _DONE = b"b", b"e", b"."
_LINE = ffi.sizeof("struct tag_line")


@contextmanager
def watched(broker: int, path: str) -> Iterator[None]:
    """In a cell, around the measured section: have its segments looked at, and what there was written to that file.

    RuntimeError: whoever is to look has died, and said why on standard error.
    """
    command = [sys.executable, "-P", "-m", "capshm.lab.cells.density", str(broker), path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as looker:
        assert looker.stdin is not None
        assert looker.stdout is not None
        for order in (_BEGIN, _END):
            with suppress(BrokenPipeError):
                os.write(looker.stdin.fileno(), order)
            if os.read(looker.stdout.fileno(), 1) != _DONE:
                raise RuntimeError(f"whoever looks at tags ended with status {looker.wait()}")
            if order == _BEGIN:
                yield


def main() -> None:
    """Look from the first byte of standard input to the second, then write what there was; a byte answers each."""
    broker, path = int(sys.argv[1]), Path(sys.argv[2])
    if os.read(0, 1) != _BEGIN:
        return
    album = _Album(broker)
    album.look()
    os.write(1, _DONE)
    watch = select.poll()
    watch.register(0, select.POLLIN)
    while not watch.poll(album.interval_ns / 1e6):
        album.look()
    if os.read(0, 1) != _END:
        return  # the cell has failed
    album.look()
    path.write_text(json.dumps(album.best()), encoding="utf-8")
    os.write(1, _DONE)


class _Album:
    """All looks so far: at each moment the tags of each line of each segment, by the segment's number."""

    def __init__(self, broker: int) -> None:
        self.interval_ns = _INTERVAL_NS
        self._sidebands = _Sidebands(broker)
        self._begin = time.monotonic_ns()
        self._looks: list[tuple[int, dict[int, numpy.typing.NDArray[numpy.uint8]]]] = []

    def look(self) -> None:
        """Now."""
        if len(self._looks) == MOST_MOMENTS:
            del self._looks[1::2]
            self.interval_ns *= 2
        self._looks.append((time.monotonic_ns() - self._begin, self._sidebands.counts()))

    def best(self) -> dict[str, object] | None:
        """What the segment held that held the most; None: none held any."""
        import numpy

        totals = [(int(counts.sum()), number) for _, counted in self._looks for number, counts in counted.items()]
        most, number = max(totals, default=(0, 0))
        if most == 0:
            return None
        lines = max(len(counted.get(number, ())) for _, counted in self._looks)
        per_part = -(-lines // MOST_PARTS)
        tags = []
        for _, counted in self._looks:
            padded = numpy.zeros(lines, numpy.int64)
            if number in counted:
                padded[: len(counted[number])] = counted[number]
            tags.append(numpy.add.reduceat(padded, range(0, lines, per_part)).tolist())
        return {
            "length": lines * lib.LINE_DATA_SIZE,
            "granules": per_part * lib.LINE_DATA_SIZE // lib.GRANULE_SIZE,
            "times_ns": [moment for moment, _ in self._looks],
            "tags": tags,
        }


class _Sidebands:
    """Those of a broker, as its descriptors have them."""

    def __init__(self, broker: int) -> None:
        self._descriptors = Path(f"/proc/{broker}/fd")

    def counts(self) -> dict[int, numpy.typing.NDArray[numpy.uint8]]:
        """The tags of each line, by the object's number."""
        found: dict[str, dict[int, Path]] = {"tags": {}, "clear": {}}
        for descriptor in self._descriptors.iterdir():
            with suppress(OSError):  # closed meanwhile
                name = str(descriptor.readlink())
                for kind, numbered in found.items():
                    if name.startswith(prefix := f"/memfd:capshm-{kind}-"):
                        numbered[int(name.removeprefix(prefix).removesuffix(" (deleted)"))] = descriptor
        counts = {}
        for number, tags in found["tags"].items():
            with suppress(OSError, KeyError):
                counts[number] = _count(tags, found["clear"][number])
        return counts


def _count(tags: Path, clear: Path) -> numpy.typing.NDArray[numpy.uint8]:
    """The tags of each line up to the last page of lines that was written."""
    import numpy

    from capshm.broker.segments import written

    with tags.open("rb") as lines, clear.open("rb") as cleared:
        parts = list(written(lines.fileno(), lib.TWINS_OFFSET))
        counts = numpy.zeros(parts[-1][1] // _LINE if parts else 0, numpy.uint8)
        for start, end in parts:
            words = numpy.frombuffer(os.pread(lines.fileno(), end - start, start), "<u8")[::2]
            taken = numpy.frombuffer(os.pread(cleared.fileno(), (end - start) // 2, start // 2), "<u8")
            counts[start // _LINE : end // _LINE] = numpy.bitwise_count(words & ~taken)
    return counts


if __name__ == "__main__":
    main()
