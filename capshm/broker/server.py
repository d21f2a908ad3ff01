"""What happens when a packet, a death or the end of an object comes: the broker's one thread.

A packet is answered only if the kernel says that the process that the connection belongs to has sent it; any other is
recorded, closed and dropped. What is wrong with a packet is its sender's business and ends nothing else.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from pathlib import Path

from capshm.broker import connections, messages
from capshm.broker.audit import AuditLog
from capshm.broker.connections import Connection, Ended, Packet
from capshm.broker.loop import Loop
from capshm.broker.processes import Birth, Process, Processes
from capshm.broker.segments import Segments, new_memfd
from capshm.broker.service import Member, Reply, Service
from capshm.errors import CapshmError, NotAttached

_END_BOUND = 10.0  # seconds for killed processes to be gone; one that hangs in the kernel must not keep the broker
_LONG_ANSWER = messages.PACKET_LIMIT - 1024


class Server:
    """One machine. creator: pid and pidfd of the process that made it; the machine ends with it."""

    def __init__(
        self,
        listener: socket.socket,
        service: Service,
        segments: Segments,
        audit: AuditLog,
        gate: int,
        creator: tuple[int, int],
    ) -> None:
        self._listener = listener
        self._service = service
        self._segments = segments
        self._audit = audit
        self._gate = gate
        self._creator, self._creator_pidfd = creator
        self._processes = Processes()
        self._uid = os.getuid()
        self._connections: set[Connection] = set()
        self._spare = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self._end_deadline: float | None = None
        self._end_asked: tuple[Connection, int] | None = None
        self._loop = Loop(self._note_defect)
        self._loop.add(listener.fileno(), self._accept)
        self._loop.add(self._creator_pidfd, self._creator_has_ended)
        self._loop.add(segments.watches.fd, self._objects_ended)

    def run(self) -> None:
        """Until the machine ends."""
        self._loop.run(lambda: self._end_deadline)
        if self._end_asked is not None:
            connection, number = self._end_asked
            alive: list[messages.Value] = [p.pid for p in self._processes if p.pid != self._creator]
            connection.send(messages.encode({"n": number, "alive": alive}))
        self._segments.close()
        self._audit.close()

    # Connections

    def _accept(self) -> None:
        try:
            connection = connections.accept(self._listener)
        except OSError:
            # No descriptor is left. Whoever waits would make the loop spin, so one is turned away.
            if self._spare >= 0:
                os.close(self._spare)
                self._spare = -1
            with contextlib.suppress(OSError):
                connection = connections.accept(self._listener)
                if connection is not None:
                    connection.close()
            with contextlib.suppress(OSError):  # another thing may have taken the place; tried again next time
                self._spare = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            return
        if connection is not None:
            self._watch(connection)

    def _watch(self, connection: Connection) -> None:
        self._connections.add(connection)
        self._loop.add(connection.fileno(), lambda: self._read(connection))

    def _drop(self, connection: Connection) -> None:
        """Close it; whose it was is cut off."""
        if connection not in self._connections:
            return
        process = self._processes.of(connection)
        if process is not None:
            process.connection = None
            self._end_member(process)
        birth = self._processes.births.pop(connection, None)
        if birth is not None:
            self._service.end(birth.member)
            self._end_if_all_are_gone()
        self._connections.remove(connection)
        self._loop.remove(connection.fileno())
        connection.close()

    def _read(self, connection: Connection) -> None:
        try:
            packet = connection.receive()
        except Ended:
            self._drop(connection)
            return
        if packet is None:
            return
        try:
            self._take(connection, packet)
        finally:
            packet.close()

    def _take(self, connection: Connection, packet: Packet) -> None:
        if packet.uid != self._uid or (packet.pid != connection.pid and connection.pid is not None):
            self._record_stranger(connection, packet)
            return
        try:
            request = messages.decode(packet.data)
        except messages.Malformed as error:
            self._refuse(connection, error.number, "CapshmError", f"no request: {error}")
            return
        if not packet.is_whole:
            self._refuse(
                connection,
                request.n,
                "CapshmError",
                f"a request is at most {messages.PACKET_LIMIT} bytes and {messages.DESCRIPTORS_LIMIT} descriptor",
            )
            return
        if packet.descriptors or isinstance(request, messages.Objects):
            # First, since what has ended may have left its inode number to the very file that the request is about.
            self._objects_ended()
        try:
            reply = self._answer(connection, request, packet)
        except CapshmError as error:
            self._refuse(connection, request.n, type(error).__name__, str(error))
            return
        except OSError as error:
            self._refuse(connection, request.n, "OSError", f"the broker could not: {error}")
            return
        if reply is not None:
            self._send(connection, request.n, reply)

    def _send(self, connection: Connection, number: int, reply: Reply) -> None:
        descriptors = list(reply.descriptors)
        own = [fd for fd in descriptors if fd not in reply.lent]
        try:
            text = messages.encode({"n": number, **reply.body})
            if len(text) > _LONG_ANSWER:
                long = new_memfd("capshm-answer")
                descriptors.append(long)
                own.append(long)
                with os.fdopen(long, "wb", closefd=False) as file:
                    file.write(text)
                text = messages.encode({"n": number, "long": True})
            is_sent = connection.send(text, descriptors)
        finally:
            for fd in own:
                os.close(fd)
        if not is_sent:
            self._drop(connection)  # it does not read, or is gone

    def _refuse(self, connection: Connection, number: int, kind: str, message: str) -> None:
        self._send(connection, number, Reply({"error": {"type": kind, "message": message}}))

    def _record_stranger(self, connection: Connection, packet: Packet) -> None:
        self._audit.append(
            pid=packet.pid,
            vmspace=0,
            event="stranger",
            rule="credentials",
            is_allowed=False,
            message=f"process {packet.pid} sent a packet on the connection of process {connection.pid}",
        )

    # Requests about processes; all others are the service's

    def _answer(self, connection: Connection, request: messages.Request, packet: Packet) -> Reply | None:
        if isinstance(request, messages.Attach):
            return self._attach(connection, request)
        if isinstance(request, messages.Forked):
            return self._forked(connection, packet)
        if connection.pid is not None and (reply := self._look(request)) is not None:
            return reply
        process = self._processes.of(connection)
        if process is None or process.member is None:
            raise NotAttached(f"process {packet.pid} is not attached to this machine")
        if isinstance(request, messages.Fork):
            return self._fork(process, process.member, request, packet)
        if isinstance(request, messages.Leave):
            self._leave(process)
            return Reply({})
        if isinstance(request, messages.End):
            self._end_as_asked(process, request)
            return None  # the answer follows when everybody has ended
        return self._service.handle(process.member, request, packet.descriptors)

    def _look(self, request: messages.Request) -> Reply | None:
        """Answer a request that changes nothing: whoever may connect may look. None: it is another."""
        if isinstance(request, messages.Processes):
            return Reply({"processes": [_describe(each) for each in self._processes]})
        if isinstance(request, messages.Mappings):
            asked = self._processes.by_pid.get(request.pid)
            if asked is None or asked.member is None:
                raise CapshmError(f"process {request.pid} is not attached to this machine")
            return self._service.mappings(asked.member)
        if isinstance(request, messages.Objects):
            return self._service.objects()
        if isinstance(request, messages.Audit):
            return self._service.audit(request.start)
        return None

    def _attach(self, connection: Connection, request: messages.Attach) -> Reply:
        pid = connection.pid
        if pid is None or self._processes.of(connection) is not None:
            raise CapshmError("this connection is in use already")
        if self._end_deadline is not None:
            raise CapshmError("the machine is ending")
        self._service.check_layout(request.layout)
        known = self._processes.by_pid.get(pid)
        if known is not None:
            if known.member is not None:
                raise CapshmError(f"process {pid} is attached already")
            self._forget(known)  # it was cut off, by exec for example, and comes again
        pidfd = connections.open_pidfd(pid, connection)
        try:
            member = self._service.attach(pid, request)
        except BaseException:
            os.close(pidfd)
            raise
        self._add(Process(pid, pidfd, _parent_of(pid), member.serial, member, connection))
        return Reply(self._service.welcome(member), [os.dup(self._gate)])

    def _add(self, process: Process) -> None:
        self._processes.add(process)
        self._loop.add(process.pidfd, lambda: self._process_has_ended(process))

    def _fork(self, process: Process, member: Member, request: messages.Fork, packet: Packet) -> Reply:
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
        self._processes.births[connection] = Birth(connection, process.pid, child)
        self._watch(connection)
        reply.body["is_known_by_packet"] = connection.tells_pidfds
        return reply

    def _forked(self, connection: Connection, packet: Packet) -> Reply:
        """The child may have ended since it sent this, and its number may be another's: its pidfd came with the packet.

        Where the kernel sends none the child waits for the answer.
        """
        pid = packet.pid
        birth = self._processes.births.get(connection)
        if birth is None:
            raise CapshmError("this connection does not come from a fork")
        known = self._processes.by_pid.get(pid)
        if known is not None:
            # Most likely the parent itself. The child cannot use the connection any more, whoever holds it.
            self._drop(connection)
            raise CapshmError(f"process {pid} is attached already")
        connection.pid = birth.member.pid = pid
        try:
            pidfd = self._pidfd_of_child(connection, packet)
        except ProcessLookupError:
            self._service.forked(birth.member, birth.parent)
            self._drop(connection)
            raise CapshmError("the child has ended") from None
        del self._processes.births[connection]
        process = Process(pid, pidfd, birth.parent, birth.member.serial, birth.member, connection)
        self._add(process)
        self._service.forked(birth.member, birth.parent)
        if self._end_deadline is not None:
            process.kill()
        return Reply({"vmspace": process.vmspace})

    def _pidfd_of_child(self, connection: Connection, packet: Packet) -> int:
        """ProcessLookupError: it has ended, and nobody waits for it any more."""
        if not connection.tells_pidfds:
            return connections.open_pidfd(packet.pid)
        connection.tell_pidfds(is_wanted=False)
        if not packet.pidfds:
            raise ProcessLookupError
        return packet.pidfds.pop()

    def _leave(self, process: Process) -> None:
        self._end_member(process)
        self._forget(process)
        self._end_if_all_are_gone()

    def _end_member(self, process: Process) -> None:
        """First it has none any more, so that an audit that cannot be written does not keep what has ended."""
        member, process.member = process.member, None
        if member is not None:
            self._service.end(member)

    def _forget(self, process: Process) -> None:
        self._loop.remove(process.pidfd)
        self._processes.remove(process)

    def _process_has_ended(self, process: Process) -> None:
        connection, process.connection = process.connection, None
        self._end_member(process)
        self._forget(process)
        if connection is not None:
            self._drop(connection)
        self._end_if_all_are_gone()

    # The end of objects and of the machine

    def _objects_ended(self) -> None:
        for number in self._segments.ended():
            self._service.object_ended(number)

    def _end_as_asked(self, process: Process, request: messages.End) -> None:
        if process.pid != self._creator:
            raise CapshmError(f"only the process that made the machine may end it: {self._creator}")
        if self._end_asked is None and process.connection is not None:
            self._end_asked = (process.connection, request.n)
        self._end()

    def _creator_has_ended(self) -> None:
        self._loop.remove(self._creator_pidfd)
        self._end()

    def _end(self) -> None:
        """Kill everyone but the creator. Children that are just being forked are waited for: they say who they are."""
        if self._end_deadline is None:
            self._end_deadline = time.monotonic() + _END_BOUND
        for process in self._processes:
            if process.pid != self._creator:
                process.kill()
        self._end_if_all_are_gone()

    def _end_if_all_are_gone(self) -> None:
        if self._end_deadline is None or self._processes.births:
            return
        if all(process.pid == self._creator for process in self._processes):
            self._loop.stop()

    def _note_defect(self, fd: int, error: Exception) -> None:
        sys.excepthook(type(error), error, error.__traceback__)
        for connection in list(self._connections):
            if connection.fileno() == fd:
                self._drop(connection)


def _describe(process: Process) -> messages.Value:
    return [process.pid, process.parent, process.vmspace, process.state, 0, False]


def _parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    except (OSError, IndexError):
        return 0
