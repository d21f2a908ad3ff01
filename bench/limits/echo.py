"""The limit of a request to a broker: a packet there and back between two processes that run nothing but Python.

As between a process and its broker the sockets are SOCK_SEQPACKET, and the answerer is told by the kernel who has sent
each packet; it neither reads the packet nor decides anything. Run as a program, it is the answerer.
"""

from __future__ import annotations

import array
import mmap
import os
import socket
import subprocess
import sys
from types import TracebackType
from typing import Self

PACKET = b"." * 64
DESCRIPTOR = b"d" * 64
"""The packet that is answered with a descriptor: of a new object of `OBJECT` bytes, as at the first of two requests."""
OBJECT = 1 << 20  # 1 MiB


class Echo:
    """Both processes; a context manager."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            number = theirs.fileno()
            command = [sys.executable, "-I", "-S", __file__, str(number)]
            self._answerer = subprocess.Popen(command, pass_fds=[number])

    def __enter__(self) -> Self:
        self.ask()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()
        self._answerer.wait()

    def ask(self) -> None:
        """There and back."""
        self._socket.send(PACKET)
        self._socket.recv(64)

    def ask_for_descriptor(self) -> int:
        """There, and back with a descriptor of a new object."""
        self._socket.send(DESCRIPTOR)
        _, ancillary, _, _ = self._socket.recvmsg(64, socket.CMSG_SPACE(4))
        return array.array("i", ancillary[0][2])[0]

    def map_object(self) -> None:
        """Two round trips, each with a descriptor, and the bare system calls of a mapping that comes and goes."""
        first = self.ask_for_descriptor()
        memory = mmap.mmap(first, OBJECT)
        os.close(first)
        second = self.ask_for_descriptor()
        memory.close()
        os.close(second)


def answer(sock: socket.socket) -> None:
    """Until the other side has closed its end."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    space = socket.CMSG_SPACE(12)
    while True:
        packet, _, _, _ = sock.recvmsg(64, space)
        if not packet:
            return
        if packet == DESCRIPTOR:
            fd = os.memfd_create("limit", os.MFD_CLOEXEC)
            os.ftruncate(fd, OBJECT)
            sock.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
            os.close(fd)
        else:
            sock.send(packet)


if __name__ == "__main__":
    answer(socket.socket(fileno=int(sys.argv[1])))
