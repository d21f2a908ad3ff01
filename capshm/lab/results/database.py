"""results.sqlite: a run for SQL. It is made from the manifest and the records, and can be made again at any time.

    run       key, value                                                     what the manifest says
    cells     id, round, workload, size, trace, image, processes, density,   a row a cell that has finished
              policy, revoker, stopper, scope, seed, machine, wall_ns, cpu_ns,
              setup_ns, checksum
    counts    cell, name, value                                              operations, crossed, passes, ...
    pauses    cell, number, nanoseconds                                      of each pass, in their order
    failures  round, workload, size, trace, image, processes, density,       a row a cell that has failed
              policy, revoker, stopper, scope, seed, machine, message
    canary    round, machine, microseconds
    machines  number, key, value                                             the facts of each; the manifest's is 0

trace and image are NULL but for files of real programs; processes and density where they are the workload's own;
revoker, stopper and scope are NULL where there is none: plain memory has no machine, and a revoker that never revokes
needs no stopper and no scope. For example, the fastest of each:

    SELECT workload, size, policy, revoker, min(wall_ns) / 1e6 AS ms FROM cells GROUP BY 1, 2, 3, 4;
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

import msgspec

from capshm.lab.plan import Cell
from capshm.lab.results.facts import Facts
from capshm.lab.results.results import DATABASE, Another, Canary, Failed, Manifest, Measured, Record, ResultsError

Value: TypeAlias = str | int | float | None

_TABLES = """
CREATE TABLE run (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE cells (
    id INTEGER PRIMARY KEY, round INTEGER NOT NULL, workload TEXT NOT NULL, size INTEGER NOT NULL, trace TEXT,
    image TEXT, processes INTEGER, density REAL,
    policy TEXT NOT NULL, revoker TEXT, stopper TEXT, scope TEXT, seed INTEGER NOT NULL, machine INTEGER NOT NULL,
    wall_ns INTEGER NOT NULL, cpu_ns INTEGER NOT NULL, setup_ns INTEGER NOT NULL,
    checksum TEXT NOT NULL -- hexadecimal, since a number of SQL has 63 bits
);
CREATE TABLE counts (cell INTEGER NOT NULL REFERENCES cells, name TEXT NOT NULL, value INTEGER NOT NULL);
CREATE TABLE pauses (cell INTEGER NOT NULL REFERENCES cells, number INTEGER NOT NULL, nanoseconds INTEGER NOT NULL);
CREATE TABLE failures (
    round INTEGER NOT NULL, workload TEXT NOT NULL, size INTEGER NOT NULL, trace TEXT,
    image TEXT, processes INTEGER, density REAL,
    policy TEXT NOT NULL, revoker TEXT, stopper TEXT, scope TEXT, seed INTEGER NOT NULL, machine INTEGER NOT NULL,
    message TEXT NOT NULL
);
CREATE TABLE canary (round INTEGER NOT NULL, machine INTEGER NOT NULL, microseconds REAL);
CREATE TABLE machines (number INTEGER NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL);
"""


def build(folder: Path, manifest: Manifest, records: Iterable[Record]) -> None:
    """Make the folder's database, in place of one that is there. ResultsError: it cannot be; no part is left."""
    path = folder / DATABASE
    new = path.with_name(path.name + ".new")
    try:
        new.unlink(missing_ok=True)
        with closing(sqlite3.connect(new)) as connection, connection:
            connection.executescript(_TABLES)
            _fill(connection, manifest, records)
        new.replace(path)
    except (OSError, sqlite3.Error) as error:
        new.unlink(missing_ok=True)
        raise ResultsError(f"cannot write {path}: {error}; the results themselves are whole") from error


def _fill(connection: sqlite3.Connection, manifest: Manifest, records: Iterable[Record]) -> None:
    _insert_machine(connection, 0, manifest.facts)
    facts = msgspec.structs.asdict(manifest.facts) | {
        "schema": manifest.schema,
        "plan": msgspec.json.encode(manifest.plan).decode(),
    }
    connection.executemany("INSERT INTO run VALUES (?, ?)", [(key, str(value)) for key, value in facts.items()])
    for record in records:
        match record:
            case Measured(round=number, cell=cell, result=result, machine=machine):
                told = (machine, result.wall_ns, result.cpu_ns, result.setup_ns, f"{result.checksum:016x}")
                row = _insert(connection, "cells", None, number, *_key(cell), *told)
                counts = [(row, name, value) for name, value in result.counts.items()]
                connection.executemany("INSERT INTO counts VALUES (?, ?, ?)", counts)
                pauses = [(row, place, nanoseconds) for place, nanoseconds in enumerate(result.pauses_ns, 1)]
                connection.executemany("INSERT INTO pauses VALUES (?, ?, ?)", pauses)
            case Failed(round=number, cell=cell, message=message, machine=machine):
                _insert(connection, "failures", number, *_key(cell), machine, message)
            case Canary(round=number, microseconds=microseconds, machine=machine):
                _insert(connection, "canary", number, machine, microseconds)
            case Another(number=number, facts=own):
                _insert_machine(connection, number, own)


def _insert(connection: sqlite3.Connection, table: str, *values: Value) -> int | None:
    """A row; its number."""
    return connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values))})", values).lastrowid


def _insert_machine(connection: sqlite3.Connection, number: int, facts: Facts) -> None:
    for key, value in msgspec.structs.asdict(facts).items():
        _insert(connection, "machines", number, key, str(value))


def _key(cell: Cell) -> tuple[Value, ...]:
    return *msgspec.structs.astuple(cell.case), *msgspec.structs.astuple(cell.configuration), cell.seed
