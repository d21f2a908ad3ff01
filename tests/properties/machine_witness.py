"""What the kernel and the broker say about a process's mappings, held against the reference."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from capshm import Machine
from capshm.model.address_space import Entry
from capshm.model.constants import ARENA_SIZE, ARENA_START
from capshm.model.rights import Rights
from tests.properties.reference_machine import PAGE, Process

_HEADER = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) ")
_FIRST = b"\n%x-" % ARENA_START
_INHERIT = ("share", "copy", "none", "zero")
_ARENA_END = ARENA_START + ARENA_SIZE


class Area(NamedTuple):
    """Pages in a row that are alike. flags: those of rd, wr, ex and ms (shared), and mw where it is shared."""

    start: int
    end: int
    flags: frozenset[str]


def kernel_areas(pid: int) -> list[Area]:
    """What /proc/PID/smaps says about the arena."""
    text = b"\n" + Path(f"/proc/{pid}/smaps").read_bytes()
    found = []
    start = end = 0
    for line in text[text.index(_FIRST) + 1 :].splitlines():
        if line.startswith(b"VmFlags:"):
            flags = {word.decode() for word in line.split()[1:]} & {"rd", "wr", "ex", "ms", "mw"}
            found.append(Area(start, end, frozenset(flags if "ms" in flags else flags - {"mw"})))
        elif header := _HEADER.match(line):
            start, end = (int(number, 16) for number in header.groups())
            if start >= _ARENA_END:
                break
    return found


def expected_areas(process: Process) -> Iterator[Area]:
    """The same by the reference; what is not mapped permits nothing."""
    end = ARENA_START
    for entry in process.space.entries.values():
        if end < entry.start:
            yield Area(end, entry.start, frozenset())
        pages = range(entry.start, entry.end, PAGE)
        if entry.is_shared:
            for page in pages:
                yield Area(page, page + PAGE, _flags(entry, is_lowered=page in process.lowered))
        elif entry.object is None:
            yield Area(entry.start, entry.end, _flags(entry))
        else:
            for page in pages:
                yield Area(page, page + PAGE, _flags(entry, is_copy_pending=page not in process.private))
        end = entry.end
    yield Area(end, _ARENA_END, frozenset())


def _flags(entry: Entry, *, is_copy_pending: bool = False, is_lowered: bool = False) -> frozenset[str]:
    flags = {
        "rd": Rights.READ in entry.current,
        "wr": Rights.WRITE in entry.current and not is_copy_pending,
        "ex": Rights.EXECUTE in entry.current,
        "ms": entry.is_shared,
        "mw": entry.is_shared and (Rights.WRITE in entry.maximum or is_lowered),
    }
    return frozenset(flag for flag, is_set in flags.items() if is_set)


def check_kernel(process: Process, pid: int) -> None:
    """AssertionError where the kernel's word differs from the reference's."""
    areas, expected = kernel_areas(pid), list(expected_areas(process))
    while areas and expected:
        area, wanted = areas[0], expected[0]
        start, end = max(area.start, wanted.start), min(area.end, wanted.end)
        assert start < end, f"{process.name}: a hole in the arena at {end:#x}"
        assert area.flags == wanted.flags, (
            f"{process.name}: [{start:#x}, {end:#x}) has {sorted(area.flags)} in smaps, and should have "
            f"{sorted(wanted.flags)}"
        )
        if area.end == end:
            del areas[0]
        if wanted.end == end:
            del expected[0]
    assert areas == expected == [], f"{process.name}: the arena does not end where it should"


def check_broker(process: Process, pid: int, machine: Machine, numbers: dict[int, int]) -> None:
    """The same for the broker's. numbers: of objects, the broker's by the reference's; what is new is added."""
    expected = list(process.space.entries.values())
    found = machine.mappings(pid)
    for entry, mapping in zip(expected, found, strict=False):
        number = numbers.setdefault(entry.object.id, mapping.object) if entry.object else 0
        wanted = (
            entry.start,
            entry.end,
            entry.current.letters,
            entry.maximum.letters,
            _INHERIT[entry.inherit],
            number,
            entry.offset,
            entry.reservation,
            entry.is_shared,
        )
        assert tuple(mapping)[:9] == wanted, f"{process.name}: the broker has {mapping}, the reference {wanted}"
    assert len(expected) == len(found), f"{process.name}: the broker has {len(found)} mappings, not {len(expected)}"
    assert len(set(numbers.values())) == len(numbers), "two objects are one"
