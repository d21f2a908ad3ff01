"""A segment against a model of it in plain Python: the same bytes, tags and faults after every step.

Two processes, the test's and a child forked from it, carry out the steps on the same memory through six aliases with
different page permissions and through authorities that lack a permission. What they store are capabilities to a second
segment, the heap, parts of which are painted, swept and cleared again meanwhile. The model knows none of that: it is a
list of granules, a list of values, and a set of painted addresses.
"""

import os
import random
import struct
from dataclasses import dataclass, field, replace
from itertools import pairwise
from multiprocessing import Pipe
from typing import Any, ClassVar, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, assume, settings
from hypothesis import seed as with_seed
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from capshm import Capability, Fault, Permissions, sealing_root
from capshm.testing import Segment, Shadow, closed_gate, reference, sweep_registers
from tests.faults.isolation import isolated, print_traceback
from tests.faults.processes import Child

P = Permissions
GRANULE = 16
PAGE = 4096
START = PAGE - 24 * GRANULE  # the window lies around a page's end, which is also a tag line's
GRANULES = 48
WINDOW = GRANULES * GRANULE
HEAP = 2 * PAGE
LOCAL = P.LOAD | P.STORE | P.LOAD_CAP | P.STORE_CAP | P.STORE_LOCAL
MEMORY = P.EXECUTE | LOCAL
ALIASES = ["rwRW", "rwRW again", "rwR", "rwW", "rw", "rR"]
WATCHER = "rR"  # reads tags, and cannot write them: looking through it changes nothing

pytestmark = pytest.mark.slow


# The real thing: named operations on registers, in either process


class Value(NamedTuple):
    """What a capability says: enough to compare."""

    address: int
    metadata: int
    tag: bool


class Real:
    """The segments, and what a process holds. A fork copies all of it."""

    def __init__(self, isa: str) -> None:
        self.segment = Segment(2 * PAGE, isa=isa)
        self.heap = Segment(HEAP, isa=isa)
        mapped = {name: self.segment.map(name.partition(" ")[0]) for name in ALIASES}
        windows = {name: (root + START).with_bounds(WINDOW) for name, root in mapped.items()}
        self.authorities = {
            (name, lacking): window.with_permissions(window.permissions.without(lacking))
            for name, window in windows.items()
            for lacking in LACKING
        }
        self.shadow = Shadow()
        self.values = [self.heap.root]

    def close(self) -> None:
        """Unmap all, and let the process have its first profile back."""
        self.segment.close()
        self.heap.close()
        Segment(1, isa="v9").close()

    def derive(self, source: int, method: str, *operands: object) -> Value:
        """Add what is derived from a held value to the held values."""
        if method == "seal":
            operands = (sealing_root(),)
        self.values.append(getattr(self.values[source], method)(*operands))
        return said(self.values[-1])

    def tags(self) -> list[bool]:
        """Of all held values."""
        return [value.tag for value in self.values]

    def load(self, authority: "Authority", offset: int, count: int, is_bulk: bool) -> list[Value]:
        """One by one, or as an array."""
        place = self.authorities[authority]
        if is_bulk:
            return [said(value) for value in place.load_capabilities(offset, count)]
        return [said(place.load_capability(offset + number * GRANULE)) for number in range(count)]

    def store(self, authority: "Authority", offset: int, values: list[int]) -> None:
        """Store held values, in one call."""
        held = [self.values[number] for number in values]
        place = self.authorities[authority]
        if len(held) == 1:
            place.store_capability(offset, held[0])
        elif len(set(values)) == 1:
            place.fill_capabilities(offset, len(held), held[0])
        else:
            place.store_capabilities(offset, held)

    def read(self, authority: "Authority", offset: int, length: int) -> bytes:
        """Plain bytes."""
        return self.authorities[authority].read(offset, length)

    def write(self, authority: "Authority", offset: int, data: bytes) -> None:
        """Plain bytes."""
        self.authorities[authority].write(offset, data)

    def copy(self, source: "Authority", start: int, destination: "Authority", end: int, length: int) -> None:
        """From one place to another."""
        (self.authorities[source] + start).copy_to(self.authorities[destination] + end, length)

    def raw(self, offset: int, data: bytes) -> None:
        """Change bytes past capshm."""
        os.pwrite(self.segment.fd, data, START + offset)

    def paint(self, start: int, length: int, is_painted: bool) -> None:
        """Paint or clear a part of the heap."""
        part = (self.heap.root + start).with_bounds(length)
        (self.shadow.paint if is_painted else self.shadow.clear)(part)

    def sweep(self, kernel: str) -> tuple[int, int]:
        """Stop the world, sweep the memory, begin an epoch: (found, cleared)."""
        with closed_gate():
            counts = self.segment.sweep(kernel=kernel)
            sweep_registers()
        return counts.found, counts.cleared

    def perform(self, name: str, arguments: tuple[Any, ...]) -> "Outcome":
        """Carry out an operation by name."""
        try:
            return Outcome(getattr(self, name)(*arguments))
        except Fault as fault:
            base = 0 if fault.capability is None else fault.capability.base
            return Outcome(None, fault.code, fault.address - base)


def said(value: Capability) -> Value:
    """The value as plain data."""
    return Value(*value._words(), value.tag)


Authority = tuple[str, Permissions]
LACKING = [P(0), P.LOAD, P.STORE, P.LOAD_CAP, P.STORE_CAP, P.STORE_LOCAL]


@dataclass(frozen=True)
class Outcome:
    """An answer, or a fault's code and its offset from the base of the authority; None is not compared."""

    answer: Any = None
    code: str = ""
    offset: int | None = 0


# The model


@dataclass
class Granule:
    """Sixteen bytes, and the capability that was last stored there, if nothing took its tag.

    is_tagged: None where bytes were changed past capshm and somebody may or may not have noticed.
    """

    data: bytes = bytes(GRANULE)
    stored: bytes = bytes(GRANULE)
    is_tagged: bool | None = False
    is_cleared: bool = False  # by a mapping that cannot write tags: the tag still counts as found in a sweep

    @property
    def tag(self) -> bool:
        """Whether it is a capability."""
        return bool(self.is_tagged) and not self.is_cleared and self.stored == self.data


class Refusal(Exception):
    """What the model answers where the real thing faults."""

    def __init__(self, code: str, offset: int | None) -> None:
        self.outcome = Outcome(None, code, offset)


@dataclass
class Holder:
    """What a process holds: a tag for each value, and whether an epoch began that it has not seen."""

    tags: list[bool]
    is_behind: bool = False


@dataclass
class Model:
    is_rvy: bool
    heap: int
    values: list[Value]
    holders: list[Holder]
    granules: list[Granule] = field(default_factory=lambda: [Granule() for _ in range(GRANULES)])
    painted: set[int] = field(default_factory=set)
    process: int = 0

    # What is revoked

    def revokes(self, metadata: int, address: int) -> bool:
        """A capability to memory whose base is painted."""
        permissions = P.from_raw(reference.fields(metadata).permissions)
        return bool(permissions & MEMORY) and reference.bounds(metadata, address)[0] // GRANULE in self.painted

    def catch_up(self, process: int) -> None:
        """What a process does before its first operation in an epoch."""
        holder = self.holders[process]
        for number, value in enumerate(self.values):
            if self.revokes(value.metadata, value.address):
                holder.tags[number] = False
        holder.is_behind = False

    # Checks, in order

    def check(self, authority: Authority, needed: Permissions, offset: int, length: int, alignment: int = 1) -> None:
        """Permission, bounds, alignment; the authorities are tagged and unsealed."""
        _, lacking = authority
        if needed & lacking:
            raise Refusal("PROT_CHERI_PERM", offset)
        if alignment == 1 or needed is P.LOAD:
            self.check_place(offset, length, alignment)

    def check_place(self, offset: int, length: int, alignment: int) -> None:
        """Bounds and alignment."""
        if not 0 <= offset <= WINDOW - length:
            raise Refusal("PROT_CHERI_BOUNDS", offset)
        if offset % alignment:
            raise Refusal("PROT_CHERI_UNALIGNED_BASE", offset)

    def judge(self, authority: Authority, value: Value, offset: int) -> bool:
        """Whether the value keeps its tag."""
        _, lacking = authority
        if not value.tag:
            return False
        is_local = not P.from_raw(reference.fields(value.metadata).permissions) & P.GLOBAL
        refused = "PROT_CHERI_PERM" if lacking is P.STORE_CAP else ""
        if is_local and lacking is P.STORE_LOCAL:
            refused = "PROT_CHERI_STORELOCAL"
        if refused and not self.is_rvy:
            raise Refusal(refused, offset)
        return not refused

    # Operations

    def load(self, authority: Authority, offset: int, count: int, is_bulk: bool) -> list[Value]:
        """A value for each granule, with its tag if authority and page let it through."""
        if not is_bulk:
            return [value for i in range(count) for value in self.load(authority, offset + i * GRANULE, 1, True)]
        if count == 0:
            return []
        self.check(authority, P.LOAD, offset, count * GRANULE, GRANULE)
        granules = range(offset // GRANULE, offset // GRANULE + count)
        self.notice(authority, granules)
        return [self.look(authority, number) for number in granules]

    def look(self, authority: Authority, number: int) -> Value:
        """Load a granule."""
        name, lacking = authority
        granule = self.granules[number]
        address, metadata = struct.unpack("<QQ", granule.data)
        return Value(address, metadata, "R" in name and lacking is not P.LOAD_CAP and granule.tag)

    def notice(self, authority: Authority, granules: range) -> None:
        """Those who load granules and may write tags may clear one that they find to be stale."""
        name, lacking = authority
        for number in granules:
            granule = self.granules[number]
            is_stale = granule.is_tagged and granule.stored != granule.data
            if is_stale and "R" in name and "W" in name and lacking is not P.LOAD_CAP:
                granule.is_tagged = None

    def store(self, authority: Authority, offset: int, values: list[int]) -> None:
        """Everything before the first value that may not be stored."""
        held = [self.values[number]._replace(tag=self.holders[self.process].tags[number]) for number in values]
        if not held:
            return
        self.check(authority, P.STORE, offset, len(held) * GRANULE, GRANULE)
        for number, value in enumerate(held):
            tag = self.judge(authority, value, offset + number * GRANULE)
            if number == 0:
                self.check_place(offset, len(held) * GRANULE, GRANULE)
            self.put(authority, offset + number * GRANULE, value, tag)

    def put(self, authority: Authority, offset: int, value: Value, tag: bool) -> None:
        """Store one value where the page allows it."""
        name, _ = authority
        self.check_page(authority, offset)
        if tag and "W" not in name:
            raise Refusal("SEGV_STORETAG", offset)
        granule = self.granules[offset // GRANULE]
        if tag:
            granule.stored = struct.pack("<QQ", value.address, value.metadata)
            granule.is_tagged, granule.is_cleared = True, False
        else:
            self.untag(authority, granule)
        granule.data = struct.pack("<QQ", value.address, value.metadata)

    def check_page(self, authority: Authority, offset: int) -> None:
        """Whether the page is writable."""
        if "w" not in authority[0]:
            raise Refusal("SEGV_ACCERR", offset)

    def untag(self, authority: Authority, granule: Granule) -> None:
        """In the way that this mapping can."""
        if "W" in authority[0]:
            granule.is_tagged = False
        else:
            granule.is_cleared = True

    def read(self, authority: Authority, offset: int, length: int) -> bytes:
        """Plain bytes."""
        self.check(authority, P.LOAD, offset, length)
        return self.content()[offset : offset + length]

    def content(self) -> bytes:
        """Of the whole window."""
        return b"".join(granule.data for granule in self.granules)

    def write(self, authority: Authority, offset: int, data: bytes) -> None:
        """Untag every granule that is touched."""
        self.check(authority, P.STORE, offset, len(data))
        if data:
            self.check_page(authority, offset)
        for granule in self.change(offset, data):
            self.untag(authority, granule)

    def change(self, offset: int, data: bytes) -> list[Granule]:
        """Change bytes, and return the granules that they lie in."""
        touched = range(offset // GRANULE, -(-(offset + len(data)) // GRANULE)) if data else range(0)
        after = bytearray(self.content())
        after[offset : offset + len(data)] = data
        for number in touched:
            self.granules[number].data = bytes(after[number * GRANULE : (number + 1) * GRANULE])
        return [self.granules[number] for number in touched]

    def copy(self, source: Authority, start: int, destination: Authority, end: int, length: int) -> None:
        """Granule by granule where both are congruent; downwards if the destination begins inside the source."""
        self.check(source, P.LOAD, start, length)
        self.check(destination, P.STORE, end, length)
        self.notice(source, range(start // GRANULE, -(-(start + length) // GRANULE)))
        before = self.content()
        edges = [0, *range(-start % GRANULE, length, GRANULE), length] if (start - end) % GRANULE == 0 else [0, length]
        pieces = [(low, high) for low, high in pairwise(edges) if low < high]
        is_downwards = source[0] == destination[0] and 0 <= end - start < length
        for low, high in reversed(pieces) if is_downwards else pieces:
            if high - low == GRANULE and (start + low) % GRANULE == 0 and (start - end) % GRANULE == 0:
                value = self.look(source, (start + low) // GRANULE)
                self.copy_value(destination, end + low, value)
            else:
                if "w" not in destination[0]:
                    raise Refusal("SEGV_ACCERR", None)
                for granule in self.change(end + low, before[start + low : start + high]):
                    self.untag(destination, granule)

    def copy_value(self, destination: Authority, offset: int, value: Value) -> None:
        """A granule of a copy; where a page refuses it, which of its pieces was first is nobody's business."""
        tag = self.judge(destination, value, offset)
        if "w" not in destination[0]:
            raise Refusal("SEGV_ACCERR", None)
        self.put(destination, offset, value, tag)

    def raw(self, offset: int, data: bytes) -> None:
        """Nobody notices."""
        self.change(offset, data)

    def paint(self, start: int, length: int, is_painted: bool) -> None:
        """The granules that the bounds touch."""
        first = (self.heap + start) // GRANULE
        granules = set(range(first, -(-(self.heap + start + length) // GRANULE))) if length else set()
        self.painted = self.painted | granules if is_painted else self.painted - granules

    def sweep(self) -> None:
        """Tags of revoked capabilities go from memory, and from the registers of whoever comes next."""
        for granule in self.granules:
            address, metadata = struct.unpack("<QQ", granule.stored)
            if granule.is_tagged is not False and self.revokes(metadata, address):
                granule.is_tagged = False
        self.catch_up(self.process)
        for holder in self.holders:
            holder.is_behind = True

    def derive(self, source: int, method: str, *operands: Any) -> Value:
        """The reference model of the format, with the tag of the asking process."""
        address, metadata, _ = self.values[source]
        tag = self.holders[self.process].tags[source]
        return derived(Value(address, metadata, tag), self.is_rvy, method, *operands)


def derived(value: Value, is_rvy: bool, method: str, *operands: Any) -> Value:
    """What a derivation gives, by the reference model of the format."""
    address, metadata, tag = value
    is_free = tag and not reference.is_sealed(metadata)
    if method == "__add__":
        metadata, address, tag = reference.set_address(metadata, address, tag, (address + operands[0]) % (1 << 64))
    elif method == "with_bounds":
        metadata, address, tag, _ = reference.set_bounds(metadata, address, tag, operands[0])
    elif method == "with_permissions":
        before = reference.fields(metadata).permissions
        kept = before & operands[0].raw
        metadata = metadata & ~(0xFFFF << 48) | (kept & 0xFFF) << 48 | kept >> 15 << 60
        tag = is_free or (tag and is_rvy and kept == before)
    elif method == "without_tag":
        tag = False
    else:
        object_type = 0 if method == "seal" else 0x3FFFE
        metadata = (metadata & ~(0x3FFFF << 27)) | (object_type ^ 0x3FFFF) << 27
        tag = is_free
    return Value(address, metadata, tag)


# The machine

full = st.sampled_from([("rwRW", P(0)), ("rwRW again", P(0))])
authorities = full | st.tuples(st.sampled_from(ALIASES), st.sampled_from(LACKING))
processes = st.integers(0, 1)
numbers = st.integers(0, GRANULES)
any_place = st.tuples(st.integers(-20, WINDOW + 20), st.integers(0, 80))
derivations = st.one_of(
    st.tuples(st.just("__add__"), st.integers(0, HEAP) | st.just(1 << 40)),
    st.tuples(st.just("with_bounds"), st.sampled_from([0, 16, 64, 100, PAGE])),
    st.tuples(st.just("with_permissions"), st.sampled_from([LOCAL, P.GLOBAL | P.LOAD, P.GLOBAL])),
    st.tuples(st.sampled_from(["without_tag", "seal_entry", "seal"])),
)


@st.composite
def granules_inside(draw: st.DrawFn) -> tuple[int, int]:
    """Offset and length of whole granules in the window."""
    first = draw(st.integers(0, GRANULES - 1))
    return first * GRANULE, draw(st.integers(1, GRANULES - first)) * GRANULE


@st.composite
def bytes_inside(draw: st.DrawFn) -> tuple[int, int]:
    """Offset and length of bytes in the window."""
    first = draw(st.integers(0, WINDOW))
    return first, min(draw(st.integers(0, 80)), WINDOW - first)


places = granules_inside() | bytes_inside() | any_place
"""Where and how much; most of it allowed."""


class Memory(RuleBasedStateMachine):
    """Each step is done by one of the processes and by the model."""

    isa: ClassVar[str] = "v9"
    is_forked: ClassVar[bool] = True

    @initialize()
    def begin(self) -> None:
        """Map, hold a few values, fork."""
        self.real = Real(self.isa)
        root = said(self.real.heap.root)
        holders = [Holder([True]) for _ in range(1 + self.is_forked)]
        self.model = Model(self.isa == "rvy", root.address, [root], holders)
        self.child: Child | None = None
        if self.is_forked:
            self.channel, theirs = Pipe()
            self.child = Child(lambda: self.serve(theirs))
            theirs.close()
        self.derive(0, ("__add__", 64))
        for how in [("with_bounds", 64), ("with_permissions", LOCAL), ("with_permissions", P.GLOBAL), ("without_tag",)]:
            self.derive(1, how)
        self.refill(0, ("rwRW", P(0)))

    def serve(self, channel: Any) -> None:
        """In the child: carry out what is asked for, until nobody asks any more."""
        self.channel.close()
        try:
            while True:
                channel.send(self.real.perform(*channel.recv()))
        except (EOFError, ConnectionResetError):
            pass

    def teardown(self) -> None:
        """End the child, clear the paint."""
        if hasattr(self, "real"):
            if self.child is not None:
                self.channel.close()
                self.child.kill()
            self.real.paint(0, HEAP, False)
            self.real.close()

    def ask(self, process: int, name: str, *arguments: Any) -> Outcome:
        """Have it done."""
        if process == 0:
            return self.real.perform(name, arguments)
        self.channel.send((name, arguments))
        outcome: Outcome = self.channel.recv()
        return outcome

    def turn(self, process: int) -> int:
        """The process whose turn it is; it catches up with the epoch first."""
        self.model.process = process if self.is_forked else 0
        if self.model.holders[self.model.process].is_behind:
            self.model.catch_up(self.model.process)
        return self.model.process

    def step(self, process: int, name: str, *arguments: Any) -> Outcome:
        """Do it in both worlds, and compare."""
        process = self.turn(process)
        try:
            expected = Outcome(getattr(self.model, name)(*arguments))
        except Refusal as refusal:
            expected = refusal.outcome
        outcome = self.ask(process, name, *arguments)
        if expected.offset is None:
            outcome = replace(outcome, offset=None)
        assert outcome == expected, f"{name}{arguments}: {outcome}, not {expected}"
        return outcome

    @rule(source=st.integers(0, 30), how=derivations)
    def derive(self, source: int, how: tuple[Any, ...]) -> None:
        """Both processes derive, so that both hold the same values."""
        source %= len(self.model.values)
        results = []
        for process, holder in enumerate(self.model.holders):
            results.append(self.step(process, "derive", source, *how).answer)
            holder.tags.append(results[-1].tag)
        self.model.values.append(results[0])

    @rule(process=processes, authority=full)
    def refill(self, process: int, authority: Authority) -> None:
        """Store one value after the other everywhere: there must be something to lose."""
        order = [number for number, tag in enumerate(self.model.holders[self.turn(process)].tags) if tag] or [0]
        self.step(process, "store", authority, 0, [order[number % len(order)] for number in range(GRANULES)])

    @rule(process=processes, authority=authorities, place=places, is_bulk=st.booleans())
    def load(self, process: int, authority: Authority, place: tuple[int, int], is_bulk: bool) -> None:
        """Load some, with a call for all or for each."""
        self.step(process, "load", authority, place[0], place[1] // GRANULE, is_bulk)

    @rule(process=processes, authority=authorities, place=places, values=st.lists(st.integers(0, 30), max_size=6))
    def store(self, process: int, authority: Authority, place: tuple[int, int], values: list[int]) -> None:
        """Store one, or an array."""
        self.step(process, "store", authority, place[0], [number % len(self.model.values) for number in values])

    @rule(process=processes, authority=authorities, place=places, value=st.integers(0, 30))
    def fill(self, process: int, authority: Authority, place: tuple[int, int], value: int) -> None:
        """Store one value many times."""
        self.step(process, "store", authority, place[0], [value % len(self.model.values)] * (place[1] // GRANULE))

    @rule(process=processes, authority=authorities, place=places)
    def read(self, process: int, authority: Authority, place: tuple[int, int]) -> None:
        """Read bytes."""
        self.step(process, "read", authority, *place)

    @rule(process=processes, authority=authorities, place=places, byte=st.integers(0, 255))
    def write(self, process: int, authority: Authority, place: tuple[int, int], byte: int) -> None:
        """Write bytes."""
        self.step(process, "write", authority, place[0], bytes([byte]) * place[1])

    @rule(process=processes, authority=authorities, place=granules_inside() | bytes_inside())
    def write_same(self, process: int, authority: Authority, place: tuple[int, int]) -> None:
        """Write the bytes that are there: the tags go all the same."""
        self.step(process, "write", authority, place[0], self.model.content()[place[0] : sum(place)])

    @rule(process=processes, source=authorities, destination=authorities, place=places, end=st.integers(0, WINDOW))
    def copy(self, process: int, source: Authority, destination: Authority, place: tuple[int, int], end: int) -> None:
        """Copy; overlapping only inside one mapping, since what two mappings share is not looked for."""
        start, length = place
        assume(source[0] == destination[0] or abs(start - end) >= length)
        self.step(process, "copy", source, start, destination, end, length)

    @rule(process=processes, source=authorities, lacking=st.sampled_from(LACKING), place=granules_inside(), end=numbers)
    def move(self, process: int, source: Authority, lacking: P, place: tuple[int, int], end: int) -> None:
        """Copy granules inside one mapping, most often overlapping."""
        start, length = place
        length = min(length, (GRANULES - end) * GRANULE)
        assume(length > 0)
        self.step(process, "copy", source, start, (source[0], lacking), end * GRANULE, length)

    @rule(process=processes, offset=st.integers(0, WINDOW - 1), data=st.binary(min_size=1, max_size=40))
    def raw(self, process: int, offset: int, data: bytes) -> None:
        """Write past capshm; where that restores bytes whose change may have been noticed, see whether it was."""
        data = data[: WINDOW - offset]
        self.step(process, "raw", offset, data)
        for number in range(offset // GRANULE, -(-(offset + len(data)) // GRANULE)):
            granule = self.model.granules[number]
            if granule.is_tagged is None and granule.stored == granule.data:
                seen = self.ask(0, "load", (WATCHER, P(0)), number * GRANULE, 1, True)
                granule.is_tagged = granule.is_cleared or seen.answer[0].tag

    @rule(process=processes, offset=st.integers(0, WINDOW - 40), data=st.binary(min_size=1, max_size=40))
    def raw_and_back(self, process: int, offset: int, data: bytes) -> None:
        """Change bytes past capshm and restore them before anybody looks: nothing has happened."""
        before = self.model.content()[offset : offset + len(data)]
        self.step(process, "raw", offset, data)
        self.step(process, "raw", offset, before)

    @rule(process=processes, start=st.integers(0, HEAP - 1), length=st.integers(0, 300), is_painted=st.booleans())
    def paint(self, process: int, start: int, length: int, is_painted: bool) -> None:
        """Paint a part of the heap, or clear it; also the very place that values point to."""
        assume(start + length <= HEAP)
        self.step(process, "paint", start, length, is_painted)

    @rule(process=processes, start=st.sampled_from([0, 64]), is_clean=st.booleans())
    def revoke(self, process: int, start: int, is_clean: bool) -> None:
        """Paint what the first values point to, sweep, and perhaps clear the paint, all at once."""
        self.step(process, "paint", start, GRANULE, True)
        self.sweep(process, "automatic")
        if is_clean:
            self.step(process, "paint", start, GRANULE, False)

    @rule(process=processes, kernel=st.sampled_from(["automatic", "portable"]))
    def sweep(self, process: int, kernel: str) -> None:
        """Sweep everything, and compare what was counted."""
        process = self.turn(process)
        sure = [granule for granule in self.model.granules if granule.is_tagged]
        unsure = [granule for granule in self.model.granules if granule.is_tagged is None]
        outcome = self.ask(process, "sweep", kernel)
        assert outcome.code == ""
        for count, is_counted in zip(outcome.answer, (lambda _: True, self.is_revoked), strict=True):
            least = sum(map(is_counted, sure))
            assert least <= count <= least + sum(map(is_counted, unsure))
        self.model.sweep()

    def is_revoked(self, granule: Granule) -> bool:
        """Whether a sweep would take its tag."""
        address, metadata = struct.unpack("<QQ", granule.stored)
        return self.model.revokes(metadata, address)

    @invariant()
    def everything_is_as_the_model_says(self) -> None:
        """All bytes and tags of the memory, and the tags that are held, seen by the process that was last at work."""
        if not hasattr(self, "model"):
            return
        process = self.turn(self.model.process)
        seen = self.ask(process, "load", (WATCHER, P(0)), 0, GRANULES, True).answer
        tags = {number for number, value in enumerate(seen) if value.tag}
        assert tags == {number for number, granule in enumerate(self.model.granules) if granule.tag}
        data = b"".join(struct.pack("<QQ", value.address, value.metadata) for value in seen)
        assert data == self.model.content()
        assert self.ask(process, "tags").answer == self.model.holders[process].tags


@isolated(bound=280)
def compare(isa: str, is_forked: bool, seed: int) -> None:
    """Run the machine in a process that may fork."""
    print(f"seed {seed}")
    try:
        run(isa, is_forked, seed, Phase.generate)
    except AssertionError as error:
        print_traceback(error)  # shown even if there is no time to find a shorter way to it
        run(isa, is_forked, seed, Phase.generate, Phase.shrink)
        raise


def run(isa: str, is_forked: bool, seed: int, *phases: Phase) -> None:
    """Once."""
    machine = type("Machine", (Memory,), {"isa": isa, "is_forked": is_forked})
    thoroughly = settings(
        phases=phases,
        max_examples=70,
        stateful_step_count=50,
        deadline=None,
        print_blob=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(with_seed(seed)(machine), settings=thoroughly)


@pytest.mark.parametrize("isa", ["v9", "rvy"])
@pytest.mark.parametrize("is_forked", [False, True], ids=["alone", "forked"])
def test_memory_is_as_the_model_says(isa: str, is_forked: bool) -> None:
    """Any steps, in any order, in one process or two."""
    compare(isa=isa, is_forked=is_forked, seed=random.randrange(1 << 32))
