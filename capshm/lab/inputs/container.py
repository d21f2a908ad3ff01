"""The files in which the laboratory keeps what it has seen of real programs: a head, a description, a content.

Little-endian:

    offset  bytes
    0       8      seven letters, which say of what kind the file is, and the version, one byte
    8       4      length of the description
    12      8      length of the content, compressed
    20      4      CRC-32 of all that follows
    24             the description: JSON
                   the content, zlib

A reader takes memory for no more than a kind's largest file, whatever a file says or is; and for no more content than
the description makes it expect: a few kilobytes may otherwise unpack to gigabytes.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from capshm.errors import CapshmError
from capshm.lab.whole import replacing

_HEAD = struct.Struct("<7sBIQI")
HEAD_SIZE = _HEAD.size
"""Bytes before the description."""


class FileDamaged(CapshmError):
    """A file is not of the kind that it should be, or not whole. offset: of the byte at which that shows."""

    def __init__(self, path: Path, offset: int, what: str) -> None:
        super().__init__(f"{path}: byte {offset:,}: {what}")
        self.offset = offset


class FileTooNew(CapshmError):
    """A file of a version that this capshm does not know."""


@dataclass(frozen=True)
class Kind:
    """Of files: NAME.name. largest: bytes that description and content may have. Some come with capshm: in `folder`."""

    magic: bytes
    version: int
    name: str
    largest: int
    folder: Path
    damaged: type[FileDamaged]
    too_new: type[FileTooNew]

    def names(self) -> list[str]:
        """Those that come with capshm."""
        return sorted(path.stem for path in self.folder.glob(f"*.{self.name}"))

    def find(self, name: str) -> Path:
        """The file of a path, or one that comes with capshm by its name. CapshmError: there is none."""
        for path in (Path(name), self.folder / f"{name}.{self.name}"):
            if path.is_file():
                return path
        known = ", ".join(self.names())
        raise CapshmError(f"there is no {self.name} {name!r}: give the path of a file, or one of {known}")

    def write(self, path: Path, description: bytes, content: bytes) -> None:
        """A file that has all of it, or is as it was. OSError: it could not be written."""
        compressed = zlib.compress(content, 9)
        body = description + compressed
        head = _HEAD.pack(self.magic, self.version, len(description), len(compressed), zlib.crc32(body))
        with replacing(path) as file:
            file.write(head + body)

    def read(self, path: Path) -> tuple[bytes, bytes]:
        """The description, and the content as it is: compressed. What is damaged or too new is raised, and OSError."""
        # zlib adds less than a byte to sixteen.
        largest = HEAD_SIZE + self.largest + self.largest // 16 + 16
        with path.open("rb") as file:
            read = file.read(largest + 1)
        if read[: len(self.magic)] != self.magic[: len(read)] or not read:
            raise self.damaged(path, 0, f"this is no {self.name}")
        if len(read) > len(self.magic) and read[len(self.magic)] > self.version:
            raise self.too_new(f"{path} has version {read[len(self.magic)]}; this capshm reads up to {self.version}")
        if len(read) < HEAD_SIZE:
            raise self.damaged(path, len(read), f"it ends within its first {HEAD_SIZE} bytes")
        _, version, description_size, content_size, checksum = _HEAD.unpack_from(read)
        if version != self.version:
            raise self.damaged(path, len(self.magic), f"there has never been a version {version}")
        body = read[HEAD_SIZE:]
        expected = description_size + content_size
        if len(body) != expected:
            raise self.damaged(
                path,
                min(len(read), HEAD_SIZE + expected),
                f"it has {len(body):,} bytes behind its head, and should have {expected:,}",
            )
        if zlib.crc32(body) != checksum:
            raise self.damaged(path, HEAD_SIZE, "what follows has another checksum than was written")
        return body[:description_size], body[description_size:]


def unpack(compressed: bytes, size: int, what: str) -> bytes:
    """A content of just so many bytes, which are `what`. ValueError: it has more, or fewer. zlib.error: damaged."""
    stream = zlib.decompressobj()
    content = stream.decompress(compressed, size + 1)  # one more, which must not be there
    if len(content) != size or not stream.eof or stream.unused_data:
        raise ValueError(f"there are not just {what}")
    return content


def to_planes(rows: bytes, width: int) -> bytes:
    """All first bytes of rows that are so wide, then all second ones: like stands by like, and compresses better."""
    return b"".join(rows[place::width] for place in range(width))


def from_planes(planes: bytes, width: int) -> bytes:
    """The reverse."""
    count = len(planes) // width
    rows = bytearray(len(planes))
    for place in range(width):
        rows[place::width] = planes[place * count : (place + 1) * count]
    return bytes(rows)


def number(value: object, *, least: int = 0) -> int:
    """What a description has where a number is expected. ValueError: it is none, or below `least`."""
    if type(value) is not int or value < least:
        raise ValueError(f"{value!r} is no number from {least}")
    return value
