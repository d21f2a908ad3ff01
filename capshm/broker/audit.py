"""The audit: numbered records of who shared what with whom, one JSON object a line, never changed, never reordered.

A record is in the file before the answer to the request is sent, so whoever has got an answer finds its record. Lines
are written by one `write` each to a file that was opened for appending. A kill of the broker in the middle leaves at
most one half-written tail, which `check` tells from a gap; there are no other ways to lose a record.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from capshm.records import Datum

PAGE_RECORDS = 5000
"""Records in a page of an answer."""

_CHUNK = 1 << 20
_INDEX_STEP = 1000


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One event.

    number: from 1, without gaps. time: seconds since 1970. event: the request or what happened. rule: full name, ""
    where none decided. object: number of the memory object, 0: none. file, line: of the program that asked. data: what
    programs want to know beside that (capshm.records.Audit); older files have none.
    """

    number: int
    time: float
    pid: int
    vmspace: int
    event: str
    rule: str
    object: int
    allowed: bool
    file: str
    line: int
    message: str
    data: dict[str, Datum] = {}


class Finding(NamedTuple):
    """What `check` found wrong. offset: where in the file, in bytes."""

    offset: int
    what: str


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Record, strict=True)


class AuditLog:
    """The audit of one running machine.

    path: a file to be made, which must not exist yet (FileExistsError): records of two machines are never mixed.
    None: a memory file that is gone with the broker.
    """

    def __init__(self, path: str | None) -> None:
        if path is None:
            self._fd = os.memfd_create("capshm-audit", os.MFD_CLOEXEC)
        else:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
            self._fd = os.open(path, flags, 0o600)
        self._next = 1
        self._size = 0
        self._offsets = [0]  # of the records 1, 1001, 2001, ...

    def append(
        self,
        *,
        pid: int,
        vmspace: int,
        event: str,
        rule: str = "",
        object: int = 0,
        is_allowed: bool,
        at: tuple[str, int] = ("", 0),
        message: str = "",
        data: dict[str, Datum] | None = None,
    ) -> None:
        """Write a record. OSError if the disk is full: then nothing of it is kept, and its number is used again."""
        now = time.time()
        record = Record(self._next, now, pid, vmspace, event, rule, object, is_allowed, *at, message, data or {})
        line = memoryview(_encoder.encode(record) + b"\n")
        written = 0
        try:
            while written < len(line):
                written += os.pwrite(self._fd, line[written:], self._size + written)
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(line)
        if self._next % _INDEX_STEP == 0:
            self._offsets.append(self._size)
        self._next += 1

    @property
    def last(self) -> int:
        """The number of the last record; 0: there is none."""
        return self._next - 1

    def page(self, start: int) -> tuple[list[bytes], int]:
        """Lines from record `start` on, at most PAGE_RECORDS, and the number to go on with; 0: these were the last."""
        if start >= self._next:
            return [], 0
        index = (start - 1) // _INDEX_STEP
        skipped = (start - 1) % _INDEX_STEP
        lines: list[bytes] = []
        for _, line in _lines(self._fd, self._offsets[index], self._size):
            if skipped:
                skipped -= 1
                continue
            lines.append(line)
            if len(lines) == PAGE_RECORDS:
                break
        following = start + len(lines)
        return lines, following if following < self._next else 0

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def _lines(fd: int, offset: int, end: int | None = None) -> Iterator[tuple[int, bytes]]:
    """(offset, line) with its end-of-line character, if it has one."""
    rest = b""
    while True:
        chunk = os.pread(fd, _CHUNK if end is None else min(_CHUNK, end - offset - len(rest)), offset + len(rest))
        if not chunk:
            break
        rest += chunk
        *whole, rest = rest.split(b"\n")
        for line in whole:
            yield offset, line + b"\n"
            offset += len(line) + 1
    if rest:
        yield offset, rest


def read(path: str) -> Iterator[tuple[int, float, int, int, str, str, int, bool, str, int, str, dict[str, Datum]]]:
    """The records of an audit file, those that are whole. OSError if it cannot be read."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for _, line in _lines(fd, 0):
            try:
                yield msgspec.structs.astuple(_decoder.decode(line))
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue  # `check` says what it is
    finally:
        os.close(fd)


def check(path: str) -> tuple[int, list[Finding]]:
    """Read an audit file from beginning to end: how many whole records it has, and what is wrong with it.

    A gap, a number that comes twice, a line that is no record, and a half-written tail are found; of a file without any
    whole record only that it is no audit. OSError if the file cannot be read.
    """
    count = 0
    expected = 1
    findings = []
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for offset, line in _lines(fd, 0):
            if not line.endswith(b"\n"):
                findings.append(Finding(offset, f"a half-written tail of {len(line)} bytes"))
                break
            try:
                record = _decoder.decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                findings.append(Finding(offset, f"no record: {error}"))
                expected += 1
                continue
            count += 1
            if record.number != expected:
                findings.append(Finding(offset, f"record {record.number} where {expected} was expected"))
            expected = record.number + 1
    finally:
        os.close(fd)
    if findings and not count:
        return 0, [Finding(0, "this is no audit: not one of its lines is a record")]
    return count, findings
