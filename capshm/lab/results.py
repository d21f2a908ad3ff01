"""A results folder: what was planned, where, and every cell that has finished.

    manifest.json    schema version, the plan, the facts of the machine; written first, whole or not at all
    results.jsonl    one `Record` a line, only ever appended to, and on the disk before the next cell begins
    results.sqlite   the same for SQL, made from the two above (capshm.lab.database)
    table.txt        the table as it was printed
    maps.jsonl       where segments held their tags, if that was asked for (capshm.lab.maps)

The first two are the result, and enough to go on with a run. A death in the middle of a line leaves a half-written
tail, which readers drop and say so; there is no other way to lose a cell that has finished.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Annotated, NamedTuple, Self, TypeAlias

import msgspec

from capshm.errors import CapshmError
from capshm.lab.facts import Facts
from capshm.lab.plan import Cell, Plan

SCHEMA = 3
_READABLE = (2, SCHEMA)  # in 2 no case had processes or a density
MANIFEST, RESULTS = "manifest.json", "results.jsonl"
DATABASE, TABLE, MAPS = "results.sqlite", "table.txt", "maps.jsonl"


Time: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]


class ResultsError(CapshmError):
    """A results folder cannot be made, written or read; what was in it before still is."""


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was to be run, and where."""

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
    setup_ns: int
    counts: dict[str, int]
    checksum: int
    pauses_ns: list[int] = []


class Measured(msgspec.Struct, frozen=True, tag="measured"):
    """A cell that has finished."""

    round: int
    cell: Cell
    result: Result


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """A cell that has not: what it said."""

    round: int
    cell: Cell
    message: str


class Canary(msgspec.Struct, frozen=True, tag="canary"):
    """Taken at a round's begin. microseconds: None where two processes cannot spin."""

    round: int
    microseconds: float | None


Record: TypeAlias = Measured | Failed | Canary


class Found(NamedTuple):
    """What a folder holds. tail: bytes of a half-written last line. damages: what else is no record, and where."""

    manifest: Manifest
    records: list[Record]
    tail: int
    damages: list[str]


class Results:
    """A folder that is being filled. A context manager that closes it.

    folder: made with its parents; one that holds anything is refused, unless is_forced: then an older run's files are
    replaced, and no others touched. ResultsError: it could not be made, or another process is filling it, and an older
    run is still there. A death in the middle leaves the older run, or its manifest with no records, and never records
    under another run's manifest.
    """

    def __init__(self, folder: Path, manifest: Manifest, *, is_forced: bool = False) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(folder)
        except OSError as error:
            raise ResultsError(f"cannot make the results folder {folder}: {error}") from error
        try:
            if not is_forced and any(folder.iterdir()):
                raise ResultsError(f"{folder} is not empty: name another folder, or say --force to replace its results")
            replace(
                {
                    folder / RESULTS: b"",
                    folder / MANIFEST: msgspec.json.format(msgspec.json.encode(manifest)) + b"\n",
                }
            )
            for name in (DATABASE, TABLE, MAPS):
                (folder / name).unlink(missing_ok=True)
            os.fsync(self._lock)
            self._fd = os.open(folder / RESULTS, os.O_WRONLY | os.O_CLOEXEC)
        except BaseException as error:
            os.close(self._lock)
            if isinstance(error, OSError):
                raise ResultsError(f"cannot make the results folder {folder}: {error}") from error
            raise
        self._size = 0

    def append(self, record: Record) -> None:
        """Add a record; it is on the disk when this returns. ResultsError: it is not, and none before it is lost."""
        line = memoryview(msgspec.json.encode(record) + b"\n")
        written = 0
        try:
            while written < len(line):
                written += os.pwrite(self._fd, line[written:], self._size + written)
            os.fsync(self._fd)
        except OSError as error:
            with suppress(OSError):  # then the tail is half-written, as a death leaves it
                os.ftruncate(self._fd, self._size)
            raise ResultsError(
                f"cannot write to {self.folder / RESULTS}: {error.strerror}; the cells before this one are in it"
            ) from error
        self._size += len(line)

    def close(self) -> None:
        """Close the file, and let others fill the folder."""
        os.close(self._fd)
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


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


def write_table(folder: Path, text: str) -> None:
    """Keep the table as it was printed. ResultsError: it cannot be written."""
    try:
        replace({folder / TABLE: text.encode()})
    except OSError as error:
        raise ResultsError(f"cannot write {folder / TABLE}: {error.strerror}") from error


class _Version(msgspec.Struct):
    schema: int


_record_decoder = msgspec.json.Decoder(Record, strict=True)


def _read_manifest(path: Path, text: bytes) -> Manifest:
    try:
        version = msgspec.json.decode(text, type=_Version).schema
        if version not in _READABLE:
            known = " and ".join(map(str, _READABLE))
            raise ResultsError(f"{path} is of schema {version}; this version of capshm reads {known}")
        return msgspec.json.decode(text, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ResultsError(f"{path} is damaged: {error}") from error


def replace(contents: dict[Path, bytes]) -> None:
    """Write files whole, then rename them into place, in this order. OSError while writing: all are as before."""
    new = {path: path.with_name(path.name + ".new") for path in contents}
    try:
        for path, content in contents.items():
            with new[path].open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path in contents:
            new[path].replace(path)
    except OSError:
        for path in contents:
            new[path].unlink(missing_ok=True)
        raise


def _lock(folder: Path) -> int:
    """A descriptor of the folder; while it is open no other process fills it. Closed by death, too."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise ResultsError(f"another comparison is writing its results into {folder}: name another folder") from None
    except BaseException:
        os.close(fd)
        raise
    return fd
