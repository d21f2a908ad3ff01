"""process_create: processes that only wait, for others to map and unmap in them.

Each is a program of its own that the broker starts (capshm._created): it has nothing of the caller's, neither memory
nor descriptors, and is nobody's child that a program might wait for. It attaches as any program does, says that it is
ready, and only then the caller is answered. Closing the last handle to such a process ends it, and so does the end of
the broker.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass

from capshm.broker.connections import Connection
from capshm.broker.exchange import Exchange
from capshm.broker.loop import Loop
from capshm.broker.processes import Process, Processes
from capshm.broker.service import Service
from capshm.broker.state import Member, Reply
from capshm.broker.zircon import messages as zircon_messages
from capshm.connection import MACHINE_VARIABLE
from capshm.errors import CapshmError


@dataclass(slots=True, eq=False)
class Creation:
    """A program that has been started. connection, number: who waits for it, until it is ready."""

    pid: int
    pidfd: int
    member: Member
    connection: Connection
    number: int
    is_ready: bool = False


class Creations:
    """All of one machine's."""

    def __init__(self, machine: str, service: Service, exchange: Exchange, processes: Processes, loop: Loop) -> None:
        self._machine = machine
        self._service = service
        self._exchange = exchange
        self._processes = processes
        self._loop = loop
        self._by_pid: dict[int, Creation] = {}

    def create(self, member: Member, connection: Connection, request: zircon_messages.ProcessCreate) -> None:
        """Start one; the answer follows when it is ready. OSError."""
        argv = [sys.executable, "-P", "-m", "capshm._created", request.name]
        null = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (0, 1)]
        environment = os.environ | {MACHINE_VARIABLE: self._machine}
        pid = os.posix_spawn(sys.executable, argv, environment, file_actions=null)
        try:
            pidfd = os.pidfd_open(pid)  # it is not reaped: the pid is its
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        creation = Creation(pid, pidfd, member, connection, request.n)
        self._by_pid[pid] = creation
        self._loop.add(creation.pidfd, lambda: self._has_ended(creation))

    def is_awaited_by(self, vmspace: int) -> bool:
        """Whether the process with this address space waits for one to be ready."""
        return any(each.member.serial == vmspace and not each.is_ready for each in self._by_pid.values())

    def is_ready(self, process: Process, created: Member) -> None:
        """A process says that others can map in it: one that somebody waits for, or nobody's business."""
        pid = process.pid
        creation = self._by_pid.get(pid)
        if creation is None or creation.is_ready:
            return
        creation.is_ready = True
        reply = self._service.created(creation.member, created, lambda: self._processes.end_one(pid))
        if reply is None:  # who wanted it has ended
            process.kill()
        else:
            self._exchange.respond(creation.connection, creation.number, lambda: reply)

    def _has_ended(self, creation: Creation) -> None:
        self._loop.remove(creation.pidfd)
        os.close(creation.pidfd)
        os.waitpid(creation.pid, 0)
        del self._by_pid[creation.pid]
        if not creation.is_ready:
            self._exchange.respond(creation.connection, creation.number, _refuse)


def _refuse() -> Reply:
    raise CapshmError("the process that was to be created has ended before it was ready; its message stands above")
