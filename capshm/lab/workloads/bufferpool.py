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

from capshm.lab.crew import Moment
from capshm.lab.pages import Pool

if TYPE_CHECKING:
    from capshm.lab.cell import Setting

DEFAULT_SIZE = 4 << 20
FREES_MEMORY = True
PROCESSES = range(1, 257)
TAKES_DENSITY = True
READERS = 4
ROUNDS = 24  # that each reader reads everything
TURNS = 12  # that all spare frames are used up, and a pass made


def run(setting: Setting) -> None:
    """All readers begin when there are all of them, and stay until the last page has been replaced.

    Each turn comes when so much has been read, so that the others read on meanwhile.
    """
    crew, readers = setting.crew, setting.processes or READERS
    crew.counted = (*crew.counted, "passes")
    pool = Pool(setting.world, crew, setting.size, setting.seed, setting.density)
    begin, end = Moment(), Moment()
    steps = os.eventfd(0, os.EFD_CLOEXEC)  # that readers have made, and that were not looked at

    def read(reader: int) -> None:
        os.eventfd_write(steps, 1)
        begin.wait()
        for turn in range(ROUNDS):
            pool.read(setting.seed + reader * ROUNDS + turn)
            os.eventfd_write(steps, 1)
        end.wait()

    with setting.measured():
        for reader in range(readers):
            crew.fork(partial(read, reader))
        made = 0
        for turn in range(TURNS):
            while made < readers + turn * readers * ROUNDS // TURNS:
                crew.wait_for_readable(steps)
                made += os.eventfd_read(steps)
            if turn == 0:
                begin.come()
            pool.replace()
        end.come()
        crew.wait()
    os.close(steps)
