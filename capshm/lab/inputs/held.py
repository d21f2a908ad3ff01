"""A process that is held still while its memory is looked at: a source of snapshots.

It is held by ptrace (native/hold.h), thread by thread, and goes on when this process lets go of it or ends, however it
ends: the kernel sees to that. Only what the kernel has in its page table is read, so that nothing is touched that the
program has not touched itself.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from capshm._native import lib
from capshm.errors import CapshmError
from capshm.lab.inputs.image import PAGE
from capshm.lab.inputs.snapshot import PIECE, Mapping

_ENTRY = 8  # bytes a page in /proc/PID/pagemap
_IS_THERE = np.uint64(0b11 << 62)  # present, or swapped out
_ENTRIES_AT_ONCE = 1 << 18
_ELF_64 = b"\x7fELF\x02\x01"
_PTRACE_SCOPE = Path("/proc/sys/kernel/yama/ptrace_scope")


class Held:
    """A context manager, entered with the process held still. is_all: all that it may write, and not its heap alone.

    CapshmError: there is no such process, it has no memory, or is of 32 bits; or the kernel does not let us trace it:
    the message says what stands against it. It goes on as it was in every case.
    """

    def __init__(self, pid: int, *, is_all: bool) -> None:
        self._pid = pid
        self._folder = Path(f"/proc/{pid}")
        self._halts: dict[int, int | None] = {}  # by thread: the status of its halt; None: it has died
        if pid == os.getpid():
            raise CapshmError(f"process {pid} is this one: it cannot stand still and look at itself")
        try:
            self._hold()
            self.program = (self._folder / "comm").read_text(errors="replace").rstrip("\n")
            self.mappings = self._find_mappings(is_all=is_all)
            self._memory = os.open(self._folder / "mem", os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError):
            self._let_go()
            raise CapshmError(f"there is no process {pid}") from None
        except BaseException:
            self._let_go()
            raise

    def pieces(self, mapping: Mapping) -> Iterator[tuple[int, bytes]]:
        """Its pages that are there, and can be read: memory of devices cannot."""
        for start, end in self._present(mapping):
            address = start
            while address < end:
                try:
                    piece = os.pread(self._memory, min(end - address, PIECE), address)
                except OSError as error:
                    if error.errno not in (errno.EIO, errno.EFAULT):
                        raise
                    address += PAGE
                    continue
                piece = piece[: len(piece) // PAGE * PAGE]
                if not piece:
                    raise CapshmError(f"process {self._pid} has ended")
                yield address, piece
                address += len(piece)

    def _hold(self) -> None:
        """Until there is no thread that was not seen: those that still ran may have made new ones."""
        while new := {int(task.name) for task in (self._folder / "task").iterdir()} - self._halts.keys():
            for thread in new:
                self._halts[thread] = None
                status = lib.hold_thread(thread)
                if status and self._lives(thread):
                    raise CapshmError(f"process {self._pid} cannot be held: {self._why_not(status)}")
                if not status:
                    self._halts[thread] = _wait(thread)
        if all(status is None for status in self._halts.values()):
            raise CapshmError(f"process {self._pid} has ended, and its parent has not asked how")

    def _lives(self, thread: int) -> bool:
        try:
            state = (self._folder / "task" / str(thread) / "stat").read_bytes().rpartition(b")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return False
        return state not in (b"Z", b"X")

    def _why_not(self, status: int) -> str:
        lines = (self._folder / "status").read_text(errors="replace").split("\n")  # its name may have any other break
        about = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        if not (self._folder / "maps").exists() or "VmSize" not in about:
            return "it is a thread of the kernel, and has no memory of its own"
        if about["TracerPid"] != "0":
            return f"process {about['TracerPid']} traces it already"
        owner = about["Uid"].split()[0]
        if os.geteuid() not in (0, int(owner)):
            return f"it is user {owner}'s; run capshm as that user, or as root"
        if (self._folder / "maps").stat().st_uid != int(owner):  # root's, as proc(5) says of such processes
            return "it is undumpable (prctl PR_SET_DUMPABLE), as setuid programs and hardened machines' are: root may"
        scope = _PTRACE_SCOPE.read_text().strip() if _PTRACE_SCOPE.exists() else "0"
        if scope != "0":
            return (
                f"kernel.yama.ptrace_scope is {scope}, and permits that to {_SCOPES.get(scope, 'nobody')}; "
                "`sysctl kernel.yama.ptrace_scope=0` permits it to the same user, if it is not 3"
            )
        return f"{os.strerror(status)}; this container may forbid ptrace (seccomp, or no CAP_SYS_PTRACE)"

    def _find_mappings(self, *, is_all: bool) -> list[Mapping]:
        with (self._folder / "exe").open("rb") as program:
            head = program.read(len(_ELF_64))
        if head != _ELF_64:
            raise CapshmError(f"process {self._pid} ({self.program}) is no 64-bit little-endian program")
        found = []
        # The kernel escapes "\n" in paths, and none of the other characters that end a line for Python.
        for line in os.fsdecode((self._folder / "maps").read_bytes()).split("\n")[:-1]:
            addresses, rights, _, _, inode, *name = line.split(maxsplit=5)
            start, end = (int(address, 16) for address in addresses.split("-"))
            kind = _kind(inode, "".join(name))
            is_wanted = kind is not None if is_all else kind == "heap"
            if kind is not None and is_wanted and rights.startswith("rw") and (rights[3] == "p" or is_all):
                found.append(Mapping(start, end, kind))
        return found

    def _present(self, mapping: Mapping) -> Iterator[tuple[int, int]]:
        """Addresses from and up to which all pages are there."""
        with (self._folder / "pagemap").open("rb", buffering=0) as file:
            page, end = mapping.start // PAGE, mapping.end // PAGE
            while page < end:
                entries = os.pread(file.fileno(), min(end - page, _ENTRIES_AT_ONCE) * _ENTRY, page * _ENTRY)
                if not entries:
                    raise CapshmError(f"process {self._pid} has ended")
                yield from _runs(page, entries)
                page += len(entries) // _ENTRY

    def _let_go(self) -> None:
        for thread, status in self._halts.items():
            if status is not None:
                lib.hold_end(thread, status)
        self._halts.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._let_go()
        os.close(self._memory)


_SCOPES = {"1": "its ancestors", "2": "root"}  # Documentation/admin-guide/LSM/Yama.rst


def _wait(thread: int) -> int | None:
    """The status of its halt; None: it has died instead. What is told stays to be told (native/hold.h)."""
    told = os.waitid(os.P_PID, thread, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    return told.si_status if told is not None and told.si_code == os.CLD_TRAPPED else None


def _kind(inode: str, name: str) -> str | None:
    """What a line of /proc/PID/maps is; None: nothing that a program keeps pointers in."""
    if name == "[stack]":
        return "stack"
    if inode == "0" and (name in ("", "[heap]") or name.startswith("[anon")):
        return "heap"
    if name.startswith("[") or (name.startswith("/dev/") and not name.startswith(("/dev/shm/", "/dev/zero"))):
        return None
    return "data"


def _runs(first: int, entries: bytes) -> Iterator[tuple[int, int]]:
    """Addresses from and up to which all pages are there, of entries that begin with that page's."""
    are_there = (np.frombuffer(entries, "<u8") & _IS_THERE) != 0
    edges = (np.flatnonzero(np.diff(are_there, prepend=False, append=False)) + first).tolist()
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        yield start * PAGE, end * PAGE
