"""A results folder as the report reads it: what was measured, by cell and round."""

from __future__ import annotations

import statistics as exact
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from capshm.errors import CapshmError
from capshm.lab import statistics, summary
from capshm.lab.comparison import AXES, Case, Comparison, Configuration
from capshm.lab.plan import Plan
from capshm.lab.results import maps, results
from capshm.lab.results.maps import Map
from capshm.lab.results.results import Found, Measured, Result
from capshm.lab.statistics import Median
from capshm.lab.summary import Results, Summary
from capshm.lab.table import described, size


class ReportError(CapshmError):
    """There is no report of this; nothing has been written."""


def distinguish(
    configurations: Sequence[Configuration], among: Sequence[Configuration] = ()
) -> dict[Configuration, str]:
    """Each in as few words as tell it from the others: "gate, machine" where all else is the same.

    among: what a single one is to be told from.
    """
    axes = _varying(configurations) or _varying(among)
    told = {each: [name for axis in axes if (name := each.on(axis)) is not None] for each in configurations}
    return {each: ", ".join(names) or each.policy for each, names in told.items()}


def _varying(configurations: Sequence[Configuration]) -> list[str]:
    return [axis for axis in AXES if len({each.on(axis) for each in configurations} - {None}) > 1]


def median_pause(result: Result) -> float | None:
    """Of a cell, in nanoseconds. None: the machine has not stood."""
    return exact.median(result.pauses_ns) if result.pauses_ns else None


class Run:
    """One folder. results: by case and configuration; none of a case whose cells differ in work.

    ReportError: no cell has finished. ResultsError: it is no results folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found: Found = results.read(folder)
        self.maps: list[Map] = maps.read(folder)
        self.summary: Summary = summary.summarize(self.plan, self.found.records)
        self.results: dict[tuple[Case, Configuration], Results] = {}
        different = {each.case for each in self.summary.different}
        for record in self.found.records:
            if isinstance(record, Measured) and record.cell.case not in different:
                key = (record.cell.case, record.cell.configuration)
                self.results.setdefault(key, {})[record.round, record.machine] = record.result
        if not self.results:
            raise ReportError(f"{folder} holds no cell that can be compared: let `capshm compare` finish a round there")

    @property
    def name(self) -> str:
        """In the report: the folder's own name."""
        return self.folder.resolve().name

    @property
    def plan(self) -> Plan:
        """What was to be run."""
        return self.found.manifest.plan

    def described(self, case: Case) -> str:
        """A case in words."""
        return described(self.plan, case)

    def described_without(self, case: Case, field: str) -> str:
        """What a family has in common, in words."""
        if field == "size":
            return described(self.plan, case).replace(f" of {size(case.size)}", "")
        return described(self.plan, msgspec.structs.replace(case, **{field: None}))

    def rounds(self, case: Case, configuration: Configuration) -> Results:
        """What one cell has come to, by round and machine; empty if it never finished."""
        return self.results.get((case, configuration), {})

    def families(self, comparison: Comparison, variable: str) -> Iterator[list[Case]]:
        """Cases that differ in nothing but this field, at least two of them, by its value."""
        grouped: dict[Case, list[Case]] = {}
        for case in comparison.cases:
            if getattr(case, variable) is not None:
                grouped.setdefault(msgspec.structs.replace(case, **{variable: 0}), []).append(case)
        for cases in grouped.values():
            if len(cases) > 1:
                yield sorted(cases, key=lambda case: float(getattr(case, variable)))

    def median_pause(self, case: Case, configuration: Configuration) -> Median | None:
        """Of the rounds' own medians, in nanoseconds. None: the machine has never stood."""
        found = [median_pause(each) for each in self.rounds(case, configuration).values()]
        medians = [each for each in found if each is not None]
        return statistics.median(medians, seed=self.plan.seed) if medians else None
