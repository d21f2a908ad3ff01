"""Lets processes go on that a broker has stopped by SIGSTOP, if it dies before that.

A stopped process cannot notice that its broker is dead, and if the machine's creator is stopped, too, nobody is left
who could. So the broker forks a guard when it starts: a process that waits for the broker's word, or its end. Before it
stops processes the broker sends their pidfds, and an empty list when they go on again. At the end of the connection the
guard continues those of the last list, and ends.

Killed itself, it is missed only if the broker is killed later, amid a pass.
"""

from __future__ import annotations

import array
import contextlib
import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

_MOST_AT_ONCE = 250  # descriptors; the kernel takes 253 in one packet
_FIRST, _MORE = b"=", b"+"  # of a list; and its later packets


class Guard:
    """A guard, forked now: before this process has anything that a child must not keep alive."""

    def __init__(self) -> None:
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = os.fork()
        if self._pid == 0:
            _run(theirs.detach())
        theirs.close()

    def watch(self, pidfds: Sequence[int]) -> None:
        """If this process ends before the next call, these are continued."""
        with contextlib.suppress(OSError):  # it was killed, or a list has found no room: see above
            socket.send_fds(self._connection, [_FIRST], pidfds[:_MOST_AT_ONCE])
            for start in range(_MOST_AT_ONCE, len(pidfds), _MOST_AT_ONCE):
                socket.send_fds(self._connection, [_MORE], pidfds[start : start + _MOST_AT_ONCE])

    def close(self) -> None:
        """It ends."""
        self._connection.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)


def _run(connection: int) -> NoReturn:
    """What the child does. Nothing of the broker's stays open here: others wait for the ends of its connections."""
    status = 1
    try:
        for entry in list(Path("/proc/self/fd").iterdir()):
            if int(entry.name) != connection:
                with contextlib.suppress(OSError):  # the listing's own
                    os.close(int(entry.name))
        _serve(socket.socket(fileno=connection))
        status = 0
    finally:
        os._exit(status)


def _serve(connection: socket.socket) -> None:
    watched = array.array("i")
    size = socket.CMSG_SPACE(_MOST_AT_ONCE * watched.itemsize)
    while True:
        text, ancillary, _, _ = connection.recvmsg(1, size)
        if not text:
            break
        if text == _FIRST:
            while watched:
                os.close(watched.pop())
        for _, _, data in ancillary:
            watched.frombytes(data)
    for pidfd in watched:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)
