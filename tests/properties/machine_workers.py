"""Emulated processes that do what they are told: statements of a program, sent over a socket to the process they name.

A worker has variables, as a program does; a fork copies them, and exec leaves only those that are descriptors. What the
workers have done, one after the other, is therefore a program that can be printed and run: `machine_program`.
"""

import json
import os
import pickle
import signal
import socket
import struct
import sys
from typing import Any, NamedTuple, NoReturn

import capshm
from capshm import Capability, CapshmError, Fault, Refused
from capshm import cheribsd as bsd

PACKET = 1 << 16


class Outcome(NamedTuple):
    """How a statement ended. kind: "value", "refused" (errno, rule), "fault" (class, signal), "error" (class)."""

    kind: str
    value: Any = None
    message: str = ""

    def agrees(self, other: "Outcome") -> bool:
        """Whether it is the same, whatever the message."""
        return (self.kind, self.value) == (other.kind, other.value)

    def __str__(self) -> str:
        return f"{self.kind} {self.value}" + (f": {self.message}" if self.message else "")


class Said(NamedTuple):
    """A capability as plain data."""

    data: bytes
    tag: bool
    length: int
    permissions: int


def said(value: Capability) -> Said:
    """What it says."""
    return Said(struct.pack("<QQ", *value._words()), value.tag, value.length, value.permissions.raw)


def granule(value: Capability) -> tuple[bytes, bool]:
    """What a granule holds, as a capability load has it."""
    return struct.pack("<QQ", *value._words()), value.tag


class Worker:
    """A worker, seen by whoever tells it what to do."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self.pid: int = self.answer().value

    def send(self, statement: str, expression: str = "", fd: int = -1) -> None:
        """Begin a statement."""
        text = pickle.dumps((statement, expression))
        socket.send_fds(self._control, [text], [fd] if fd >= 0 else [])

    def answer(self) -> Outcome:
        """How it ended; kind "death" if the worker ended with it."""
        try:
            text = self._control.recv(PACKET)
        except ConnectionResetError:
            text = b""
        return Outcome(*pickle.loads(text)) if text else Outcome("death")

    def close(self) -> None:
        """It ends when it reads that nobody tells it anything any more."""
        self._control.close()


def control_pair() -> tuple[socket.socket, socket.socket]:
    """Ours, and the worker's."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def serve(control: socket.socket, variables: dict[str, Any]) -> NoReturn:
    """Do what is asked for, until nobody asks any more."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are reaped by the kernel
    variables |= {"os": os, "socket": socket, "capshm": capshm, "bsd": bsd, "said": said, "granule": granule}
    exec("import ctypes", variables)
    _reply(control, Outcome("value", os.getpid()))
    while True:
        text, descriptors, _, _ = socket.recv_fds(control, PACKET, 1)
        if not text:
            os._exit(0)
        statement, expression = pickle.loads(text)
        if statement == "fork":
            if os.fork() == 0:
                control.close()
                control = socket.socket(fileno=descriptors[0])
                _reply(control, Outcome("value", os.getpid()))
                continue
            os.close(descriptors[0])
            _reply(control, Outcome("value"))
        elif statement == "exec":
            ends = variables["left"].fileno(), variables["right"].fileno()
            _exec(control, ends, {name: variables[name] for name in expression.split()})
        else:
            _reply(control, perform(statement, expression, variables))


def _reply(control: socket.socket, outcome: Outcome) -> None:
    control.send(pickle.dumps(tuple(outcome)))


def perform(statement: str, expression: str, variables: dict[str, Any]) -> Outcome:
    """Carry it out."""
    try:
        exec(statement, variables)
        return Outcome("value", eval(expression, variables) if expression else None)
    except Refused as error:
        return Outcome("refused", (error.errno, error.rule), str(error))
    except Fault as error:
        return Outcome("fault", (type(error).__name__, error.signal), str(error))
    except (CapshmError, OSError, ValueError, TypeError) as error:
        return Outcome("error", type(error).__name__, str(error))


def command(control: int, ends: tuple[int, int], descriptors: dict[str, int]) -> list[str]:
    """How a worker is started as a new program. ends: of the pair over which descriptors are passed."""
    facts = json.dumps([control, *ends, descriptors])
    return [sys.executable, "-m", "tests.properties.machine_workers", facts]


def _exec(control: socket.socket, ends: tuple[int, int], descriptors: dict[str, int]) -> NoReturn:
    os.set_inheritable(control.fileno(), True)
    arguments = command(control.fileno(), ends, descriptors)
    os.execv(arguments[0], arguments)


def main() -> None:
    """A new program that attaches to the machine that has started it."""
    capshm.attach()
    control, left, right, descriptors = json.loads(sys.argv[1])
    os.set_inheritable(control, False)
    ends = {name: socket.socket(fileno=fd) for name, fd in (("left", left), ("right", right))}
    serve(socket.socket(fileno=control), descriptors | ends)


if __name__ == "__main__":
    main()
