"""Who holds what in a history: `Holdings`, fed with operations in the order of `walk`.

What a process holds is kept as the few largest of its capabilities, by bounds and permissions: whatever is a subset of
one of them adds nothing. A fork hands all of it on, for a child has its parent's variables and mappings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from capshm import encoding
from capshm.permissions import Permissions
from capshm.testing.operations import Kind, Operation, Result, Value, in_order

Broken = tuple[str, str, tuple[Operation, ...]]  # rule, message, the operations that show it

_MEMORY = (
    Permissions.EXECUTE
    | Permissions.LOAD
    | Permissions.STORE
    | Permissions.LOAD_CAP
    | Permissions.STORE_CAP
    | Permissions.STORE_LOCAL
).raw
_LOAD_CAP = Permissions.LOAD_CAP.raw
_SW_VMEM = Permissions.SW_VMEM.raw


class Rights(NamedTuple):
    """What a capability allows."""

    base: int
    top: int
    permissions: int

    def is_within(self, other: Rights) -> bool:
        """Whether it allows nothing that `other` does not."""
        return other.base <= self.base and self.top <= other.top and not self.permissions & ~other.permissions

    @property
    def is_revocable(self) -> bool:
        """Whether a sweep looks at it: it is for memory, and not the owner's own (cheribsd:2.3)."""
        return bool(self.permissions & _MEMORY) and not self.permissions & _SW_VMEM

    def __str__(self) -> str:
        letters = Permissions.from_raw(self.permissions).letters
        return f"[{letters},{self.base:#x}-{self.top:#x}]"


def rights(value: Value | None) -> Rights:
    """Of a capability, whatever its tag."""
    return Rights(0, 0, 0) if value is None else _decoded(value.address, value.metadata)


@lru_cache(1 << 16)
def _decoded(address: int, metadata: int) -> Rights:
    decoded = encoding.decode(metadata, address)
    return Rights(decoded.base, decoded.top, decoded.permissions)


def walk(operations: Sequence[Operation]) -> list[Operation]:
    """In the order of their begins, but for a fork: what it hands on is what its parent had when it ended.

    A child may be faster than its parent: then the fork stands in front of its first operation.
    """
    first: dict[int, int] = {}
    for operation in operations:
        first.setdefault(operation.process, operation.begin)

    def place(operation: Operation) -> tuple[int, bool, int]:
        if operation.kind is not Kind.FORK:
            return operation.begin, True, operation.number
        return min(operation.until, first.get(operation.child, operation.until)), False, operation.number

    return sorted(operations, key=place)


class _Mapping(NamedTuple):
    start: int
    end: int
    object: int


class _Holder:
    """What one process holds."""

    def __init__(self, parent: _Holder | None = None) -> None:
        self.largest: list[Rights] = list(parent.largest) if parent else []
        self.known: set[Rights] = set(parent.known) if parent else set()  # subsets of those, found before
        self.mappings: list[_Mapping] = list(parent.mappings) if parent else []
        self.dropped: dict[int, Operation] = dict(parent.dropped) if parent else {}

    def holds(self, wanted: Rights) -> bool:
        if wanted in self.known:
            return True
        if any(wanted.is_within(held) for held in self.largest):
            self.known.add(wanted)
            return True
        return False

    def add(self, new: Rights) -> None:
        if not self.holds(new):
            self.largest = [held for held in self.largest if not held.is_within(new)] + [new]
            self.known.add(new)

    def object_at(self, place: int) -> _Mapping | None:
        return next((one for one in reversed(self.mappings) if one.start <= place < one.end), None)


class Holdings:
    """What each process holds, after the operations taken so far."""

    def __init__(self) -> None:
        self._holders: dict[int, _Holder] = {}
        self._made: list[tuple[int, Rights]] = []  # since when somebody has held that much, without loading it
        self._unmade: list[Operation] = []  # loads of more than anybody held when they began

    def granule(self, process: int, place: int) -> tuple[int, int]:
        """The object and the offset in it that the process has at that address; (0, place) if no grant says so."""
        mapping = self._holder(process).object_at(place)
        return (0, place) if mapping is None else (mapping.object, place - mapping.start)

    def may_load_tags(self, load: Operation) -> bool:
        """Whether the load's authority and memory allow that, as far as they are known."""
        holder = self._holder(load.process)
        mapping = holder.object_at(load.place)
        is_dropped = mapping is not None and mapping.object in holder.dropped
        return bool(rights(load.authority).permissions & _LOAD_CAP) and not is_dropped

    def take(self, operation: Operation) -> Iterator[Broken]:
        """Carry out an operation, and say which rules it breaks."""
        holder = self._holder(operation.process)
        kind, value = operation.kind, operation.value
        if kind is Kind.FORK:
            self._holders[operation.child] = _Holder(holder)
            return
        if operation.result is Result.REFUSED:
            return
        if kind is Kind.LOOK:
            return  # it may have been loaded without a record
        if kind is Kind.SHARE_DROP:
            holder.dropped[operation.object] = operation
            return
        if operation.authority is not None and operation.authority.tag:
            yield from _check_held(holder, operation, operation.authority, "used")
        if kind is Kind.STORE and value is not None and value.tag:
            yield from _check_held(holder, operation, value, "stored")
        if operation.result is not Result.DONE and kind is not Kind.GRANT:
            return
        if kind is Kind.GRANT:
            self._grant(holder, operation)
        elif value is not None and value.tag:
            if kind is Kind.DERIVE:
                yield from _check_derived(operation, value)
                self._make(operation, value)
            elif kind is Kind.LOAD:
                yield from _check_drop(holder, operation, value)
                if not self._is_made(rights(value), operation.begin):
                    self._unmade.append(operation)
            holder.add(rights(value))

    def finish(self) -> Iterator[Broken]:
        """Say which loads returned what nobody held, also by the time when they ended; after the last operation."""
        for operation in self._unmade:
            if operation.end is not None and not self._is_made(rights(operation.value), operation.end):
                message = f"process {operation.process} loaded {rights(operation.value)}, and nobody ever held as much"
                yield "rights grew", message, (operation,)

    def _holder(self, process: int) -> _Holder:
        return self._holders.setdefault(process, _Holder())

    def _make(self, operation: Operation, value: Value) -> None:
        new = rights(value)
        if not self._is_made(new, operation.begin):
            self._made.append((operation.begin, new))

    def _is_made(self, wanted: Rights, by: int) -> bool:
        return any(begin <= by and wanted.is_within(made) for begin, made in self._made)

    def _grant(self, holder: _Holder, operation: Operation) -> None:
        if operation.value is not None and operation.value.tag:
            holder.add(rights(operation.value))
            self._make(operation, operation.value)
        if operation.object:
            end = operation.place + operation.length
            holder.mappings.append(_Mapping(operation.place, end, operation.object))
            holder.dropped.pop(operation.object, None)


def _check_drop(holder: _Holder, operation: Operation, value: Value) -> Iterator[Broken]:
    mapping = holder.object_at(operation.place)
    drop = None if mapping is None else holder.dropped.get(mapping.object)
    if mapping is not None and drop is not None and drop.end is not None and drop.end < operation.begin:
        message = (
            f"process {operation.process} loaded {value} from object {mapping.object}, whose capabilities it could not "
            f"reach any more since #{drop.number}"
        )
        yield "never granted", message, tuple(in_order([drop, operation]))


def _check_derived(operation: Operation, value: Value) -> Iterator[Broken]:
    source = operation.authority
    if source is None or not source.tag:
        message = f"process {operation.process} derived {value} with a tag from what had none"
        yield "rights grew", message, (operation,)
    elif not rights(value).is_within(rights(source)):
        message = f"process {operation.process} derived {rights(value)}, which is more than {rights(source)}"
        yield "rights grew", message, (operation,)


def _check_held(holder: _Holder, operation: Operation, value: Value, verb: str) -> Iterator[Broken]:
    if not holder.holds(rights(value)):
        message = (
            f"process {operation.process} {verb} {value} {rights(value)}, which was never granted to it, nor "
            "inherited, loaded or derived by it"
        )
        yield "never granted", message, (operation,)
