"""A warm parent that forks a short child for each task.

Android's zygote, build servers, test runners: the parent has its private memory full of pointers, and a shared mapping
beside it. Each child touches a share of both, loads and stores capabilities, and exits; the kernel copies the private
pages that it writes, tags included. What is private keeps its tags under every policy, since the copies are the child's
own; what each policy costs here is its part in fork itself, and what does not come through the shared mapping.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from capshm.lab.cells.graph import Graph, compare_sums

if TYPE_CHECKING:
    from capshm.lab.cells.cell import Setting

DEFAULT_SIZE = 8 << 20
PROCESSES = range(1, 1025)
CHILDREN = 24
AT_ONCE = 2
SHARED_PART = 8  # the shared mapping has this part of the private bytes


def run(setting: Setting) -> None:
    """Each child serves its share of private and of shared requests; AT_ONCE of them run side by side."""
    world, crew, children = setting.world, setting.crew, setting.processes or CHILDREN
    private = Graph(world.private(setting.size), crew)
    shared = Graph(world.inherited(max(setting.size // SHARED_PART, children << 10)), crew)
    private.fill(setting.seed)
    shared.fill(~setting.seed % (1 << 64))

    def serve(child: int) -> None:
        for graph in (private, shared):
            graph.serve(child, children, setting.seed + child)

    with setting.measured():
        for child in range(children):
            crew.wait(AT_ONCE - 1)
            crew.fork(partial(serve, child))
        crew.wait()
        collected = shared.collect()
    compare_sums(collected, crew)
