"""A database's buffer pool: many processes read pages in shared memory while one replaces them.

PostgreSQL and its like: frames in shared memory hold pages, pages are full of pointers, and a descriptor leads to the
frame of each page. Readers pin a page through its descriptor, follow pointers in it, and unpin it. The process that
owns the memory replaces what nobody has pinned, in random order, by pages in frames that it has to spare; when these
are used up, it revokes all pointers to the frames that it has emptied, and they are the spare ones. The memory is the
owner's own object, so each of its passes sweeps all of it while everybody stands still: this is how a pause grows with
the number of processes, and with the share of memory that holds capabilities. Where policies bind capabilities to the
owner, every reader derives what it reads again.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from capshm.lab.cells.pages import Pool

if TYPE_CHECKING:
    from capshm.lab.cells.cell import Setting
    from capshm.lab.cells.crew import Crew

DEFAULT_SIZE = 4 << 20
FREES_MEMORY = True
PROCESSES = range(1, 257)
TAKES_DENSITY = True
READERS = 4
TURNS = 12  # in each all spare frames are used up, and a pass made
ROUNDS = 2  # that a reader reads everything in a turn


class Turns:
    """Where readers wait for the owner at the begin of each turn; made before they are forked."""

    def __init__(self, crew: Crew, readers: int) -> None:
        self._crew, self._readers = crew, readers
        self._ready = os.eventfd(0, os.EFD_CLOEXEC)
        # Two, since a quick reader may wait for the next turn before a slow one has seen that this one has begun.
        self._begun = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_SEMAPHORE) for _ in range(2)]

    def wait_for(self, turn: int) -> None:
        """In a reader: return when the turn begins."""
        os.eventfd_write(self._ready, 1)
        os.eventfd_read(self._begun[turn % 2])

    def begin(self, turn: int) -> None:
        """In the owner: begin the turn when all readers wait for it. CellFailed: one has ended before."""
        ready = 0
        while ready < self._readers:
            self._crew.wait_for_readable(self._ready)
            ready += os.eventfd_read(self._ready)
        os.eventfd_write(self._begun[turn % 2], self._readers)

    def close(self) -> None:
        """No more."""
        for descriptor in (self._ready, *self._begun):
            os.close(descriptor)


def run(setting: Setting) -> None:
    """In each turn all readers read while the owner replaces pages and revokes; none leaves before the last ends."""
    crew, readers = setting.crew, setting.processes or READERS
    crew.counted = (*crew.counted, "passes")
    pool = Pool(setting.world, crew, setting.size, setting.seed, setting.density)
    turns = Turns(crew, readers)

    def read(reader: int) -> None:
        for turn in range(TURNS):
            turns.wait_for(turn)
            for number in range(ROUNDS):
                pool.read(setting.seed + (reader * TURNS + turn) * ROUNDS + number)
        turns.wait_for(TURNS)

    with setting.measured():
        for reader in range(readers):
            crew.fork(partial(read, reader))
        for turn in range(TURNS):
            turns.begin(turn)
            pool.replace()
        turns.begin(TURNS)
        crew.wait()
    turns.close()
