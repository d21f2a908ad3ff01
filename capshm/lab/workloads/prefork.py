"""A server that forks its workers, which answer requests out of one shared arena.

Apache, PostgreSQL and their like: the parent makes shared memory, fills it with objects that point to each other, and
forks workers that inherit it. Each worker takes the requests of its share, follows the pointers, writes the response
and stores a pointer to it; at the end the parent collects the answers. The arena belongs to the parent's address space,
so a policy that binds capabilities to that makes every worker, and then the parent, derive again what it finds there.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from capshm.lab.cells.graph import Graph, compare_sums

if TYPE_CHECKING:
    from capshm.lab.cells.cell import Setting

DEFAULT_SIZE = 4 << 20
PROCESSES = range(1, 257)
WORKERS = 4
ROUNDS = 4


def run(setting: Setting) -> None:
    """Each worker serves its requests ROUNDS times."""
    crew, workers = setting.crew, setting.processes or WORKERS
    graph = Graph(setting.world.inherited(setting.size), crew)
    graph.fill(setting.seed)

    def serve(worker: int) -> None:
        for turn in range(ROUNDS):
            graph.serve(worker, workers, setting.seed + turn)

    with setting.measured():
        for worker in range(workers):
            crew.fork(partial(serve, worker))
        crew.wait()
        collected = graph.collect()
    compare_sums(collected, crew)
