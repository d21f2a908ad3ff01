"""Takes packets in and sends answers out, over connections that come and go.

A packet is answered only if the kernel says that the process that the connection belongs to has sent it; any other is
recorded, closed and dropped. What is wrong with a packet is its sender's business and ends nothing else.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Sequence
from typing import TypeAlias

from capshm.broker import connections, messages
from capshm.broker.audit import AuditLog
from capshm.broker.connections import Connection, Ended, Packet
from capshm.broker.loop import Loop
from capshm.broker.segments import new_memfd
from capshm.broker.state import Reply
from capshm.errors import CapshmError

Answering: TypeAlias = Callable[[Connection, messages.Request, Packet], Reply | None]
"""Answers a request; None: the answer follows later. CapshmError and OSError: it could not be carried out."""

_LONG_ANSWER = messages.PACKET_LIMIT - 1024


class Exchange:
    """All connections of one machine. answer: whoever decides; on_drop: called before a connection is closed."""

    def __init__(
        self,
        listener: socket.socket,
        loop: Loop,
        audit: AuditLog,
        answer: Answering,
        on_drop: Callable[[Connection], None],
    ) -> None:
        self._listener = listener
        self._loop = loop
        self._audit = audit
        self._answer = answer
        self._on_drop = on_drop
        self._uid = os.getuid()
        self._connections: set[Connection] = set()
        self._spare = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        loop.add(listener.fileno(), self._accept)

    def watch(self, connection: Connection) -> None:
        """Answer what comes on this connection."""
        self._connections.add(connection)
        self._loop.add(connection.fileno(), lambda: self._read(connection))

    def drop(self, connection: Connection) -> None:
        """Close it, unless that has happened."""
        if connection not in self._connections:
            return
        self._on_drop(connection)
        self._connections.remove(connection)
        self._loop.remove(connection.fileno())
        connection.close()

    def drop_descriptor(self, fd: int) -> None:
        """Close the connection that has this descriptor, if there is one."""
        for connection in list(self._connections):
            if connection.fileno() == fd:
                self.drop(connection)

    def send(self, connection: Connection, number: int, reply: Reply) -> None:
        """Answer a request. A connection that does not take the answer is dropped."""
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
            self.drop(connection)  # it does not read, or is gone

    def _accept(self) -> None:
        try:
            connection = connections.accept(self._listener)
        except OSError:
            self._turn_away()
            return
        if connection is not None:
            self.watch(connection)

    def _turn_away(self) -> None:
        """No descriptor is left, and whoever waits would make the loop spin: by the spare one it comes, and goes."""
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
        with contextlib.suppress(OSError):
            connection = connections.accept(self._listener)
            if connection is not None:
                connection.close()
        with contextlib.suppress(OSError):  # another thing may have taken the place; tried again next time
            self._spare = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    def _read(self, connection: Connection) -> None:
        try:
            packet = connection.receive()
        except Ended:
            self.drop(connection)
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
        self.respond(connection, request.n, lambda: self._answer(connection, request, packet))

    def respond(self, connection: Connection, number: int, decide: Callable[[], Reply | None]) -> None:
        """Send what `decide` returns, or the error that it raises, as the answer to a request."""
        try:
            reply = decide()
        except CapshmError as error:
            self._refuse(connection, number, type(error).__name__, str(error))
            return
        except OSError as error:
            self._refuse(connection, number, "OSError", f"the broker could not: {error}")
            return
        if reply is not None:
            self.send(connection, number, reply)

    def send_orders(self, connection: Connection, orders: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send a packet that is no answer. A connection that does not take it is dropped."""
        try:
            is_sent = connection.send(orders, descriptors)
        finally:
            for fd in descriptors:
                os.close(fd)
        if not is_sent:
            self.drop(connection)

    def _refuse(self, connection: Connection, number: int, kind: str, message: str) -> None:
        self.send(connection, number, Reply({"error": {"type": kind, "message": message}}))

    def _record_stranger(self, connection: Connection, packet: Packet) -> None:
        self._audit.append(
            pid=packet.pid,
            vmspace=0,
            event="stranger",
            rule="credentials",
            is_allowed=False,
            message=f"process {packet.pid} sent a packet on the connection of process {connection.pid}",
        )
