"""What happened in a machine as a trace for Perfetto (https://ui.perfetto.dev): its processes side by side, over time.

Each process is a track: a slice for each address space that it has had, named by its number; in there a slice for every
time that a pass stopped it; and an instant for each record of the audit that is about it. The broker's track has the
passes themselves, and what is about no process that is known. Below it are counters. Arrows (`perfetto_arrows`) go from
a grant to its uses and to the passes that took tags from it.

Times are the audit's, in ns since 1970; where a clock was set back they stand still until it has caught up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from capshm.errors import CapshmError
from capshm.lab.perfetto.arrows import Arrow, arrows
from capshm.lab.perfetto.packets import Event, Flows, Packets
from capshm.lab.whole import replacing
from capshm.records import Audit, Datum

_BROKER = 1
_COUNTERS = {"processes": 2, "refusals": 3, "tags cleared": 4}
_FIRST_PROCESS = 5
_SECOND = 1_000_000_000
_CATEGORIES = {"attach": "process", "forked": "process", "end": "process", "knob": "knob"} | {
    **dict.fromkeys(("fork", "fork drop", "fork failed"), "fork"),
    **dict.fromkeys(("revoke", "revoke_all", "revoke later"), "revocation"),
}


class Summary(NamedTuple):
    """What a trace holds."""

    processes: int
    events: int
    arrows: int


def write(records: Sequence[Audit], path: Path, on_record: Callable[[], None] = lambda: None) -> Summary:
    """Write the trace of these records, in their order, to a file, which has all of it or is as it was.

    The same records make the same bytes. on_record: is called after each. CapshmError: they hold what no broker writes.
    OSError: it could not be written.
    """
    found = arrows(records)
    try:
        with replacing(path) as file:
            packets = Packets(file)
            processes = _Story(packets, found).tell(records, on_record)
    except (ValueError, OverflowError) as error:  # a number that no packet holds
        raise CapshmError(f"there is no trace of these records: {error}") from None
    return Summary(processes, packets.events, len(found))


class _Story:
    """What has happened up to the present record."""

    def __init__(self, packets: Packets, found: Sequence[Arrow]) -> None:
        self._packets = packets
        self._grants = {arrow[0] for arrow in found}
        self._flows: dict[int, Flows] = defaultdict(lambda: Flows([], []))
        for number, arrow in enumerate(found, 1):
            for step in arrow[:-1]:
                self._flows[step].onward.append(number)
            self._flows[arrow[-1]].ending.append(number)
        self._tracks: dict[int, int] = {}  # by pid: of all that ever were
        self._programs: dict[int, str] = {}
        self._living: set[int] = set()
        self._counts = dict.fromkeys(_COUNTERS, 0)

    def tell(self, records: Iterable[Audit], on_record: Callable[[], None]) -> int:
        """All of it, and how many processes there were."""
        self._packets.group(_BROKER, "broker")
        for name, track in _COUNTERS.items():
            self._packets.counter(track, name, _BROKER)
        for record in records:
            self._follow(record)
            on_record()
        for pid in sorted(self._living):
            self._packets.end(self._tracks[pid])
        return len(self._tracks)

    def _follow(self, record: Audit) -> None:
        stops = record.pairs("stops")
        for begin, length in stops[:-1]:
            self._stop(record, begin, length, Flows([], []))
        for begin, length in stops[-1:]:  # one of them has the arrows
            self._stop(record, begin, length, self._flows_of(record))
        self._go_to(round(record.time * _SECOND))
        if record.event in ("attach", "forked"):
            self._begin_life(record)
        elif not stops:
            track = self._tracks[record.pid] if record.pid in self._living else _BROKER
            name = record.event if record.allowed else f"{record.event} refused: {record.rule}"
            self._packets.instant(track, self._event(name, record, self._flows_of(record)))
        if record.event == "end":
            self._end_life(record.pid)
        if cleared := record.datum("cleared"):
            self._count("tags cleared", cleared)
        if not record.allowed:
            self._count("refusals", 1)

    def _begin_life(self, record: Audit) -> None:
        pid, parent = record.pid, record.datum("parent")
        self._end_life(pid)  # a number that was used before, if the end of that is not in the records
        self._programs[pid] = record.message if record.event == "attach" else self._programs.get(parent, "")
        if pid not in self._tracks:
            self._tracks[pid] = _FIRST_PROCESS + len(self._tracks)
            self._packets.process(self._tracks[pid], pid, self._programs[pid], f"parent {parent}")
        self._living.add(pid)
        event = self._event(f"vmspace {record.vmspace}", record, self._flows_of(record))
        self._packets.begin(self._tracks[pid], event)
        self._count("processes", 1)

    def _end_life(self, pid: int) -> None:
        if pid in self._living:
            self._living.remove(pid)
            self._packets.end(self._tracks[pid])
            self._count("processes", -1)

    def _stop(self, record: Audit, begin: int, length: int, flows: Flows) -> None:
        """A slice of the broker's, and one of each process that was there."""
        stopped = [self._tracks[pid] for pid in sorted(self._living)]
        self._go_to(begin)
        name = "pass" if record.allowed else f"pass refused: {record.rule}"
        self._packets.begin(_BROKER, self._event(name, record, flows))
        for track in stopped:
            about = {"record": record.number, "by": record.pid, "stopper": record.data.get("stopper", "")}
            self._packets.begin(track, Event("stopped", "stop", about))
        self._packets.now += length
        for track in (*stopped, _BROKER):
            self._packets.end(track)

    def _go_to(self, time: int) -> None:
        self._packets.now = max(self._packets.now, time)

    def _count(self, name: str, change: int) -> None:
        self._counts[name] += change
        self._packets.count(_COUNTERS[name], self._counts[name])

    def _flows_of(self, record: Audit) -> Flows:
        return self._flows.get(record.number, Flows([], []))

    def _event(self, name: str, record: Audit, flows: Flows) -> Event:
        about: dict[str, Datum] = {"record": record.number, "pid": record.pid, "vmspace": record.vmspace}
        if record.rule:
            about["rule"] = record.rule
        if record.object:
            about["object"] = record.object
        if record.message:
            about["message"] = record.message
        if record.file:
            about["at"] = f"{record.file}:{record.line}"
        return Event(name, self._category(record), about | record.data, flows)

    def _category(self, record: Audit) -> str:
        if not record.allowed:
            return "refusal"
        return _CATEGORIES.get(record.event) or ("grant" if record.number in self._grants else "share")
