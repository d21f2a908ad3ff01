"""A machine and the reference, side by side: every step is done in both and compared."""

import os
from typing import NamedTuple

from capshm.model.pointer import Address, Pointer
from capshm.model.rights import Rights
from capshm.model.rules import Refusal
from capshm.permissions import Permissions
from tests.properties import machine_program
from tests.properties.machine_program import Step
from tests.properties.machine_stage import Stage
from tests.properties.machine_witness import check_broker, check_kernel
from tests.properties.machine_workers import Outcome
from tests.properties.reference_machine import GRANULE, PAGE, Fault, Frame, Held, Process

VMEM = Permissions.SW_VMEM


class Place(NamedTuple):
    """An address as an argument: its source, and what it is for the model."""

    source: str
    address: Address


class World(Stage):
    """A stage on which mappings and memory are changed, and looked at."""

    # Mappings

    def map(self, name: str, place: Place, length: int, prot: int, flags: int, fd: str, offset: int) -> None:
        """mmap."""
        process = self.reference.processes[name]
        variable = self.name("m")
        opened = process.descriptors[fd] if fd else None
        source = (
            f"{variable} = bsd.mmap({place.source}, {length}, {machine_program.prot(prot)}, "
            f"{machine_program.flags(flags)}, {fd or -1}, {offset})"
        )
        try:
            plan = self.reference.map(process, place.address, length, prot, flags, opened, offset)
        except Refusal as refusal:
            self.do(name, source, "", refused(refusal))
            return
        self.steps.append(Step(name, source, f"said({variable})", Outcome("value")))
        self.workers[name].send(source, f"said({variable})")
        outcome = self.workers[name].answer()
        assert outcome.kind == "value", f"{name}: {source}: {outcome}, and should be allowed"
        said = outcome.value
        address = int.from_bytes(said.data[:8], "little")
        assert (address, said.tag, said.length, said.permissions) == (
            plan.entry.start,
            True,
            plan.length,
            plan.permissions,
        ), f"{name}: {source}: {said}, and not {plan}"
        process.held[variable] = Held(address, said.length, said.permissions, int.from_bytes(said.data[8:], "little"))

    def change(self, name: str, call: str, place: Place, length: int, argument: int | None = None) -> None:
        """munmap, mprotect or minherit."""
        process = self.reference.processes[name]
        arguments = f"{place.source}, {length}"
        try:
            if argument is None:
                self.reference.unmap(process, place.address, length)
            elif call == "mprotect":
                arguments += f", {machine_program.prot(argument)}"
                self.reference.protect(process, place.address, length, argument)
            else:
                arguments += f", {machine_program.inherit(argument)}"
                self.reference.inherit(process, place.address, length, argument)
            expected = Outcome("value")
        except Refusal as refusal:
            expected = refused(refusal)
        self.do(name, f"bsd.{call}({arguments})", "", expected)

    # Memory

    def store(self, name: str, variable: str, offset: int, value: str, moved: int, *, tag: bool) -> None:
        """Store a capability, the value of a variable, perhaps moved or without its tag."""
        process = self.reference.processes[name]
        held, stored = process.held[variable], process.held[value]
        source = value + (f" + {moved}" if moved else "")
        source = source if tag else f"({source}).without_tag()"
        data = (stored.address + moved).to_bytes(8, "little") + stored.metadata.to_bytes(8, "little")
        try:
            self.reference.store(process, held, offset, data, tag)
            expected = Outcome("value")
        except Fault as fault:
            expected = faulted(fault)
        self.do(name, f"{variable}.store_capability({offset}, {source})", "", expected)
        self.look(process, held.address + offset)

    def load(self, name: str, variable: str, offset: int) -> None:
        """Load a capability."""
        process = self.reference.processes[name]
        try:
            expected = Outcome("value", self.reference.load(process, process.held[variable], offset))
        except Fault as fault:
            expected = faulted(fault)
        self.do(name, "", f"granule({variable}.load_capability({offset}))", expected)

    def read(self, name: str, variable: str, offset: int, length: int) -> None:
        """Read bytes."""
        process = self.reference.processes[name]
        try:
            expected = Outcome("value", self.reference.read(process, process.held[variable], offset, length))
        except Fault as fault:
            expected = faulted(fault)
        self.do(name, "", f"{variable}.read({offset}, {length})", expected)

    def write(self, name: str, variable: str, offset: int, data: bytes) -> None:
        """Write bytes."""
        process = self.reference.processes[name]
        held = process.held[variable]
        try:
            self.reference.write(process, held, offset, data)
            expected = Outcome("value")
        except Fault as fault:
            expected = faulted(fault)
        self.do(name, f"{variable}.write({offset}, {data!r})", "", expected)
        self.look(process, held.address + offset)

    def write_raw(self, name: str, variable: str, offset: int, data: bytes) -> None:
        """Write bytes past capshm; what is not permitted ends the process."""
        process = self.reference.processes[name]
        address = process.held[variable].address + offset
        statement = f"ctypes.memmove({variable}.address + {offset}, {data!r}, {len(data)})"
        try:
            self.reference.write_raw(process, address, data)
        except Fault:
            self.run_to_death(name, statement)
            return
        self.do(name, statement, "", Outcome("value"))
        self.look(process, address)

    def write_file(self, name: str, fd: str, offset: int, data: bytes) -> None:
        """Write bytes through a descriptor."""
        process = self.reference.processes[name]
        opened = process.descriptors[fd]
        if not opened.is_writable:
            self.do(name, "", f"os.pwrite({fd}, {data!r}, {offset})", Outcome("error", "OSError"))
            return
        self.reference.write_file(opened, offset, data)
        self.do(name, "", f"os.pwrite({fd}, {data!r}, {offset})", Outcome("value", len(data)))
        frame = opened.memory.frame(offset // PAGE)
        self.look_at(frame, offset % PAGE // GRANULE * GRANULE)

    # Looking

    def look(self, process: Process, address: int) -> None:
        """Look at a granule, in every process that has its memory mapped."""
        entry = process.entry_at(address)
        if entry is None or process.name not in self.reference.processes:
            return
        page = address // PAGE * PAGE
        try:
            frame = self.reference.frame(process, entry, page)
        except Fault:
            return
        self.look_at(frame, (address - page) // GRANULE * GRANULE)

    def look_at(self, frame: Frame, offset: int) -> None:
        """The same for a place in memory."""
        for name in self.running():
            process = self.reference.processes[name]
            for page in self._pages_of(process, frame):
                found = self._authority(process, page)
                if found is not None:
                    self.load(name, found, page + offset - process.held[found].address)

    def _pages_of(self, process: Process, frame: Frame) -> list[int]:
        return [page for page in self._known_pages(process) if self._frame(process, page) is frame]

    def _known_pages(self, process: Process) -> list[int]:
        """Pages that were ever written, and may be read."""
        found = []
        for entry in process.space.entries.values():
            if Rights.READ not in entry.current:
                continue
            if entry.object is not None:
                first = entry.offset // PAGE
                frames = self.reference.memories[entry.object.id].frames
                count = (entry.end - entry.start) // PAGE
                found += [entry.start + (i - first) * PAGE for i in frames if first <= i < first + count]
            found += [page for page in process.private if entry.start <= page < entry.end]
        return sorted(set(found))

    def _frame(self, process: Process, page: int) -> Frame:
        entry = process.entry_at(page)
        assert entry is not None
        return self.reference.frame(process, entry, page)

    def _authority(self, process: Process, page: int) -> str | None:
        for name, held in reversed(process.held.items()):
            if held.address <= page < held.address + held.length and held.has(Permissions.LOAD | Permissions.LOAD_CAP):
                return name
        return None

    def check(self) -> None:
        """Kernel and broker say what the reference says, about every process."""
        for name, process in self.reference.processes.items():
            pid = self.workers[name].pid
            check_kernel(process, pid)
            check_broker(process, pid, self.machine, self.numbers)
        expected = sorted(worker.pid for worker in self.workers.values())
        assert sorted(each.pid for each in self.machine.processes() if each.pid != os.getpid()) == expected

    def check_memory(self) -> None:
        """All tags and bytes of all pages that were ever written."""
        for name in list(self.stopped):
            self.resume(name)
        for name, process in self.reference.processes.items():
            for page in self._known_pages(process):
                found = self._authority(process, page)
                if found is None:
                    continue
                held = process.held[found]
                loads = [self.reference.load(process, held, page + at - held.address) for at in range(0, PAGE, GRANULE)]
                offset = page - held.address
                tags = bytes(tag for _, tag in loads)
                data = b"".join(data for data, _ in loads)
                self.do(name, "", f"{found}.load_capabilities({offset}, 256).tags", Outcome("value", tags))
                self.do(name, "", f"{found}.read({offset}, 4096)", Outcome("value", data))

    def place(self, process: Process, variable: str, offset: int, how: str) -> Place:
        """An address that a call is given."""
        held = process.held[variable]
        address = held.address + offset
        source = f"{variable} + {offset}" if offset else variable
        pointer = Pointer(address, held.address, held.address + held.length, held.permissions, True, False)
        if how == "number":
            return Place(f"{variable}.address + {offset}", address)
        if how == "untagged":
            return Place(f"({source}).without_tag()", pointer._replace(tag=False))
        if how == "no SW_VMEM":
            without = f"({source}).with_permissions({variable}.permissions.without(capshm.Permissions.SW_VMEM))"
            return Place(without, pointer._replace(permissions=held.permissions & ~VMEM.raw))
        return Place(source, pointer)


def refused(refusal: Refusal) -> Outcome:
    """As a worker says it."""
    return Outcome("refused", (refusal.errno, refusal.rule), refusal.message)


def faulted(fault: Fault) -> Outcome:
    """As a worker says it."""
    return Outcome("fault", (fault.kind, fault.signal))
