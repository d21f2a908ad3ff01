"""System V segments; keys and identifiers belong to the machine. They may carry capabilities between all attachers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, SupportsIndex

from capshm import client
from capshm.capability import Capability
from capshm.cheribsd._arguments import as_argument, flag_bits, word
from capshm.cheribsd.memory import carry_out, unmap
from capshm.model.constants import IPC_STAT

if TYPE_CHECKING:
    from capshm.cheribsd._arguments import Address


class ShmStatus(NamedTuple):
    """What IPC_STAT tells. size: in bytes; attached: mappings; mode: permission bits."""

    size: int
    attached: int
    mode: int


def shmget(key: SupportsIndex, size: SupportsIndex, flags: SupportsIndex) -> int:
    """The identifier of the segment of a key; IPC_PRIVATE: of a new one. flags: IPC_CREAT, IPC_EXCL, mode."""
    return (
        client.current()
        .ask("shmget", key=flag_bits("key", key), size=word("size", size), flags=flag_bits("flags", flags))
        .number("id")
    )


def shmat(shmid: SupportsIndex, addr: Address = None, flags: SupportsIndex = 0) -> Capability:
    """Map a whole segment. flags: SHM_RDONLY, SHM_RND. Rules: cheribsd:H."""
    mine = client.current()

    def attach() -> Capability:
        answer = mine.ask(
            "shmat", id=flag_bits("shmid", shmid), address=as_argument(addr), flags=flag_bits("flags", flags)
        )
        return carry_out(mine, answer, -1, 0)

    return mine.undisturbed(attach)


def shmdt(addr: Address) -> None:
    """Unmap a segment. EPROT unless `addr` is the capability that shmat returned, or one like it (H5)."""
    mine = client.current()
    mine.undisturbed(lambda: unmap(mine.ask("shmdt", address=as_argument(addr))))


def shmctl(shmid: SupportsIndex, cmd: SupportsIndex) -> ShmStatus | None:
    """IPC_RMID: the segment goes with its last mapping; IPC_STAT: what it is."""
    command = flag_bits("cmd", cmd)
    answer = client.current().ask("shmctl", id=flag_bits("shmid", shmid), command=command)
    if command != IPC_STAT:
        return None
    return ShmStatus(answer.number("size"), answer.number("attached"), answer.number("mode"))
