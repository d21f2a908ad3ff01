"""What real machines do beside their limits: `python -m bench.machines`.

Prints a JSON object a line: key, value, limit; microseconds. Figure and limit take turns in slices of some hundredths
of a second, and the fastest time of each counts: what disturbs can only make it slower.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import mmap
import os
import random
import signal
import subprocess
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from time import perf_counter_ns
from typing import NoReturn

import capshm
from bench.limits import call, echo, interpreter
from bench.limits.fork import Forker
from bench.vmars import child_vmar
from capshm import cheribsd
from capshm import zircon as zx

PAGE = 4 << 10  # 4 KiB
ARENA_SIZE = 64 << 30  # 64 GiB
DATA_SIZE = 1 << 20  # 1 MiB: of the object that is mapped
FORK_MEMORY = 64  # 64 MiB
PROTECTED = 16  # mappings in a VMAR, of a page each
SWEEP_SIZE = 64 << 20  # 64 MiB
GRANULE = 16
HEAP_SIZE = 16 << 20  # 16 MiB: about what is live
HEAP_LARGEST = 4096  # bytes of an allocation, the smallest being 16
HEAP_PAIRS = 8192  # in a slice: so many that several revocations fall into it
_ATTACHING = """
from time import perf_counter_ns
begin = perf_counter_ns()
import capshm
capshm.attach()
print(perf_counter_ns() - begin)
"""

Slice = Callable[[], int]
"""Does an operation a few times; the nanoseconds of the fastest."""


def _fastest(operation: Callable[[], object], count: int) -> int:
    least = 1 << 62
    for _ in range(count):
        begin = perf_counter_ns()
        operation()
        least = min(least, perf_counter_ns() - begin)
    return least


def _interleaved(figure: Slice, limit: Slice, turns: int) -> tuple[float, float]:
    """The fastest of all slices of both, in microseconds."""
    figure(), limit()  # the interpreter adapts its code to what it has seen
    values, limits = zip(*((figure(), limit()) for _ in range(turns)), strict=True)
    return min(values) / 1000, min(limits) / 1000


def _round_trip(machine: capshm.Machine, turns: int) -> tuple[float, float]:
    pages = _private(PAGE)
    protections = [cheribsd.PROT_READ, cheribsd.PROT_READ | cheribsd.PROT_WRITE] * 50

    def protect() -> int:
        least = 1 << 62
        for protection in protections:
            begin = perf_counter_ns()
            cheribsd.mprotect(pages, PAGE, protection)
            least = min(least, perf_counter_ns() - begin)
        return least

    with echo.Echo() as other:
        return _interleaved(protect, partial(_fastest, other.ask, 100), turns)


def _map_object(machine: capshm.Machine, turns: int) -> tuple[float, float]:
    protection = cheribsd.PROT_READ | cheribsd.PROT_WRITE | cheribsd.PROT_CAP
    flags = cheribsd.MAP_SHARED | cheribsd.MAP_ANON

    def map_object() -> None:
        cheribsd.munmap(cheribsd.mmap(None, DATA_SIZE, protection, flags), DATA_SIZE)

    with echo.Echo() as other:
        return _interleaved(partial(_fastest, map_object, 40), partial(_fastest, other.map_object, 40), turns)


def _fork(machine: capshm.Machine, turns: int) -> tuple[float, float]:
    spawn = partial(machine.spawn, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    attached = Forker(spawn, [str(FORK_MEMORY), "--attach"])
    unattached = Forker(spawn, [str(FORK_MEMORY)])
    try:
        return _interleaved(lambda: min(attached.fork(10)), lambda: min(unattached.fork(10)), turns)
    finally:
        attached.close()
        unattached.close()


class _Probe:
    """A child that does nothing but load, and tells how long its longest load between `begin` and `end` has taken."""

    def __init__(self) -> None:
        self._words = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")  # asked, answered, nanoseconds
        memory = _private(PAGE)
        self.pid = os.fork()
        if self.pid == 0:
            self._run(memory)

    def _run(self, memory: capshm.Capability) -> NoReturn:
        words, asked, longest = self._words, 0, 0
        before = perf_counter_ns()
        while True:
            memory.load_capability(0)
            now = perf_counter_ns()
            longest = max(longest, now - before)
            if words[0] != asked:
                asked = words[0]
                words[2], longest = longest, 0
                words[1] = asked
                now = perf_counter_ns()
            before = now

    def look(self) -> int:
        """Nanoseconds of the longest since the last call."""
        self._words[0] += 1
        while self._words[1] != self._words[0]:
            os.sched_yield()
        return self._words[2]


def _revoke_pause(machine: capshm.Machine, turns: int) -> tuple[float, None]:
    """The limit is made of other figures."""
    granules = SWEEP_SIZE // GRANULE
    rng = random.Random(1)
    object_, template = _shared(SWEEP_SIZE, is_share_cap=False), _shared(SWEEP_SIZE, is_share_cap=True)
    values = [_freed(object_, rng.randrange(granules) * GRANULE) for _ in range(4096)]
    for number in rng.sample(range(granules), granules // 10):
        template.store_capability(number * GRANULE, values[number % len(values)])
    painted = array("Q")
    for number in rng.sample(range(granules), granules // 10):
        painted.extend((object_.base + number * GRANULE, GRANULE))
    probe = _Probe()
    sleepers = [_sleep() for _ in range(2)]
    try:
        least = 1 << 62
        for _ in range(turns):
            template.copy_to(object_, SWEEP_SIZE)
            probe.look()
            cheribsd.revoke.revoke_ranges(painted)
            least = min(least, probe.look())
    finally:
        for pid in (probe.pid, *sleepers):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return least / 1000, None


def _sleep() -> int:
    pid = os.fork()
    if pid == 0:
        while True:
            signal.pause()
    return pid


def _private(length: int) -> capshm.Capability:
    protection = cheribsd.PROT_READ | cheribsd.PROT_WRITE
    return cheribsd.mmap(None, length, protection, cheribsd.MAP_PRIVATE | cheribsd.MAP_ANON)


def _shared(length: int, *, is_share_cap: bool) -> capshm.Capability:
    """Of an object of this process's own, or of everybody's, which its revocations do not reach."""
    fd = cheribsd.shm_open(cheribsd.SHM_ANON, os.O_RDWR | (cheribsd.O_SHARECAP if is_share_cap else 0))
    os.ftruncate(fd, length)
    protection = cheribsd.PROT_READ | cheribsd.PROT_WRITE | cheribsd.PROT_CAP
    memory = cheribsd.mmap(None, length, protection, cheribsd.MAP_SHARED, fd)
    os.close(fd)
    return memory


def _freed(memory: capshm.Capability, offset: int) -> capshm.Capability:
    """A value that revocation takes if its granule is painted."""
    value = (memory + offset).with_bounds(GRANULE)
    return value.with_permissions(value.permissions.without(capshm.Permissions.SW_VMEM))


def _malloc_free(machine: capshm.Machine, turns: int) -> tuple[float, float]:
    """Of one pair. A slice is not the fastest pair, but all of them, with the revocations among them."""
    random_numbers = random.Random(1)
    sizes = [random_numbers.randint(16, HEAP_LARGEST) for _ in range(2 * HEAP_SIZE // HEAP_LARGEST)]
    pairs = [
        (random_numbers.randrange(len(sizes)), random_numbers.randint(16, HEAP_LARGEST)) for _ in range(HEAP_PAIRS)
    ]
    libc_malloc, libc_free = call.heap()
    live: list[object] = [libc_malloc(size) for size in sizes]
    here = [cheribsd.malloc(size) for size in sizes]

    def replace_here() -> int:
        begin = perf_counter_ns()
        for number, size in pairs:
            cheribsd.free(here[number])
            here[number] = cheribsd.malloc(size)
        return perf_counter_ns() - begin

    def replace() -> int:
        begin = perf_counter_ns()
        for number, size in pairs:
            libc_free(live[number])
            live[number] = libc_malloc(size)
        return perf_counter_ns() - begin

    value, limit = _interleaved(replace_here, replace, turns)
    loop = _fastest(lambda: _walk(pairs), turns) / 1000
    return (value - loop) / HEAP_PAIRS, (limit - loop) / HEAP_PAIRS


def _zircon_protect(machine: capshm.Machine, turns: int) -> tuple[float, float]:
    pages = [mmap.mmap(-1, PAGE) for _ in range(PROTECTED)]  # each is shared memory of its own, and an area of Linux's
    addresses = b"".join(address_of(page).to_bytes(8, "little") for page in pages)
    protect_each = call.protect_each()
    with echo.Echo() as other, child_vmar(PROTECTED, mapped=PROTECTED) as (vmar, base):
        permissions = itertools.cycle([zx.VM_PERM_READ, zx.VM_PERM_READ | zx.VM_PERM_WRITE])
        protections = itertools.cycle([mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE])

        def limit() -> None:
            other.ask()
            if protect_each(addresses, PROTECTED, PAGE, next(protections)):
                raise OSError("mprotect of one's own pages was refused")

        return _interleaved(
            partial(_fastest, lambda: zx.vmar_protect(vmar, next(permissions), base, PROTECTED * PAGE), 100),
            partial(_fastest, limit, 100),
            turns,
        )


def address_of(memory: mmap.mmap) -> int:
    """Where it is mapped."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def _walk(pairs: Sequence[tuple[int, int]]) -> None:
    for _number, _size in pairs:
        pass


def _attach(machine: capshm.Machine, turns: int) -> tuple[float, float]:
    def attach() -> int:
        with machine.spawn([sys.executable, "-c", _ATTACHING], stdout=subprocess.PIPE) as program:
            return int(program.communicate()[0])

    return _interleaved(attach, interpreter.run, turns)


_MEASURED = {
    "broker_round_trip": (_round_trip, 30),
    "map_object": (_map_object, 20),
    "fork": (_fork, 10),
    "revoke_pause": (_revoke_pause, 10),
    "malloc_free": (_malloc_free, 40),
    "zircon_protect": (_zircon_protect, 20),
    "attach": (_attach, 20),
}
"""How, and in how many turns."""


def measure(keys: list[str], *, quick: bool) -> Iterator[tuple[str, float, float | None]]:
    """Key, value and limit of each figure, each in a machine of its own: passes sweep what others have mapped."""
    for key in keys or list(_MEASURED):
        how, turns = _MEASURED[key]
        with capshm.Machine(arena_size=ARENA_SIZE) as machine:
            yield key, *how(machine, max(2, turns // 10) if quick else turns)


def main() -> None:
    """Measure once and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.machines", description=__doc__)
    parser.add_argument("--prepare", action="store_true", help="compile what is needed, measure nothing")
    parser.add_argument("--quick", action="store_true", help="a tenth of the time")
    parser.add_argument("keys", nargs="*", metavar="KEY", help="what to measure; all if none is given")
    options = parser.parse_args()
    if options.prepare:
        call.heap()
        return
    for key, value, limit in measure(options.keys, quick=options.quick):
        print(json.dumps({"key": key, "value": round(value, 3), "limit": limit and round(limit, 3)}), flush=True)


if __name__ == "__main__":
    main()
