"""The machine against a reference of all of it: the same verdicts, tags, bytes and mappings after every step.

Steps are statements of a program, done by real processes (`machine_workers`) and by the reference, and compared
(`machine_world`). A run that fails prints the program that it was.
"""

import os
import random
from collections.abc import Callable
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, assume, settings
from hypothesis import seed as with_seed
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from capshm import cheribsd as bsd
from capshm.model.objects import Kind
from capshm.model.rules import Refusal
from tests.faults.isolation import isolated, print_traceback
from tests.properties import machine_program
from tests.properties.machine_workers import Outcome
from tests.properties.machine_world import Place, World, refused
from tests.properties.reference_machine import GRANULE, PAGE, Open, Process

MOST_PROCESSES = 5
OBJECT_SIZE = 3 * PAGE

numbers = st.integers(0, 1 << 16)
"""Chooses among what there is."""

READ_WRITE = bsd.PROT_READ | bsd.PROT_WRITE
accesses = st.sampled_from([READ_WRITE, READ_WRITE, READ_WRITE, bsd.PROT_READ, bsd.PROT_WRITE, bsd.PROT_NONE])
accesses |= st.sampled_from([READ_WRITE | bsd.PROT_EXEC, bsd.PROT_READ | bsd.PROT_EXEC, bsd.PROT_EXEC])
marks = st.sampled_from([0, 0, bsd.PROT_CAP, bsd.PROT_CAP, bsd.PROT_NO_CAP])


@st.composite
def protections(draw: st.DrawFn) -> int:
    """Most of them allowed, some not; a third with a maximum."""
    mark = draw(marks)
    now = draw(accesses) | mark
    how = draw(st.integers(0, 8))
    if how == 0:
        return now | draw(st.sampled_from([bsd.PROT_CAP | bsd.PROT_NO_CAP, 0x20, 0x20 << 16, bsd.PROT_CAP << 16]))
    if how <= 3:
        return now | bsd.PROT_MAX(draw(accesses) | (mark if draw(st.integers(0, 3)) else draw(marks)) | now & 7)
    return now


lengths = st.sampled_from([PAGE, PAGE, 2 * PAGE, 2 * PAGE, 3 * PAGE, 4 * PAGE, 1, 5000])
offsets = st.sampled_from([0, 0, 0, PAGE, 2 * PAGE])
how_pointed = st.sampled_from(["pointer"] * 9 + ["number", "untagged", "no SW_VMEM"])
extras = st.sampled_from([0] * 12 + [bsd.MAP_EXCL, bsd.MAP_PREFAULT_READ, bsd.MAP_SHARED | bsd.MAP_PRIVATE, 1 << 30])


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

    def guard(self, step: Callable[[], None]) -> None:
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
        assume(names)
        return self.world.reference.processes[names[number % len(names)]]

    def variable(self, process: Process, number: int) -> str:
        """One of its capabilities, rather a recent one."""
        assume(process.held)
        names = list(reversed(process.held))
        return names[number % len(names)]

    def descriptor(self, process: Process, number: int) -> str:
        """One of its descriptors."""
        assume(process.descriptors)
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
        self.make_object(0, "shm")
        self.map_object(0, 0, READ_WRITE | bsd.PROT_CAP, False, 2 * PAGE, 0, 0)
        self.map_anonymous(0, READ_WRITE, False, PAGE, 0)

    @rule(who=numbers, kind=st.sampled_from(["shm", "shm", "share-cap", "share-cap", "memfd", "file", "zero"]))
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

    @rule(who=numbers, which=numbers)
    def reopen(self, who: int, which: int) -> None:
        """The same object, for reading alone."""
        process = self.process(who)
        fd, new = self.descriptor(process, which), self.world.name("f")
        process.descriptors[new] = process.descriptors[fd]._replace(is_writable=False, survives_exec=False)
        source = f'os.open(f"/proc/self/fd/{{{fd}}}", os.O_RDONLY)'
        self.guard(lambda: self.world.descriptor(process.name, new, source))

    @rule(who=numbers, which=numbers)
    def close_descriptor(self, who: int, which: int) -> None:
        """The object lives on where it is mapped, or open elsewhere."""
        process = self.process(who)
        fd = self.descriptor(process, which)
        del process.descriptors[fd]
        self.guard(lambda: self.world.do(process.name, f"os.close({fd})", "", Outcome("value")))

    @rule(who=numbers, whom=numbers, which=numbers)
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

    @rule(who=numbers, prot=protections(), shared=st.booleans(), length=lengths, extra=extras)
    def map_anonymous(self, who: int, prot: int, shared: bool, length: int, extra: int) -> None:
        """MAP_ANON, private or shared."""
        process = self.process(who)
        flags = bsd.MAP_ANON | (bsd.MAP_SHARED if shared else bsd.MAP_PRIVATE) | extra
        self.guard(lambda: self.world.map(process.name, Place("None", None), length, prot, flags, "", 0))

    @rule(
        who=numbers,
        which=numbers,
        prot=protections(),
        private=st.booleans(),
        length=lengths,
        offset=st.sampled_from([0, 0, 0, PAGE, 2 * PAGE, 100]),
        extra=extras,
    )
    def map_object(
        self, who: int, which: int, prot: int, private: bool, length: int, offset: int, extra: int
    ) -> None:
        """By a descriptor."""
        process = self.process(who)
        fd = self.descriptor(process, which)
        flags = (bsd.MAP_PRIVATE if private else bsd.MAP_SHARED) | extra
        self.guard(lambda: self.world.map(process.name, Place("None", None), length, prot, flags, fd, offset))

    @rule(
        who=numbers,
        kind=st.sampled_from([bsd.MAP_STACK | bsd.MAP_ANON, bsd.MAP_STACK, bsd.MAP_GUARD, bsd.MAP_ANON, 0]),
        length=st.sampled_from([0, PAGE, 3 * PAGE, (16 << 20) + PAGE]),
        prot=st.sampled_from([READ_WRITE, 0, READ_WRITE | bsd.PROT_NO_CAP]),
    )
    def map_strange(self, who: int, kind: int, length: int, prot: int) -> None:
        """Stacks, guards, padded lengths and none at all."""
        process = self.process(who)
        self.guard(lambda: self.world.map(process.name, Place("None", None), length, prot, kind, "", 0))

    @rule(
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
        assume(at < process.held[variable].length)
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
        assume(at < process.held[variable].length)
        return process.name, self.world.place(process, variable, at, how)

    @rule(who=numbers, which=numbers, at=offsets, how=how_pointed, length=lengths | st.just(0))
    def unmap(self, who: int, which: int, at: int, how: str, length: int) -> None:
        """munmap of a part or all."""
        name, place = self.changed(who, which, at, how)
        self.guard(lambda: self.world.change(name, "munmap", place, length))

    @rule(who=numbers, which=numbers, at=offsets, how=how_pointed, length=lengths, prot=protections())
    def protect(self, who: int, which: int, at: int, how: str, length: int, prot: int) -> None:
        """mprotect of a part or all."""
        name, place = self.changed(who, which, at, how)
        self.guard(lambda: self.world.change(name, "mprotect", place, length, prot))

    @rule(
        who=numbers, which=numbers, at=offsets, how=how_pointed, length=lengths, inherit=st.sampled_from([0, 1, 2, 3, 9])
    )
    def inherit(self, who: int, which: int, at: int, how: str, length: int, inherit: int) -> None:
        """minherit of a part or all."""
        name, place = self.changed(who, which, at, how)
        self.guard(lambda: self.world.change(name, "minherit", place, length, inherit))

    # Processes

    @precondition(lambda self: len(self.world.workers) < MOST_PROCESSES)
    @rule(who=numbers)
    def fork(self, who: int) -> None:
        """os.fork."""
        process = self.process(who)
        self.guard(lambda: self.world.fork(process.name))

    @precondition(lambda self: len(self.world.workers) < MOST_PROCESSES)
    @rule(odds=st.integers(0, 3))
    def spawn(self, odds: int) -> None:
        """A new program; rarely, since it takes a while."""
        assume(odds == 0)
        self.guard(self.world.spawn)

    @rule(who=numbers, odds=st.integers(0, 3))
    def exec(self, who: int, odds: int) -> None:
        """Another program in the same process."""
        assume(odds == 0)
        process = self.process(who)
        self.guard(lambda: self.world.exec(process.name))

    @precondition(lambda self: len(self.world.workers) > 2)
    @rule(number=numbers, by_itself=st.booleans())
    def end(self, number: int, by_itself: bool) -> None:
        """SIGKILL, also of a process that is stopped; or the process ends itself."""
        names = list(self.world.workers)
        name = names[number % len(names)]
        is_killed = name in self.world.stopped or not by_itself
        self.guard(lambda: self.world.kill(name) if is_killed else self.world.leave(name))

    @precondition(lambda self: len(self.world.running()) > 1)
    @rule(who=numbers)
    def stop(self, who: int) -> None:
        """SIGSTOP."""
        process = self.process(who)
        self.guard(lambda: self.world.stop(process.name))

    @precondition(lambda self: self.world.stopped)
    @rule()
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

    @rule(who=numbers, which=numbers, granule=numbers, value=numbers, moved=st.sampled_from([0, 0, 16]), tag=numbers)
    def store(self, who: int, which: int, granule: int, value: int, moved: int, tag: int) -> None:
        """store_capability."""
        process, variable, offset = self.somewhere(who, which, granule)
        stored = self.variable(process, value)
        self.guard(
            lambda: self.world.store(process.name, variable, offset, stored, moved, tag=bool(tag % 5))
        )

    @rule(who=numbers, which=numbers, granule=numbers)
    def load(self, who: int, which: int, granule: int) -> None:
        """load_capability."""
        process, variable, offset = self.somewhere(who, which, granule)
        self.guard(lambda: self.world.load(process.name, variable, offset))

    @rule(who=numbers, which=numbers, granule=numbers, length=st.integers(1, 40))
    def read(self, who: int, which: int, granule: int, length: int) -> None:
        """Plain bytes."""
        process, variable, offset = self.somewhere(who, which, granule)
        self.guard(lambda: self.world.read(process.name, variable, offset, length))

    @rule(who=numbers, which=numbers, granule=numbers, high=st.booleans(), more=st.booleans())
    def write(self, who: int, which: int, granule: int, high: bool, more: bool) -> None:
        """Plain bytes through a capability."""
        process, variable, offset = self.somewhere(who, which, granule)
        data = self.new_bytes() * (3 if more else 1)
        self.guard(lambda: self.world.write(process.name, variable, offset + 8 * high, data))

    @rule(who=numbers, which=numbers, granule=numbers, high=st.booleans())
    def write_raw(self, who: int, which: int, granule: int, high: bool) -> None:
        """Past capshm. Where that ends the process, a child does it, so that not all of them die of it."""
        process, variable, offset = self.somewhere(who, which, granule)
        assume(len(self.world.workers) > 1 or self.is_writable(process, variable, offset))
        data = self.new_bytes()
        self.guard(lambda: self.world.write_raw(process.name, variable, offset + 8 * high, data))

    def is_writable(self, process: Process, variable: str, offset: int) -> bool:
        """Whether a raw write would go well."""
        entry = process.entry_at(process.held[variable].address + offset)
        return entry is not None and "w" in entry.current.letters and entry.object is None

    @rule(who=numbers, which=numbers, granule=numbers, high=st.booleans())
    def write_file(self, who: int, which: int, granule: int, high: bool) -> None:
        """pwrite."""
        process = self.process(who)
        fd = self.descriptor(process, which)
        assume(process.descriptors[fd].memory.size)
        offset = granule // 4 % (OBJECT_SIZE // PAGE) * PAGE + granule % 4 * GRANULE + 8 * high
        data = self.new_bytes()
        self.guard(lambda: self.world.write_file(process.name, fd, offset, data))

    @invariant()
    def nothing_more(self) -> None:
        """Everything is compared in `guard`, where the program is at hand."""


@isolated(bound=280)
def walk(policy: str, seed: int, runs: int, length: int) -> None:
    """Run it in a process that may fork; a failure is told before a shorter way to it is looked for."""
    compare(policy, seed, runs, length)


@isolated(bound=3600)
def walk_far(policy: str, seed: int, runs: int, length: int) -> None:
    """The same, with more patience."""
    compare(policy, seed, runs, length)


def compare(policy: str, seed: int, runs: int, length: int) -> None:
    """Walk."""
    print(f"policy {policy}, seed {seed}", flush=True)
    machine = type("Walk", (Walk,), {"policy": policy, "seed": seed})
    try:
        run(machine, seed, runs, length, Phase.generate)
    except Exception as error:
        print_traceback(error)
        print(machine.program, flush=True)
        print("# A shorter way, if there is time to find one:", flush=True)
        try:
            run(machine, seed, runs, length, Phase.generate, Phase.shrink)
        finally:
            print(machine.program, flush=True)
        raise
    print(f"{machine.steps_done} steps", flush=True)


def run(machine: type[Walk], seed: int, runs: int, length: int, *phases: Phase) -> None:
    """Once."""
    thoroughly = settings(
        phases=phases,
        max_examples=runs,
        stateful_step_count=length,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(with_seed(seed)(machine), settings=thoroughly)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["cheribsd", "open", "isolated"])
def test_a_machine_is_as_the_reference_says(policy: str) -> None:
    """Any steps of any processes: a hundred of them."""
    walk(policy=policy, seed=random.randrange(1 << 32), runs=2, length=50)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("policy", ["cheribsd", "open", "isolated"])
def test_a_machine_stays_as_the_reference_says(policy: str) -> None:
    """The same for ten thousand steps, in all three together."""
    walk_far(policy=policy, seed=random.randrange(1 << 32), runs=67, length=50)


if __name__ == "__main__":
    import sys

    compare(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else 50)
    os._exit(0)
