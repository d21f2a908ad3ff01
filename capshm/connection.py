"""Packets to a broker and its answers: one request, one answer.

One thread at a time asks. Where a request changes memory the thread keeps the lock until it has carried out what was
answered, so that the model and the kernel change in the same order.
"""

from __future__ import annotations

import _socket as socket  # without the enumerations that `socket` makes of all its numbers when it is imported
import errno
import os
import sys
from _thread import RLock

from capshm import _json, errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol, TypeAlias

    Range: TypeAlias = tuple[int, int]
    Argument: TypeAlias = str | int | bool | Sequence["Argument"] | None

    class Ask(Protocol):
        """Sends a request and returns its answer."""

        def __call__(self, do: str, *, descriptors: Sequence[int] = (), **arguments: Argument) -> Answer:
            """do: what is asked; descriptors travel along; arguments as the broker's messages name them."""


MACHINE_VARIABLE = "CAPSHM_MACHINE"
"""The environment variable that names the machine to a program that was started by one."""

_PACKET_LIMIT = 64 << 10
_DESCRIPTORS = 100
_CHANGES = frozenset({"unmap", "shmdt", "protect", "inherit"})
"""Requests that `revert` takes back."""
_PACKAGE = os.path.dirname(__file__) + os.sep  # noqa: PTH120  # pathlib is one of the dear imports
_INT = 4  # bytes of a descriptor in a message


class Answer:
    """What the broker answered. descriptors: the caller's to close; is_cut: this process had no room for them."""

    __slots__ = ("body", "descriptors", "is_cut")

    def __init__(self, body: dict[str, object], descriptors: list[int], *, is_cut: bool = False) -> None:
        self.body = body
        self.descriptors = descriptors
        self.is_cut = is_cut

    def number(self, name: str) -> int:
        """The field `name`, an int."""
        value = self.body[name]
        assert isinstance(value, int)
        return value

    def text(self, name: str) -> str:
        """The field `name`, a str."""
        value = self.body[name]
        assert isinstance(value, str)
        return value

    def rows(self, name: str) -> list[list[object]]:
        """The field `name`, a list of lists."""
        value = self.body[name]
        assert isinstance(value, list)
        return value

    def numbers(self, name: str) -> list[int]:
        """The field `name`, a list of int."""
        value = self.body[name]
        assert isinstance(value, list)
        return value

    def ranges(self, name: str) -> list[Range]:
        """The field `name`, a list of [start, end, ...]."""
        return [(int(str(row[0])), int(str(row[1]))) for row in self.rows(name)]

    def close(self) -> None:
        """Close the descriptors that are left."""
        while self.descriptors:
            os.close(self.descriptors.pop())


def address_of(machine: str) -> bytes:
    """The abstract address at which this user's machine of that name listens; no file system knows it."""
    return f"\0capshm/{os.getuid()}/{machine}".encode()


def connect(machine: str) -> socket.socket:
    """A connection to the broker of that machine. CapshmError: there is none of this user."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        sock.connect(address_of(machine))
        credentials = memoryview(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)).cast("i")
        if credentials[1] != os.getuid():
            raise errors.CapshmError(f"what listens as machine {machine!r} belongs to another user")
    except OSError as error:
        sock.close()
        raise errors.CapshmError(f"there is no machine {machine!r} of this user: {error.strerror}") from None
    except BaseException:
        sock.close()
        raise
    return sock


class Connection:
    """One connection to a broker.

    lock: held during a request, and by whoever carries its answer out.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.lock = RLock()
        self._socket: socket.socket | None = sock
        self._next = 1
        self._stale: list[tuple[int, int]] = []  # ranges that were answered to nobody
        self._why_gone = ""

    @property
    def is_open(self) -> bool:
        """False once the broker has gone, or the connection was given up."""
        return self._socket is not None

    def ask(self, do: str, *, descriptors: Sequence[int] = (), **arguments: Argument) -> Answer:
        """Send a request and return its answer; hold `lock` until it is carried out.

        Refused: by a rule. BrokerGone. Nothing is changed after one of them.
        """
        with self.lock:
            sock = self._socket
            if sock is None:
                raise self.refusal()
            return self._ask(sock, do, descriptors, arguments)

    def begin(self, *, is_answer_awaited: bool) -> None:
        """As a forked child, show the broker who one is. BrokerGone, if the answer is awaited."""
        if is_answer_awaited or self._socket is None:
            self.ask("forked")
            return
        try:
            self._socket.send(b'{"do":"forked","n":0}', socket.MSG_NOSIGNAL)
        except OSError:
            pass  # the first request will say that the broker is gone

    def refusal(self) -> errors.BrokerGone:
        """What every request gets once the connection is closed."""
        return errors.BrokerGone(f"process {os.getpid()}: {self._why_gone}")

    def close(self, why: str = "the machine has been left") -> None:
        """Give up the connection; later requests say why."""
        self._why_gone = self._why_gone or why
        sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()

    def _ask(self, sock: socket.socket, do: str, descriptors: Sequence[int], arguments: dict[str, Argument]) -> Answer:
        number = self._next
        self._next += 1
        text = _json.write({"do": do, "n": number, "at": _caller(), **arguments}).encode()
        if len(text) > _PACKET_LIMIT:
            raise ValueError(f"{do}: the arguments take {len(text)} bytes, and a packet holds {_PACKET_LIMIT}")
        try:
            if descriptors:
                numbers = b"".join(fd.to_bytes(_INT, sys.byteorder) for fd in descriptors)
                sock.sendmsg([text], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)], socket.MSG_NOSIGNAL)
            else:
                sock.send(text, socket.MSG_NOSIGNAL)
            while True:
                answer = receive(sock)
                if answer.number("n") == number:
                    break
                # To a request that an exception of a signal handler cut short. What it mapped is nowhere.
                answer.close()
                if "address" in answer.body:
                    self._stale.append((answer.number("address"), answer.number("length")))
        except (EOFError, ConnectionError, BrokenPipeError) as error:
            self.close("the broker has ended, or has closed the connection")
            raise self.refusal() from error
        except OSError as error:
            if error.errno == errno.EBADF and descriptors:
                raise errors.Refused(
                    f"{do}: descriptor {descriptors[0]} is not open", errno=errno.EBADF, rule="host"
                ) from None
            raise
        if answer.is_cut and "address" in answer.body:
            self._stale.append((answer.number("address"), answer.number("length")))
        while self._stale:
            start, length = self._stale.pop()
            self._ask(sock, "undo", (), {"start": start, "end": start + length})
        if answer.is_cut and do in _CHANGES:
            self._ask(sock, "revert", (), {"start": 0})
        if answer.is_cut:
            raise errors.Refused(
                f"process {os.getpid()}: {do}: no descriptor is free for those that the broker's answer came with",
                errno=errno.EMFILE,
                rule="host",
            )
        _raise_refusal(do, answer)
        return answer


def receive(sock: socket.socket) -> Answer:
    """Wait for the next answer. EOFError: the broker has closed the connection."""
    text, ancillary, flags, _ = sock.recvmsg(
        _PACKET_LIMIT, socket.CMSG_SPACE(_DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC
    )
    descriptors: list[int] = []
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors += memoryview(content).cast("i").tolist()
    if not text:
        raise EOFError
    answer = Answer(_json.read(text.decode()), descriptors)
    if flags & socket.MSG_CTRUNC:
        answer.close()
        return Answer(answer.body, [], is_cut=True)
    if "long" in answer.body:
        with os.fdopen(answer.descriptors.pop(), "rb") as file:
            file.seek(0)
            return Answer(_json.read(file.read().decode()), answer.descriptors)
    return answer


def _raise_refusal(do: str, answer: Answer) -> None:
    refused = answer.body.get("refused")
    if isinstance(refused, dict):
        raise errors.Refused(
            f"process {os.getpid()}: {do}: {refused['message']}", errno=refused["errno"], rule=refused["rule"]
        )
    error = answer.body.get("error")
    if isinstance(error, dict):
        kinds: dict[str, Callable[[str], errors.CapshmError]] = {
            "LayoutMismatch": errors.LayoutMismatch,
            "NotAttached": errors.NotAttached,
        }
        kind = kinds.get(error["type"], errors.CapshmError)
        raise kind(f"process {os.getpid()}: {do}: {error['message']}")


def _caller() -> tuple[str, int]:
    """File and line of the program that called into capshm."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return frame.f_code.co_filename[-1024:], frame.f_lineno
