"""Memory objects: what they are, who owns them, and what names they have.

An object belongs to the address space that created it (D2, E11), or to nobody: because it was made to be shared (D1),
or because its owner is gone (F16). An owner is a serial number that is never given twice, so nobody can become the
owner of what a dead one left behind (F17).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from capshm.model.constants import SHM_PATH_MAX, SHM_RENAME_EXCHANGE, SHM_RENAME_NOREPLACE
from capshm.model.rules import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator


class Kind(enum.StrEnum):
    """Where an object's memory comes from."""

    SHM = "shm"
    MEMFD = "memfd"
    FILE = "file"
    ZERO = "zero"
    ANONYMOUS = "anonymous"
    SYSV = "sysv"
    VMO = "vmo"


@dataclass(eq=False, slots=True, weakref_slot=True)
class MemoryObject:
    """A memory object. Two are the same only if they are one: `id` is never given again.

    name: its path while it has one. owner: the serial of an address space, or None. can_hold_capabilities: False for
    what has no place for tags (A18). shm_flags, mode, uid: of its creation, compared when it is opened again.
    """

    id: int
    kind: Kind
    name: str | None = None
    owner: int | None = None
    is_share_cap: bool = False
    is_large_page: bool = False
    shm_flags: int = 0
    mode: int = 0o600
    uid: int = 0

    @property
    def can_hold_capabilities(self) -> bool:
        """Rows A18 and D7: all but files, from the start."""
        return self.kind is not Kind.FILE

    def is_foreign_to(self, vmspace: int) -> bool:
        """Whether somebody else, or nobody any more, is its owner (E2, F17)."""
        return not self.is_share_cap and self.owner != vmspace

    def __str__(self) -> str:
        """As a refusal names it."""
        name = f" {self.name!r}" if self.name else ""
        if self.is_share_cap:
            belongs = "share-cap"
        elif self.owner is None:
            belongs = "whose owner is gone" if self.can_hold_capabilities else "of the file system"
        else:
            belongs = f"owned by address space {self.owner}"
        return f"{self.kind} object {self.id}{name} ({belongs})"


class Descriptor(NamedTuple):
    """What the descriptor in a request is. is_writable: opened for writing, and not sealed against it."""

    object: MemoryObject
    is_writable: bool
    size: int


@dataclass(slots=True)
class ObjectTable:
    """All objects of one machine, and the names of POSIX shared memory."""

    objects: dict[int, MemoryObject] = field(default_factory=dict)
    names: dict[str, MemoryObject] = field(default_factory=dict)
    _next_id: int = 1

    def __iter__(self) -> Iterator[MemoryObject]:
        return iter(self.objects.values())

    def new_id(self) -> int:
        """A number that no object has had."""
        self._next_id += 1
        return self._next_id - 1

    def prepare(self, kind: Kind, *, owner: int | None, is_share_cap: bool = False) -> MemoryObject:
        """An object with a number of its own that is not in the table yet: `add` it when its memory exists."""
        return MemoryObject(self.new_id(), kind, owner=None if is_share_cap else owner, is_share_cap=is_share_cap)

    def add(self, memory: MemoryObject) -> MemoryObject:
        """Enter what was prepared, under its name if it has one. Cannot fail."""
        self.objects[memory.id] = memory
        if memory.name is not None:
            self.names[memory.name] = memory
        return memory

    def remove(self, memory: MemoryObject) -> None:
        """Its last descriptor, mapping and name are gone. Cannot fail."""
        self.objects.pop(memory.id, None)
        self._take_name(memory)

    def end_vmspace(self, serial: int) -> list[MemoryObject]:
        """Row F16: what an address space that has ended owned belongs to nobody, for ever. Returned: those objects."""
        orphans = [memory for memory in self if memory.owner == serial]
        for memory in orphans:
            memory.owner = None
        return orphans

    def unlink(self, path: str) -> MemoryObject:
        """Take the name from an object, which lives on while anybody has it. Returned: the object."""
        memory = self.check_unlink(path)
        self._take_name(memory)
        return memory

    def check_unlink(self, path: str) -> MemoryObject:
        """Refuse what `unlink` refuses. Returned: the object; nothing is changed."""
        return self._named(path, f"shm_unlink({path!r})")

    def rename(self, old: str, new: str, flags: int = 0) -> MemoryObject | None:
        """Row D11: owner and share-cap state travel with the object. Returned: an object that has lost its name."""
        memory, there = self.check_rename(old, new, flags)
        if there is memory:
            return None
        self._take_name(memory)
        if there is not None:
            self._take_name(there)
            if flags & SHM_RENAME_EXCHANGE:
                self._give_name(there, old)
        self._give_name(memory, new)
        return there if there is not None and there.name is None else None

    def check_rename(self, old: str, new: str, flags: int = 0) -> tuple[MemoryObject, MemoryObject | None]:
        """Refuse what `rename` refuses. Returned: the object, and the one that has the new name; nothing is changed."""
        asked = f"shm_rename({old!r}, {new!r}, {flags:#x})"
        known = SHM_RENAME_NOREPLACE | SHM_RENAME_EXCHANGE
        if flags & ~known or flags == known:
            raise Refusal(
                "cheribsd:MAN",
                asked=asked,
                allowed="these flags mean nothing together, or nothing at all",
                needed="0, SHM_RENAME_NOREPLACE or SHM_RENAME_EXCHANGE",
            )
        memory = self._named(old, asked)
        check_path(new, asked)
        there = self.names.get(new)
        if there is not None and there is not memory and flags & SHM_RENAME_NOREPLACE:
            raise Refusal(
                "cheribsd:MAN",
                asked=asked,
                allowed=f"the new name belongs to {there}",
                needed="a name that is free, or no SHM_RENAME_NOREPLACE",
                errno="EEXIST",
            )
        return memory, there

    def _named(self, path: str, asked: str) -> MemoryObject:
        check_path(path, asked)
        if path not in self.names:
            raise Refusal(
                "cheribsd:1.D/9", asked=asked, allowed="no object has this name", needed="the name of one that exists"
            )
        return self.names[path]

    def _take_name(self, memory: MemoryObject) -> None:
        if memory.name is not None and self.names.get(memory.name) is memory:
            del self.names[memory.name]
        memory.name = None

    def _give_name(self, memory: MemoryObject, name: str) -> None:
        memory.name = name
        self.names[name] = memory


def check_path(path: str, asked: str) -> None:
    """Step 6 of section 1.D: EINVAL without a slash in front, ENAMETOOLONG for more than 1023 bytes."""
    if not path.startswith("/") or "\0" in path:
        raise Refusal(
            "cheribsd:1.D/6",
            asked=asked,
            allowed="names of shared memory begin with '/' and have no null byte",
            needed="such a name, or SHM_ANON",
        )
    length = len(path.encode(errors="surrogateescape"))
    if length > SHM_PATH_MAX:
        raise Refusal(
            "cheribsd:1.D/6",
            asked=f"{asked[:60]}...",
            allowed=f"names have at most {SHM_PATH_MAX} bytes, not {length}",
            needed="a shorter name",
            errno="ENAMETOOLONG",
        )
