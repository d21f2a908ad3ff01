"""What a process has to do for its mappings of one VMO, and the descriptors that it needs for that.

The descriptors decide what a mapping can ever be: data comes read-only where the maximum has no WRITE, tags where it
has no STORE_CAP, and not at all where it has no capability permission; so Linux itself refuses more.

Where a mapping with FAULT_BEYOND_STREAM_SIZE lies behind the page that holds the stream size, a file without any page
is mapped instead of the VMO, so that a touch faults as one behind the end of the VMO does, by SIGBUS, whatever the
permissions are; when the stream grows, the VMO takes its place.
"""

from __future__ import annotations

import os

from capshm.broker.messages import Answer, Value
from capshm.broker.segments import reopen
from capshm.broker.state import Reply, State
from capshm.model.address_space import Entry
from capshm.model.rights import Rights
from capshm.model.vmos import Vmo

_NONE = -1


def protect_orders(planned: list[Entry], before: list[Entry]) -> list[Value]:
    """To protect entries as planned; those in a row that become, and were, alike by one system call."""
    runs: list[tuple[int, int, Rights, Rights]] = []
    for new, old in zip(planned, before, strict=True):
        if new.current is old.current:
            continue
        start = new.start
        if runs and runs[-1][1:] == (start, new.current, old.current):
            start = runs.pop()[0]
        runs.append((start, new.end, new.current, old.current))
    return [["protect", start, end - start, now.letters, then.letters] for start, end, now, then in runs]


class Orders:
    """Orders to map parts of a VMO. A descriptor is opened once, and spoken of by its place in the answer."""

    def __init__(self, state: State, memory: Vmo) -> None:
        self._state = state
        self._memory = memory
        self._rows: list[Value] = []
        self._descriptors: dict[tuple[str, bool], int] = {}

    def map(self, entry: Entry) -> None:
        """Map it as it is now. OSError: no descriptor is left."""
        behind = entry.start + self._memory.stream_end - entry.offset if entry.is_stream else entry.end
        for part, data in ((entry.part(entry.start, behind), "data"), (entry.part(behind, entry.end), "beyond")):
            if part.length > 0:
                self._map(part, data)

    def _map(self, part: Entry, data: str) -> None:
        memory, maximum = self._memory, part.maximum
        is_writable = Rights.WRITE in maximum
        tags = clear = _NONE
        if memory.can_hold_capabilities:
            clear = self._number("clear", is_writable)
            if maximum & Rights.CAP:
                tags = self._number("tags", Rights.STORE_CAP in maximum)
        is_kept = self._state.policy.keeps_capabilities_at_fork(memory)
        where: list[Value] = [part.start, part.length, part.current.letters, part.offset, memory.id]
        self._rows.append(["map", *where, maximum.letters, is_kept, self._number(data, is_writable), tags, clear])

    def _number(self, kind: str, is_writable: bool) -> int:
        key = kind, is_writable
        if key not in self._descriptors:
            self._descriptors[key] = self._open(kind, is_writable)
        return list(self._descriptors).index(key)

    def _open(self, kind: str, is_writable: bool) -> int:
        kernel, memory = self._state.kernel, self._memory
        if kind == "data":
            return kernel.opened(memory, is_writable=is_writable)
        if kind == "beyond":
            return kernel.beyond(memory, is_writable=is_writable)
        sideband = self._state.segments.sideband(memory.id)
        fd = sideband.tags if kind == "tags" else sideband.clear
        return os.dup(fd) if is_writable else reopen(fd, os.O_RDONLY)

    def reply(self, body: Answer) -> Reply:
        """The answer that has them all."""
        return Reply({**body, "orders": self._rows}, list(self._descriptors.values()))

    def close(self) -> None:
        """There will be no answer."""
        for fd in self._descriptors.values():
            os.close(fd)
