"""Several results folders made one: the rounds of each, one folder after the other, under new numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from capshm.lab.plan import Cell
from capshm.lab.results.filling import check_alike
from capshm.lab.results.results import SCHEMA, Another, Failed, Found, Manifest, Measured, Record, ResultsError, read


def merge(folders: Sequence[Path]) -> tuple[Manifest, list[Record]]:
    """What a folder with all their rounds holds. The facts of every machine are kept; half-written tails are left out.

    ResultsError: one holds no results, or damaged ones; they do not compare the same from the same seed; their machines
    are not of one kind; or a cell is in two of them, since one is a copy of the other.
    """
    if len(folders) < 2:
        raise ResultsError("name two folders to merge, or more")
    found = [(folder, read(folder)) for folder in folders]
    first = found[0][1].manifest
    records: list[Record] = []
    origins: dict[tuple[Cell, int, int, int], int] = {}
    rounds = machines = timeout = 0
    for place, (folder, each) in enumerate(found):
        _check_comparable(folders[0], first, folder, each)
        records += [Another(machines + number, facts) for number, facts in each.machines.items() if machines + number]
        cells = [record for record in each.records if isinstance(record, Measured | Failed)]
        numbers = {old: new for new, old in enumerate(sorted({cell.round for cell in cells}), rounds + 1)}
        for record in each.records:
            if isinstance(record, Measured) and (origin := _origin(origins, record, place)) != place:
                where = f"{folders[origin]} and {folder}"
                raise ResultsError(f"{where} hold the same cells, to the nanosecond: one is a copy of the other")
            if not isinstance(record, Another) and record.round in numbers:
                own = {"round": numbers[record.round], "machine": machines + record.machine}
                records.append(msgspec.structs.replace(record, **own))
        rounds += len(numbers)
        machines += len(each.machines)
        timeout = max(timeout, each.manifest.plan.timeout)
    plan = msgspec.structs.replace(first.plan, repeats=rounds, timeout=timeout)
    return Manifest(plan, first.facts, SCHEMA), records


def _check_comparable(origin: Path, first: Manifest, folder: Path, found: Found) -> None:
    where = f"{origin} and {folder}"
    if found.damages:
        raise ResultsError(f"{found.damages[0]}; results that are damaged are not merged")
    if found.manifest.plan.comparisons != first.plan.comparisons:
        raise ResultsError(f"{where} do not compare the same: their cases or configurations differ")
    if found.manifest.plan.seed != first.plan.seed:
        raise ResultsError(
            f"{where} have not done the same work: their seeds are {first.plan.seed} and {found.manifest.plan.seed}"
        )
    check_alike(where, first.facts, found.manifest.facts)


def _origin(origins: dict[tuple[Cell, int, int, int], int], record: Measured, place: int) -> int:
    """The place of the folder in which this cell with these times was found first."""
    result = record.result
    return origins.setdefault((record.cell, result.wall_ns, result.cpu_ns, result.setup_ns), place)
