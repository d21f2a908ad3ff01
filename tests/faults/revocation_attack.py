"""Processes that do with capabilities what they can, as fast as they can, while each revokes what it has freed.

What is recorded is judged by `check_history` afterwards. Each attacker has values of its own: some that it keeps, and a
new one for each of its revocations. They lie in variables, in private memory, in objects of its own, mapped, closed, in
flight in a socket; with `scope="machine"` also in an object that all may store to. Attackers fork children, which have
copies, revoke their own, end, are killed, or become another program.
"""

from __future__ import annotations

import os
import random
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from capshm import Capability, Machine
from capshm import cheribsd as bsd
from capshm.testing import History, Kind, Operation
from tests.conformance.cheribsd.revocation import as_freed, revoke, shadow_of
from tests.conformance.cheribsd.support import PAGE, anonymous, new_object, shared
from tests.faults.processes import Child, Event

GRANULE = 16
PLACES = 6  # granules of each object that is fought for
KEPT = 3  # values that an attacker keeps
ATTACKERS = 2
LONG = 100.0  # seconds; no pass runs into it
MOST = 1 << 12  # granules of an attacker's arena


@dataclass
class Attacker:
    """One process's part, from its first operation on. common: memory to which all may store, or None."""

    number: int
    history: History
    dice: random.Random
    common: Capability | None
    left: socket.socket  # to neighbours, with whom descriptors are exchanged; neither waits
    right: socket.socket
    held: list[Capability] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make all of its own."""
        self.arena = self.history.grant(anonymous(length=(ATTACKERS * MOST + 1) * GRANULE))
        self.hidden = anonymous()
        self.descriptor = new_object()
        self.object = self.history.grant(shared(self.descriptor), descriptor=self.descriptor)
        self.shadow = shadow_of(self.arena)
        self.next = self.number * MOST + 1  # granule of the arena; where that begins, nothing is ever painted
        self.kept = [self.history.keep(self.new_value()) for _ in range(KEPT)]
        self.doomed = self.new_value()

    def new_value(self) -> Capability:
        """Of a base that no value had before."""
        offset = self.next * GRANULE
        self.next += 1
        return self.history.derive(self.arena, lambda arena: as_freed(arena + offset))

    def run(self, rounds: int) -> None:
        """Attack so many times between one's own revocations, and end."""
        actions: list[tuple[int, Callable[[], object]]] = [
            (8, self.store),
            (8, self.load),
            (3, self.write),
            (4, self.hide),
            (4, self.move),
            (2, self.pass_on),
            (2, self.receive),
            (1, self.close_and_open),
            (1, self.fork),
        ]
        weights = [weight for weight, _ in actions]
        for _ in range(rounds):
            for _ in range(self.dice.randrange(20)):
                self.dice.choices(actions, weights)[0][1]()
            self.revoke()
            self.load()
            self.load()
        self.history.end()

    def value(self) -> Capability:
        """Something to store: kept, doomed, or what came by."""
        return self.dice.choice([*self.kept, self.doomed, self.doomed, *self.held])

    def place(self) -> tuple[Capability, int]:
        """Memory in which loads and stores are recorded, and an offset."""
        memory = self.object if self.common is None or self.dice.random() < 0.5 else self.common
        return memory, GRANULE * self.dice.randrange(PLACES)

    def hold(self, value: Capability) -> None:
        """Keep what has a tag in a variable for a while."""
        if value.tag:
            self.held = [value, *self.held[:5]]

    # What it does

    def store(self) -> None:
        self.history.store(*self.place(), self.value())

    def load(self) -> None:
        self.hold(self.history.load(*self.place()))

    def write(self) -> None:
        memory, offset = self.place()
        self.history.write(memory, offset + self.dice.randrange(GRANULE), self.dice.randbytes(3))

    def hide(self) -> None:
        """In private memory: store, copy, and look what is there."""
        first, second = (GRANULE * self.dice.randrange(PAGE // GRANULE // 2) for _ in range(2))
        self.hidden.store_capability(first, self.value())
        self.hidden.copy_to(self.hidden + PAGE // 2, PAGE // 2)
        for offset in (first, second, first + PAGE // 2):
            self.history.look(self.hidden.load_capability(offset))

    def move(self) -> None:
        """From variable to variable."""
        source = self.value()
        moved = self.history.derive(source, lambda value: value + 0)
        self.history.look(source)
        self.hold(moved)
        for value in self.kept:
            self.history.look(value)

    def pass_on(self) -> None:
        """An object of its own, to a neighbour who has no right to its capabilities."""
        try:
            socket.send_fds(self.left, [b"!"], [self.descriptor])
        except BlockingIOError:
            pass  # enough are in flight

    def receive(self) -> None:
        """What a neighbour passed on: whatever is loaded there has no tag."""
        try:
            text, descriptors, _, _ = socket.recv_fds(self.right, 1, 1)
        except BlockingIOError:
            return
        for descriptor in descriptors if text else []:
            memory = self.history.grant(shared(descriptor, bsd.PROT_READ), descriptor=descriptor)
            self.history.share_drop(descriptor)
            self.history.load(memory, GRANULE * self.dice.randrange(PLACES))
            bsd.munmap(memory, PAGE)
            os.close(descriptor)

    def close_and_open(self) -> None:
        """Its own object, with what is doomed in it, lies in a socket alone while it revokes."""
        self.history.store(self.object, GRANULE * self.dice.randrange(PLACES), self.doomed)
        here, there = socket.socketpair()
        with here, there:
            socket.send_fds(here, [b"!"], [self.descriptor])
            bsd.munmap(self.object, PAGE)
            os.close(self.descriptor)
            self.revoke()
            _, (self.descriptor,), _, _ = socket.recv_fds(there, 1, 1)
        self.object = self.history.grant(shared(self.descriptor), descriptor=self.descriptor)
        for place in range(PLACES):
            self.history.load(self.object, GRANULE * place)

    def fork(self) -> None:
        """A child has copies of its own; it ends in one of several ways, its parent goes on meanwhile."""
        way = self.dice.choice(["end", "revoke", "kill", "exec"])
        seed = self.dice.getrandbits(32)
        with Child(lambda: self.be_child(way, seed)) as child:
            self.load()
            self.move()
            self.revoke()
            self.load()
            status = child.wait()
        assert status == (-signal.SIGKILL if way == "kill" else 0), way

    def be_child(self, way: str, seed: int) -> None:
        """Look at what was inherited."""
        self.dice = random.Random(seed)
        self.history.share_drop(self.descriptor)
        self.history.load(self.object, GRANULE * self.dice.randrange(PLACES))
        self.move()
        self.hide()
        if way == "revoke":
            self.revoke()
            self.hide()
        elif way == "exec":
            os.execv("/bin/true", ["true"])
        elif way == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        self.history.end()

    def revoke(self) -> None:
        """What is doomed goes; then comes the next."""
        self.history.paint(self.doomed)
        self.history.revoke_by(revoke)
        self.history.look(self.doomed)
        for value in self.held:
            self.history.look(value)
        self.history.clear_paint(self.doomed)
        self.doomed = self.new_value()


def attack(stopper: str, scope: str, *, seed: int, rounds: int) -> list[Operation]:
    """Attackers in a machine, whose first process revokes for all meanwhile; what they did."""
    print(f"stopper {stopper}, scope {scope}, seed {seed}, {rounds} rounds")
    with Machine(stopper=stopper, scope=scope, stop_timeout=LONG) as machine, History() as history:
        common = None
        if scope == "machine":
            descriptor = new_object("share-cap")
            common = history.grant(shared(descriptor), descriptor=descriptor)
        ring = [socket.socketpair() for _ in range(ATTACKERS)]
        ends = [end for pair in ring for end in pair]
        for end in ends:
            end.setblocking(False)
        ready, begin = [Event() for _ in range(ATTACKERS)], Event()

        def run(number: int) -> None:
            left, right = ring[number][0], ring[(number + 1) % ATTACKERS][1]
            attacker = Attacker(number, history, random.Random(seed + number), common, left, right)
            ready[number].set()
            begin.wait()
            attacker.run(rounds)

        children = [Child(lambda number=number: run(number)) for number in range(ATTACKERS)]  # type: ignore[misc]
        for event in ready:
            event.wait()
        begin.set()
        for _ in range(rounds):
            history.revoke_by(machine.revoke, is_of_all=True)
        assert [child.wait() for child in children] == [0] * ATTACKERS
        for end in ends:
            end.close()
        return history.operations()


def count(operations: list[Operation], *kinds: Kind, tag: bool | None = None) -> int:
    """Those of the kinds; tag: whose value has, or lacks, one."""
    return sum(
        one.kind in kinds and (tag is None or (one.value is not None and one.value.tag is tag)) for one in operations
    )
