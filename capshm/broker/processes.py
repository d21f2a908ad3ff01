"""Who lives, who forks, who has died.

A process is known by its connection and its pidfd. It has a part in the machine from its attachment, or from its first
packet after a fork, until it ends, leaves, or becomes another program by exec; then its address space is gone for the
model. A connection that ends does not say that the process has ended: it stays listed, cut off, until its pidfd fires,
so that the end of the machine finds it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from capshm.broker import connections, messages
from capshm.broker.connections import Connection, Packet
from capshm.broker.exchange import Exchange
from capshm.broker.loop import Loop
from capshm.broker.service import Service
from capshm.broker.state import Member, Reply
from capshm.errors import CapshmError


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
        self._signal(signal.SIGKILL)

    def wish(self) -> None:
        """Have it ask what others want of it (native/remote.h), unless it has ended."""
        self._signal(signal.SIGURG)

    def _signal(self, number: signal.Signals) -> None:
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            pass


@dataclass(slots=True, eq=False)
class Birth:
    """A fork that has been planned: a child whose first packet has not come yet."""

    parent: int
    member: Member


class Processes:
    """All of one machine. creator: the pid of the one that is not killed when the machine ends.

    on_end: called when the machine is ending and nobody else is left. on_gone: called when a member has ended.
    """

    def __init__(
        self,
        service: Service,
        exchange: Exchange,
        loop: Loop,
        creator: int,
        on_end: Callable[[], None],
        on_gone: Callable[[Member], None],
    ) -> None:
        self._service = service
        self._exchange = exchange
        self._loop = loop
        self._creator = creator
        self._on_end = on_end
        self._on_gone = on_gone
        self._by_pid: dict[int, Process] = {}
        self._by_vmspace: dict[int, Process] = {}
        self._births: dict[Connection, Birth] = {}
        self._is_ending = False

    def __iter__(self) -> Iterator[Process]:
        return iter(list(self._by_pid.values()))

    @property
    def others(self) -> list[Process]:
        """All but the machine's creator."""
        return [process for process in self if process.pid != self._creator]

    def of(self, connection: Connection) -> Process | None:
        """Whose connection it is."""
        process = None if connection.pid is None else self._by_pid.get(connection.pid)
        return process if process is not None and process.connection is connection else None

    def of_vmspace(self, serial: int) -> Process | None:
        """The process with this address space; None: it has ended, or is still being forked."""
        process = self._by_vmspace.get(serial)
        return process if process is not None and process.member is not None else None

    def member(self, pid: int) -> Member:
        """The part in the model of the process with that number. CapshmError: it has none."""
        process = self._by_pid.get(pid)
        if process is None or process.member is None:
            raise CapshmError(f"process {pid} is not attached to this machine")
        return process.member

    # How one comes

    def attach(self, connection: Connection, request: messages.Attach, gate: int) -> Reply:
        """Take in a process that comes by itself, and let it have the gate."""
        pid = connection.pid
        if pid is None or self.of(connection) is not None:
            raise CapshmError("this connection is in use already")
        if self._is_ending:
            raise CapshmError("the machine is ending")
        self._service.check_layout(request.layout)
        known = self._by_pid.get(pid)
        if known is not None:
            if known.member is not None:
                raise CapshmError(f"process {pid} is attached already")
            self._forget(known)  # it was cut off, by exec for example, and comes again
        pidfd = connections.open_pidfd(pid, connection)
        try:
            parent = _parent_of(pid)
            member = self._service.attach(pid, parent, request)
        except BaseException:
            os.close(pidfd)
            raise
        self._add(Process(pid, pidfd, parent, member.serial, member, connection))
        welcome = self._service.welcome(member)
        return Reply(welcome.body, [os.dup(gate), *welcome.descriptors], welcome.lent)

    def fork(self, process: Process, member: Member, request: messages.Fork, packet: Packet) -> Reply:
        """Plan a child, whose connection comes with the packet."""
        if not packet.descriptors:
            raise CapshmError("a fork comes with the child's connection")
        try:
            connection = connections.adopt(packet.descriptors.pop())
        except ValueError as error:
            raise CapshmError(str(error)) from None
        try:
            child, reply = self._service.fork(member, request)
        except BaseException:
            connection.close()
            raise
        self._births[connection] = Birth(process.pid, child)
        self._exchange.watch(connection)
        reply.body["is_known_by_packet"] = connection.tells_pidfds
        return reply

    def forked(self, connection: Connection, packet: Packet) -> Reply:
        """Take in the child that this first packet shows.

        It may have ended since it sent this, and its number may be another's: its pidfd came with the packet. Where the
        kernel sends none the child waits for the answer.
        """
        pid = packet.pid
        birth = self._births.get(connection)
        if birth is None:
            raise CapshmError("this connection does not come from a fork")
        if pid in self._by_pid:
            # Most likely the parent itself. The child cannot use the connection any more, whoever holds it.
            self._exchange.drop(connection)
            raise CapshmError(f"process {pid} is attached already")
        connection.pid = birth.member.pid = pid
        try:
            pidfd = _pidfd_of_child(connection, packet)
        except ProcessLookupError:
            self._service.forked(birth.member, birth.parent)
            self._exchange.drop(connection)
            raise CapshmError("the child has ended") from None
        del self._births[connection]
        process = Process(pid, pidfd, birth.parent, birth.member.serial, birth.member, connection)
        self._add(process)
        self._service.forked(birth.member, birth.parent)
        if self._is_ending:
            process.kill()
        return Reply({"vmspace": process.vmspace})

    def _add(self, process: Process) -> None:
        assert process.pid not in self._by_pid
        assert process.member is not None
        self._by_pid[process.pid] = self._by_vmspace[process.vmspace] = process
        process.member.pidfd = process.pidfd
        self._loop.add(process.pidfd, lambda: self._has_ended(process))

    # How one goes

    def leave(self, process: Process) -> None:
        """It has no further part in the machine, and says so itself."""
        self._end_member(process)
        self._forget(process)
        self._end_if_all_are_gone()

    def cut_off(self, connection: Connection) -> None:
        """The connection is about to be closed: whose it was has no further part in the machine."""
        process = self.of(connection)
        if process is not None:
            process.connection = None
            self._end_member(process)
        birth = self._births.pop(connection, None)
        if birth is not None:
            self._service.end(birth.member)
            self._end_if_all_are_gone()

    def end(self) -> None:
        """End all but the creator. Children that are just being forked are waited for: they say who they are."""
        self._is_ending = True
        for process in self.others:
            process.kill()
        self._end_if_all_are_gone()

    def _has_ended(self, process: Process) -> None:
        connection, process.connection = process.connection, None
        self._end_member(process)
        self._forget(process)
        if connection is not None:
            self._exchange.drop(connection)
        self._end_if_all_are_gone()

    def _end_member(self, process: Process) -> None:
        """First it has none any more, so that an audit that cannot be written does not keep what has ended."""
        member, process.member = process.member, None
        if member is not None:
            try:
                self._service.end(member)
            finally:
                self._on_gone(member)

    def end_one(self, pid: int) -> None:
        """End a process; for the model it is gone at once."""
        process = self._by_pid.get(pid)
        if process is not None:
            process.kill()
            self._end_member(process)

    def _forget(self, process: Process) -> None:
        self._loop.remove(process.pidfd)
        del self._by_pid[process.pid], self._by_vmspace[process.vmspace]
        os.close(process.pidfd)

    def _end_if_all_are_gone(self) -> None:
        if self._is_ending and not self._births and not self.others:
            self._on_end()


def _pidfd_of_child(connection: Connection, packet: Packet) -> int:
    """ProcessLookupError: it has ended, and nobody waits for it any more."""
    if not connection.tells_pidfds:
        return connections.open_pidfd(packet.pid)
    connection.tell_pidfds(is_wanted=False)
    if not packet.pidfds:
        raise ProcessLookupError
    return packet.pidfds.pop()


def _parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    except (OSError, IndexError):
        return 0
