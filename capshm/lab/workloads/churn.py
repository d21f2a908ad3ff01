"""An allocator under churn: a heap of which everything is freed and allocated again, all the time.

Interpreters, browsers, compilers: what they allocate lives for a while and makes room for the next, and pointers to
it stay behind in what lives longer. A parent fills a heap with objects of 16 bytes to 4 KiB, each with a pointer to the
one before, and replaces all of them in random order; then it forks workers, which inherit heap and quarantine, and
replace all of them several times more, side by side. Where what is freed waits for a revocation, each process asks for
one whenever a share of its heap waits, and each pass stops them all; where nothing revokes, memory is used again at
once, and the pointers that stayed behind go on working. Nothing is shared, so policies make no difference.

A heap of less than 8 MiB, with what waits, has no revocation.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from capshm._native import lib
from capshm.lab.cells.player import COUNTED, Player
from capshm.lab.inputs.trace import EVENT, Process, Trace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from capshm.lab.cells.cell import Setting

DEFAULT_SIZE = 12 << 20
FREES_MEMORY = True
PROCESSES = range(1, 257)
TAKES_DENSITY = True
WORKERS = 2
TURNS = 2  # that each worker replaces everything
SIZES = tuple((16 << octave) * (4 + quarter) // 4 for octave in range(8) for quarter in range(4))
"""Of objects, in bytes; one is as frequent as another."""


def run(setting: Setting) -> None:
    """The parent fills and replaces, then each worker replaces TURNS times."""
    setting.crew.counted = COUNTED
    history = invent(setting.size, setting.seed, setting.processes or WORKERS)
    density = 0 if setting.density is None else setting.density / 100
    player = Player(history, setting.crew, is_plain=setting.world.is_plain, density=density)
    with setting.measured():
        player.play(0)


def invent(size: int, seed: int, workers: int) -> Trace:
    """The history of such a parent and so many workers, whose objects take about so many bytes."""
    random = Random(seed)
    count = size * len(SIZES) // sum(SIZES)
    sizes = random.choices(SIZES, k=count)
    filling = (EVENT.pack(lib.REPLAY_ALLOCATE, number, size) for number, size in enumerate(sizes))
    forks = (EVENT.pack(lib.REPLAY_FORK, worker, 0) for worker in range(1, workers + 1))
    parent = Process("parent", -1, b"".join([*filling, *_replace(random, count), *forks]))
    children = [
        Process("worker", 0, b"".join(each for _ in range(TURNS) for each in _replace(random, count)))
        for _ in range(workers)
    ]
    return Trace("churn", count, (parent, *children))


def _replace(random: Random, count: int) -> Iterator[bytes]:
    """Each object is freed, and another allocated in its place."""
    for number, size in zip(random.sample(range(count), count), random.choices(SIZES, k=count), strict=True):
        yield EVENT.pack(lib.REPLAY_FREE, number, 0)
        yield EVENT.pack(lib.REPLAY_ALLOCATE, number, size)
