"""What each address space has to do with revocation: its clock, its record, its shadow, and whose epoch waits."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from capshm.broker.revocation.shadows import Records, Shadow
from capshm.model.knobs import Knobs
from capshm.model.revocation import Revocation

if TYPE_CHECKING:
    from capshm.broker.state import Member
    from capshm.model.address_space import AddressSpace


@dataclass(slots=True, eq=False)
class Part:
    """One address space's.

    record: its number. shadow: None until something may be painted. parent: of one that is still being forked.
    """

    clock: Revocation
    record: int
    knobs: Knobs
    shadow: Shadow | None = None
    parent: Part | None = None

    def make_shadow(self, space: AddressSpace) -> Shadow:
        """The shadow, made now if there is none yet."""
        if self.shadow is None:
            self.shadow = Shadow(space.arena_start, space.arena_end)
        return self.shadow


class Parts:
    """Those of all members. wakeup: readable while an epoch waits to be closed by the broker."""

    def __init__(self) -> None:
        self.records = Records()
        self.wakeup = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._queue: list[Member] = []

    def begin(self) -> Part:
        """For a process that attaches: a new program's clock is at rest at zero (F22)."""
        clock = Revocation()
        return Part(clock, self.records.take(clock.epochs), Knobs())

    def fork(self, parent: Part, space: AddressSpace) -> Part:
        """For a child with this address space (F24). If its parent may paint, it has a shadow of its own."""
        clock = parent.clock.copy()
        part = Part(clock, self.records.take(clock.epochs, parent.record), parent.knobs, parent=parent)
        if parent.shadow is not None:
            try:
                part.make_shadow(space)
            except BaseException:
                self.records.give_back(part.record)
                raise
        return part

    def end(self, member: Member) -> None:
        """The address space is gone."""
        part = member.part
        self.records.give_back(part.record)
        if part.shadow is not None:
            part.shadow.close()
        if member in self._queue:
            self._queue.remove(member)

    def queue(self, member: Member) -> None:
        """The member's epoch is to be closed as soon as the present request is answered."""
        self._queue.append(member)
        os.eventfd_write(self.wakeup, 1)

    def take_queued(self) -> list[Member]:
        """Those that wait; none does any more."""
        os.eventfd_read(self.wakeup)
        queued, self._queue = self._queue, []
        return queued

    def close(self) -> None:
        """No more."""
        self.records.close()
        os.close(self.wakeup)
