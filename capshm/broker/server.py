"""One machine: whose business a request is, and how everything ends. The broker's one thread.

A request about processes is decided by `processes`, any other by `service`. What only looks is allowed to all of the
user's processes. The machine ends with its creator, or when that asks for it.
"""

from __future__ import annotations

import socket
import sys
import time

from capshm.broker import messages
from capshm.broker.audit import AuditLog
from capshm.broker.connections import Connection, Packet
from capshm.broker.exchange import Exchange
from capshm.broker.loop import Loop
from capshm.broker.processes import Process, Processes
from capshm.broker.segments import Segments
from capshm.broker.service import Service
from capshm.broker.state import Elsewhere, Member, Reply
from capshm.broker.zircon import messages as zircon_messages
from capshm.broker.zircon.creations import Creations
from capshm.broker.zircon.remote import Remote
from capshm.errors import CapshmError, NotAttached

_END_BOUND = 10.0  # seconds for killed processes to be gone; one that hangs in the kernel must not keep the broker


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
        self._service = service
        self._segments = segments
        self._audit = audit
        self._gate = gate
        self._creator, self._creator_pidfd = creator
        self._end_deadline: float | None = None
        self._end_asked: tuple[Connection, int] | None = None
        self._loop = Loop(self._note_defect)
        self._exchange = Exchange(listener, self._loop, audit, self._answer, self._cut_off)
        self._processes = Processes(service, self._exchange, self._loop, self._creator, self._loop.stop, self._gone)
        settings = service.settings
        self._creations = Creations(settings.name, service, self._exchange, self._processes, self._loop)
        self._remote = Remote(
            service,
            self._exchange,
            self._processes,
            self._loop,
            settings.stop_timeout,
            self._answer,
            self._creations.is_awaited_by,
        )
        self._loop.add(self._creator_pidfd, self._creator_has_ended)
        self._loop.add(segments.watches.fd, self._objects_ended)
        self._loop.add(service.wakeup, service.close_queued)

    def run(self) -> None:
        """Until the machine ends."""
        self._loop.run(lambda: self._end_deadline)
        if self._end_asked is not None:
            connection, number = self._end_asked
            self._exchange.send(connection, number, Reply({"alive": [each.pid for each in self._processes.others]}))
        self._service.close()
        self._segments.close()
        self._audit.close()

    # Requests

    def _answer(self, connection: Connection, request: messages.Request, packet: Packet) -> Reply | None:
        if packet.descriptors or isinstance(request, messages.Objects):
            # First, since what has ended may have left its inode number to the very file that the request is about.
            self._objects_ended()
        if isinstance(request, messages.Attach):
            return self._processes.attach(connection, request, self._gate)
        if isinstance(request, messages.Forked):
            return self._processes.forked(connection, packet)
        if connection.pid is not None and (reply := self._look(request)) is not None:
            return reply
        process = self._processes.of(connection)
        if process is None or process.member is None:
            raise NotAttached(f"process {packet.pid} is not attached to this machine")
        if isinstance(request, zircon_messages.RemoteNext):
            self._remote.come(process)
            return None
        if isinstance(request, zircon_messages.RemoteDone):
            self._remote.done(process, request)
            return None
        if self._remote.is_under_way(process):
            self._remote.postpone(process, connection, request, packet)
            return None
        if isinstance(request, zircon_messages.ProcessCreate):
            self._creations.create(process.member, connection, request)
            self._remote.stays(process.vmspace)
            return None
        if isinstance(request, zircon_messages.ProcessReady):
            self._creations.is_ready(process, process.member)
            return Reply({})
        if isinstance(request, messages.Fork):
            return self._processes.fork(process, process.member, request, packet)
        if isinstance(request, messages.Leave):
            self._processes.leave(process)
            return Reply({})
        if isinstance(request, messages.End):
            self._end_as_asked(process, request)
            return None  # the answer follows when everybody has ended
        try:
            return self._service.handle(process.member, request, packet.descriptors)
        except Elsewhere as there:
            self._remote.call(process, process.member, request, there.serial)
            return None

    def _look(self, request: messages.Request) -> Reply | None:
        """Answer a request that changes nothing: whoever may connect may look. None: it is another."""
        if isinstance(request, messages.Processes):
            return Reply({"processes": [_describe(each) for each in self._processes]})
        if isinstance(request, messages.Mappings):
            return self._service.mappings(self._processes.member(request.pid))
        if isinstance(request, zircon_messages.Tree):
            return self._service.tree(self._processes.member(request.pid))
        if isinstance(request, messages.Objects):
            return self._service.objects()
        if isinstance(request, messages.Audit):
            return self._service.audit(request.start)
        if isinstance(request, messages.Nothing):
            return Reply({})
        return None

    # Ends: of a connection, of objects, of the machine

    def _cut_off(self, connection: Connection) -> None:
        self._processes.cut_off(connection)

    def _gone(self, member: Member) -> None:
        self._remote.ended(member)

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
        if self._end_deadline is None:
            self._end_deadline = time.monotonic() + _END_BOUND
        self._processes.end()

    def _note_defect(self, fd: int, error: Exception) -> None:
        sys.excepthook(type(error), error, error.__traceback__)
        self._exchange.drop_descriptor(fd)


def _describe(process: Process) -> messages.Value:
    about: list[messages.Value] = [process.pid, process.parent, process.vmspace, process.state]
    if process.member is None:
        return [*about, 0, False, ""]
    clock = process.member.part.clock
    return [*about, clock.clock, clock.is_quarantining, clock.state.value]
