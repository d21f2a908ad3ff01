"""An address space: regions, and the entries in them.

A reservation is what a capability of mmap covers, padded so that its bounds can be represented (C1). It lasts until
all of it is unmapped (C11). The entries lie inside; where there is none, be it a hole or the padding, an access
faults (C2). Reservations are children of the root VMAR, as Zircon's VMARs are: `regions` says how the two go together.

Nothing here decides: who changes an address space has checked everything before, and no change can fail.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from sortedcontainers import SortedDict

from capshm import encoding
from capshm.model.constants import (
    ARENA_SIZE,
    ARENA_START,
    INHERIT_COPY,
    INHERIT_NONE,
    INHERIT_SHARE,
    INHERIT_ZERO,
    PAGE,
)
from capshm.model.pointer import round_up
from capshm.model.regions import Reservation, Vmar, copy_sorted
from capshm.model.rights import Rights

if TYPE_CHECKING:
    from collections.abc import Iterable

    from capshm.model.objects import MemoryObject


class Entry(NamedTuple):
    """Pages in a row that are alike.

    object: None for private memory that no descriptor stands for; then offset is 0. is_shared: stores reach the object;
    otherwise they stay in this address space. reservation: where it starts, or the VMAR that this is a mapping of.
    is_guard: made by MAP_GUARD, and nothing but another mapping changes that. is_quarantined: it was unmapped, and its
    place waits for revocation. vmar: that VMAR's number; None for mmap. is_stream: pages behind the one that holds the
    VMO's stream size fault (FAULT_BEYOND_STREAM_SIZE).
    """

    start: int
    end: int
    current: Rights
    maximum: Rights
    inherit: int
    object: MemoryObject | None
    offset: int
    is_shared: bool
    reservation: int
    is_guard: bool = False
    is_quarantined: bool = False
    vmar: int | None = None
    is_stream: bool = False

    @property
    def length(self) -> int:
        """In bytes."""
        return self.end - self.start

    @property
    def can_hold_capabilities(self) -> bool:
        """Whether it has capability permission, or may get it."""
        return bool(self.maximum & Rights.CAP)

    def part(self, start: int, end: int) -> Entry:
        """What of it lies in a range."""
        if start <= self.start and self.end <= end:
            return self
        start, end = max(start, self.start), min(end, self.end)
        offset = self.offset + start - self.start if self.object is not None else 0
        return self._replace(start=start, end=end, offset=offset)

    def joins(self, after: Entry) -> bool:
        """Whether it and the entry behind it are one."""
        is_like = self.current is after.current and self.object is after.object and self.end == after.start
        return is_like and self.continues(after)  # which takes longer

    def continues(self, after: Entry) -> bool:
        """Whether an entry further on is of the same mapping, whatever both permit now."""
        distance = after.start - self.start if after.object is not None else 0
        return self == after._replace(
            start=self.start, end=self.end, offset=after.offset - distance, current=self.current
        )


_Item = TypeVar("_Item", Entry, Reservation | Vmar)


class AddressSpace:
    """The address space of one process.

    serial: its identity, never given twice; owners of objects are named by it. reservations: the root's children, VMARs
    among them. vmars: all that are alive, by their numbers.
    """

    def __init__(self, serial: int, arena_start: int = ARENA_START, arena_end: int = ARENA_START + ARENA_SIZE) -> None:
        self.serial = serial
        self.arena_start = arena_start
        self.arena_end = arena_end
        self.entries: SortedDict[int, Entry] = SortedDict()
        self.root = Vmar(self, None, arena_start, arena_end)
        self.reservations = self.root.children
        self.vmars = {self.root.number: self.root}
        self._next_vmar = self.root.number + 1
        self._next = arena_start

    # Looking

    def overlapping(self, start: int, end: int) -> list[Entry]:
        """The entries that have a part in a range, whole."""
        return _overlapping(self.entries, start, end)

    def within(self, start: int, end: int) -> list[Entry]:
        """The parts of entries that lie in a range."""
        return [entry.part(start, end) for entry in self.overlapping(start, end)]

    def reservations_overlapping(self, start: int, end: int) -> list[Reservation | Vmar]:
        """The reservations, and VMARs of the root, that have a part in a range."""
        return _overlapping(self.reservations, start, end)

    def reservation_around(self, start: int, end: int) -> Reservation | None:
        """The one reservation that a whole range lies in."""
        reservation = self.reservations.get(start)
        if reservation is None:
            index = self.reservations.bisect_right(start) - 1
            if index < 0:
                return None
            reservation = self.reservations.peekitem(index)[1]
        return reservation if isinstance(reservation, Reservation) and end <= reservation.end else None

    def find_free(self, length: int, alignment: int, hint: int | None = None) -> int | None:
        """A free place for a reservation: at the hint if that is free, else the next one behind the last, else None.

        A page is left free between a reservation and its neighbours, so that an overrun faults.
        """
        if hint is not None:
            hint = round_up(hint, alignment)
            is_inside = self.arena_start <= hint and hint + length <= self.arena_end
            if is_inside and self.root.is_free(hint, hint + length):
                return hint
        next_place = round_up(self._next, alignment)
        if self._is_last(self._next) and next_place + length <= self.arena_end:  # the common case, quicker
            return next_place
        place = self._first_fit(self._next, length, alignment)
        return place if place is not None else self._first_fit(self.arena_start, length, alignment)

    def _is_last(self, start: int) -> bool:
        """Whether all that there is ends a page before it."""
        return all(not items or items.peekitem()[1].end < start for items in (self.reservations, self.entries))

    def _first_fit(self, lowest: int, length: int, alignment: int) -> int | None:
        for start, end in self.root.gaps(lowest):
            first = start if start == self.arena_start else start + PAGE
            last = end if end == self.arena_end else end - PAGE
            candidate = round_up(max(lowest, first), alignment)
            if candidate + length <= last:
                return candidate
        return None

    def is_quarantined(self, reservation: Reservation | Vmar) -> bool:
        """Whether all of it was unmapped, and waits for revocation."""
        entry = self.entries.get(reservation.start)
        return entry is not None and entry.is_quarantined

    # Changing

    def reserve(self, reservation: Reservation) -> None:
        """Take a place; an entry follows."""
        self.reservations[reservation.start] = reservation
        self._next = reservation.end + PAGE

    def add_vmar(self, vmar: Vmar) -> None:
        """Put a new VMAR into its parent."""
        vmar.number = self._next_vmar
        self._next_vmar += 1
        self.vmars[vmar.number] = vmar
        vmar.attach()

    def end_vmar(self, vmar: Vmar) -> list[Vmar]:
        """End a VMAR and those below, in which nothing is mapped any more. Returned: all of them."""
        ended = vmar.end_all()
        for each in ended:
            del self.vmars[each.number]
        return ended

    def replace(self, entry: Entry) -> list[Entry]:
        """Put an entry where there may be others, in its reservation. Returned: the parts that it took the place of."""
        old = self.entries.get(entry.start)
        # The same place is the common case, and needs no room to be made.
        taken = [old] if old is not None and old.end == entry.end else self._cut(entry.start, entry.end)
        self._insert(entry)
        return taken

    def remove(self, start: int, end: int) -> list[Entry]:
        """Unmap a range; a reservation goes when nothing is left in it. Returned: the parts that are gone."""
        taken = self._cut(start, end)
        for reservation in {entry.reservation for entry in taken if entry.vmar is None}:
            if not self.overlapping(reservation, self.reservations[reservation].end):
                del self.reservations[reservation]
        return taken

    def restore(self, entries: Iterable[Entry], reservations: Iterable[Reservation | Vmar]) -> None:
        """Put back what a change, the last one there, has taken away or replaced."""
        for reservation in reservations:
            self.reservations[reservation.start] = reservation
        for entry in entries:
            self.replace(entry)

    def copy(self, serial: int) -> AddressSpace:
        """The same under another identity."""
        child = copy(self)
        child.serial = serial
        child.entries = copy_sorted(self.entries)
        child.vmars = {}
        for number, vmar in self.vmars.items():  # parents first
            child.vmars[number] = vmar.copy(child, None if vmar.parent is None else child.vmars[vmar.parent.number])
        child.root = child.vmars[self.root.number]
        child.reservations = child.root.children
        return child

    def _cut(self, start: int, end: int) -> list[Entry]:
        taken = []
        for entry in self.overlapping(start, end):
            del self.entries[entry.start]
            taken.append(entry.part(start, end))
            for rest in (entry.part(entry.start, start), entry.part(end, entry.end)):
                if rest.length > 0:
                    self.entries[rest.start] = rest
        return taken

    def _insert(self, entry: Entry) -> None:
        """Where nothing is, or one entry that is replaced."""
        after = self.entries.get(entry.end)
        if after is not None and entry.joins(after):
            del self.entries[after.start]
            entry = entry._replace(end=after.end)
        index = self.entries.bisect_left(entry.start) if entry.start != entry.reservation else 0
        if index > 0:  # entries of two reservations are never one
            before = self.entries.peekitem(index - 1)[1]
            if before.joins(entry):
                self.entries.pop(entry.start, None)
                entry = before._replace(end=entry.end)
        self.entries[entry.start] = entry

    # What is always so

    def check(self) -> None:
        """Raise AssertionError if this is no address space."""
        self.root.check()
        assert {vmar.number: vmar for vmar in self.root.vmars()} == self.vmars, "who is alive is in the tree"
        for start, reservation in self.reservations.items():
            if isinstance(reservation, Vmar):
                continue
            assert reservation.length > 0 == reservation.length % PAGE, "whole pages were asked for"
            assert (reservation.end - start) == encoding.representable_length(reservation.length), "as much is padded"
            assert start & ~encoding.representable_mask(reservation.length) == 0 == start % PAGE, "it is aligned"
            assert self.overlapping(start, reservation.end), "a reservation without entries is gone"
        end = self.arena_start
        for start, entry in self.entries.items():
            assert start == entry.start >= end, "entries lie in order and do not overlap"
            assert entry.length > 0 == entry.length % PAGE == start % PAGE, "an entry is of whole pages"
            check_entry(entry)
            region = self.reservations[entry.reservation] if entry.vmar is None else self.vmars[entry.vmar]
            assert region.start <= start < entry.end <= region.end, "an entry lies in its region"
            if isinstance(region, Vmar):
                assert entry.reservation == region.start, "it says where that is"
                assert not region.overlapping(start, entry.end), "and in none of its children"
                assert entry.maximum in region.rights, "the maximum is within the flags of the VMAR"
            end = entry.end


def check_entry(entry: Entry) -> None:
    """What is so for each entry, wherever it lies."""
    assert entry.current in entry.maximum, "what is allowed now is at most the maximum"
    assert entry.current == entry.current.settled(), "capability permission goes with READ and WRITE"
    assert entry.maximum == entry.maximum.settled(), "in the maximum, too"
    assert not (entry.is_guard or entry.is_quarantined) or not (entry.maximum or entry.object), (
        "a guard allows nothing and is nothing's"
    )
    assert not entry.is_shared or entry.object is not None, "what is shared is an object"
    assert entry.object is not None or entry.offset == 0, "an offset is an object's"
    assert entry.inherit in (INHERIT_SHARE, INHERIT_COPY, INHERIT_NONE, INHERIT_ZERO), "one inheritance (G5)"
    if entry.inherit == INHERIT_SHARE:
        assert entry.is_shared or entry.is_guard, "what is shared with children is shared memory"
    if entry.object is not None and entry.is_shared and not entry.object.can_hold_capabilities:
        assert not entry.can_hold_capabilities, "A15"


def _overlapping(items: SortedDict[int, _Item], start: int, end: int) -> list[_Item]:
    whole = items.get(start)
    if whole is not None and start < end <= whole.end:  # the common case, quicker
        return [whole]
    found: list[_Item] = []
    for key in items.islice(max(items.bisect_right(start) - 1, 0)):
        item = items[key]
        if item.start >= end:
            break
        if item.end > start < end:
            found.append(item)
    return found


def ranges(entries: Iterable[Entry | Reservation]) -> list[tuple[int, int]]:
    """Where entries, or whole reservations, lie, joined where they touch."""
    joined: list[tuple[int, int]] = []
    for entry in entries:
        if joined and joined[-1][1] == entry.start:
            joined[-1] = (joined[-1][0], entry.end)
        else:
            joined.append((entry.start, entry.end))
    return joined
