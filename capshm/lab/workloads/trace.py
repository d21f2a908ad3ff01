"""A recorded program: its allocations, frees and forks, as `capshm record` has written them down.

Every process of the trace is a real one here, forked where its parent forked it, and waited for where that waited, or
at the parent's end. Allocations come from the machine's `malloc`, or plainly from the C library's; each holds a pointer
to another, so that memory holds pointers as the program's would. exec gives back all that was allocated; no program is
started. Threads of one process are one here, in the order of what they did. Nothing is shared, so no capability crosses
and none is refused: private memory keeps its tags through a fork under every policy. What is freed waits for the
revoker, and a heap that stays small never has it run.

The trace decides how much there is to do; `size` and `seed` change nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from capshm.lab.cells.crew import CellFailed
from capshm.lab.cells.player import COUNTED, Player
from capshm.lab.inputs import trace

if TYPE_CHECKING:
    from capshm.lab.cells.cell import Setting

DEFAULT_SIZE = 64 << 10
FREES_MEMORY = True


def run(setting: Setting) -> None:
    """Replay `setting.trace` once."""
    recorded = trace.read(trace.find(setting.trace or ""))
    crew, forks = setting.crew, len(recorded.processes) - 1
    if forks > crew.most:
        raise CellFailed(f"the trace forks {forks:,} processes, and a cell may fork {crew.most:,}")
    crew.counted = COUNTED
    player = Player(recorded, crew, is_plain=setting.world.is_plain)
    with setting.measured():
        player.play(0)
