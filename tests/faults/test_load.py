"""A machine under load: many processes, mappings and forks: what each costs the broker, and that it is given back.

Limits are those of performance.md: 64 KiB of the broker for a process, 2 KiB for a mapping, and for the sideband of an
object without capabilities a 64th of the object.
"""

import errno
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from capshm import Capability, Machine, Refused
from capshm import cheribsd as bsd
from tests.faults.areas import fill_areas
from tests.faults.isolation import isolated
from tests.faults.machines import ALL, PAGE, new_machine, new_object
from tests.faults.processes import Child, Event
from tests.faults.residue import descriptors, maps, resident, threads

_PROCESS_LIMIT = 64 << 10
_MAPPING_LIMIT = 2 << 10


def _check_alike(machine: Machine, expected: int) -> None:
    """The broker's mappings and the kernel's are the same: every page has the same permissions in both."""
    model: dict[int, str] = {}
    for mapping in machine.mappings(os.getpid()):
        for page in range(mapping.start, mapping.end, PAGE):
            model[page] = "".join(letter if letter in mapping.current else "-" for letter in "rwx")
    kernel: dict[int, str] = {}
    first = 0x5500_0000_0000
    for line in maps(os.getpid()):
        start, end = (int(number, 16) for number in line.split()[0].split("-"))
        if first <= start < first + (64 << 30) and end - start < 1 << 32 and line.split()[1][:3] != "---":
            kernel.update(dict.fromkeys(range(start, end, PAGE), line.split()[1][:3]))
    assert {page: rights for page, rights in model.items() if rights != "---"} == kernel
    assert len(model) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "count", [32, pytest.param(256, marks=[pytest.mark.soak, pytest.mark.timeout(900)])], ids=["32", "256"]
)
@isolated(bound=600)
def test_processes_at_once(count: int) -> None:
    """So many processes share memory at once; each costs the broker little, and all of it is given back."""
    with new_machine() as machine:
        area = bsd.mmap(None, 1 << 20, ALL, bsd.MAP_ANON | bsd.MAP_SHARED)
        end = Event()

        def body(number: int) -> None:
            area.store_capability(16 * number, area)
            end.wait()
            assert all(area.load_capability(16 * other).tag for other in range(0, count, 7))

        with Child(lambda: None) as child:  # what is made once is made
            assert child.wait() == 0
        while len(machine.processes()) > 1:
            os.sched_yield()
        before, held = resident(machine.broker_pid), len(descriptors(machine.broker_pid))
        with ExitStack() as stack:
            children = [stack.enter_context(Child(lambda number=i: body(number))) for i in range(count)]  # type: ignore[misc]
            while len(machine.processes()) < count + 1:
                os.sched_yield()
            cost = (resident(machine.broker_pid) - before) / count
            print(f"{cost:.0f} bytes a process", flush=True)
            assert cost <= _PROCESS_LIMIT
            end.set()
            assert [child.wait() for child in children] == [0] * count
        while len(machine.processes()) > 1:
            os.sched_yield()
        assert len(descriptors(machine.broker_pid)) == held
        assert threads(machine.broker_pid) == 1
        end.close()


@pytest.mark.slow
@isolated(bound=280)
def test_ten_thousand_mappings() -> None:
    """10,000 mappings of one object with tags in one process: each costs the broker little, and all are given back."""
    with new_machine() as machine:
        fd = new_object(PAGE)
        bsd.munmap(bsd.mmap(None, PAGE, ALL, bsd.MAP_SHARED, fd), PAGE)
        before = resident(machine.broker_pid)
        areas = [bsd.mmap(None, PAGE, ALL, bsd.MAP_SHARED, fd) for _ in range(10_000)]
        cost = (resident(machine.broker_pid) - before) / len(areas)
        areas[0].store_capability(0, areas[0])
        assert areas[-1].load_capability(0).tag
        _check_alike(machine, 10_000)
        for area in areas:
            bsd.munmap(area, PAGE)
        _check_alike(machine, 0)
        os.close(fd)
        print(f"{cost:.0f} bytes a mapping", flush=True)
        assert cost <= _MAPPING_LIMIT


def _until_refused(call: Callable[[], object]) -> int:
    """Call until Linux refuses, which must be ENOMEM; how often it did not."""
    count = 0
    while True:
        try:
            call()
        except Refused as error:
            if (error.errno, error.rule) != (errno.ENOMEM, "host"):
                raise
            return count
        count += 1


@pytest.mark.slow
@isolated()
def test_one_mapping_too_many() -> None:
    """The mapping beyond what Linux allows is refused with ENOMEM, and model and kernel agree afterwards."""
    with new_machine() as machine:
        fd = new_object(PAGE)
        areas: list[Capability] = []
        areas.append(bsd.mmap(None, PAGE, ALL, bsd.MAP_SHARED, fd))
        release = fill_areas(40)
        count = _until_refused(lambda: areas.append(bsd.mmap(None, PAGE, ALL, bsd.MAP_SHARED, fd)))
        assert 0 < count <= 20
        held = len(descriptors(machine.broker_pid))
        for _ in range(5):
            assert _until_refused(lambda: areas.append(bsd.mmap(None, PAGE, ALL, bsd.MAP_SHARED, fd))) == 0
        assert len(descriptors(machine.broker_pid)) == held
        release()
        _check_alike(machine, count + 1)
        bsd.munmap(areas.pop(), PAGE)
        areas.append(bsd.mmap(None, PAGE, ALL, bsd.MAP_SHARED, fd))
        areas[-1].store_capability(0, areas[0])
        assert areas[0].load_capability(0).tag
        _check_alike(machine, count + 1)
        os.close(fd)


@pytest.mark.slow
@pytest.mark.parametrize("call", ["munmap", "mprotect", "mprotect anonymous", "minherit"])
@isolated()
def test_one_area_too_many(call: str) -> None:
    """A change that needs more areas than Linux allows is ENOMEM, and changes nothing in model and kernel."""
    with new_machine() as machine:
        fd = new_object(64 * PAGE)
        flags = bsd.MAP_ANON | bsd.MAP_PRIVATE if "anonymous" in call else bsd.MAP_SHARED
        area = bsd.mmap(None, 64 * PAGE, ALL, flags, -1 if "anonymous" in call else fd)
        area.store_capability(0, area)
        release = fill_areas(12)
        pages = iter(range(1, 64, 2))

        def change() -> None:
            page = area + next(pages) * PAGE
            if call == "munmap":
                bsd.munmap(page, PAGE)
            elif call == "minherit":
                bsd.minherit(page, PAGE, bsd.INHERIT_ZERO)
            else:
                bsd.mprotect(page, PAGE, bsd.PROT_READ)

        count = _until_refused(change)
        release()
        assert 0 < count < 12
        _check_alike(machine, 64 - (count if call == "munmap" else 0))
        changed = [each for each in machine.mappings(os.getpid()) if each.inherit == "zero" or "w" not in each.current]
        assert len(changed) == (0 if call == "munmap" else count)
        page = area + (2 * count + 1) * PAGE  # the one that was refused
        page.store_capability(0, area)
        assert page.load_capability(0).tag
        os.close(fd)


@pytest.mark.slow
@pytest.mark.parametrize(
    "count", [100, pytest.param(1000, marks=[pytest.mark.soak, pytest.mark.timeout(900)])], ids=["100", "1000"]
)
@isolated(bound=600)
def test_forks_in_a_row(count: int) -> None:
    """After so many forks nobody has more descriptors, threads, areas or memory than after a few."""
    with new_machine() as machine:
        area = bsd.mmap(None, 1 << 20, ALL, bsd.MAP_ANON | bsd.MAP_SHARED)

        def fork(times: int) -> None:
            for _ in range(times):
                with Child(lambda: area.store_capability(0, area)) as child:
                    assert child.wait() == 0
            while len(machine.processes()) > 1:
                os.sched_yield()

        def used() -> list[int]:
            both = (os.getpid(), machine.broker_pid)
            return [measure for pid in both for measure in (len(descriptors(pid)), threads(pid), len(maps(pid)))]

        fork(20)
        first, before = used(), [resident(pid) for pid in (os.getpid(), machine.broker_pid)]
        fork(count)
        growth = [resident(pid) - was for pid, was in zip((os.getpid(), machine.broker_pid), before, strict=True)]
        print(f"growth over {count} forks, client and broker: {growth} bytes", flush=True)
        now = used()
        assert now[:2] + now[3:5] == first[:2] + first[3:5]
        assert max(now[2] - first[2], now[5] - first[5]) <= 4  # of the interpreters' own memory
        assert max(growth) <= (256 << 10) + 200 * count


@pytest.mark.slow
@isolated()
def test_sideband_without_capabilities() -> None:
    """An object that holds no capability costs at most a 64th of it in sideband, whatever was done to its data."""
    size = 64 << 20
    with new_machine() as machine:
        fd = new_object(size // PAGE * PAGE)
        area = bsd.mmap(None, size, ALL, bsd.MAP_SHARED, fd)
        for offset in range(0, size, 1 << 20):
            area.write(offset, bytes(1 << 20))
        assert not any(area.load_capabilities(0, 4096).tags)
        blocks = 0
        counted: set[int] = set()
        for entry in os.scandir(f"/proc/{machine.broker_pid}/fd"):
            name = str(Path(entry.path).readlink())
            is_sideband = "capshm-tags" in name or "capshm-clear" in name
            if is_sideband and entry.stat().st_ino not in counted:
                counted.add(entry.stat().st_ino)
                blocks += entry.stat().st_blocks * 512
        print(f"sideband: {blocks} bytes of {size}", flush=True)
        assert blocks <= size // 64
        os.close(fd)
