"""A real program's memory: its pointers where they were, its objects freed and allocated again, and each time revoked.

`capshm snapshot` has taken the image, of an interpreter or a server with all that it holds. A parent loads it into an
object of its own and into private memory, and forks workers, which inherit both: the parent works in the object, each
worker in its copy of the private memory. A round frees a quarter of the objects there and has them revoked; then it
allocates them again, stores a capability wherever one led there, and loads all others. So each pass sweeps the layout
of the image, and finds all of its tags. No process uses what another has stored: policies make no difference to that.
But under `open` the parent's object is everybody's, and passes of scope `vmspace` leave it alone: they sweep less.
A capability that is loaded without its tag, though it led to nothing that was freed, makes the cell fail.

The image and the number of workers decide how much there is to do; `size`, which is that of the image, changes nothing.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from capshm.lab.cells.crew import CellFailed
from capshm.lab.cells.heap import Heap
from capshm.lab.inputs import image

if TYPE_CHECKING:
    from capshm.lab.cells.cell import Setting
    from capshm.lab.cells.world import Area

DEFAULT_SIZE = 1 << 20
FREES_MEMORY = True
PROCESSES = range(1, 65)
WORKERS = 2
ROUNDS = 8
COUNTED = ("operations", "forks", "passes")


def run(setting: Setting) -> None:
    """Each process does ROUNDS."""
    world, crew = setting.world, setting.crew
    crew.counted = COUNTED
    heap, is_revoking = Heap(image.read(image.find(setting.image or ""))), world.can_revoke()
    private, shared = world.private(heap.length), world.inherited(heap.length)
    for area in (private, shared):
        heap.fill(area, crew.counts)

    def work(area: Area, number: int) -> None:
        for seed in range(setting.seed + number * ROUNDS, setting.seed + (number + 1) * ROUNDS):
            if is_revoking:
                world.revoke(heap.free(area, seed))
                crew.counts.passes += 1
            heap.work(area, seed, crew.counts)
        if lost := crew.counts.rederived:
            raise CellFailed(f"{lost:,} capabilities had lost their tags that led to nothing that was freed")

    with setting.measured():
        for worker in range(1, (setting.processes or WORKERS) + 1):
            crew.fork(partial(work, private, worker))
        work(shared, 0)
        crew.wait()
