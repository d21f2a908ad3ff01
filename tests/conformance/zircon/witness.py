"""What Linux says about each page of an arena, held against the broker's word and the maps topic (vmar.md 5.8).

A page that the model has mapped is a page of that VMO's memory file, at that offset, with `rd wr ex` as the current
permission and `mw` as the maximum has WRITE; any other page permits nothing.
"""

import re
from pathlib import Path
from typing import NamedTuple

from capshm import Machine
from capshm import zircon as zx
from capshm.model.constants import ARENA_SIZE, ARENA_START
from capshm.records import Mapping

_HEADER = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) \S+ \d+\s*(.*)")
_LETTERS = {"r": "rd", "w": "wr", "x": "ex"}
_MMU = {
    "r": zx.VM_PERM_READ,
    "w": zx.VM_PERM_WRITE,
    "x": zx.VM_PERM_EXECUTE,
    "R": zx.VM_PERM_CAP,
    "W": zx.VM_PERM_CAP,
}


class Area(NamedTuple):
    """Pages in a row that are alike; of a gap only `flags` counts."""

    start: int
    end: int
    flags: frozenset[str]
    offset: int
    path: str


def kernel_areas(pid: int) -> list[Area]:
    """What /proc/PID/smaps says about the arena."""
    found: list[Area] = []
    area = None
    for line in Path(f"/proc/{pid}/smaps").read_text(encoding="ascii").splitlines():
        if match := _HEADER.match(line):
            start, end, offset = (int(number, 16) for number in match.groups()[:3])
            is_inside = ARENA_START <= start < ARENA_START + ARENA_SIZE
            area = Area(start, end, frozenset(), offset, match[4]) if is_inside else None
        elif line.startswith("VmFlags:") and area is not None:
            found.append(area._replace(flags=frozenset(line.split()[1:])))
    return found


def check(machine: Machine, pid: int) -> list[Mapping]:
    """AssertionError where Linux and the broker differ about a page. Returned: the mappings."""
    mappings = machine.mappings(pid)
    left = iter([*mappings, None])
    mapping = next(left)
    position = ARENA_START
    for area in kernel_areas(pid):
        assert area.start == position, f"a hole in the arena at {position:#x}"
        while position < area.end:
            while mapping is not None and mapping.end <= position:
                mapping = next(left)
            if mapping is None or mapping.start > position:
                assert not area.flags & {"rd", "wr", "ex"}, f"{position:#x} is a gap, and Linux has {area}"
                position = area.end if mapping is None else min(area.end, mapping.start)
                continue
            _check_area(area, mapping, position)
            position = min(area.end, mapping.end)
    assert position == ARENA_START + ARENA_SIZE
    return mappings


def _check_area(area: Area, mapping: Mapping, position: int) -> None:
    wanted = {flag for letter, flag in _LETTERS.items() if letter in mapping.current}
    assert area.flags & {"rd", "wr", "ex"} == wanted, f"{position:#x}: {area} instead of {mapping}"
    assert set(mapping.current) <= set(mapping.maximum)
    assert "sh" in area.flags or "ms" in area.flags
    assert ("mw" in area.flags) == ("w" in mapping.maximum), f"{position:#x}: {area} instead of {mapping}"
    assert area.path.startswith(f"/memfd:capshm-vmo-{mapping.object} "), area
    assert area.offset + position - area.start == mapping.offset + position - mapping.start


def check_maps(root: zx.Handle, mappings: list[Mapping]) -> None:
    """AssertionError where the maps topic is no pre-order walk of a tree with exactly these mappings."""
    maps = zx.object_get_info(root, zx.INFO_VMAR_MAPS)
    assert isinstance(maps, list)
    around: list[zx.MapsEntry] = []
    leaves = []
    for entry in maps:
        assert entry.depth <= len(around)
        del around[entry.depth :]
        if around:
            assert around[-1].type == zx.INFO_MAPS_TYPE_VMAR
            assert around[-1].base <= entry.base
            assert entry.base + entry.size <= around[-1].base + around[-1].size
        around.append(entry)
        if entry.type == zx.INFO_MAPS_TYPE_MAPPING:
            flags = entry.mmu_flags
            leaves.append((entry.base, entry.base + entry.size, flags, entry.vmo_offset))
    assert leaves == [
        (each.start, each.end, sum({_MMU[letter] for letter in each.current}), each.offset) for each in mappings
    ]
