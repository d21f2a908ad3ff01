"""What a history is made of: `Operation`, its layout in shared memory, and its lines of JSON.

A record is written in two parts. The first, with the begin stamp, is complete before the byte that says so is set, and
that byte before the operation; the second likewise, after it. So wherever a process dies, what is marked is whole.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from typing_extensions import Buffer

    Json: TypeAlias = dict[str, "int | str | bool | dict[str, int | bool] | None"]

GRANULE = 16
FORMAT = 1
"""Of the lines of JSON; a reader refuses others."""


class Kind(enum.IntEnum):
    """What was done."""

    STORE = 1
    LOAD = 2
    WRITE = 3
    RAW_WRITE = 4
    DERIVE = 5
    GRANT = 6
    SHARE_DROP = 7
    PAINT = 8
    CLEAR_PAINT = 9
    REVOKE = 10
    FORK = 11
    END = 12
    KEEP = 13
    LOOK = 14
    PASS = 15
    PASS_OF_ALL = 16


class Result(enum.IntEnum):
    """How it ended. UNKNOWN: its process died, or something else than the library interrupted it: maybe it was done.

    REFUSED: the library raised an error, and nothing was done.
    """

    UNKNOWN = 1
    DONE = 2
    REFUSED = 3


class Value(NamedTuple):
    """A capability as plain data."""

    address: int
    metadata: int
    tag: bool

    def __str__(self) -> str:
        return f"{self.address:#x}:{self.metadata:#018x}{'' if self.tag else ' (untagged)'}"


class Operation(NamedTuple):
    """What one process did, between two readings of a clock that all processes share.

    number: where it stands in the recorder; unique. process: the number of the process, not used twice as pids are.
    begin, end: nanoseconds; end is None when nobody knows. place, length: the memory it was about, in the process's own
    addresses. object: for a grant, the number (inode) of the memory that is mapped at `place` from its first byte on, 0
    for none; for a share-drop, the memory whose capabilities the process may not reach any more. child: the number of
    the forked process. authority: through what it was done, or what was derived from. value: what was stored, loaded,
    derived or granted. error: the class of what it raised.
    """

    number: int
    kind: Kind
    process: int
    pid: int
    begin: int
    end: int | None = None
    result: Result = Result.UNKNOWN
    place: int = 0
    length: int = 0
    object: int = 0
    child: int = 0
    authority: Value | None = None
    value: Value | None = None
    error: str = ""

    @property
    def until(self) -> int:
        """When it had ended at the latest; later than any stamp if nobody knows."""
        return 1 << 64 if self.end is None else self.end

    @property
    def granules(self) -> range:
        """The first addresses of the granules that it touches."""
        return range(self.place // GRANULE * GRANULE, self.place + self.length, GRANULE)

    def __str__(self) -> str:
        name = self.kind.name.lower().replace("_", " ")
        parts = [f"#{self.number} process {self.process} (pid {self.pid}): {name}"]
        if self.kind is Kind.FORK:
            parts.append(f"of process {self.child}")
        if self.length:
            parts.append(f"at {self.place:#x}+{self.length}")
        if self.object:
            parts.append(f"object {self.object}")
        if self.value is not None:
            parts.append(str(self.value))
        if self.authority is not None:
            parts.append(f"{'from' if self.kind is Kind.DERIVE else 'through'} {self.authority}")
        end = "?" if self.end is None else str(self.end)
        parts.append(f"[{self.begin}, {end}] ns")
        parts.append(self.error or self.result.name.lower())
        return ", ".join(parts)


# state, kind, which capabilities there are and their tags, -, process, pid, begin, place, length, object, child,
# authority, value | end, error
_BEGUN = struct.Struct("<xBBxIII" + "QQQQQ" + "QQ" + "QQ")
_VALUE = struct.Struct("<QQ")
_ENDED = struct.Struct("<Q24s")
RECORD = 128
END_OFFSET = _BEGUN.size
_FLAGS_OFFSET = 2
_VALUE_OFFSET = END_OFFSET - _VALUE.size
assert END_OFFSET + _ENDED.size <= RECORD

_HAS_AUTHORITY, _AUTHORITY_TAG, _HAS_VALUE, _VALUE_TAG = 1, 2, 4, 8
_NOTHING = Value(0, 0, False)
_BEGUN_STATE = int(Result.UNKNOWN)


def write_begin(
    memory: memoryview,
    at: int,
    kind: Kind,
    who: tuple[int, int],
    begin: int,
    place: int,
    length: int,
    object_number: int,
    child: int,
    authority: Value | None,
    value: Value | None,
) -> None:
    """Write a record's first part at an offset that was never written before."""
    flags = 0
    if authority is not None:
        flags = _HAS_AUTHORITY | _AUTHORITY_TAG * authority.tag
    if value is not None:
        flags |= _HAS_VALUE | _VALUE_TAG * value.tag
    through, what = authority or _NOTHING, value or _NOTHING
    _BEGUN.pack_into(
        memory, at, kind, flags, *who, 0, begin, place, length, object_number, child, through[0], through[1], *what[:2]
    )
    memory[at] = _BEGUN_STATE


def write_end(memory: memoryview, at: int, end: int, result: Result, value: Value | None, error: str = "") -> None:
    """Write its second part; `value` replaces that of the first, if it is not None."""
    if value is not None:
        _VALUE.pack_into(memory, at + _VALUE_OFFSET, value.address, value.metadata)
        memory[at + _FLAGS_OFFSET] |= _HAS_VALUE | _VALUE_TAG * value.tag
    _ENDED.pack_into(memory, at + END_OFFSET, end, error.encode()[:24] if error else b"")
    memory[at] = result


def read_records(memory: Buffer, first: int, count: int) -> Iterator[Operation]:
    """The operations whose first part is complete among `count` records from record `first` on."""
    view = memoryview(memory)
    for number in range(first, first + count):
        at = number * RECORD
        state = view[at]
        if state == 0:
            continue
        kind, flags, process, pid, _, begin, place, length, object_number, child, *words = _BEGUN.unpack_from(view, at)
        end, error = _ENDED.unpack_from(view, at + END_OFFSET)
        authority = Value(words[0], words[1], bool(flags & _AUTHORITY_TAG)) if flags & _HAS_AUTHORITY else None
        value = Value(words[2], words[3], bool(flags & _VALUE_TAG)) if flags & _HAS_VALUE else None
        result = Result(state)
        if result is Result.UNKNOWN:  # killed while it wrote the second part: what is there may be half of it
            end, error = None, b""
            if kind in (Kind.LOAD, Kind.DERIVE):
                value = None
        yield Operation(
            number, Kind(kind), process, pid, begin, end, result, place, length, object_number, child, authority, value,
            error.rstrip(b"\0").decode(errors="replace"),
        )  # fmt: skip


def to_json(operation: Operation) -> Json:
    """As an object of JSON; fields that say nothing are left out."""
    fields: Json = {"kind": operation.kind.name.lower(), "result": operation.result.name.lower()}
    for name in ("number", "process", "pid", "begin", "end", "place", "length", "object", "child", "error"):
        field: int | str | None = getattr(operation, name)
        if field or name in ("number", "process", "begin"):
            fields[name] = field
    for name in ("authority", "value"):
        value: Value | None = getattr(operation, name)
        if value is not None:
            fields[name] = {"address": value.address, "metadata": value.metadata, "tag": value.tag}
    return fields


def from_json(fields: object) -> Operation:
    """The reverse. ValueError, naming the field, for what is no operation."""
    if not isinstance(fields, dict):
        raise ValueError(f"an operation is a JSON object, not {type(fields).__name__}")
    unknown = set(fields) - set(Operation._fields)
    if unknown:
        raise ValueError(f"an operation has no field {', '.join(sorted(map(str, unknown)))}")
    try:
        kind = Kind[str(fields["kind"]).upper()]
        result = Result[str(fields["result"]).upper()]
        number, process = (_natural(name, fields[name]) for name in ("number", "process"))
        begin = _natural("begin", fields["begin"])
    except KeyError as error:
        raise ValueError(f"an operation lacks, or has an unknown, {error}") from error
    end = fields.get("end")
    place, length, number_of_object, child = (
        _natural(name, fields.get(name, 0)) for name in ("place", "length", "object", "child")
    )
    return Operation(
        number,
        kind,
        process,
        _natural("pid", fields.get("pid", 0)),
        begin,
        None if end is None else _natural("end", end),
        result,
        place,
        length,
        number_of_object,
        child,
        _value("authority", fields.get("authority")),
        _value("value", fields.get("value")),
        str(fields.get("error", "")),
    )


def _natural(name: str, field: object) -> int:
    if isinstance(field, bool) or not isinstance(field, int) or not 0 <= field < 1 << 64:
        raise ValueError(f"{name} must be a 64-bit number, not {field!r}")
    return field


def _value(name: str, field: object) -> Value | None:
    if field is None:
        return None
    if not isinstance(field, dict) or set(field) != {"address", "metadata", "tag"}:
        raise ValueError(f"{name} must have address, metadata and tag, not {field!r}")
    return Value(_natural("address", field["address"]), _natural("metadata", field["metadata"]), field["tag"] is True)


def in_order(operations: Iterable[Operation]) -> list[Operation]:
    """Sorted by when they began."""
    return sorted(operations, key=lambda operation: (operation.begin, operation.number))
