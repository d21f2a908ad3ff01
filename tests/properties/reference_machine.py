"""The whole machine as it should be, in plain Python: processes, what they map, and what is in memory.

Two questions are answered here. Whether a call is allowed, and where a mapping goes, is asked of the pure functions of
`capshm.model`, on address spaces and objects of this file's own. What memory holds is decided here alone, and plainly:
a page is a list of bytes and a set of tagged granules, a fork copies every private page at once, and a page of a
private mapping becomes private when it is first written. Nothing here knows how capshm keeps tags.

Raw writes are expected to write what was never there before: equal bytes are capshm's one deviation (cheribsd:6.2).
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from capshm import Permissions, policies
from capshm.model.address_space import AddressSpace, Entry
from capshm.model.constants import INHERIT_COPY, INHERIT_NONE, INHERIT_ZERO
from capshm.model.inheritance import commit_inherit, plan_fork, plan_inherit
from capshm.model.knobs import Knobs
from capshm.model.mapping import MapPlan, MapRequest, commit_map, commit_unmap, plan_map, plan_unmap
from capshm.model.objects import Descriptor, Kind, MemoryObject, ObjectTable
from capshm.model.opening import OpenRequest, commit_open, plan_open
from capshm.model.pointer import Address
from capshm.model.protection import commit_protect, plan_protect
from capshm.model.rights import Rights

PAGE = 4096
GRANULE = 16
NOTHING = bytes(GRANULE)


class Fault(Exception):
    """An access that must fault. kind: name of the class of capshm's error. signal: that it stands for."""

    def __init__(self, kind: str, signal: str) -> None:
        super().__init__(kind, signal)
        self.kind = kind
        self.signal = signal


@dataclass
class Frame:
    """A page of memory, wherever it is mapped."""

    data: bytearray = field(default_factory=lambda: bytearray(PAGE))
    tags: set[int] = field(default_factory=set)

    def copy(self) -> "Frame":
        """Data and tags."""
        return Frame(bytearray(self.data), set(self.tags))

    def load(self, offset: int) -> tuple[bytes, bool]:
        """A granule."""
        return bytes(self.data[offset : offset + GRANULE]), offset // GRANULE in self.tags

    def write(self, offset: int, data: bytes) -> None:
        """Bytes; every granule that they touch loses its tag."""
        self.data[offset : offset + len(data)] = data
        self.tags -= set(range(offset // GRANULE, -(-(offset + len(data)) // GRANULE)))

    def store(self, offset: int, value: bytes, tag: bool) -> None:
        """A whole granule."""
        self.write(offset, value)
        if tag:
            self.tags.add(offset // GRANULE)


@dataclass(eq=False)
class Memory:
    """What an object holds. size: in bytes; beyond its last page there is nothing."""

    identity: MemoryObject
    size: int
    frames: dict[int, Frame] = field(default_factory=dict)

    def frame(self, index: int) -> Frame:
        """A page of it."""
        if index * PAGE >= self.size:
            raise Fault("PageViolation", "SIGBUS")
        return self.frames.setdefault(index, Frame())


class Open(NamedTuple):
    """A descriptor. survives_exec: it has no close-on-exec flag."""

    memory: Memory
    is_writable: bool
    survives_exec: bool


class Held(NamedTuple):
    """A capability in a variable; always tagged."""

    address: int
    length: int
    permissions: int
    metadata: int

    def has(self, permission: Permissions) -> bool:
        """Whether it permits that."""
        return permission in Permissions.from_raw(self.permissions)


@dataclass(eq=False)
class Process:
    """A process. private: pages that are its own, by address; a page that is not there was never written.

    lowered: pages whose maximum has lost WRITE since they were mapped, which Linux does not know: it goes by the
    descriptor.
    """

    name: str
    space: AddressSpace
    held: dict[str, Held] = field(default_factory=dict)
    descriptors: dict[str, Open] = field(default_factory=dict)
    private: dict[int, Frame] = field(default_factory=dict)
    lowered: set[int] = field(default_factory=set)

    def entry_at(self, address: int) -> Entry | None:
        """The mapping at an address."""
        found = self.space.overlapping(address, address + 1)
        return found[0] if found else None


def pages(entry: Entry) -> Iterator[int]:
    """The addresses of its pages."""
    return iter(range(entry.start, entry.end, PAGE))


class ReferenceMachine:
    """All processes and objects. A call that is refused raises capshm.model's Refusal, an access Fault."""

    def __init__(self, policy: str) -> None:
        self.policy = policies.load(policy)
        self.objects = ObjectTable()
        self.memories: dict[int, Memory] = {}
        self.zero = Memory(MemoryObject(0, Kind.ZERO), 0)
        self.processes: dict[str, Process] = {}
        self._next_serial = 1

    # Processes

    def attach(self, name: str) -> Process:
        """A program that is new in the machine."""
        self.processes[name] = Process(name, AddressSpace(self._new_serial()))
        return self.processes[name]

    def _new_serial(self) -> int:
        self._next_serial += 1
        return self._next_serial

    def fork(self, process: Process, name: str) -> Process:
        """A child: rows F1, F2, F8 to F10, and copies of shared memory (INHERIT_COPY)."""
        plan = plan_fork(process.space, self.policy, Knobs(), self._new_serial())
        child = Process(name, plan.space, dict(process.held), dict(process.descriptors), lowered=set(process.lowered))
        for entry in process.space.entries.values():
            if entry.inherit in (INHERIT_NONE, INHERIT_ZERO):
                continue
            for page in pages(entry):
                if page in process.private:
                    child.private[page] = process.private[page].copy()
                elif entry.is_shared and entry.inherit == INHERIT_COPY:
                    child.private[page] = self._snapshot(entry, page)
        self.processes[name] = child
        return child

    def _snapshot(self, entry: Entry, page: int) -> Frame:
        try:
            return self._object_frame(entry, page).copy()
        except Fault:
            return Frame()  # beyond the end of the object

    def end(self, process: Process) -> None:
        """It has ended: what it owned is nobody's (F16)."""
        self.objects.end_vmspace(process.space.serial)
        del self.processes[process.name]

    def exec(self, process: Process) -> Process:
        """Another program in the same process: a new identity (F19) with the descriptors that exec leaves."""
        self.end(process)
        after = self.attach(process.name)
        after.descriptors = {name: each for name, each in process.descriptors.items() if each.survives_exec}
        return after

    # Objects

    def shm_open(self, process: Process, fd: str, size: int, *, is_share_cap: bool, kind: Kind = Kind.SHM) -> None:
        """A new object without name, and its size."""
        request = OpenRequest(None, process.space.serial, os.O_RDWR, is_share_cap=is_share_cap, kind=kind)
        memory = commit_open(self.objects, plan_open(self.objects, self.policy, Knobs(), request))
        self._open(process, fd, Memory(memory, size), survives_exec=kind is Kind.MEMFD)

    def file(self, process: Process, fd: str, size: int) -> None:
        """A file that the machine has not made."""
        self._open(process, fd, Memory(self.objects.prepare(Kind.FILE, owner=None), size), survives_exec=False)

    def _open(self, process: Process, fd: str, memory: Memory, *, survives_exec: bool) -> None:
        self.memories[memory.identity.id] = memory
        process.descriptors[fd] = Open(memory, True, survives_exec)

    # Mappings

    def map(
        self, process: Process, address: Address, length: int, prot: int, flags: int, fd: Open | None, offset: int
    ) -> MapPlan:
        """mmap."""
        descriptor = Descriptor(fd.memory.identity, fd.is_writable, fd.memory.size) if fd else None
        request = MapRequest(address, length, prot, flags, descriptor, offset)
        plan = plan_map(process.space, self.policy, Knobs(), request)
        memory = None
        if plan.object_needed is not None:
            memory = self.objects.prepare(
                plan.object_needed, owner=process.space.serial, is_share_cap=plan.is_share_cap
            )
            self.objects.add(memory)
            self.memories[memory.id] = Memory(memory, plan.entry.end - plan.entry.start)
        commit_map(process.space, plan, memory)
        self._forget(process, plan.entry.start, plan.entry.end)
        return plan

    def unmap(self, process: Process, address: Address, length: int) -> None:
        """munmap."""
        gone = plan_unmap(process.space, address, length)
        commit_unmap(process.space, gone)
        for start, end in gone:
            self._forget(process, start, end)

    def _forget(self, process: Process, start: int, end: int) -> None:
        for page in [page for page in process.private if start <= page < end]:
            del process.private[page]
        process.lowered.difference_update(range(start, end, PAGE))

    def protect(self, process: Process, address: Address, length: int, prot: int) -> None:
        """mprotect."""
        planned = plan_protect(process.space, address, length, prot)
        for new in planned:
            for old in process.space.within(new.start, new.end):
                if old.is_shared and Rights.WRITE in old.maximum and Rights.WRITE not in new.maximum:
                    process.lowered.update(pages(old))
        commit_protect(process.space, planned)

    def inherit(self, process: Process, address: Address, length: int, inherit: int) -> None:
        """minherit."""
        plan = plan_inherit(process.space, self.policy, address, length, inherit)
        made = []
        for new in plan.needs_object:
            identity = self.objects.prepare(Kind.ANONYMOUS, owner=process.space.serial, is_share_cap=new.is_share_cap)
            memory = Memory(self.objects.add(identity), new.end - new.start)
            self.memories[identity.id] = memory
            for page in range(new.start, new.end, PAGE):
                memory.frames[(page - new.start) // PAGE] = self._taken_out(process, page)
            made.append(identity)
        commit_inherit(process.space, plan, made)

    def _taken_out(self, process: Process, page: int) -> Frame:
        """A page of private memory, which is private no more."""
        entry = process.entry_at(page)
        assert entry is not None
        if page in process.private or entry.object is None:
            return process.private.pop(page, Frame())
        return self._snapshot(entry, page)

    # Memory

    def load(self, process: Process, held: Held, offset: int) -> tuple[bytes, bool]:
        """A capability load: the granule, with its tag if pointer and page let it through."""
        entry, page = self._reach(process, held, Permissions.LOAD, Rights.READ, offset)
        data, tag = self.frame(process, entry, page).load(held.address + offset - page)
        return data, tag and held.has(Permissions.LOAD_CAP) and Rights.LOAD_CAP in entry.current

    def read(self, process: Process, held: Held, offset: int, length: int) -> bytes:
        """Bytes of one page."""
        entry, page = self._reach(process, held, Permissions.LOAD, Rights.READ, offset)
        start = held.address + offset - page
        return bytes(self.frame(process, entry, page).data[start : start + length])

    def store(self, process: Process, held: Held, offset: int, value: bytes, tag: bool) -> None:
        """A capability store."""
        if tag and held.has(Permissions.STORE) and not held.has(Permissions.STORE_CAP):
            raise Fault("PermissionViolation", "SIGPROT")
        entry, page = self._reach(process, held, Permissions.STORE, Rights.WRITE, offset)
        if tag and Rights.STORE_CAP not in entry.current:
            raise Fault("StoreTagViolation", "SIGSEGV")
        self.own_frame(process, entry, page).store(held.address + offset - page, value, tag)

    def write(self, process: Process, held: Held, offset: int, data: bytes) -> None:
        """Bytes of one page, through a capability."""
        entry, page = self._reach(process, held, Permissions.STORE, Rights.WRITE, offset)
        self.own_frame(process, entry, page).write(held.address + offset - page, data)

    def write_raw(self, process: Process, address: int, data: bytes) -> None:
        """Bytes of one page, past capshm: what the kernel would kill for is a Fault."""
        entry = process.entry_at(address)
        if entry is None or Rights.WRITE not in entry.current:
            raise Fault("PageViolation", "SIGSEGV")
        page = address // PAGE * PAGE
        self.own_frame(process, entry, page).write(address - page, data)

    def write_file(self, fd: Open, offset: int, data: bytes) -> None:
        """Bytes of one page, through a descriptor."""
        fd.memory.frame(offset // PAGE).write(offset % PAGE, data)

    def _reach(
        self, process: Process, held: Held, permission: Permissions, right: Rights, offset: int
    ) -> tuple[Entry, int]:
        """The mapping and the page of an access that the pointer, and then the page, permit."""
        if not held.has(permission):
            raise Fault("PermissionViolation", "SIGPROT")
        address = held.address + offset
        entry = process.entry_at(address)
        if entry is None or right not in entry.current:
            raise Fault("PageViolation", "SIGSEGV")
        return entry, address // PAGE * PAGE

    def frame(self, process: Process, entry: Entry, page: int) -> Frame:
        """What a process sees in a page."""
        if page in process.private:
            return process.private[page]
        return self._object_frame(entry, page) if entry.object is not None else Frame()

    def own_frame(self, process: Process, entry: Entry, page: int) -> Frame:
        """The same for a write: a page of a private mapping becomes private, as a whole."""
        if entry.is_shared:
            return self._object_frame(entry, page)
        return process.private.setdefault(page, self.frame(process, entry, page).copy())

    def _object_frame(self, entry: Entry, page: int) -> Frame:
        assert entry.object is not None
        return self.memories[entry.object.id].frame((entry.offset + page - entry.start) // PAGE)
