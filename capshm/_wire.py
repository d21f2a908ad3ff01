"""Answers of the broker as a process reads them; what travels is described in capshm/broker/messages.py.

The standard library's json will do: attaching must stay cheap.
"""

from __future__ import annotations

import array
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeAlias

from capshm import errors

PACKET_LIMIT = 64 << 10
_DESCRIPTORS = 100
_PACKAGE = str(Path(__file__).parent) + os.sep

Range: TypeAlias = tuple[int, int]


class Answer(NamedTuple):
    """What the broker answered. descriptors: the caller's to close; is_cut: this process had no room for them."""

    body: dict[str, object]
    descriptors: list[int]
    is_cut: bool = False

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


def receive(sock: socket.socket) -> Answer:
    """The next answer. EOFError: the broker has closed the connection."""
    text, ancillary, flags, _ = sock.recvmsg(PACKET_LIMIT, socket.CMSG_SPACE(_DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content)
    if not text:
        raise EOFError
    answer = Answer(json.loads(text), descriptors.tolist())
    if flags & socket.MSG_CTRUNC:
        answer.close()
        return answer._replace(is_cut=True)
    if "long" in answer.body:
        with os.fdopen(answer.descriptors.pop(), "rb") as file:
            file.seek(0)
            return Answer(json.load(file), answer.descriptors)
    return answer


def raise_refusal(do: str, answer: Answer) -> None:
    """Raise what an answer says was in the way of the request `do`, if it does."""
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


def caller() -> tuple[str, int]:
    """File and line of the program that called into capshm."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return frame.f_code.co_filename[-1024:], frame.f_lineno
