"""maps.jsonl of a results folder: where segments held their tags, one map a line (`capshm report --maps`).

A map is made by a run of its own of one cell (capshm.lab.cells.density); no time of it counts. Plain
memory has no tags, and cells in which no segment held any have no map.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from capshm.lab.plan import Cell, Plan
from capshm.lab.results.filling import replace
from capshm.lab.results.results import MAPS, Failed, ResultsError
from capshm.lab.runner import measuring
from capshm.lab.workloads import PLAIN


class Map(msgspec.Struct, frozen=True):
    """Of one segment. length: bytes; granules: of each part; times_ns: of each moment, since the section began.

    tags: at each moment, how many each part held.
    """

    cell: Cell
    length: int
    granules: int
    times_ns: list[int]
    tags: list[list[int]]


class _Look(msgspec.Struct):
    length: int
    granules: int
    times_ns: list[int]
    tags: list[list[int]]


def take(plan: Plan, folder: Path) -> Iterator[Cell | Failed]:
    """Run each cell of the plan that may have a map once more; before each run, and after one that failed, it is told.

    The file is written at the end, whole. ResultsError: it cannot be.
    """
    found = []
    for cell in plan.cells:
        if cell.configuration.policy != PLAIN:
            yield cell
            with tempfile.NamedTemporaryFile(prefix="capshm-map-") as file:
                outcome = measuring.measure(0, 0, cell, plan.timeout, map_into=file.name)
                if isinstance(outcome, Failed):
                    yield outcome
                elif look := msgspec.json.decode(file.read(), type=_Look | None):
                    found.append(Map(cell, **msgspec.structs.asdict(look)))
    write(folder, found)


def write(folder: Path, maps: list[Map]) -> None:
    """Replace the folder's maps. ResultsError: it cannot be written, and is as before."""
    try:
        replace({folder / MAPS: b"".join(msgspec.json.encode(each) + b"\n" for each in maps)})
    except OSError as error:
        raise ResultsError(f"cannot write {folder / MAPS}: {error.strerror}") from error


def read(folder: Path) -> list[Map]:
    """Those of a folder; none if none were taken. ResultsError: the file is damaged."""
    try:
        lines = (folder / MAPS).read_bytes()
    except FileNotFoundError:
        return []
    try:
        found = [msgspec.json.decode(line, type=Map) for line in lines.splitlines()]
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ResultsError(f"{folder / MAPS} is damaged: {error}") from error
    for number, each in enumerate(found, 1):
        parts = {len(row) for row in each.tags}
        if each.granules < 1 or not 2 <= len(each.times_ns) == len(each.tags) or len(parts) > 1 or 0 in parts:
            raise ResultsError(f"{folder / MAPS} is damaged: line {number} is no map of so many moments and parts")
    return found
