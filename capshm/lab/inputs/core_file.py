"""A core file: a source of snapshots, of a program that has ended, or was copied by gcore.

A core tells of memory where it lay and what it held, but less of what it was than a living process does: what belongs
to a file stands in the note NT_FILE; and the first thread's stack is where the kernel has left the bytes of AT_RANDOM
for it (getauxval(3), core(5)). Parsing is pyelftools'.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from elftools.elf.elffile import ELFFile
from elftools.elf.segments import NoteSegment, Segment

from capshm.errors import CapshmError
from capshm.lab.inputs.image import PAGE
from capshm.lab.inputs.snapshot import PIECE, Mapping

_READ_WRITE = 4 | 2  # PF_R | PF_W
_AT_RANDOM = 25
_PAIR = struct.Struct("<QQ")
_ADDRESSES = 1 << 64


class CoreFile:
    """A context manager that closes it. is_all: all that the program could write, and not its heap alone.

    CapshmError: it is no core file of a 64-bit little-endian program, or damaged. OSError: it cannot be read.
    """

    def __init__(self, path: Path, *, is_all: bool) -> None:
        self._path = path
        self._file = path.open("rb")
        try:
            self.program = path.name
            # By where a mapping starts: where in the file, how many bytes.
            self._offsets: dict[int, tuple[int, int]] = {}
            self.mappings = self._find_mappings(is_all=is_all)
        except CapshmError:
            self._file.close()
            raise
        except Exception as error:  # the library's own, of any kind: it believes what it reads
            self._file.close()
            raise CapshmError(f"{path} is no core file, or damaged: {type(error).__name__}: {error}") from error

    def pieces(self, mapping: Mapping) -> Iterator[tuple[int, bytes]]:
        """What the core has of it: it may be told to leave something out (core(5), coredump_filter)."""
        offset, size = self._offsets[mapping.start]
        for begin in range(0, size // PAGE * PAGE, PIECE):
            length = min(size // PAGE * PAGE - begin, PIECE)
            piece = os.pread(self._file.fileno(), length, offset + begin)
            if len(piece) < length:
                raise CapshmError(f"{self._path} became shorter while it was read")
            yield mapping.start + begin, piece

    def _find_mappings(self, *, is_all: bool) -> list[Mapping]:
        elf = ELFFile(self._file)
        if elf["e_type"] != "ET_CORE":
            raise CapshmError(f"{self._path} is an ELF file, but no core")
        if elf.elfclass != 64 or not elf.little_endian:
            raise CapshmError(f"{self._path} is no core of a 64-bit little-endian program")
        segments = list(elf.iter_segments())
        notes = [note for segment in segments if isinstance(segment, NoteSegment) for note in segment.iter_notes()]
        files: list[tuple[int, int]] = []
        stack = None
        for note in notes:
            if note["n_type"] == "NT_FILE":
                files += [(entry["vm_start"], entry["vm_end"]) for entry in note["n_desc"]["Elf_Nt_File_Entry"]]
            elif note["n_type"] == "NT_AUXV":
                stack = dict(_PAIR.iter_unpack(note["n_descdata"])).get(_AT_RANDOM)
            elif note["n_type"] == "NT_PRPSINFO":
                self.program = note["n_desc"]["pr_fname"].rstrip(b"\0").decode(errors="replace")
        loaded = [segment for segment in segments if segment["p_type"] == "PT_LOAD"]
        self._check(loaded)
        starts = {start for start, _ in files}
        found = []
        for segment in loaded:
            start, end = segment["p_vaddr"], segment["p_vaddr"] + segment["p_memsz"]
            kind = "heap"
            if stack is not None and start <= stack < end:
                kind = "stack"
            elif start in starts:
                kind = "data"
            if end > start and segment["p_flags"] & _READ_WRITE == _READ_WRITE and (is_all or kind == "heap"):
                found.append(Mapping(start, end, kind))
                self._offsets[start] = (segment["p_offset"], segment["p_filesz"])
        return found

    def _check(self, loaded: list[Segment]) -> None:
        """CapshmError: these are no mappings of a program, or the file does not hold what it says."""
        size = os.fstat(self._file.fileno()).st_size
        before = 0
        for segment in loaded:
            start, length, held = segment["p_vaddr"], segment["p_memsz"], segment["p_filesz"]
            if start < before or start % PAGE or length % PAGE or start + length >= _ADDRESSES or held > length:
                raise CapshmError(f"{self._path} is damaged: its mapping of {length:,} bytes at {start:#x} cannot be")
            if held and segment["p_offset"] + held > size:
                raise CapshmError(
                    f"{self._path} is cut short: it ends at byte {size:,}, and should have "
                    f"{segment['p_offset'] + held:,} (ulimit -c, or a full disk)"
                )
            before = start + length

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
