"""A fork storm: processes that fork processes, all of them writing to the memory that they have in common.

Build systems, shells, prefork servers that were started twice: a parent has a private heap of pages full of pointers.
It forks two children, each of these two of its own, and so on, all at once; each writes to a share of the pages, so
that the kernel copies them, and the tags of what they hold are copied too. Every generation starts from what the one
before it has made of the heap. Nothing is shared, so policies make no difference but in fork itself.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from capshm.lab.cells.pages import Heap

if TYPE_CHECKING:
    from capshm.lab.cells.cell import Setting

DEFAULT_SIZE = 4 << 20
PROCESSES = range(1, 1025)
TAKES_DENSITY = True
CHILDREN = 14  # all generations: 2, 4 and 8
WRITTEN_PART = 4  # each writes to one of so many pages


def run(setting: Setting) -> None:
    """Process number n forks 2 n + 1 and 2 n + 2, where there are so many."""
    crew, children = setting.crew, setting.processes or CHILDREN
    crew.counted = ("operations", "forks")
    heap = Heap(setting.world.private(setting.size), crew, setting.density)
    heap.fill(setting.seed)

    def live(number: int) -> None:
        heap.touch(heap.pages // WRITTEN_PART, setting.seed + number)
        for child in range(2 * number + 1, min(2 * number + 2, children) + 1):
            crew.fork(partial(live, child), number=child)

    with setting.measured():
        live(0)
        crew.wait()
