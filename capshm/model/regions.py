"""Regions: ranges of an address space that belong together.

Two vocabularies meet here. CheriBSD has reservations, one level of them: what a capability of mmap covers. Zircon has
VMARs, a tree. Both are the same kind of thing, a range that nothing else may enter, and so they lie in one tree: the
root VMAR is the whole arena, and its children are what Zircon allocates there and what mmap reserves. Two VMARs, or a
VMAR and a reservation, never overlap; what lies in a region's range and in none of its children is a mapping of the
region itself, or a gap.

    root                              the whole arena; everything is permitted in it
    ├── VMAR                          named by handles; flags say what may ever be mapped
    │   ├── VMAR                      at most what its parent has
    │   └── mapping                   of the VMAR: its handle may raise it up to the maximum
    ├── reservation                   named by the capability that mmap returned, and by no handle
    │   └── mapping                   the root's handle may lower it, and never raise it
    └── mapping                       of the root

So through a VMAR handle the memory of mmap is seen, lowered and unmapped as that of any sub-VMAR; and a pointer of mmap
has no say in a VMAR.

A VMAR stays when its last handle is closed: only destroying or unmapping it, or the end of its process, ends it (1.0).
Numbers are a space's own, so that the copy of a tree that fork makes fits the copied entries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeVar, cast

from sortedcontainers import SortedDict

from capshm.model import zircon_constants as z
from capshm.model.handles import KernelObject
from capshm.model.rights import Rights

if TYPE_CHECKING:
    from collections.abc import Iterator

    from capshm.model.address_space import AddressSpace, Entry

_T = TypeVar("_T")

EVERYTHING = Rights.READ | Rights.WRITE | Rights.EXECUTE | Rights.CAP


def copy_sorted(items: SortedDict[int, _T]) -> SortedDict[int, _T]:
    """As its own `copy`, which goes through the order of the keys and takes 2.5 times as long."""
    plain = cast("dict[int, _T]", items)  # the stubs do not know that it is one
    return SortedDict(dict.items(plain))


class Reservation(NamedTuple):
    """A padded range, and the length in whole pages that was asked for."""

    start: int
    end: int
    length: int


class Vmar(KernelObject):
    """A VMAR. rights: what may ever be mapped in it; is_specific: callers may choose places. Neither ever changes."""

    type: ClassVar[int] = z.OBJ_TYPE_VMAR

    def __init__(
        self,
        space: AddressSpace,
        parent: Vmar | None,
        start: int,
        end: int,
        *,
        rights: Rights = EVERYTHING,
        is_specific: bool = True,
        is_compact: bool = False,
        number: int = 0,
    ) -> None:
        super().__init__()
        self.space = space
        self.parent = parent
        self.start = start
        self.end = end
        self.rights = rights
        self.is_specific = is_specific
        self.is_compact = is_compact
        self.number = number
        self.is_alive = True
        self.children: SortedDict[int, Vmar | Reservation] = SortedDict()
        self.next = start  # where a place is looked for first

    @property
    def length(self) -> int:
        """In bytes."""
        return self.end - self.start

    def __str__(self) -> str:
        """As a refusal names it."""
        name = f"VMAR {self.koid}" if self.koid else "a VMAR without handles"
        return f"{name} [{self.start:#x}, {self.end:#x}) of address space {self.space.serial}"

    # Looking

    def has(self, entry: Entry) -> bool:
        """Whether it is a mapping of this VMAR itself, and of no child."""
        return entry.vmar == self.number

    def is_around(self, start: int, end: int) -> bool:
        """Whether a range lies in it."""
        return self.start <= start and end <= self.end

    def overlapping(self, start: int, end: int) -> list[Vmar | Reservation]:
        """Its direct child regions that have a part in a range."""
        index = max(self.children.bisect_right(start) - 1, 0)
        stop = self.children.bisect_left(end)
        found = [self.children[key] for key in self.children.islice(index, stop)]
        return [child for child in found if child.end > start]

    def is_free(self, start: int, end: int) -> bool:
        """Whether neither a mapping nor a child region has a part in a range."""
        return not self.space.overlapping(start, end) and not self.overlapping(start, end)

    def gaps(self, lowest: int) -> Iterator[tuple[int, int]]:
        """What is free, upwards, from the gap around `lowest` on, or the first one behind it."""
        children, entries = self.children, self.space.entries
        start = self.start
        for items in (children, entries):
            index = items.bisect_right(lowest) - 1
            if index >= 0:
                start = max(start, items.peekitem(index)[1].end)
        while start < self.end:
            nearest = behind = self.end
            for items in (entries, children):  # where both begin, the child is the longer one
                index = items.bisect_left(start)
                if index < len(items):
                    item = items.peekitem(index)[1]
                    if item.start <= nearest and item.start < self.end:
                        nearest, behind = item.start, item.end
            if nearest > start:
                yield start, nearest
            if nearest == self.end:
                return
            start = behind

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Vmar | Reservation | Entry]]:
        """It and all below with their depths, parents first, by address; parts of a mapping that differ, one by one."""
        yield depth, self
        position = self.start
        for child in self.children.values():
            yield from self._entries(position, child.start, depth + 1)
            if isinstance(child, Vmar):
                yield from child.walk(depth + 1)
            else:
                yield depth + 1, child
                yield from self._entries(child.start, child.end, depth + 2)
            position = child.end
        yield from self._entries(position, self.end, depth + 1)

    def _entries(self, start: int, end: int, depth: int) -> Iterator[tuple[int, Entry]]:
        for entry in self.space.overlapping(start, end) if start < end else ():
            yield depth, entry

    def vmars(self) -> Iterator[Vmar]:
        """It and all VMARs below."""
        yield self
        for child in list(self.children.values()):
            if isinstance(child, Vmar):
                yield from child.vmars()

    # Changing

    def attach(self) -> None:
        """Become a child of its parent."""
        assert self.parent is not None
        self.parent.children[self.start] = self
        self.parent.next = self.end

    def end_all(self) -> list[Vmar]:
        """End it and all VMARs below, for which their handles are no use any more. Returned: those that were alive."""
        ended = [vmar for vmar in self.vmars() if vmar.is_alive]
        for vmar in ended:
            vmar.is_alive = False
        if self.parent is not None:
            self.parent.children.pop(self.start, None)
        return ended

    def copy(self, space: AddressSpace, parent: Vmar | None) -> Vmar:
        """The same in the copy of an address space, after its parent; no handle names it."""
        copy = Vmar(
            space,
            parent,
            self.start,
            self.end,
            rights=self.rights,
            is_specific=self.is_specific,
            is_compact=self.is_compact,
            number=self.number,
        )
        copy.next = self.next
        copy.children = copy_sorted(self.children)  # VMARs are replaced by their own copies
        if parent is not None:
            parent.children[self.start] = copy
        return copy

    def check(self) -> None:
        """Raise AssertionError if this is no tree of regions."""
        end = self.start
        for start, child in self.children.items():
            assert start == child.start >= end, "children lie in order and do not overlap"
            assert self.is_around(start, child.end), "children lie in their parents"
            end = child.end
            if isinstance(child, Vmar):
                assert child.parent is self
                assert child.is_alive, "what has ended is in no tree"
                assert child.rights in self.rights, "permission only shrinks on the way down"
                child.check()
