"""The limit of a fork: that of an unattached process which has imported and touched the same.

`python -m bench.limits.fork MIB [--attach]` touches that many MiB of private memory in 16 mappings and then, for each
number that it reads, prints the nanoseconds of as many forks: os.fork, os._exit in the child, os.waitpid. With --attach
it is the figure itself: the process belongs to the machine that has spawned it, the mappings are the machine's, and
every tenth page holds a capability.
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from time import perf_counter_ns

import capshm
from capshm import cheribsd

MAPPINGS = 16
PAGE = 4096
CAPABILITY_PAGES = 10  # one page of as many

Start = Callable[[list[str]], "subprocess.Popen[bytes]"]
"""Starts a program whose standard input and output are pipes."""


class Forker:
    """The program at work."""

    def __init__(self, start: Start, arguments: Sequence[str]) -> None:
        self._program = start([sys.executable, "-m", "bench.limits.fork", *arguments])

    def fork(self, count: int) -> list[int]:
        """The nanoseconds of each of so many forks."""
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._program.stdin.write(b"%d\n" % count)
        self._program.stdin.flush()
        return [int(number) for number in self._program.stdout.readline().split()]

    def close(self) -> None:
        """End it."""
        self._program.communicate()


def touch(size: int) -> object:
    """Private memory, each of its pages written."""
    mappings = [mmap.mmap(-1, size // MAPPINGS, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(MAPPINGS)]
    for mapping in mappings:
        for offset in range(0, size // MAPPINGS, PAGE):
            mapping[offset] = 1
    return mappings


def touch_attached(size: int) -> object:
    """The same in the machine's memory, and capabilities in some pages."""
    protection, flags = cheribsd.PROT_READ | cheribsd.PROT_WRITE | cheribsd.PROT_CAP, cheribsd.MAP_PRIVATE
    mappings = [
        cheribsd.mmap(None, size // MAPPINGS, protection, flags | cheribsd.MAP_ANONYMOUS) for _ in range(MAPPINGS)
    ]
    for mapping in mappings:
        view = mapping.view(0, size // MAPPINGS, writable=True)
        for offset in range(0, size // MAPPINGS, PAGE):
            view[offset] = 1
        for offset in range(0, size // MAPPINGS, PAGE * CAPABILITY_PAGES):
            mapping.store_capability(offset + 16, mapping)
    return mappings


def fork(count: int) -> list[int]:
    """The nanoseconds of each."""
    times = []
    for _ in range(count):
        begin = perf_counter_ns()
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        times.append(perf_counter_ns() - begin)
        assert status == 0
    return times


def main() -> None:
    """Do what is asked until nobody asks any more."""
    is_attached = sys.argv[2:] == ["--attach"]
    if is_attached:
        capshm.attach()
    size = int(sys.argv[1]) << 20
    memory = touch_attached(size) if is_attached else touch(size)
    for line in sys.stdin:
        print(*fork(int(line)), flush=True)
    del memory


if __name__ == "__main__":
    main()
