"""Packets to a broker and its answers: one request, one answer.

One thread at a time asks. Where a request changes memory the thread keeps the lock until it has carried out what was
answered, so that the model and the kernel change in the same order.

Python runs signal handlers between any two instructions of its main thread. One that asked between a request and its
answer would take the other's answer; one that forked there would give the child a model and a kernel that differ; one
that raised would leave them so. So they wait until the answer has been carried out (`Connection.undisturbed`):

    one thread       The signals are blocked, from before the request is sent: three system calls, 5 us. So Ctrl-C is
                     no way out of waiting for a broker that is stopped; SIGKILL is, and so is the end of the broker. A
                     wait that a signal may cut short would leave a request behind whose answer nobody carries out.
    several threads  The kernel gives a blocked signal to another thread, and the main thread runs the handler
                     nonetheless. So another thread, made for it, asks and carries out (some 100 us) while the main
                     thread waits for it and runs handlers: what they ask comes behind, and what they raise goes up at
                     once, while the call is carried out to its end.

What other processes ask of this one's mappings (native/remote.h) waits for the same time, and comes by the same
connection: whoever waits for an answer carries out what comes before it.

No handler runs in a thread that is not the main one; there nothing is needed. And a fork cannot be asked for by another
thread, since the lock is kept until it is over. Where the main thread of several forks, a handler may ask between its
request and the answer; so an answer that belongs to the outer request is kept for it, and the outer one, which may be
about to wait for it, is woken by one more packet.
"""

from __future__ import annotations

import _socket as socket  # without the enumerations that `socket` makes of all its numbers when it is imported
import errno
import os
import sys
from _thread import allocate_lock, get_ident, start_new_thread
from itertools import count

from capshm import _json, errors
from capshm._native import ffi, lib
from capshm.process import Turn, request_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol, TypeAlias, TypeVar

    T = TypeVar("T")

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
_ORDERS = bytes([lib.REMOTE_MARK])
_turn = Turn()


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


def block_signals() -> None:
    """Keep signals from this thread. The handlers of those that have come run here, and may raise."""
    lib.capshm_block_signals()
    _run_handlers()


def restore_signals(before: int) -> None:
    """The handlers of signals that came meanwhile run here, and may raise."""
    lib.capshm_restore_signals(before)
    _run_handlers()


def _run_handlers() -> None:
    """Nothing: Python runs them on entry to a function."""


class _NoThread(Exception):
    """The kernel, or an interpreter that ends, allows no further thread."""


def _is_main_thread() -> bool:
    from threading import main_thread  # only here: who has several threads has imported it

    return get_ident() == main_thread().ident


class Connection:
    """One connection to a broker."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket: socket.socket | None = sock
        self._inode = os.fstat(sock.fileno()).st_ino
        self._numbers = count(1)
        self._awaited: list[int] = []  # requests without their answer; several, where a handler asks amid a fork
        self._kept: dict[int, Answer] = {}  # answers that came to a handler's request and belong to an outer one
        self._at: tuple[str, int] | None = None  # who asks, where that cannot be seen from the stack
        self._why_gone = ""
        self._is_own = False

    @property
    def is_open(self) -> bool:
        """False once the broker has gone, or the connection was given up."""
        return self._socket is not None

    def ask(self, do: str, *, descriptors: Sequence[int] = (), **arguments: Argument) -> Answer:
        """Send a request and return its answer; what changes memory, within `undisturbed`.

        Refused: by a rule. BrokerGone. Nothing is changed after one of them.
        """
        if request_lock._is_owned():  # type: ignore[attr-defined]  # the common case, quicker
            return self._ask(do, descriptors, arguments)
        return self.undisturbed(lambda: self._ask(do, descriptors, arguments))

    def undisturbed(self, body: Callable[[], T]) -> T:
        """Return what `body` returns, which asks and carries the answer out, with no signal handler in between."""
        if request_lock._is_owned():  # type: ignore[attr-defined]
            return body()
        if lib.capshm_has_other_threads():
            if not _is_main_thread():
                with _turn:
                    return body()
            try:
                return self._in_a_thread(body)
            except _NoThread:
                pass  # rather disturbed than not at all
        before = lib.capshm_blocked_signals()
        try:
            block_signals()
            with _turn:
                return body()
        finally:
            restore_signals(before)

    def _in_a_thread(self, body: Callable[[], T]) -> T:
        done = allocate_lock()
        done.acquire()
        returned: list[T] = []
        raised: list[BaseException] = []
        at = _caller()

        def run() -> None:
            try:
                with _turn:
                    self._at = at
                    try:
                        returned.append(body())
                    finally:
                        self._at = None
            except BaseException as error:
                raised.append(error)
            finally:
                done.release()

        try:
            start_new_thread(run, ())
        except RuntimeError:
            raise _NoThread from None
        done.acquire()
        if raised:
            raise raised.pop()
        return returned.pop()

    def _has_descriptor(self, sock: socket.socket) -> bool:
        """Whether the number still stands for this socket: a program may close all that it does not know."""
        is_so: bool = lib.capshm_is_descriptor_of(sock.fileno(), self._inode)
        return is_so

    def keep_from_children(self) -> None:
        """Have the descriptor closed in every child of fork, those that run no hooks included."""
        if self._socket is not None:
            self._is_own = True
            lib.capshm_keep_from_children(self._socket.fileno())

    def forget(self) -> None:
        """In a forked child: the descriptor is closed already, and its number may be somebody else's."""
        sock, self._socket = self._socket, None
        if sock is not None:
            sock.detach()

    def begin(self, *, is_answer_awaited: bool) -> None:
        """As a forked child, show the broker who one is. BrokerGone, if the answer is awaited."""
        if is_answer_awaited or self._socket is None:
            self.ask("forked")
            return
        try:
            self._socket.send(b'{"do":"forked","n":%d}' % next(self._numbers), socket.MSG_NOSIGNAL)
        except OSError:
            pass  # the first request will say that the broker is gone

    def refusal(self) -> errors.BrokerGone:
        """What every request gets once the connection is closed."""
        return errors.BrokerGone(f"process {os.getpid()}: {self._why_gone}")

    def close(self, why: str = "the machine has been left") -> None:
        """Give up the connection; later requests say why."""
        self._why_gone = self._why_gone or why
        if self._is_own:
            lib.capshm_keep_from_children(-1)
        sock, self._socket = self._socket, None
        if sock is None:
            return
        if self._has_descriptor(sock):
            sock.close()
        else:
            sock.detach()  # the number may be somebody else's by now

    def _ask(self, do: str, descriptors: Sequence[int], arguments: dict[str, Argument]) -> Answer:
        sock = self._socket
        if sock is None:
            raise self.refusal()
        if not self._has_descriptor(sock):
            self.close("somebody has closed the descriptor of the connection to the broker")
            raise self.refusal()
        _check_names(do, arguments)
        number = next(self._numbers)
        text = _json.write({"do": do, "n": number, "at": self._at or _caller(), **arguments}).encode()
        if len(text) > _PACKET_LIMIT:
            raise ValueError(f"{do}: the arguments take {len(text)} bytes, and a packet holds {_PACKET_LIMIT}")
        self._awaited.append(number)
        try:
            if descriptors:
                numbers = b"".join(fd.to_bytes(_INT, sys.byteorder) for fd in descriptors)
                sock.sendmsg([text], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)], socket.MSG_NOSIGNAL)
            else:
                sock.send(text, socket.MSG_NOSIGNAL)
            answer = self._wait_for(number, sock)
        except (EOFError, ConnectionError, BrokenPipeError) as error:
            self.close("the broker has ended, or has closed the connection")
            raise self.refusal() from error
        except OSError as error:
            if error.errno == errno.EBADF and descriptors:
                raise errors.Refused(
                    f"{do}: descriptor {descriptors[0]} is not open", errno=errno.EBADF, rule="host"
                ) from None
            raise
        finally:
            self._awaited.remove(number)
            if number in self._kept:
                self._kept.pop(number).close()
        if answer.is_cut and "address" in answer.body:
            self._ask("revert", (), {"start": answer.number("address")})
        if answer.is_cut and do in _CHANGES:
            self._ask("revert", (), {"start": 0})
        if answer.is_cut:
            raise errors.Refused(
                f"process {os.getpid()}: {do}: no descriptor is free for those that the broker's answer came with",
                errno=errno.EMFILE,
                rule="host",
            )
        _raise_refusal(do, answer)
        return answer

    def _wait_for(self, number: int, sock: socket.socket) -> Answer:
        """The answer to that request. What belongs to an outer one is kept for it."""
        try:
            while number not in self._kept:
                answer = receive(sock)
                answered = answer.number("n")
                if answered == 0 and "error" in answer.body:
                    answered = number  # the broker could not read as much of it
                if answered in self._awaited:
                    self._kept[answered] = answer
                else:
                    answer.close()  # to the first packet of a child, which did not wait for it, or to a wake-up
            return self._kept.pop(number)
        finally:
            if self._kept:
                sock.send(b'{"do":"nothing","n":0}', socket.MSG_NOSIGNAL)


def receive(sock: socket.socket) -> Answer:
    """Wait for the next answer; what another process asks of this one and comes before is carried out.

    EOFError: the broker has closed the connection.
    """
    while True:
        text, descriptors, is_cut = _packet(sock)
        answer = Answer({}, descriptors, is_cut=is_cut)
        if not text.startswith(_ORDERS):
            break
        try:
            numbers = ffi.new("int32_t[]", descriptors)
            lib.capshm_remote_take(text, len(text), numbers, len(descriptors), is_cut)
        finally:
            answer.close()
    answer.body = _json.read(text.decode())
    if is_cut:
        answer.close()
    elif "long" in answer.body:
        with os.fdopen(answer.descriptors.pop(), "rb") as file:
            file.seek(0)
            answer.body = _json.read(file.read().decode())
    return answer


def _packet(sock: socket.socket) -> tuple[bytes, list[int], bool]:
    """Data, descriptors, and whether some were cut off. EOFError."""
    text, ancillary, flags, _ = sock.recvmsg(
        _PACKET_LIMIT, socket.CMSG_SPACE(_DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC
    )
    descriptors: list[int] = []
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors += memoryview(content).cast("i").tolist()
    if not text:
        raise EOFError
    return text, descriptors, bool(flags & socket.MSG_CTRUNC)


def _raise_refusal(do: str, answer: Answer) -> None:
    refused = answer.body.get("refused")
    if isinstance(refused, dict) and "status" in refused:
        raise errors.ZxError(
            f"process {os.getpid()}: {refused['message']}",
            status=refused["status"],
            rule=refused["rule"],
            results=refused["results"],
        )
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
    return shown(frame.f_code.co_filename), frame.f_lineno


def shown(name: str) -> str:
    """The end of a name that is only to be shown, with escapes for bytes of a file name that are no UTF-8."""
    return name[-1024:].encode(errors="backslashreplace").decode()


def _check_names(do: str, arguments: dict[str, Argument]) -> None:
    for field, value in arguments.items():
        if type(value) is str and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"{do}: {field} {value!r} cannot be written as UTF-8: {error.reason}") from None
