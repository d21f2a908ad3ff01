"""How cost grows with size: `python -m bench --growth`.

A curve is measured from its smallest size to its largest; each point is the fastest of some slices. What it states is
the exponent of the power that fits best (least squares of the logarithms): 0 for a cost that does not depend on the
size, 1 for one that is proportional; and what one more unit costs between the ends of the curve.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from time import perf_counter_ns

import capshm
from bench import vmars
from bench.limits.fork import Forker
from bench.report import Curve
from bench.run import BenchError
from capshm import cheribsd
from capshm import zircon as zx
from native.variants import DoesNotCompile, build_program

PAGE = 4096
PROCESSES = (1, 4, 16, 64, 256)
BUSY = (1, 4, 16)  # more processes than that on few processors show the scheduler
MAPPINGS = (1, 100, 10_000)
DEPTHS = (1, 4, 16, 64, 256)  # VMARs, one in another
FORK_MEMORY = (1, 4, 16, 64, 256)  # MiB
SWEPT_MEMORY = (1, 4, 16, 64, 256)  # MiB
GRANULE = 16
_REQUESTS = 100
_REVOCATIONS = 10


def slope(points: Sequence[Sequence[float]]) -> float:
    """The exponent of the power law through at least two points of different sizes."""
    x = [math.log(size) for size, _ in points]
    y = [math.log(cost) for _, cost in points]
    middle, height = sum(x) / len(x), sum(y) / len(y)
    rise = sum((a - middle) * (b - height) for a, b in zip(x, y, strict=True))
    return rise / sum((a - middle) ** 2 for a in x)


def curve(key: str, what: str, unit: str, conditions: str, points: list[list[float]]) -> Curve:
    """With what is stated about its points."""
    (first, least), (last, most) = points[0], points[-1]
    return {
        "key": key,
        "what": what,
        "unit": unit,
        "conditions": conditions,
        "points": points,
        "slope": round(slope(points), 3),
        "per_unit": (most - least) / (last - first),
    }


def _round_trip(pages: capshm.Capability) -> float:
    """Microseconds of the fastest of some."""
    least = 1 << 62
    for turn in range(_REQUESTS):
        begin = perf_counter_ns()
        cheribsd.mprotect(pages, PAGE, cheribsd.PROT_READ | (cheribsd.PROT_WRITE if turn % 2 else 0))
        least = min(least, perf_counter_ns() - begin)
    return least / 1000


def _page() -> capshm.Capability:
    protection, flags = cheribsd.PROT_READ | cheribsd.PROT_WRITE, cheribsd.MAP_PRIVATE | cheribsd.MAP_ANON
    return cheribsd.mmap(None, PAGE, protection, flags)


@contextmanager
def _sleeper() -> Iterator[None]:
    """Another process of the machine, which waits for its end."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    try:
        yield
    finally:
        os.close(write)
        os.waitpid(pid, 0)


def _by_processes(progress: Callable[[str], None]) -> Curve:
    points: list[list[float]] = []
    with capshm.Machine(), ExitStack() as others:
        page = _page()
        count = 1
        for size in PROCESSES:
            progress(f"growth: {size} processes")
            while count < size:
                others.enter_context(_sleeper())
                count += 1
            points.append([size, _round_trip(page)])
    return curve(
        "broker_round_trip_by_processes",
        "mprotect of one page, asked of the broker and carried out",
        "process",
        f"one process asks, the others wait in read(); the fastest of {_REQUESTS}",
        points,
    )


def _by_mappings(progress: Callable[[str], None]) -> Curve:
    points: list[list[float]] = []
    with capshm.Machine():
        pages = [_page()]
        for size in MAPPINGS:
            progress(f"growth: {size} mappings")
            pages += [_page() for _ in range(size - len(pages))]
            points.append([size, _round_trip(pages[size // 2])])
    return curve(
        "broker_round_trip_by_mappings",
        "mprotect of one page, asked of the broker and carried out",
        "mapping",
        "1 process; its private mappings are of 4 KiB each, the one in the middle is protected; "
        f"the fastest of {_REQUESTS}",
        points,
    )


def _lowering(root: zx.Handle, vmar: zx.Handle, address: int) -> float:
    """Microseconds of the fastest of some by the root's handle; the VMAR's own raises again what that has lowered."""
    least = 1 << 62
    for _ in range(_REQUESTS):
        begin = perf_counter_ns()
        zx.vmar_protect(root, zx.VM_PERM_READ, address, PAGE)
        least = min(least, perf_counter_ns() - begin)
        zx.vmar_protect(vmar, vmars.READ_WRITE, address, PAGE)
    return least / 1000


def _protect_by_mappings(progress: Callable[[str], None]) -> Curve:
    points: list[list[float]] = []
    with capshm.Machine(), vmars.child_vmar(MAPPINGS[-1], mapped=0) as (vmar, base):
        root, mapped = zx.vmar_root_self(), 0
        for size in MAPPINGS:
            progress(f"growth: {size} mappings in a VMAR")
            for number in range(mapped, size):
                vmars.map_page(vmar, number)
            mapped = size
            points.append([size, _lowering(root, vmar, base + size // 2 * PAGE)])
    return curve(
        "vmar_protect_by_mappings",
        "vmar_protect of one page, from above, asked of the broker and carried out",
        "mapping",
        f"1 process; the mappings, of 4 KiB and a VMO each, are of one VMAR, the one in the middle is protected by the "
        f"root's handle; the fastest of {_REQUESTS}",
        points,
    )


def _protect_by_depth(progress: Callable[[str], None]) -> Curve:
    points: list[list[float]] = []
    with capshm.Machine():
        root = zx.vmar_root_self()
        for size in DEPTHS:
            progress(f"growth: {size} VMARs one in another")
            vmar, address = vmars.nested_page(size)
            points.append([size, _lowering(root, vmar, address)])
    return curve(
        "vmar_protect_by_depth",
        "vmar_protect of one page, from above, asked of the broker and carried out",
        "VMAR",
        "1 process; the page is in the innermost of so many VMARs, one in another, and protected by the root's handle; "
        f"the fastest of {_REQUESTS}",
        points,
    )


def _fork(progress: Callable[[str], None], *, is_attached: bool) -> Curve:
    points: list[list[float]] = []
    with capshm.Machine() as machine:
        spawn = partial(machine.spawn, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for size in FORK_MEMORY:
            progress(f"growth: fork with {size} MiB")
            forker = Forker(spawn, [str(size), *(["--attach"] if is_attached else [])])
            points.append([size, min(forker.fork(20)) / 1000])
            forker.close()
    return curve(
        "fork_by_memory" if is_attached else "fork_by_memory_unattached",
        f"os.fork, exit and wait in an {'attached' if is_attached else 'unattached'} process",
        "MiB",
        "private memory in 16 mappings, all pages touched"
        f"{', every tenth holds a capability' if is_attached else ''}; the fastest of 20",
        points,
    )


def _stops(progress: Callable[[str], None]) -> Iterator[Curve]:
    """Of all stoppers, side by side."""
    progress(f"growth: stops of {', '.join(map(str, BUSY))} busy processes")
    try:
        program = build_program("bench-stop", ["bench/stop.c"])
        output = subprocess.check_output([program, "1", *map(str, BUSY)], text=True)
    except (DoesNotCompile, subprocess.CalledProcessError) as error:
        raise BenchError(str(error)) from error
    found = [json.loads(line) for line in output.splitlines()]
    for stopper in dict.fromkeys(each["stopper"] for each in found):
        yield curve(
            f"stop_by_processes_{stopper}",
            f"stop of busy processes, stopper {stopper}",
            "process",
            "as of stop_16; the median of 101",
            [[each["processes"], each["microseconds"]] for each in found if each["stopper"] == stopper],
        )


def _revoke_by_processes(progress: Callable[[str], None], stopper: str) -> Curve:
    points: list[list[float]] = []
    with capshm.Machine(stopper=stopper) as machine, ExitStack() as others:
        count = 1
        for size in PROCESSES:
            progress(f"growth: revocation among {size} processes, stopper {stopper}")
            while count < size:
                others.enter_context(_sleeper())
                count += 1
            points.append([size, _fastest(machine.revoke)])
    return curve(
        f"revoke_by_processes_{stopper}",
        f"Machine.revoke(), stopper {stopper}",
        "process",
        f"one process asks, the others wait in read(); nothing was ever painted; the fastest of {_REVOCATIONS}",
        points,
    )


def _revoke_by_size(progress: Callable[[str], None]) -> Curve:
    points: list[list[float]] = []
    protection = cheribsd.PROT_READ | cheribsd.PROT_WRITE | cheribsd.PROT_CAP
    with capshm.Machine():
        for size in SWEPT_MEMORY:
            progress(f"growth: revocation with an object of {size} MiB")
            fd = cheribsd.shm_open(cheribsd.SHM_ANON, os.O_RDWR)
            os.ftruncate(fd, size << 20)
            memory = cheribsd.mmap(None, size << 20, protection, cheribsd.MAP_SHARED, fd)
            os.close(fd)
            memory.fill_capabilities(0, (size << 20) // GRANULE, memory.with_bounds(GRANULE))
            cheribsd.cheri_revoke_get_shadow(cheribsd.CHERI_REVOKE_SHADOW_NOVMEM_ENTIRE)
            whole = cheribsd.CHERI_REVOKE_LAST_PASS | cheribsd.CHERI_REVOKE_IGNORE_START
            points.append([size, _fastest(partial(cheribsd.cheri_revoke, whole))])
            cheribsd.munmap(memory, size << 20)
    return curve(
        "revoke_by_size",
        "cheri_revoke that opens and closes an epoch, asked and answered",
        "MiB",
        f"1 process, whose object it is; all of its granules tagged, none painted; the fastest of {_REVOCATIONS}",
        points,
    )


def _fastest(revoke: Callable[[], object]) -> float:
    """Microseconds of the fastest of some."""
    least = 1 << 62
    for _ in range(_REVOCATIONS):
        begin = perf_counter_ns()
        revoke()
        least = min(least, perf_counter_ns() - begin)
    return least / 1000


def measure(progress: Callable[[str], None]) -> list[Curve]:
    """All curves; some minutes on a busy machine."""
    return [
        *_stops(progress),
        *(_revoke_by_processes(progress, stopper) for stopper in ("gate", "signal", "sigstop")),
        _revoke_by_size(progress),
        _by_processes(progress),
        _by_mappings(progress),
        _protect_by_mappings(progress),
        _protect_by_depth(progress),
        _fork(progress, is_attached=True),
        _fork(progress, is_attached=False),
    ]
