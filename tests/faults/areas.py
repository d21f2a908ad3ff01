"""Uses up what the kernel lets a process have of areas (vm.max_map_count), so that what follows meets the limit."""

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

from tests.faults.residue import maps

PAGE = 4096


def fill_areas(limit: int) -> Callable[[], object]:
    """Make areas outside the arena until Linux lets this process have only `limit` more; the answer removes them."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    most = int(Path("/proc/sys/vm/max_map_count").read_text(encoding="ascii"))
    size = ctypes.c_size_t((most + 2) * PAGE)
    whole = libc.mmap(None, size, 0, 0x4022, -1, ctypes.c_long(0))
    missing = most - limit - len(maps(os.getpid()))
    for number in range(missing // 2):  # each makes an area, and a gap before it
        address = whole + (2 * number + 1) * PAGE
        assert not libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(PAGE), 1)
    return lambda: libc.munmap(ctypes.c_void_p(whole), size)
