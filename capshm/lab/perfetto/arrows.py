"""Who was given what, who could use it, and what ended it: the arrows of a trace, from the records of an audit alone.

A share is an object and an address space that may load or store capabilities there. Its arrow begins where the object
came to be known; it goes on to each mapping through which the address space may reach tags, or to the fork that began
it with its parent's mappings; and it ends at the last pass that took tags from the object while the address space was
there. What a fork takes away from the child has an arrow of its own, from the grant to the drop. Where nothing was
revoked an arrow ends at the last use.

The audit has neither what a process does without asking, loads and stores, nor the tags that it takes from its own
memory after a pass; and what is unmapped shares nothing, so it is not in there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TypeAlias

from capshm.records import Audit

Arrow: TypeAlias = list[int]
"""The numbers of the records that it goes through: a grant, and at least one more."""


def arrows(records: Iterable[Audit]) -> list[Arrow]:
    """All of a machine, in the order in which their shares began."""
    shares = _Shares()
    for record in records:
        if record.allowed:
            shares.follow(record)
    return [arrow for arrow in shares.all if len(arrow) > 1]


class _Shares:
    """The shares of each address space that is there, by object."""

    def __init__(self) -> None:
        self.all: list[Arrow] = []
        self._grants: dict[int, int] = {}
        self._of: dict[int, dict[int, Arrow]] = defaultdict(dict)
        self._births: dict[int, set[int]] = {}  # the objects of a child that is still being forked

    def follow(self, record: Audit) -> None:
        """Take the next record into account."""
        if record.object:
            self._grants.setdefault(record.object, record.number)
        if record.event == "fork":
            self._births[record.datum("child")] = set(self._of[record.vmspace])
        elif record.event == "fork drop":
            self._drop(record)
        elif record.event == "forked":
            for memory in sorted(self._births.pop(record.vmspace, ())):
                self._go_on(memory, record.vmspace, record.number)
        elif record.event in ("end", "fork failed"):
            self._of.pop(record.vmspace, None)
            self._births.pop(record.vmspace, None)
        elif "objects" in record.data:
            self._revoke(record)
        elif record.object and {"R", "W"} & set(str(record.data.get("maximum", ""))):
            self._go_on(record.object, record.datum("vmspace", record.vmspace), record.number)

    def _go_on(self, memory: int, vmspace: int, number: int) -> None:
        arrow = self._of[vmspace].get(memory)
        if arrow is None:
            arrow = self._of[vmspace][memory] = [self._grants[memory]]
            self.all.append(arrow)
        if arrow[-1] != number:  # a mapping may be what makes the object
            arrow.append(number)

    def _drop(self, record: Audit) -> None:
        born = self._births.get(record.datum("child"))
        if born is not None and record.object in born:
            born.remove(record.object)
            self.all.append([self._grants[record.object], record.number])

    def _revoke(self, record: Audit) -> None:
        for memory, _ in record.pairs("objects"):
            for held in self._of.values():
                if memory in held:
                    held[memory].append(record.number)
