"""What `Machine` tells about processes, objects, mappings and events: frozen records."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, NamedTuple, SupportsIndex, TypeAlias, cast

if TYPE_CHECKING:
    from capshm.connection import Ask

Datum: TypeAlias = int | str | list[int]

_BEYOND = 1 << 53  # no machine has so many events


class Process(NamedTuple):
    """An emulated process. state: "running", or "cut off" when it has lost its connection to the broker.

    epoch: its revocation clock, odd while an epoch is open. quarantining: what it unmaps waits for revocation.
    revocation: the state of its epoch: "none", "inited", or "closing" where the broker is about to close it; "" when it
    is cut off.
    """

    pid: int
    parent: int
    vmspace: int
    state: str
    epoch: int
    quarantining: bool
    revocation: str


class Object(NamedTuple):
    """A memory object. owner: the vmspace that may map it with capability permission; None: nobody, or everybody.

    size: in bytes; -1 where no process of the machine has a descriptor of it any more, mapped or not, and for files of
    the file system, which are objects while they are mapped. tag_count: granules whose tag bit is set; what was written
    past capshm may still be counted.
    """

    id: int
    kind: str
    name: str | None
    size: int
    owner: int | None
    is_share_cap: bool
    tag_count: int


class Mapping(NamedTuple):
    """A range of one process with the same rights. current, maximum: procstat's letters, `rwxRW`. object: 0 if private.

    reservation: first address of the reservation that it belongs to. is_quarantined: it was unmapped, and its place
    waits for revocation.
    """

    start: int
    end: int
    current: str
    maximum: str
    inherit: str
    object: int
    offset: int
    reservation: int
    is_shared: bool
    is_quarantined: bool


class Region(NamedTuple):
    """A row of a process's tree of regions, parents first. kind: "root", "vmar", "reservation" (mmap's) or "mapping".

    current, maximum: procstat's letters; a region has no current permission, and a VMAR's maximum is its flags. object:
    of a mapping; 0 if private. handles: (pid, rights) of each one to a VMAR; sent: those in messages not yet read.
    """

    depth: int
    kind: str
    start: int
    end: int
    current: str
    maximum: str
    object: int
    handles: list[tuple[int, int]]
    sent: int


class Audit(NamedTuple):
    """An event. rule: full name, "" where none decided. file, line: of the program that asked.

    data: for programs. A process that has come: its `parent`, a pid. A fork: its `child`, a vmspace. A mapping, and one
    that a fork drops: `start`, `end`, letters of its `maximum`, and `vmspace` where it is another process's. A pass:
    the `vmspaces` whose epoch it closed, `scope`, `stopper`; `stops`: when each began, in ns since 1970, and its length
    in ns; what sweeps of objects met: `lines` of tags, tags `found` and `cleared`; `objects`: the number of each that
    lost tags, and how many.
    """

    number: int
    time: float
    pid: int
    vmspace: int
    event: str
    rule: str
    object: int
    allowed: bool
    file: str
    line: int
    message: str
    data: dict[str, Datum]

    def datum(self, name: str, otherwise: int = 0) -> int:
        """A number of the data; `otherwise` where there is none of that name."""
        found = self.data.get(name)
        return found if isinstance(found, int) else otherwise

    def pairs(self, name: str) -> list[tuple[int, int]]:
        """`stops` or `objects`, two by two."""
        found = self.data.get(name)
        return list(zip(found[::2], found[1::2], strict=False)) if isinstance(found, list) else []


def processes(ask: Ask) -> list[Process]:
    """All emulated processes."""
    rows = ask("processes").rows("processes")
    return [Process(*cast("tuple[int, int, int, str, int, bool, str]", row)) for row in rows]


def objects(ask: Ask) -> list[Object]:
    """All memory objects that still exist, mapped or not."""
    rows = ask("objects").rows("objects")
    return [Object(*cast("tuple[int, str, str | None, int, int | None, bool, int]", row)) for row in rows]


def mappings(ask: Ask, pid: SupportsIndex) -> list[Mapping]:
    """The mappings of an emulated process, by address. CapshmError: there is none with that pid."""
    rows = ask("mappings", pid=operator.index(pid)).rows("mappings")
    return [Mapping(*cast("tuple[int, int, str, str, str, int, int, int, bool, bool]", row)) for row in rows]


def tree(ask: Ask, pid: SupportsIndex) -> list[Region]:
    """The regions and mappings of an emulated process. CapshmError: there is none with that pid."""
    rows = ask("tree", pid=operator.index(pid)).rows("tree")
    found = [Region(*cast("tuple[int, str, int, int, str, str, int, list[tuple[int, int]], int]", row)) for row in rows]
    return [each._replace(handles=[(pid, rights) for pid, rights in each.handles]) for each in found]


def audit(ask: Ask, start: int = 1) -> list[Audit]:
    """The events so far, in order, from this number on."""
    found = []
    while start:
        answer = ask("audit", start=start)
        found += [
            Audit(*cast("tuple[int, float, int, int, str, str, int, bool, str, int, str, dict[str, Datum]]", row))
            for row in answer.rows("records")
        ]
        start = answer.number("next")
    return found


def last_event(ask: Ask) -> int:
    """The number of the last event so far, without reading any."""
    return ask("audit", start=_BEYOND).number("last")
