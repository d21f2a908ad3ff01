"""Makes one trace of the journals that the processes of a recorded program have left (native/journal.h).

Which journal belongs where:

    process   a pid and the time it began; its second and later journals are of programs that it became by exec
    parent    of a child of fork: the journal that its header names, at the place where the copy was made, so what the
              child inherited is exact. Of one that came by vfork or posix_spawn, and is seen first when it has become
              another program: the journal of the pid that it calls its parent, by the clock. Where that was not
              recorded, or has ended: the first process.

An allocation has an address in a journal and a number in a trace: the one that became free last, or a new one. What
was allocated before the recorder was there has no number, and its end is left out.
"""

from __future__ import annotations

import errno
import os
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from capshm._native import lib
from capshm.errors import CapshmError
from capshm.lab.inputs.trace import EVENT, Process, Trace

_HEADER = struct.Struct("<8s2I3Q3I20s24x")
_RECORD = struct.Struct("<QQQII")
_MAGIC = b"capshmJ1"
_WHOLE, _BROKEN = "whole", "broken"
_ALLOCATED: int = lib.JOURNAL_ALLOCATED
_FREED: int = lib.JOURNAL_FREED
_MOVING: int = lib.JOURNAL_MOVING
_MOVED: int = lib.JOURNAL_MOVED
_WAITED: int = lib.JOURNAL_WAITED
_ALLOCATE: int = lib.REPLAY_ALLOCATE
_FREE: int = lib.REPLAY_FREE
assert (_HEADER.size, _RECORD.size) == (lib.JOURNAL_HEADER_SIZE, lib.JOURNAL_RECORD_SIZE)

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}

Advance = Callable[[int], None]
"""Told how many more records have been read."""


class RecordingEndedEarly(CapshmError):
    """A process could not write down all of its history, or none of it."""


@dataclass(slots=True)
class Journal:
    """The records of one program in one process.

    name: of the file. started: of the process, opened: of the program, by clocks of their own. origin, position: the
    journal that a fork has copied, and how many of its records; None for what was not forked. forks: (place, process)
    of each child that it made, as far as the merge knows.
    """

    name: str
    pid: int
    parent_pid: int
    started: int
    opened: int
    origin: str | None
    position: int
    program: str
    records: memoryview
    forks: list[tuple[int, int]] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Journal | None:
        """None: the process died before it could begin. RecordingEndedEarly: its disk was full, or the like."""
        content = path.read_bytes()
        if content[: len(_MAGIC)] != _MAGIC:
            return None
        _, pid, parent, started, opened, position, fork_pid, fork_number, error, program = _HEADER.unpack_from(content)
        if error:
            raise RecordingEndedEarly(_ending(pid, "ends early", path, error))
        is_forked = position != lib.JOURNAL_NEVER_FORKED
        return cls(
            name=path.name,
            pid=pid,
            parent_pid=parent,
            started=started,
            opened=opened,
            origin=f"{fork_pid}.{fork_number}" if is_forked else None,
            position=position - _HEADER.size // _RECORD.size,
            program=program.partition(b"\0")[0].decode(errors="replace"),
            records=memoryview(content)[_HEADER.size :],
        )

    @property
    def length(self) -> int:
        """In records, of which the last ones may be empty."""
        return len(self.records) // _RECORD.size

    def place_at(self, time: int) -> int:
        """How many of the records are older."""
        places = range(self.length)
        return bisect_right(places, time, key=self._time_or_end)

    def _time_or_end(self, place: int) -> int:
        _, _, time, _, event = _RECORD.unpack_from(self.records, place * _RECORD.size)
        return time if event else 1 << 64


def prepare(folder: Path) -> None:
    """Make an empty folder one that a recording can be written to."""
    (folder / _WHOLE).touch()


def collect(folder: Path) -> list[Journal]:
    """All journals of a recording. RecordingEndedEarly: a process has none, or one without its end; says why."""
    for path in folder.glob(f"{_BROKEN}.*"):
        _, pid, error = path.name.split(".")
        raise RecordingEndedEarly(_ending(int(pid), "is missing", folder, int(error)))
    paths = sorted(folder.glob("[0-9]*"))
    return [journal for path in paths if (journal := Journal.read(path)) is not None]


def _ending(pid: int, how: str, path: Path, error: int) -> str:
    advice = "; TMPDIR may name a better place" if error in _NO_ROOM else ""
    return f"the history of process {pid} {how}: {path}: {os.strerror(error)}{advice}"


@dataclass(slots=True)
class _Numbers:
    """The allocations of a process that live now: numbers by address."""

    live: dict[int, int] = field(default_factory=dict)
    free: list[int] = field(default_factory=list)
    next: int = 0

    def copy(self) -> _Numbers:
        return _Numbers(self.live.copy(), self.free.copy(), self.next)

    def take(self, address: int) -> int:
        if self.free:
            number = self.free.pop()
        else:
            number = self.next
            self.next += 1
        self.live[address] = number
        return number


class _Merge:
    """The state of a merge. processes: for each, its journals in order. events: what has come of them."""

    def __init__(self, journals: list[Journal], advance: Advance) -> None:
        self._advance = advance
        self.processes: list[list[Journal]] = []
        by_identity: dict[tuple[int, int], list[Journal]] = {}
        for journal in sorted(journals, key=lambda each: each.opened):
            programs = by_identity.setdefault((journal.pid, journal.started), [])
            if not programs:
                self.processes.append(programs)
            programs.append(journal)
        self.parents = [-1] * len(self.processes)
        self.events = [bytearray() for _ in self.processes]
        self.live = 0
        self._by_name = {journal.name: number for number, each in enumerate(self.processes) for journal in each}
        for number in range(1, len(self.processes)):
            self._find_parent(number)

    def _find_parent(self, number: int) -> None:
        child = self.processes[number][0]
        if child.origin in self._by_name:
            parent = self._by_name[child.origin]
            (journal,) = (each for each in self.processes[parent] if each.name == child.origin)
            place = child.position
        else:
            parent = self._find_by_clock(child)
            journal = [each for each in self.processes[parent] if each.opened <= child.opened][-1]
            place = journal.place_at(child.opened)
        self.parents[number] = parent
        journal.forks.append((place, number))

    def _find_by_clock(self, child: Journal) -> int:
        """The last process of the parent's pid that had begun by then."""
        found = 0
        for number, (first, *_) in enumerate(self.processes):
            if first.pid == child.parent_pid and first.opened < child.opened:
                found = number
        return found

    def run(self) -> None:
        """Fill in all events: depth first, so that few copies of what children inherit are there at once."""
        running = [self._follow(0, _Numbers())]
        while running:
            child = next(running[-1], None)
            if child is None:
                running.pop()
            else:
                running.append(self._follow(*child))

    def _follow(self, number: int, numbers: _Numbers) -> Iterator[tuple[int, _Numbers]]:
        """Fill in the events of a process; yields each child with what it inherits."""
        emit, pack = self.events[number].extend, EVENT.pack
        children: dict[int, int] = {}
        for program, journal in enumerate(self.processes[number]):
            if program or (number and journal.origin not in self._by_name):
                emit(pack(lib.REPLAY_EXEC, 0, 0))
                numbers = _Numbers()
            moving: dict[int, tuple[int, int | None]] = {}
            begin = 0
            for place, child in [*sorted(journal.forks), (journal.length, -1)]:
                end = place * _RECORD.size
                self._translate(number, journal.records[begin:end], numbers, moving, children)
                begin = end
                self.live = max(self.live, numbers.next)
                if child >= 0:
                    emit(pack(lib.REPLAY_FORK, child, 0))
                    children[self.processes[child][0].pid] = child
                    yield child, numbers.copy()

    def _translate(
        self,
        process: int,
        records: memoryview,
        numbers: _Numbers,
        moving: dict[int, tuple[int, int | None]],
        children: dict[int, int],
    ) -> None:
        """Add the events of these records. moving: by thread, what is being resized: its old address and number."""
        emit, pack, live, free = self.events[process].extend, EVENT.pack, numbers.live, numbers.free
        for address, size, _, thread, event in _RECORD.iter_unpack(records):
            if event == _MOVED:
                before, known = moving.pop(thread, (0, None))
                if address == 0:
                    if known is not None and size == 0:  # realloc(pointer, 0) is a free
                        emit(pack(_FREE, known, 0))
                        free.append(known)
                    elif known is not None:
                        live[before] = known  # it failed, and nothing has changed
                    continue
                if known is not None:
                    live[address] = known
                    emit(pack(lib.REPLAY_RESIZE, known, size))
                    continue
                event = _ALLOCATED  # of what the recorder has not seen begin
            if event == _ALLOCATED:
                if (stale := live.pop(address, None)) is not None:  # its end went past the recorder
                    emit(pack(_FREE, stale, 0))
                    free.append(stale)
                emit(pack(_ALLOCATE, numbers.take(address), size))
            elif event == _FREED:
                if (freed := live.pop(address, None)) is not None:
                    emit(pack(_FREE, freed, 0))
                    free.append(freed)
            elif event == _MOVING:
                moving[thread] = address, live.pop(address, None)
            elif event == _WAITED and (waited := children.pop(address, None)) is not None:
                emit(pack(lib.REPLAY_WAIT, waited, 0))
        self._advance(len(records) // _RECORD.size)


def merge(journals: list[Journal], program: str, advance: Advance = lambda _: None) -> Trace:
    """One trace of all of them, of which there is at least one. program: what was started."""
    work = _Merge(journals, advance)
    work.run()
    names = [each[-1].program for each in work.processes]
    return Trace(
        program,
        work.live,
        tuple(
            Process(name, parent, bytes(events))
            for name, parent, events in zip(names, work.parents, work.events, strict=True)
        ),
    )
