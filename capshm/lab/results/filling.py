"""Filling a results folder (capshm.lab.results.results): a new one, or one that an interruption has left.

Each record is on the disk before the next cell begins. One process at a time fills a folder.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from capshm.lab.results.facts import Facts
from capshm.lab.results.results import (
    DATABASE,
    MANIFEST,
    MAPS,
    RESULTS,
    SCHEMA,
    TABLE,
    Another,
    Failed,
    Found,
    Manifest,
    Record,
    ResultsError,
    read,
)


class Results:
    """A folder that is being filled. A context manager that closes it.

    folder: made with its parents; one that holds anything is refused, unless is_forced: then an older run's files are
    replaced, and no others touched. records: what it holds from the beginning. ResultsError: it could not be made, or
    another process is filling it, and an older run is still there. A death in the middle leaves the older run, or no
    manifest, or all of the new one; never records under another run's manifest.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, *, is_forced: bool = False, records: Sequence[Record] = ()
    ) -> None:
        self._open(folder)
        with self._closed_after_errors():
            if not is_forced and any(folder.iterdir()):
                raise ResultsError(f"{folder} is not empty: name another folder, or say --force to replace its results")
            self._begin(Found(manifest, list(records), 0, []), is_new=True)

    @classmethod
    def resume(cls, folder: Path, machines: Iterable[Facts], *, is_retrying: bool = False) -> tuple[Self, Found]:
        """A folder that is gone on with on these machines, and what it held.

        Its half-written tail goes, and with is_retrying all cells that have failed. ResultsError, and nothing has been
        changed: it holds no results, or damaged ones, a machine is of another kind, or another process is filling it.
        A death in the middle leaves it as it was, or as it is afterwards.
        """
        self = cls.__new__(cls)
        found = read(folder)  # before a folder is made
        self._open(folder)
        with self._closed_after_errors():
            found = read(folder)  # nobody else fills it now
            if found.damages:
                raise ResultsError(f"{found.damages[0]}; results that are damaged are not gone on with")
            for facts in machines:
                check_alike(folder, found.manifest.facts, facts)
            kept = [record for record in found.records if not (is_retrying and isinstance(record, Failed))]
            found = found._replace(records=kept, manifest=msgspec.structs.replace(found.manifest, schema=SCHEMA))
            self._begin(found, is_new=False)
        return self, found

    def _open(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(folder)
        except OSError as error:
            raise ResultsError(f"cannot make the results folder {folder}: {error}") from error

    @contextmanager
    def _closed_after_errors(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            os.close(self._lock)
            if isinstance(error, OSError):
                raise ResultsError(f"cannot make the results folder {self.folder}: {error}") from error
            raise

    def _begin(self, held: Found, *, is_new: bool) -> None:
        """Let the folder hold this and no more. is_new: it has held something else, if anything."""
        folder = self.folder
        lines = b"".join(map(_line, held.records))
        replace(
            {
                folder / RESULTS: lines,
                folder / MANIFEST: msgspec.json.format(msgspec.json.encode(held.manifest)) + b"\n",
            },
            without=folder / MANIFEST if is_new else None,
        )
        for name in (DATABASE, TABLE, MAPS):
            (folder / name).unlink(missing_ok=True)
        os.fsync(self._lock)
        self._fd = os.open(folder / RESULTS, os.O_WRONLY | os.O_CLOEXEC)
        self._size = len(lines)
        self._machines = held.machines

    def machine(self, facts: Facts) -> int:
        """The number of a machine, which gets one if it has none. ResultsError: another kind of machine; as append."""
        check_alike(self.folder, self._machines[0], facts)
        for number, known in self._machines.items():
            if known.node == facts.node:
                return number
        number = max(self._machines) + 1
        self.append(Another(number, facts))
        self._machines[number] = facts
        return number

    def append(self, record: Record) -> None:
        """Add a record; it is on the disk when this returns. ResultsError: it is not, and none before it is lost."""
        line = memoryview(_line(record))
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


def check_alike(where: Path | str, one: Facts, other: Facts) -> None:
    """ResultsError, naming what differs: figures of these machines cannot stand beside each other."""
    if differences := one.differences(other):
        different = ", ".join(differences)
        raise ResultsError(f"{where}: figures of different machines or versions compare nothing: {different}")


def write_table(folder: Path, text: str) -> None:
    """Keep the table as it was printed. ResultsError: it cannot be written."""
    try:
        replace({folder / TABLE: text.encode()})
    except OSError as error:
        raise ResultsError(f"cannot write {folder / TABLE}: {error.strerror}") from error


def _line(record: Record) -> bytes:
    return msgspec.json.encode(record) + b"\n"


def replace(contents: dict[Path, bytes], *, without: Path | None = None) -> None:
    """Write files whole, then rename them into place, in this order; in between they are without that one.

    OSError while writing: all are as before.
    """
    new = {path: path.with_name(path.name + ".new") for path in contents}
    try:
        for path, content in contents.items():
            with new[path].open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        if without is not None:
            without.unlink(missing_ok=True)
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
