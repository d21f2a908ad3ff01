"""A results folder: what was planned, where, and every cell that has finished.

    manifest.json    schema version, the plan, the facts of the machine; written first, whole or not at all
    results.jsonl    one `Record` a line, only ever appended to, and on the disk before the next cell begins
    results.sqlite   the same for SQL, made from the two above (capshm.lab.results.database)
    table.txt        the table as it was printed
    maps.jsonl       where segments held their tags, if that was looked at (capshm.lab.maps)

The first two are the result, and enough to go on with a run (`filling`). A death in the middle of a line
leaves a half-written tail, which readers drop and say so; there is no other way to lose a cell that has finished.

A folder holds figures of one kind of machine. There may be several of it: the manifest's is number 0, a record tells of
each other, and each cell says on which it has run. Cells of one round are compared if they have run on the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple, TypeAlias

import msgspec

from capshm.errors import CapshmError
from capshm.lab.comparison import AXES
from capshm.lab.plan import Cell, Plan
from capshm.lab.results.facts import Facts

SCHEMA = 3
_READABLE = (2, SCHEMA)  # in 2 no case had processes or a density, and there was one machine
MANIFEST, RESULTS = "manifest.json", "results.jsonl"
DATABASE, TABLE, MAPS = "results.sqlite", "table.txt", "maps.jsonl"


_MOST = (1 << 63) - 1  # what SQL takes
Time: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=_MOST)]
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=_MOST)]


class ResultsError(CapshmError):
    """A results folder cannot be made, written or read; what was in it before still is."""


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was to be run, and where: the facts of machine number 0."""

    plan: Plan
    facts: Facts
    schema: int = SCHEMA


class Result(msgspec.Struct, frozen=True):
    """What a cell tells of itself. cpu_ns: of all its processes; setup_ns: all before the measured section.

    checksum: of what it has done, which is the same in every cell of a case, whatever the policy. pauses_ns: how long
    the machine was stopped for each pass of the measured section, in order, at most the first 4,096.
    """

    wall_ns: Time
    cpu_ns: Time
    setup_ns: Annotated[int, msgspec.Meta(le=_MOST)]
    counts: dict[str, Count]
    checksum: int
    pauses_ns: list[Count] = []


class Measured(msgspec.Struct, frozen=True, tag="measured"):
    """A cell that has finished."""

    round: int
    cell: Cell
    result: Result
    machine: int = 0


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """A cell that has not: what it said."""

    round: int
    cell: Cell
    message: str
    machine: int = 0


class Canary(msgspec.Struct, frozen=True, tag="canary"):
    """Taken at a round's begin, and where one is gone on with. microseconds: None where two processes cannot spin."""

    round: int
    microseconds: float | None
    machine: int = 0


class Another(msgspec.Struct, frozen=True, tag="machine"):
    """A machine like the manifest's, before its first cell; its number."""

    number: int
    facts: Facts


Record: TypeAlias = Measured | Failed | Canary | Another


class Found(NamedTuple):
    """What a folder holds. tail: bytes of a half-written last line. damages: what else is no record, and where."""

    manifest: Manifest
    records: list[Record]
    tail: int
    damages: list[str]

    @property
    def machines(self) -> dict[int, Facts]:
        """All, by their numbers."""
        others = {record.number: record.facts for record in self.records if isinstance(record, Another)}
        return {0: self.manifest.facts, **others}


def read(folder: Path) -> Found:
    """Everything whole in a folder. ResultsError: it is no results folder, of another schema, or not to be read."""
    try:
        text = (folder / MANIFEST).read_bytes()
        lines = (folder / RESULTS).read_bytes()
    except OSError as error:
        raise ResultsError(f"{folder} holds no results: {error}") from error
    *whole, tail = lines.split(b"\n")
    records: list[Record] = []
    damages = []
    for number, line in enumerate(whole, 1):
        try:
            records.append(_record_decoder.decode(line))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            damages.append(f"{folder / RESULTS}, line {number}: no record: {error}")
    return Found(_read_manifest(folder / MANIFEST, text), records, len(tail), damages)


class _Version(msgspec.Struct):
    schema: int


_record_decoder = msgspec.json.Decoder(Record, strict=True)


def _read_manifest(path: Path, text: bytes) -> Manifest:
    try:
        version = msgspec.json.decode(text, type=_Version).schema
        if version not in _READABLE:
            known = " and ".join(map(str, _READABLE))
            raise ResultsError(f"{path} is of schema {version}; this version of capshm reads {known}")
        manifest = msgspec.json.decode(text, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ResultsError(f"{path} is damaged: {error}") from error
    for each in manifest.plan.comparisons:
        if each.configurations and not any(each.baseline in map(own.on, AXES) for own in each.configurations):
            raise ResultsError(f"{path} is damaged: nothing in it is {each.baseline!r}, which all is compared with")
    return manifest
