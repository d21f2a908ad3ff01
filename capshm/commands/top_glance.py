"""What `capshm top` shows: one look at a machine after another, and the tables of each.

A look asks the broker for processes, objects, and those records of the audit that are new. The first look reads at most
the last `FIRST_RECORDS` of them, so that it is short on a machine that has run for long, too; refusals and passes are
counted from there on.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from capshm.commands.ps import describe
from capshm.commands.tables import Cell
from capshm.commands.vm import owner
from capshm.observer import Observer, Seen
from capshm.records import Audit, Object

FIRST_RECORDS = 5000
_WINDOW = 10  # seconds that a rate is of


class Refusals(NamedTuple):
    """By one rule. last: what was refused, where."""

    rule: str
    refused: int
    per_second: float
    last: str


class Passes(NamedTuple):
    """All of them together. How long everybody was stopped; None: nobody was, yet."""

    passes: int
    stopper: str
    last_pause_ns: int | None
    longest_pause_ns: int | None
    cleared: int


class Glance(NamedTuple):
    """One look. events: how many records the audit has."""

    machine: str
    events: int
    processes: list[Seen]
    objects: list[Object]
    refusals: list[Refusals]
    passes: Passes


class Section(NamedTuple):
    """A table. name: of what is in it."""

    name: str
    columns: Sequence[str]
    rows: list[tuple[Cell, ...]]


class Watch:
    """Looks at one machine. CapshmError: there is none of that name; BrokerGone: it has ended meanwhile."""

    def __init__(self, machine: str) -> None:
        self._observer = Observer(machine)
        self._next: int | None = None
        self._refused: Counter[str] = Counter()
        self._last_refused: dict[str, str] = {}
        self._recent: deque[tuple[float, str]] = deque()
        self._passes = Passes(0, "", None, None, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._observer.close()

    def look(self) -> Glance:
        """The machine now."""
        if self._next is None:
            self._next = max(1, self._observer.last_event() - FIRST_RECORDS + 1)
        for record in self._observer.audit(self._next):
            self._take(record)
            self._next = record.number + 1
        observer = self._observer
        return Glance(
            observer.machine,
            self._next - 1,
            observer.overview(),
            observer.objects(),
            self._refusals(time.time()),
            self._passes,
        )

    def _take(self, record: Audit) -> None:
        if not record.allowed:
            self._refused[record.rule] += 1
            at = f" at {Path(record.file).name}:{record.line}" if record.file else ""
            self._last_refused[record.rule] = f"{record.event} by {record.pid}{at}"
            self._recent.append((record.time, record.rule))
        stops = [length for _, length in record.pairs("stops")]
        if stops or "cleared" in record.data:
            before = self._passes
            self._passes = Passes(
                before.passes + 1,
                str(record.data.get("stopper", "")),
                stops[-1] if stops else before.last_pause_ns,
                max([*stops, before.longest_pause_ns or 0]) if stops else before.longest_pause_ns,
                before.cleared + record.datum("cleared"),
            )

    def _refusals(self, now: float) -> list[Refusals]:
        """Those that happen most often now first."""
        while self._recent and self._recent[0][0] < now - _WINDOW:
            self._recent.popleft()
        rates = Counter(rule for _, rule in self._recent)
        found = [
            Refusals(rule, number, rates[rule] / _WINDOW, self._last_refused[rule])
            for rule, number in self._refused.items()
        ]
        return sorted(found, key=lambda each: (-each.per_second, -each.refused, each.rule))


def headline(glance: Glance) -> str:
    """The machine in one line."""
    passes = glance.passes
    words = [
        f"machine {glance.machine}",
        _counted(len(glance.processes), "process", "es"),
        _counted(len(glance.objects), "object"),
        _counted(glance.events, "event"),
        _counted(passes.passes, "pass", "es"),
    ]
    if passes.last_pause_ns is not None and passes.longest_pause_ns is not None:
        words[-1] += f" by {passes.stopper}"
        words.append(f"last pause {passes.last_pause_ns / 1e6:.3f} ms, longest {passes.longest_pause_ns / 1e6:.3f} ms")
        words.append(f"{_counted(passes.cleared, 'tag')} cleared")
    return " · ".join(words)


def sections(glance: Glance) -> list[Section]:
    """The tables."""
    return [
        Section(
            "processes",
            ("PID", "PPID", "VMSPACE", "STATE", "EPOCH", "MAPS", "CAPMAPS", "COMMAND"),
            [
                (
                    each.process.pid,
                    each.process.parent,
                    each.process.vmspace,
                    each.process.state,
                    each.process.epoch,
                    each.mappings,
                    each.capability_mappings,
                    each.command,
                )
                for each in glance.processes
            ],
        ),
        Section(
            "objects",
            ("OBJECT", "KIND", "NAME", "SIZE", "OWNER", "TAGS"),
            [
                (each.id, each.kind, each.name, None if each.size < 0 else each.size, owner(each), each.tag_count)
                for each in glance.objects
            ],
        ),
        Section(
            "refusals",
            ("RULE", "REFUSED", "PER SECOND", "LAST"),
            [(each.rule, each.refused, each.per_second, each.last) for each in glance.refusals],
        ),
    ]


def document(glance: Glance) -> dict[str, object]:
    """The same for programs."""
    return {
        "machine": glance.machine,
        "events": glance.events,
        "processes": [describe(each) for each in glance.processes],
        "objects": [each._asdict() for each in glance.objects],
        "refusals": [each._asdict() for each in glance.refusals],
        "passes": glance.passes._asdict(),
    }


def _counted(number: int, what: str, plural: str = "s") -> str:
    return f"{number:,} {what}{'' if number == 1 else plural}"
