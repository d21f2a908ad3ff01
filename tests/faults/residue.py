"""What a machine may leave behind: nothing. For bodies of `isolated` tests, whose session holds all their processes."""

import os
import select
from pathlib import Path
from types import TracebackType
from typing import Self

from capshm.broker import audit


def names_in(folder: str) -> list[str]:
    """The names of a folder's entries."""
    return [entry.name for entry in os.scandir(folder)]


def descriptors(pid: int) -> list[str]:
    """What the descriptors of a process are, by number; one that is closed meanwhile is left out."""
    found = {}
    for entry in os.scandir(f"/proc/{pid}/fd"):
        try:
            found[int(entry.name)] = str(Path(entry.path).readlink())
        except OSError:
            pass
    return [f"{number} {found[number]}" for number in sorted(found)]


def maps(pid: int) -> list[str]:
    """The lines of /proc/PID/maps; none for a process that has ended."""
    try:
        return Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []


def threads(pid: int) -> int:
    """How many threads a process has."""
    return len(names_in(f"/proc/{pid}/task"))


def resident(pid: int) -> int:
    """Bytes of private and anonymous memory that a process has resident."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise ValueError(f"process {pid} has ended")


def _stat(pid: int) -> tuple[str, int, int] | None:
    """State, parent and session of a process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[1]), int(fields[3])


def others_in_session() -> list[int]:
    """The living processes of this session, and what this process has not reaped."""
    found = []
    for name in names_in("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            stat = _stat(int(name))
            if stat is not None and stat[2] == os.getsid(0) and (stat[0] not in "ZX" or stat[1] == os.getpid()):
                found.append(int(name))
    return found


def wait_until_alone() -> None:
    """Return when all other processes of the session have ended. What is this process's child must be reaped."""
    while others := others_in_session():
        for pid in others:
            wait_for_end(pid)
            stat = _stat(pid)
            assert stat is None or stat[1] != os.getpid(), f"child {pid} was not reaped"


def wait_for_end(pid: int) -> None:
    """Return when a process, of whomever it is the child, has ended."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    select.select([pidfd], [], [])
    os.close(pidfd)


def _memory_names() -> set[str]:
    """In /dev/shm, but for semaphores: capshm makes none, and multiprocessing, in tests beside this one, does."""
    return {name for name in names_in("/dev/shm") if not name.startswith("sem.")}


def _is_listening(name: str) -> bool:
    return f"@capshm/{os.getuid()}/{name}\n" in Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace")


class Residue:
    """Around a machine, with all that happens to it: at the end nothing of it may be left.

    name: of the machine. log: path of its audit. is_tail_allowed: the broker was killed, so the last record may be cut.
    Checked are processes, descriptors here, names in /dev/shm, the socket, and memory that others have mapped.
    """

    def __init__(self, name: str, log: Path | str | None = None, *, is_tail_allowed: bool = False) -> None:
        self.name = name
        self._log = log
        self.is_tail_allowed = is_tail_allowed

    def __enter__(self) -> Self:
        self._pid = os.getpid()
        self._descriptors = descriptors(os.getpid())
        self._names = _memory_names()
        self._threads = threads(os.getpid())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None or os.getpid() != self._pid:
            return
        wait_until_alone()
        self.check()

    def check(self) -> None:
        """What can be said while other processes, that have no part in the machine any more, still run."""
        assert descriptors(os.getpid()) == self._descriptors
        assert threads(os.getpid()) == self._threads
        assert not [line for line in maps(os.getpid()) if "capshm" in line and "memfd" in line]
        assert not _is_listening(self.name)
        left = _memory_names() - self._names
        for _ in range(1000):  # a name of another test's machine is gone after some microseconds
            if not left:
                break
            os.sched_yield()
            left &= _memory_names()
        assert not left
        if self._log is not None:
            count, findings = audit.check(str(self._log))
            assert count or self.is_tail_allowed
            tails = [finding for finding in findings if self.is_tail_allowed and "half-written" in finding.what]
            assert findings == tails
