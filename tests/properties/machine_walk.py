"""A walk through a machine: steps of any kind, each a statement that `machine_world` has done and compared."""

from collections.abc import Callable
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition

from capshm import cheribsd as bsd
from capshm.model.objects import Kind
from capshm.model.rules import Refusal
from tests.properties import machine_program
from tests.properties.machine_choices import (
    READ_WRITE,
    extras,
    how_pointed,
    inheritances,
    lengths,
    need,
    numbers,
    offsets,
    protections,
    step,
)
from tests.properties.machine_workers import Outcome
from tests.properties.machine_world import Place, World, refused
from tests.properties.reference_machine import GRANULE, PAGE, Open, Process

MOST_PROCESSES = 5
OBJECT_SIZE = 3 * PAGE


class Walk(RuleBasedStateMachine):
    """Steps of any kind in any order."""

    policy: ClassVar[str] = "cheribsd"
    seed: ClassVar[int] = 0
    steps_done: ClassVar[int] = 0
    program: ClassVar[str] = ""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.policy)
        self.fresh = 0
        self.is_good = True

    def teardown(self) -> None:
        """Look at everything once more, and end it."""
        try:
            if self.is_good:
                self.guard(self.world.check_memory)
        finally:
            self.world.close()

    def guard(self, step: Callable[[], object]) -> None:
        """Do it; a failure leaves the program behind that leads to it."""
        try:
            step()
            self.world.check()
        except BaseException:
            self.is_good = False
            type(self).program = machine_program.text(self.policy, self.seed, self.world.steps)
            raise
        type(self).steps_done += 1

    def process(self, number: int) -> Process:
        """One that runs."""
        names = self.world.running()
        need(names)
        return self.world.reference.processes[names[number % len(names)]]

    def variable(self, process: Process, number: int) -> str:
        """One of its capabilities, rather a recent one."""
        need(process.held)
        names = list(reversed(process.held))
        return names[number % len(names)]

    def descriptor(self, process: Process, number: int) -> str:
        """One of its descriptors."""
        need(process.descriptors)
        names = list(reversed(process.descriptors))
        return names[number % len(names)]

    def new_bytes(self) -> bytes:
        """Bytes that were never written before: an aligned word of them differs from all that was there."""
        self.fresh += 1
        return (0xDA7A_0000_0000_0000 + self.fresh).to_bytes(8, "little")

    # Objects and descriptors

    @initialize()
    def begin(self) -> None:
        """Something to work with."""
        self.make_object(who=0, kind="shm")
        caps = READ_WRITE | bsd.PROT_CAP
        self.map_object(who=0, which=0, prot=caps, private=False, length=2 * PAGE, offset=0, extra=0)
        self.map_anonymous(who=0, prot=READ_WRITE, shared=False, length=PAGE, extra=0)

    @step(who=numbers, kind=st.sampled_from(["shm", "shm", "share-cap", "share-cap", "memfd", "file", "zero"]))
    def make_object(self, who: int, kind: str) -> None:
        """A new object and its descriptor."""
        process = self.process(who)
        self.guard(lambda: self._make_object(process, self.world.name("f"), kind))

    def _make_object(self, process: Process, fd: str, kind: str) -> None:
        size = f"; os.ftruncate({fd}, {OBJECT_SIZE})"
        reference, name = self.world.reference, process.name
        if kind == "zero":
            process.descriptors[fd] = Open(reference.zero, True, False)
            self.world.descriptor(name, fd, 'os.open("/dev/zero", os.O_RDWR)')
        elif kind == "file":
            reference.file(process, fd, OBJECT_SIZE)
            self.world.descriptor(name, fd, f'os.memfd_create("plain"){size}')
        elif kind == "memfd":
            reference.shm_open(process, fd, OBJECT_SIZE, is_share_cap=False, kind=Kind.MEMFD)
            self.world.descriptor(name, fd, f'bsd.memfd_create("m"){size}')
        else:
            flags = "os.O_RDWR | bsd.O_SHARECAP" if kind == "share-cap" else "os.O_RDWR"
            source = f"{fd} = bsd.shm_open(bsd.SHM_ANON, {flags}){size}"
            try:
                reference.shm_open(process, fd, OBJECT_SIZE, is_share_cap=kind == "share-cap")
            except Refusal as refusal:
                self.world.do(name, source, "", refused(refusal))
            else:
                self.world.do(name, source, "", Outcome("value"))

    @step(who=numbers, which=numbers)
    def reopen(self, who: int, which: int) -> None:
        """The same object, for reading alone."""
        process = self.process(who)
        fd, new = self.descriptor(process, which), self.world.name("f")
        process.descriptors[new] = process.descriptors[fd]._replace(is_writable=False, survives_exec=False)
        source = f'os.open(f"/proc/self/fd/{{{fd}}}", os.O_RDONLY)'
        self.guard(lambda: self.world.descriptor(process.name, new, source))

    @step(who=numbers, which=numbers)
    def close_descriptor(self, who: int, which: int) -> None:
        """The object lives on where it is mapped, or open elsewhere."""
        process = self.process(who)
        fd = self.descriptor(process, which)
        del process.descriptors[fd]
        self.guard(lambda: self.world.do(process.name, f"os.close({fd})", "", Outcome("value")))

    @step(who=numbers, whom=numbers, which=numbers)
    def pass_descriptor(self, who: int, whom: int, which: int) -> None:
        """SCM_RIGHTS."""
        sender, receiver = self.process(who), self.process(whom)
        fd, new = self.descriptor(sender, which), self.world.name("f")
        receiver.descriptors[new] = sender.descriptors[fd]._replace(survives_exec=False)

        def step() -> None:
            self.world.do(sender.name, f'socket.send_fds(left, [b"x"], [{fd}])', "", Outcome("value"))
            self.world.descriptor(receiver.name, new, "socket.recv_fds(right, 1, 1)[1][0]")

        self.guard(step)

    # Mappings

    @step(who=numbers, prot=protections(), shared=st.booleans(), length=lengths, extra=extras)
    def map_anonymous(self, who: int, prot: int, shared: bool, length: int, extra: int) -> None:
        """MAP_ANON, private or shared."""
        process = self.process(who)
        flags = bsd.MAP_ANON | (bsd.MAP_SHARED if shared else bsd.MAP_PRIVATE) | extra
        self.guard(lambda: self.world.map(process.name, Place("None", None), length, prot, flags, "", 0))

    @step(
        who=numbers,
        which=numbers,
        prot=protections(),
        private=st.booleans(),
        length=lengths,
        offset=st.sampled_from([0, 0, 0, PAGE, 2 * PAGE, 100]),
        extra=extras,
    )
    def map_object(self, who: int, which: int, prot: int, private: bool, length: int, offset: int, extra: int) -> None:
        """By a descriptor."""
        process = self.process(who)
        fd = self.descriptor(process, which)
        flags = (bsd.MAP_PRIVATE if private else bsd.MAP_SHARED) | extra
        self.guard(lambda: self.world.map(process.name, Place("None", None), length, prot, flags, fd, offset))

    @step(
        who=numbers,
        kind=st.sampled_from([bsd.MAP_STACK | bsd.MAP_ANON, bsd.MAP_STACK, bsd.MAP_GUARD, bsd.MAP_ANON, 0]),
        length=st.sampled_from([0, PAGE, 3 * PAGE, (16 << 20) + PAGE]),
        prot=st.sampled_from([READ_WRITE, 0, READ_WRITE | bsd.PROT_NO_CAP]),
    )
    def map_strange(self, who: int, kind: int, length: int, prot: int) -> None:
        """Stacks, guards, padded lengths and none at all."""
        process = self.process(who)
        self.guard(lambda: self.world.map(process.name, Place("None", None), length, prot, kind, "", 0))

    @step(
        who=numbers,
        which=numbers,
        at=offsets,
        how=how_pointed,
        fixed=st.sampled_from([bsd.MAP_FIXED] * 8 + [0, bsd.MAP_FIXED | bsd.MAP_EXCL]),
        source=st.sampled_from(["private", "shared", "guard", "object", "object private"]),
        fd=numbers,
        length=lengths,
        prot=protections(),
    )
    def map_over(
        self, who: int, which: int, at: int, how: str, fixed: int, source: str, fd: int, length: int, prot: int
    ) -> None:
        """At an address: into a reservation, or where there may be none any more."""
        process = self.process(who)
        variable = self.variable(process, which)
        need(at < process.held[variable].length)
        place = self.world.place(process, variable, at, how)
        kinds = {
            "private": bsd.MAP_ANON | bsd.MAP_PRIVATE,
            "shared": bsd.MAP_ANON | bsd.MAP_SHARED,
            "guard": bsd.MAP_GUARD,
            "object": bsd.MAP_SHARED,
            "object private": bsd.MAP_PRIVATE,
        }
        name = self.descriptor(process, fd) if source.startswith("object") else ""
        if source == "guard":
            prot = bsd.PROT_NONE
        self.guard(lambda: self.world.map(process.name, place, length, prot, kinds[source] | fixed, name, 0))

    def changed(self, who: int, which: int, at: int, how: str) -> tuple[str, Place]:
        """Whose mapping is changed, and by which address."""
        process = self.process(who)
        variable = self.variable(process, which)
        need(at < process.held[variable].length)
        return process.name, self.world.place(process, variable, at, how)

    @step(who=numbers, which=numbers, at=offsets, how=how_pointed, length=lengths | st.just(0))
    def unmap(self, who: int, which: int, at: int, how: str, length: int) -> None:
        """munmap of a part or all."""
        name, place = self.changed(who, which, at, how)
        self.guard(lambda: self.world.change(name, "munmap", place, length))

    @step(who=numbers, which=numbers, at=offsets, how=how_pointed, length=lengths, prot=protections())
    def protect(self, who: int, which: int, at: int, how: str, length: int, prot: int) -> None:
        """mprotect of a part or all."""
        name, place = self.changed(who, which, at, how)
        self.guard(lambda: self.world.change(name, "mprotect", place, length, prot))

    @step(
        who=numbers,
        which=numbers,
        at=offsets,
        how=how_pointed,
        length=lengths,
        inherit=inheritances,
    )
    def inherit(self, who: int, which: int, at: int, how: str, length: int, inherit: int) -> None:
        """minherit of a part or all."""
        name, place = self.changed(who, which, at, how)
        self.guard(lambda: self.world.change(name, "minherit", place, length, inherit))

    # Processes

    @precondition(lambda self: len(self.world.workers) < MOST_PROCESSES)
    @step(who=numbers)
    def fork(self, who: int) -> None:
        """os.fork."""
        process = self.process(who)
        self.guard(lambda: self.world.fork(process.name))

    @precondition(lambda self: len(self.world.workers) < MOST_PROCESSES)
    @step(odds=st.integers(0, 3))
    def spawn(self, odds: int) -> None:
        """A new program; rarely, since it takes a while."""
        need(odds == 0)
        self.guard(self.world.spawn)

    @step(who=numbers, odds=st.integers(0, 3))
    def exec(self, who: int, odds: int) -> None:
        """Another program in the same process."""
        need(odds == 0)
        process = self.process(who)
        self.guard(lambda: self.world.exec(process.name))

    @precondition(lambda self: len(self.world.workers) > 2)
    @step(number=numbers, by_itself=st.booleans())
    def end(self, number: int, by_itself: bool) -> None:
        """SIGKILL, also of a process that is stopped; or the process ends itself."""
        names = list(self.world.workers)
        name = names[number % len(names)]
        is_killed = name in self.world.stopped or not by_itself
        self.guard(lambda: self.world.kill(name) if is_killed else self.world.leave(name))

    @precondition(lambda self: len(self.world.running()) > 1)
    @step(who=numbers)
    def stop(self, who: int) -> None:
        """SIGSTOP."""
        process = self.process(who)
        self.guard(lambda: self.world.stop(process.name))

    @precondition(lambda self: self.world.stopped)
    @step()
    def resume(self) -> None:
        """SIGCONT."""
        self.guard(lambda: self.world.resume(min(self.world.stopped)))

    # Memory

    def somewhere(self, who: int, which: int, granule: int) -> tuple[Process, str, int]:
        """A process, a capability, and the offset of a granule in one of its first pages."""
        process = self.process(who)
        variable = self.variable(process, which)
        pages = min(process.held[variable].length // PAGE, 4)
        return process, variable, granule // 4 % pages * PAGE + granule % 4 * GRANULE

    @step(who=numbers, which=numbers, granule=numbers, value=numbers, moved=st.sampled_from([0, 0, 16]), tag=numbers)
    def store(self, who: int, which: int, granule: int, value: int, moved: int, tag: int) -> None:
        """store_capability."""
        process, variable, offset = self.somewhere(who, which, granule)
        stored = self.variable(process, value)
        self.guard(lambda: self.world.store(process.name, variable, offset, stored, moved, tag=bool(tag % 5)))

    @step(who=numbers, which=numbers, granule=numbers)
    def load(self, who: int, which: int, granule: int) -> None:
        """load_capability."""
        process, variable, offset = self.somewhere(who, which, granule)
        self.guard(lambda: self.world.load(process.name, variable, offset))

    @step(who=numbers, which=numbers, granule=numbers, length=st.integers(1, 40))
    def read(self, who: int, which: int, granule: int, length: int) -> None:
        """Plain bytes."""
        process, variable, offset = self.somewhere(who, which, granule)
        self.guard(lambda: self.world.read(process.name, variable, offset, length))

    @step(who=numbers, which=numbers, granule=numbers, high=st.booleans(), more=st.booleans())
    def write(self, who: int, which: int, granule: int, high: bool, more: bool) -> None:
        """Plain bytes through a capability."""
        process, variable, offset = self.somewhere(who, which, granule)
        data = self.new_bytes() * (3 if more else 1)
        self.guard(lambda: self.world.write(process.name, variable, offset + 8 * high, data))

    @step(who=numbers, which=numbers, granule=numbers, high=st.booleans())
    def write_raw(self, who: int, which: int, granule: int, high: bool) -> None:
        """Past capshm. Where that ends the process, a child does it, so that not all of them die of it."""
        process, variable, offset = self.somewhere(who, which, granule)
        need(len(self.world.workers) > 1 or self.is_writable(process, variable, offset))
        data = self.new_bytes()
        self.guard(lambda: self.world.write_raw(process.name, variable, offset + 8 * high, data))

    def is_writable(self, process: Process, variable: str, offset: int) -> bool:
        """Whether a raw write would go well."""
        entry = process.entry_at(process.held[variable].address + offset)
        return entry is not None and "w" in entry.current.letters and entry.object is None

    @step(who=numbers, which=numbers, granule=numbers, high=st.booleans())
    def write_file(self, who: int, which: int, granule: int, high: bool) -> None:
        """pwrite."""
        process = self.process(who)
        fd = self.descriptor(process, which)
        need(process.descriptors[fd].memory.size)
        offset = granule // 4 % (OBJECT_SIZE // PAGE) * PAGE + granule % 4 * GRANULE + 8 * high
        data = self.new_bytes()
        self.guard(lambda: self.world.write_file(process.name, fd, offset, data))

    @invariant()
    def nothing_more(self) -> None:
        """Everything is compared in `guard`, where the program is at hand."""
