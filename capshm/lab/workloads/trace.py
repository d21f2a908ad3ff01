"""A recorded program: its allocations, frees and forks, as `capshm record` has written them down.

Every process of the trace is a real one here, forked where its parent forked it, and waited for where that waited, or
at the parent's end. Allocations come from the machine's `malloc`, or plainly from the C library's; each holds a pointer
to another, so that memory holds pointers as the program's would. exec gives back all that was allocated; no program is
started. Threads of one process are one here, in the order of what they did. Nothing is shared, so no capability crosses
and none is refused: private memory keeps its tags through a fork under every policy.

The trace decides how much there is to do; `size` and `seed` change nothing.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from capshm import _registers, client
from capshm import cheribsd as bsd
from capshm._native import ffi, lib
from capshm._status import fail
from capshm.capability import GRANULE, Capability
from capshm.cheribsd.malloc import provide
from capshm.lab import trace
from capshm.lab.crew import CellFailed, Crew

if TYPE_CHECKING:
    from capshm._native import CData
    from capshm.lab.cell import Setting

DEFAULT_SIZE = 64 << 10


def run(setting: Setting) -> None:
    """Replay `setting.trace` once."""
    recorded = trace.read(trace.find(setting.trace or ""))
    crew, forks = setting.crew, len(recorded.processes) - 1
    if forks > crew.most:
        raise CellFailed(f"the trace forks {forks:,} processes, and a cell may fork {crew.most:,}")
    crew.counted = ("operations", "forks")
    player = Player(recorded, crew, is_plain=setting.world.is_plain)
    with setting.measured():
        player.play(0)


class Player:
    """What all processes of a replay inherit. Each is the crew's member with the number that it has in the trace."""

    def __init__(self, recorded: trace.Trace, crew: Crew, *, is_plain: bool) -> None:
        self._recorded = recorded
        self._crew = crew
        length = recorded.live + 1  # none of these is empty
        self._slots = ffi.new("struct replay_slot[]", length)
        self._replay: CData = ffi.new("struct replay *")
        self._replay.slots, self._replay.slot_count = self._slots, length
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
        while self._run(number) < replay.count:
            kind, child, _ = trace.EVENT.unpack_from(events, replay.position * trace.EVENT.size)
            replay.position += 1
            if kind == lib.REPLAY_FORK:
                name = f"of the replay (process {child} of the trace, {self._recorded.processes[child].name})"
                crew.fork(partial(self.play, child), number=child, name=name)
            else:
                crew.wait_for(child)
        crew.counts.operations, crew.counts.checksum = replay.operations, replay.checksum
        crew.wait()

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
