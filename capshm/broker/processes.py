"""Who lives, who forks, who has died.

A process is known by its connection and its pidfd. It has a part in the machine from its attachment, or from its first
packet after a fork, until it ends, leaves, or becomes another program by exec; then its address space is gone for the
model. A connection that ends does not say that the process has ended: it stays listed, cut off, until its pidfd fires,
so that the end of the machine finds it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from capshm.broker.connections import Connection

if TYPE_CHECKING:
    from capshm.broker.service import Member


@dataclass(slots=True, eq=False)
class Process:
    """A process of the machine. member: its part in the model; None once that has ended (cut off)."""

    pid: int
    pidfd: int
    parent: int
    vmspace: int
    member: Member | None
    connection: Connection | None

    @property
    def state(self) -> str:
        """The word for it in records."""
        return "running" if self.member is not None else "cut off"

    def kill(self) -> None:
        """End it, unless it has ended."""
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass


@dataclass(slots=True, eq=False)
class Birth:
    """A fork that has been planned: a connection whose first packet will come from the child."""

    connection: Connection
    parent: int
    member: Member


@dataclass(slots=True)
class Processes:
    """All of one machine."""

    by_pid: dict[int, Process] = field(default_factory=dict)
    births: dict[Connection, Birth] = field(default_factory=dict)

    def of(self, connection: Connection) -> Process | None:
        """Whose connection it is."""
        process = None if connection.pid is None else self.by_pid.get(connection.pid)
        return process if process is not None and process.connection is connection else None

    def add(self, process: Process) -> None:
        """A new one; there is none with that pid."""
        assert process.pid not in self.by_pid
        self.by_pid[process.pid] = process

    def remove(self, process: Process) -> None:
        """It has ended, or left."""
        del self.by_pid[process.pid]
        os.close(process.pidfd)

    def __iter__(self) -> Iterator[Process]:
        return iter(list(self.by_pid.values()))
