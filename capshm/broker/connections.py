"""Packets, and who sent them: the kernel's word for it, since a packet itself proves nothing.

A process connects to an abstract address and is known by SO_PEERCRED; a child comes over one end of a socket pair that
its parent hands in before the fork, and is known by its first packet, with which the kernel sends the child's pidfd.
Every packet carries the kernel's SCM_CREDENTIALS as well, so a connection that was inherited or passed on is of no use
to anybody else.

Nothing here waits. A client that does not read its answers is cut off; descriptors that come in surplus are closed.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import socket
import stat
import struct
import threading
from collections.abc import Sequence
from typing import NamedTuple

from capshm.broker.messages import DESCRIPTORS_LIMIT, PACKET_LIMIT
from capshm.connection import address_of
from capshm.errors import CapshmError

_SEND = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)  # plain numbers: enumerations are combined at a price
_CUT_OFF = int(socket.MSG_TRUNC | socket.MSG_CTRUNC)
_CREDENTIALS = struct.Struct("=3i")
_SO_PEERPIDFD = 77  # Linux 6.5; socket has no names for these before Python 3.14
_SO_PASSPIDFD = 76
_SCM_PIDFD = 4
_ACCEPTED_DESCRIPTORS = DESCRIPTORS_LIMIT + 3  # more than the limit, so that a surplus is seen and not only cut off
_ANCILLARY = socket.CMSG_SPACE(_ACCEPTED_DESCRIPTORS * 4) + socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(4)


class Ended(Exception):
    """The other side has closed the connection."""


class Packet(NamedTuple):
    """What came. pid, uid: of the sender. is_whole: neither data nor descriptors were cut off.

    pidfds: of the sender, one at most, on a connection that `tells_pidfds`, unless it has ended.
    """

    data: bytes
    descriptors: list[int]
    pid: int
    uid: int
    is_whole: bool
    pidfds: list[int]

    def close(self) -> None:
        """Close the descriptors that nobody has taken out of the lists."""
        while self.pidfds:
            os.close(self.pidfds.pop())
        while self.descriptors:
            close_foreign(self.descriptors.pop())


def close_foreign(fd: int) -> None:
    """Close a descriptor that somebody has sent. To close a socket may take as long as its sender wants (SO_LINGER)."""
    if stat.S_ISSOCK(os.fstat(fd).st_mode):
        threading.Thread(target=os.close, args=[fd], daemon=True).start()
    else:
        os.close(fd)


class Connection:
    """One connection. pid: whom it belongs to; None until the first packet of a forked child."""

    def __init__(self, sock: socket.socket, pid: int | None) -> None:
        self._socket = sock
        self.pid = pid
        self.tells_pidfds = False
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    def tell_pidfds(self, *, is_wanted: bool) -> None:
        """Have the kernel send a pidfd of the sender with each packet, if it can (Linux 6.5), or no longer."""
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_PASSPIDFD, is_wanted)
        except OSError:
            return
        self.tells_pidfds = is_wanted

    def fileno(self) -> int:
        """For the loop; -1 once it is closed."""
        return self._socket.fileno()

    def receive(self) -> Packet | None:
        """The next packet; None: there is none yet. Ended."""
        try:
            data, ancillary, flags, _ = self._socket.recvmsg(PACKET_LIMIT, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            raise Ended from error
        descriptors: list[int] = []
        pidfds: list[int] = []
        pid = uid = -1
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
                descriptors.extend(numbers)
            elif level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                pid, uid, _ = _CREDENTIALS.unpack(content)
            elif level == socket.SOL_SOCKET and kind == _SCM_PIDFD:
                pidfds += [fd for fd in array.array("i", content) if fd >= 0]
        if not data and pid < 0:
            raise Ended  # an empty packet would have credentials
        is_whole = not flags & _CUT_OFF and len(descriptors) <= DESCRIPTORS_LIMIT
        return Packet(data, descriptors, pid, uid, is_whole, pidfds)

    def send(self, answer: bytes, descriptors: Sequence[int] = ()) -> bool:
        """Send one packet, if there is room for it at once. False: there is none, or nobody to read it."""
        try:
            if descriptors:
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
                self._socket.sendmsg([answer], [rights], _SEND)
            else:
                self._socket.send(answer, _SEND)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close it."""
        self._socket.close()


def pid_of(sock: socket.socket) -> int | None:
    """The process at the other end when the connection was made; None if another user's."""
    pid, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid if uid == os.getuid() else None


def open_pidfd(pid: int, sock: Connection | None = None) -> int:
    """A pidfd of the process that made the connection, or by number. ProcessLookupError: it has ended.

    By number another process might be meant, if the first had ended since its packet and the number was used again:
    a child that has just been forked, or a kernel older than 6.5.
    """
    if sock is not None:
        with contextlib.suppress(OSError):
            fd: int = sock._socket.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
            os.set_inheritable(fd, False)
            return fd
    return os.pidfd_open(pid)


def listen(name: str) -> socket.socket:
    """Begin to listen. CapshmError: the name is in use."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)  # inherited by what is accepted
        sock.bind(address_of(name))
        sock.listen(1024)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise CapshmError("another machine of that name is running") from None
        raise CapshmError(f"it cannot listen: {error.strerror}") from None
    return sock


def accept(listener: socket.socket) -> Connection | None:
    """The next connection; None if there is none, or if it is another user's and was closed.

    OSError: no descriptor is left.
    """
    try:
        sock, _ = listener.accept()
    except (BlockingIOError, InterruptedError, ConnectionAbortedError):
        return None
    pid = pid_of(sock)
    if pid is None:
        sock.close()
        return None
    return Connection(sock, pid)


def adopt(fd: int) -> Connection:
    """A child's connection from the descriptor that its parent sent; fd is used up. ValueError: it is none."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        close_foreign(fd)
        raise ValueError("the descriptor is no socket") from None
    kind = sock.type & ~(socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    if sock.family != socket.AF_UNIX or kind != socket.SOCK_SEQPACKET or pid_of(sock) is None:
        close_foreign(sock.detach())
        raise ValueError("the descriptor is no end of a pair of SOCK_SEQPACKET sockets of this user")
    connection = Connection(sock, None)
    connection.tell_pidfds(is_wanted=True)
    return connection
