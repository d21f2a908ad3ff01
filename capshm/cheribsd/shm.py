"""POSIX shared memory and memfds. The descriptors are real ones, close-on-exec where CheriBSD's are."""

from __future__ import annotations

import enum
import errno
import operator
import os

from capshm import client
from capshm.cheribsd._arguments import flag_bits
from capshm.model.constants import MFD_CLOEXEC, O_SHARECAP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, SupportsIndex

    from capshm.connection import Answer


class _Anonymous(enum.Enum):
    SHM_ANON = enum.auto()

    def __repr__(self) -> str:
        return self.name


SHM_ANON: Final = _Anonymous.SHM_ANON
"""In the place of a path: a new object without name."""


def shm_open(path: str | _Anonymous, flags: SupportsIndex, mode: SupportsIndex = 0o600) -> int:
    """Open or create shared memory; a descriptor that is closed by exec.

    path: begins with "/"; SHM_ANON for a new object without name. flags: O_RDONLY or O_RDWR, O_CREAT, O_EXCL, O_TRUNC
    of os, and O_SHARECAP: the new object may carry capabilities between address spaces. Without it the object belongs
    to this process's address space. Rules: cheribsd:1.D, D, E (`capshm explain D`).
    """
    return shm_open2(path, operator.index(flags) | os.O_CLOEXEC, mode, 0)


def shm_open2(
    path: str | _Anonymous,
    flags: SupportsIndex,
    mode: SupportsIndex,
    shmflags: SupportsIndex,
    name: str | None = None,
) -> int:
    """The call behind shm_open and memfd_create. shmflags: SHM_ALLOW_SEALING, SHM_GROW_ON_WRITE, SHM_LARGEPAGE.

    O_SHARECAP has the bit of FreeBSD's O_DIRECTORY; the host's own O_DIRECTORY means nothing here.
    """
    bits = flag_bits("flags", flags)
    if path is not SHM_ANON and not isinstance(path, str):
        raise TypeError(f"a path is a str or SHM_ANON, not {type(path).__name__}")
    answer = client.current().ask(
        "shm_open",
        path=path if isinstance(path, str) else None,
        flags=bits & ~O_SHARECAP & ~os.O_CLOEXEC,
        mode=flag_bits("mode", mode),
        shm_flags=flag_bits("shmflags", shmflags),
        is_share_cap=bool(bits & O_SHARECAP),
        name=name,
        has_room=_has_room(),
    )
    return _descriptor(answer, is_kept_by_exec=not bits & os.O_CLOEXEC)


def memfd_create(name: str, flags: SupportsIndex = 0) -> int:
    """A new object without name, of this process's address space. flags: MFD_CLOEXEC, MFD_ALLOW_SEALING.

    ENOSYS for MFD_HUGETLB (D9). name: what /proc shows.
    """
    bits = flag_bits("flags", flags)
    answer = client.current().ask("memfd_create", name=name, flags=bits, has_room=_has_room())
    return _descriptor(answer, is_kept_by_exec=not bits & MFD_CLOEXEC)


def _has_room() -> bool:
    """Whether this process can take another descriptor: so that nothing is made for one that cannot (1.D/7)."""
    try:
        os.close(os.open("/", os.O_PATH | os.O_CLOEXEC))
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        return False
    return True


def _descriptor(answer: Answer, *, is_kept_by_exec: bool) -> int:
    fd = answer.descriptors.pop()
    os.set_inheritable(fd, is_kept_by_exec)
    return fd


def shm_unlink(path: str) -> None:
    """Take an object's name away; the object lives on while anybody has it open, mapped or in a message."""
    client.current().ask("shm_unlink", path=path)


def shm_rename(old: str, new: str, flags: SupportsIndex = 0) -> None:
    """Give an object another name. flags: SHM_RENAME_NOREPLACE, SHM_RENAME_EXCHANGE. Owner and rights stay (D11)."""
    client.current().ask("shm_rename", old=old, new=new, flags=flag_bits("flags", flags))
