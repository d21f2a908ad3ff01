"""A pass: what the broker does to the machine's objects while the machine stands still.

Order of a pass that closes an epoch, by the revoker `stop-the-world`:

    (1) the model opens the epoch, unless it is open          a death of anybody from here on leaves it open
    (2) sidebands are mapped, the stopper closes the gate     Incomplete: it is open again, the epoch stays open
    (3) sidebands of objects are swept                        tags that are gone stay gone, rightly
    (4) the record counts one more pass                       from here on its process sweeps its own (native/revoke.h)
    (5) the gate opens
    (6) the model closes the epoch, releases the reservation, and the record shows the clock

The asker may die at any time: the pass goes on. If the broker dies with the gate closed, it stays closed, and every
operation raises BrokerGone; before (2) and after (5) only requests do. Nothing is freed by either: `dequeue` moves at
(6).

In a machine of scope "vmspace" cheri_revoke sweeps what belongs to the address space, by its shadow. That is CheriBSD's
hole: what others have got through O_SHARECAP, anonymous shared and System V objects stays there (J4). With scope
"machine", and by Machine.revoke in every machine, (3) is machine-wide: all objects are swept, by the origins of what
they hold, and (4) reaches the copies of every process (native/origin.h).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from capshm._native import ffi, lib
from capshm.broker.revocation.maps import Maps
from capshm.broker.segments import Sideband
from capshm.broker.state import Member, State
from capshm.model.objects import MemoryObject
from capshm.records import Datum

if TYPE_CHECKING:
    from capshm._native import CData


MOST_PAUSES = 4096
"""That are kept until somebody takes them."""


class Found(NamedTuple):
    """What sweeps of objects have met."""

    lines: int = 0
    found: int = 0
    cleared: int = 0


@dataclass(slots=True)
class Pass:
    """Some address spaces in one pass; a `World` for revokers.

    leaving: what leaves quarantine, if it is only one. is_machine_wide: it reaches what is theirs wherever it is.
    """

    state: State
    members: list[Member]
    leaving: tuple[int, int] | None = None
    is_machine_wide: bool = False
    _counts: CData = field(default_factory=lambda: ffi.new("struct sweep_counts *"))
    _maps: Maps = field(init=False)
    _number: int = 0  # of a machine-wide pass
    _stops: list[int] = field(default_factory=list)
    _cleared: dict[int, int] = field(default_factory=dict)  # tags of each object that has lost any

    def __post_init__(self) -> None:
        self._maps = Maps(has_origins=self.is_machine_wide)

    @property
    def found(self) -> Found:
        """What has been met until now."""
        return Found(self._counts.lines, self._counts.found, self._counts.cleared)

    def about(self) -> dict[str, Datum]:
        """What the audit tells programs of it (capshm.records.Audit)."""
        return {
            "vmspaces": [member.serial for member in self.members],
            "scope": "machine" if self.is_machine_wide else "vmspace",
            "stopper": self.state.settings.stopper,
            "stops": self._stops,
            "objects": [number for each in self._cleared.items() for number in each],
            **self.found._asdict(),
        }

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """By the machine's stopper. Incomplete.

        What is to be swept is mapped before, and unmapped afterwards: for 64 MiB that takes as long as the sweep.
        """
        with contextlib.closing(self._maps):
            for _, sideband in self._sidebands():
                self._maps.prepare(sideband)
            began, begin = time.time_ns(), time.perf_counter_ns()
            try:
                with self.state.stopper.stopped():
                    yield
            finally:  # whether all were stopped or not: nobody could begin an operation
                pause = time.perf_counter_ns() - begin
                self._stops += [began, pause]
                if len(self.state.pauses) < MOST_PAUSES:
                    self.state.pauses.append(pause)

    def sweep_objects(self) -> None:
        """Rows J1, J4, J5: what the address spaces own, wherever it is; machine-wide, what is theirs in all objects."""
        if self.is_machine_wide:
            self._stamp()
        shadows = {each.serial: each.part.make_shadow(each.space).as_native(self.leaving) for each in self._painters()}
        for memory, sideband in self._sidebands():
            if memory.owner in shadows:
                shadow = shadows[memory.owner]
                with self._counted(memory):
                    for area in self._maps.areas(sideband):
                        lib.sweep(area.lines, area.twins, area.line_count, shadow, lib.SWEEP_AUTOMATIC, self._counts)
        if self.is_machine_wide:
            self._sweep_by_origin(shadows)

    def leave_private(self) -> None:
        """See native/revoke.h."""
        if self.is_machine_wide:
            self.state.parts.records.count_machine_pass(self._number)
        for member in self.members:
            self.state.parts.records.add_pass(member.part.record, self.leaving)

    def _painters(self) -> list[Member]:
        """Those whose shadows may revoke something; the others have never painted."""
        return [each for each in self.members if each.part.shadow is not None or self.leaving is not None]

    def _sidebands(self) -> Iterator[tuple[MemoryObject, Sideband]]:
        """Those that are swept, and the objects that they belong to."""
        painters = {member.serial for member in self._painters()}
        for memory in self.state.holders():
            sideband = self.state.segments.made_sideband(memory.id)
            if sideband is not None and (self.is_machine_wide or memory.owner in painters):
                yield memory, sideband

    @contextlib.contextmanager
    def _counted(self, memory: MemoryObject) -> Iterator[None]:
        """What is cleared inside, is of this object."""
        before = self._counts.cleared
        yield
        if cleared := self._counts.cleared - before:
            self._cleared[memory.id] = self._cleared.get(memory.id, 0) + cleared

    def _stamp(self) -> None:
        """A child that is being forked has its parent's memory, or is about to."""
        records = self.state.parts.records
        self._number = records.begin_machine_pass()
        for member in self.members:
            part = member.part
            forked = [other.part for other in self.state.members.values() if other.part.parent is part]
            for each in (part, *forked):
                records.stamp(each.record, part.shadow, self.leaving, self._number)

    def _sweep_by_origin(self, shadows: dict[int, CData]) -> None:
        """Take what its origin's shadow revokes, and what belongs to an address space that is gone."""
        by_record = ffi.new("struct shadow *[]", lib.REVOCATION_RECORDS)
        for member in self.members:
            by_record[member.part.record] = shadows.get(member.serial, ffi.NULL)
        records = self.state.parts.records.native
        for memory, sideband in self._sidebands():
            with self._counted(memory):
                for area in self._maps.areas(sideband):
                    lib.sweep_by_origin(
                        area.lines, area.twins, area.origins, area.line_count, records, by_record, self._counts
                    )
