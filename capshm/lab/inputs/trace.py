"""A trace: what a real program asked of its allocator, and where it forked, ran other programs and waited.

A file (`container`) whose magic is b"capshmT", version 1. The description is {"program": name, "live": number,
"processes": [{"name", "parent", "events"}]}, the content the events.

Processes stand in the order in which they began, each after its parent; the first has parent -1, and their events
follow each other in that order. An event has 16 bytes: kind and number, 4 each, and size, 8; native/replay.h says what
they mean. Uncompressed, the first bytes of all events come first, then all second ones: like stands by like. Numbers of
allocations are below "live". There are bounds for description and events (MOST_DESCRIPTION, MOST_EVENTS).

Names are the kernel's, of programs without their folders. Arguments, environment, addresses and contents are not in it.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from capshm._native import lib
from capshm.errors import CapshmError
from capshm.lab.inputs import container

EVENT = struct.Struct("<IIQ")
"""kind, number, size."""

MOST_EVENTS = 1 << 25
"""In a trace; half a gigabyte, and a reader needs that a few times."""
MOST_DESCRIPTION = 16 << 20
"""Bytes: about a quarter of a million processes."""

_KINDS: dict[str, int] = {
    "allocations": lib.REPLAY_ALLOCATE,
    "frees": lib.REPLAY_FREE,
    "resizes": lib.REPLAY_RESIZE,
    "execs": lib.REPLAY_EXEC,
    "forks": lib.REPLAY_FORK,
    "waits": lib.REPLAY_WAIT,
}
_FORK: int = lib.REPLAY_FORK
_FORK_OR_WAIT = re.compile(b"[%c%c]" % (lib.REPLAY_FORK, lib.REPLAY_WAIT))


class TraceDamaged(container.FileDamaged):
    """A file is no trace, or not a whole one."""


class TraceTooNew(container.FileTooNew):
    """A trace of a version that this capshm does not know."""


_KIND = container.Kind(
    b"capshmT",
    1,
    "trace",
    MOST_DESCRIPTION + MOST_EVENTS * EVENT.size,
    Path(__file__).with_name("traces"),
    TraceDamaged,
    TraceTooNew,
)

names = _KIND.names
find = _KIND.find


@dataclass(frozen=True, slots=True)
class Process:
    """One process of the recorded program. parent: its place in the trace, -1 for the first. events: `EVENT` rows."""

    name: str
    parent: int
    events: bytes

    @property
    def counts(self) -> dict[str, int]:
        """How many events there are of each kind: allocations, frees, resizes, execs, forks, waits."""
        kinds = self.events[:: EVENT.size]  # a kind's first byte is all of it
        return {name: kinds.count(kind) for name, kind in _KINDS.items()}


@dataclass(frozen=True, slots=True)
class Trace:
    """The history of a program and of all its processes, the first of which began it.

    live: allocations have numbers below this; no more of them live in one process at once.
    """

    program: str
    live: int
    processes: tuple[Process, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many events of each kind all processes have."""
        each = [process.counts for process in self.processes]
        return {name: sum(counts[name] for counts in each) for name in _KINDS}


def write(trace: Trace, path: Path) -> None:
    """Write a trace to a file, which has all of it or is as it was.

    CapshmError: it is larger than a reader takes. OSError: it could not be written.
    """
    described = {
        "program": trace.program,
        "live": trace.live,
        "processes": [
            {"name": each.name, "parent": each.parent, "events": len(each.events) // EVENT.size}
            for each in trace.processes
        ],
    }
    description = json.dumps(described, separators=(",", ":")).encode()
    rows = b"".join(process.events for process in trace.processes)
    if wrong := _find_too_large(len(description), len(rows) // EVENT.size):
        raise CapshmError(f"{path} is not written: {wrong}")
    _KIND.write(path, description, container.to_planes(rows, EVENT.size))


def read(path: Path) -> Trace:
    """The trace of a file. TraceDamaged, TraceTooNew, OSError.

    Takes memory for MOST_EVENTS and MOST_DESCRIPTION at most, whatever the file says or is.
    """
    description, events = _KIND.read(path)
    if wrong := _find_too_large(len(description), 0):
        raise TraceDamaged(path, container.HEAD_SIZE, wrong)
    try:
        trace = _assemble(json.loads(description), events)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, zlib.error) as error:
        raise TraceDamaged(path, container.HEAD_SIZE, f"its description does not fit its events: {error!r}") from error
    if wrong := _find_wrong(trace):
        raise TraceDamaged(path, container.HEAD_SIZE + len(description), wrong)
    return trace


def _find_too_large(description: int, events: int) -> str | None:
    """What is more than a trace may have, if anything is. In bytes, and their number."""
    if description > MOST_DESCRIPTION:
        return f"its processes take {description:,} bytes to describe, and a trace has {MOST_DESCRIPTION:,} at most"
    if events > MOST_EVENTS:
        return f"it has {events:,} events, and a trace has {MOST_EVENTS:,} at most"
    return None


def _assemble(described: dict[str, object], compressed: bytes) -> Trace:
    """The trace of a description and of its events. ValueError: they do not fit, or are too many."""
    listed = cast("list[dict[str, object]]", described["processes"])
    count = sum(container.number(each["events"]) for each in listed)
    events = _unpack(compressed, count)
    processes = []
    begin = 0
    for each in listed:
        end = begin + container.number(each["events"]) * EVENT.size
        processes.append(Process(str(each["name"]), container.number(each["parent"], least=-1), events[begin:end]))
        begin = end
    live = container.number(described["live"])
    if live > count:
        raise ValueError(f"{live:,} allocations cannot live after {count:,} events")
    return Trace(str(described["program"]), live, tuple(processes))


def _unpack(compressed: bytes, count: int) -> bytes:
    """So many events, of which all first bytes come first. ValueError: there are more, or fewer, or too many."""
    if wrong := _find_too_large(0, count):
        raise ValueError(wrong)
    planes = container.unpack(compressed, count * EVENT.size, f"{count:,} events")
    return container.from_planes(planes, EVENT.size)


def _find_wrong(trace: Trace) -> str | None:
    """What no history of a program has, if there is any. Each process but the first is forked once, by its parent, and
    waited for after that.
    """
    for number, process in enumerate(trace.processes):
        if not (process.parent in range(number) if number else process.parent == -1):
            return f"process {number} has no parent before it"
        kinds = set(process.events[:: EVENT.size])
        if not kinds <= set(_KINDS.values()) or any(any(process.events[place :: EVENT.size]) for place in (1, 2, 3)):
            return f"process {number} has an event of unknown kind"
    not_forked = {(process.parent, number) for number, process in enumerate(trace.processes) if number}
    for number, process in enumerate(trace.processes):
        running: set[int] = set()
        for found in _FORK_OR_WAIT.finditer(process.events[:: EVENT.size]):
            kind, child, _ = EVENT.unpack_from(process.events, found.start() * EVENT.size)
            if kind == _FORK:
                if (number, child) not in not_forked:
                    return f"process {number} forks process {child}, which is not its own or was forked before"
                not_forked.remove((number, child))
                running.add(child)
            elif child in running:
                running.remove(child)
            else:
                return f"process {number} waits for process {child}, which does not run"
    if not_forked:
        return f"process {min(not_forked)[1]} is never forked"
    return None if trace.processes else "it has no process"
