"""What `Machine` tells about processes, objects, mappings and events: frozen records."""

from __future__ import annotations

from typing import NamedTuple


class Process(NamedTuple):
    """An emulated process. state: "running", or "cut off" when it has lost its connection to the broker.

    epoch, quarantining: of its revocation; 0 and False while nothing revokes.
    """

    pid: int
    parent: int
    vmspace: int
    state: str
    epoch: int
    quarantining: bool


class Object(NamedTuple):
    """A memory object. owner: the vmspace that may map it with capability permission; None: nobody, or everybody.

    size: in bytes, as far as the broker can know it: an object without name is not in its hands (then -1). tag_count:
    capabilities in shared memory, -1 where the broker does not count.
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

    reservation: first address of the reservation that it belongs to.
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


class Audit(NamedTuple):
    """An event. rule: full name, "" where none decided. file, line: of the program that asked."""

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
