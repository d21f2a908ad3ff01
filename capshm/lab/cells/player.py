"""The player: does again what the processes of a trace did with their memory.

Each is a real process, forked where its parent forked it, and waited for where that waited, or at the parent's end.
Allocations come from the machine's `malloc`, or plainly from the C library's. The loop is native (native/replay.h);
here is what it cannot do: forks, waits, and what the machine's allocator needs from the broker, passes of revocation
among it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from capshm import _registers, client
from capshm import cheribsd as bsd
from capshm._native import ffi, lib
from capshm._status import fail
from capshm.capability import GRANULE, Capability
from capshm.cheribsd import quarantine
from capshm.cheribsd.malloc import provide
from capshm.lab.cells.crew import CellFailed, Crew
from capshm.lab.inputs.trace import EVENT, Trace

if TYPE_CHECKING:
    from capshm._native import CData

COUNTED = ("operations", "forks", "passes")
"""What a crew counts that plays: nothing is shared, so no capability crosses."""


class Player:
    """What all processes of a replay inherit. Each is the crew's member with the number that it has in the trace.

    density: share of the granules of each allocation that hold a capability; one does in any case.
    """

    def __init__(self, recorded: Trace, crew: Crew, *, is_plain: bool, density: float = 0) -> None:
        self._recorded = recorded
        self._crew = crew
        length = recorded.live + 1  # none of these is empty
        self._slots = ffi.new("struct replay_slot[]", length)
        self._replay: CData = ffi.new("struct replay *")
        self._replay.slots, self._replay.slot_count = self._slots, length
        self._replay.density = density
        # The table is the program's own memory, as all the rest.
        self._table: CData | Capability
        if is_plain:
            self._replay.pointers = self._table = ffi.new("void *[]", length)
        else:
            self._table = bsd.malloc(length * GRANULE)
            self._window = _registers.Window(lib.REPLAY_REGISTERS)
            self._replay.table, self._replay.registers = self._table._register, self._window.first

    def play(self, number: int) -> None:
        """Do what a process of the trace did, in this one. CellFailed: a child has ended otherwise than by itself."""
        crew, replay, events = self._crew, self._replay, self._recorded.processes[number].events
        replay.events = found = ffi.from_buffer("struct replay_event[]", events)
        replay.count, replay.position = len(found), 0
        replay.operations = replay.checksum = 0
        inherited = self._passes()
        while self._run(number) < replay.count:
            kind, child, _ = EVENT.unpack_from(events, replay.position * EVENT.size)
            replay.position += 1
            if kind == lib.REPLAY_FORK:
                name = f"of the replay (process {child} of the trace, {self._recorded.processes[child].name})"
                crew.fork(partial(self.play, child), number=child, name=name)
            else:
                crew.wait_for(child)
        crew.counts.operations, crew.counts.checksum = replay.operations, replay.checksum
        crew.counts.passes = self._passes() - inherited
        crew.wait()

    def _passes(self) -> int:
        """That have freed memory in this process, and in those that it was forked from before."""
        return quarantine.statistics().passes if isinstance(self._table, Capability) else 0

    def _run(self, number: int) -> int:
        """Replay up to the next fork or wait, or to the end; returns where that is."""
        replay = self._replay
        while status := lib.replay_run(replay):
            if status == lib.STATUS_INVALID:
                raise CellFailed(f"event {replay.position:,} of process {number} does not fit those before it")
            self._provide(status, int(replay.events[replay.position].size))
        return int(replay.position)

    def _provide(self, status: int, size: int) -> None:
        """Do what only Python can do for the machine's allocator; what the C library's says is an error."""
        event = f"event {self._replay.position:,} of the replay"
        if isinstance(self._table, Capability):
            into = self._window.first + lib.REPLAY_NEW
            self._replay.is_taken = client.current().undisturbed(lambda: provide(status, event, size, into))
        else:
            fail(status, event)
