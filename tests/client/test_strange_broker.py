"""Whoever answers in the broker's place, with what is no answer: the process in C is told so, and goes on."""

import array
import json
import os
import secrets
import socket
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

import pytest

from capshm import cheribsd as bsd
from capshm._native import layout, lib
from capshm.connection import address_of
from tests.client.programs import Probe, RefusedInC, refused
from tests.client.test_client import status

PAGE = 4096
WELCOME = {
    "vmspace": 1,
    "record": 1,
    "policy": "cheribsd",
    "isa": "v9",
    "arena_start": 0x5500_0000_0000,
    "arena_size": 1 << 30,
    "hardened": False,
    "stopper": "gate",
}
DECISION = {
    "address": 0x5500_0000_0000,
    "length": PAGE,
    "reserved": [0, 0],
    "capability": [0x5500_0000_0000, PAGE, 0x7F],
    "rights": "rw",
    "maximum": "rw",
    "object": 0,
    "is_shared": False,
    "is_kept_at_fork": True,
    "has": "",
}


class StrangeBroker:
    """A listener that answers what a test says. A context manager."""

    def __init__(self) -> None:
        self.name = f"strange-{secrets.token_hex(4)}"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(address_of(self.name))
        self._listener.listen()
        self._connection: socket.socket | None = None

    def accept(self) -> None:
        """Take the next connection."""
        self._connection, _ = self._listener.accept()

    def answer(self, body: object, descriptors: Sequence[int] = ()) -> dict[str, object]:
        """Answer the next request, which is returned. body: bytes as they are; a dict gets the request's number."""
        assert self._connection is not None
        question: dict[str, object] = json.loads(self._connection.recv(1 << 16))
        packet = body if isinstance(body, bytes) else json.dumps({"n": question["n"]} | dict(body)).encode()  # type: ignore[call-overload]
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        self._connection.sendmsg([packet], rights)
        return question

    def hang_up(self) -> None:
        """Close the connection."""
        assert self._connection is not None
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._listener.close()
        if self._connection is not None:
            self._connection.close()


@pytest.fixture
def machine_files() -> Iterator[list[int]]:
    """A gate and records in which nothing has happened, as descriptors."""
    files = [os.memfd_create("gate"), os.memfd_create("records")]
    os.ftruncate(files[0], lib.capshm_gate_size())
    os.ftruncate(files[1], lib.capshm_records_size())
    yield files
    for fd in files:
        os.close(fd)


@pytest.mark.slow
def test_what_is_no_welcome(program: str, machine_files: list[int]) -> None:
    """Attaching fails, and says why, without harm: the same process can attach afterwards."""
    without_record = {name: value for name, value in WELCOME.items() if name != "record"}
    with StrangeBroker() as broker, Probe(program) as probe:
        for body, files in (
            (b"", []),
            (b"{", []),
            (b"\x02" * 60000, []),
            (b"\x01" * 100, []),
            (b'{"n":1}', machine_files),
            (b"[" * 1000, []),
            ({}, machine_files),
            (without_record, machine_files),
            (WELCOME | {"record": -1}, machine_files),
            (WELCOME | {"arena_size": 10**30}, machine_files),
            (WELCOME | {"policy": 7}, machine_files),
            (WELCOME, []),
            (WELCOME, machine_files[:1]),
            (WELCOME, machine_files * 10),
            (WELCOME | {"arena_start": 1, "arena_size": 7}, machine_files),
            ({"long": True}, []),
            ({"long": True}, machine_files),
        ):
            probe.tell("attach", broker.name)
            broker.accept()
            broker.answer(body, files)
            broker.hang_up()  # for what it goes on waiting after
            with pytest.raises(RefusedInC) as caught:
                probe.hear()
            assert str(caught.value), body
            assert refused(probe, "facts").status == status("NOT_ATTACHED"), body
        probe.tell("attach", broker.name)
        broker.accept()
        question = broker.answer(WELCOME, machine_files)
        assert (question["do"], question["layout"]) == ("attach", layout())
        assert probe.hear() == ""


def attached(broker: StrangeBroker, probe: Probe, files: list[int]) -> None:
    """Have the process attach."""
    probe.tell("attach", broker.name)
    broker.accept()
    broker.answer(WELCOME, files)
    assert probe.hear() == ""


@pytest.mark.slow
def test_what_is_no_decision(program: str, machine_files: list[int]) -> None:
    """No mapping is made of an answer that cannot be read or carried out; after the first nobody is trusted."""
    without_has = {name: value for name, value in DECISION.items() if name != "has"}
    with StrangeBroker() as broker, Probe(program) as probe:
        for body, files in (
            (without_has, []),
            (DECISION | {"capability": [1, 2]}, []),
            (DECISION | {"reserved": "none"}, []),
            (DECISION | {"is_shared": 1}, []),
            (DECISION | {"address": 4096}, []),
            (DECISION | {"length": 1 << 40}, []),
            (DECISION | {"address": 0x5500_0000_0001}, []),
            (DECISION | {"object": 1 << 40, "has": "d"}, machine_files[:1]),
            (DECISION | {"object": 5, "has": "dtc", "is_shared": True, "maximum": "rwRW"}, machine_files[:1]),
            (b"}", []),
        ):
            attached(broker, probe, machine_files)
            probe.tell("mmap", "-", PAGE, bsd.PROT_READ, bsd.MAP_ANON | bsd.MAP_PRIVATE, -1)
            broker.answer(body, files)
            broker.hang_up()
            with pytest.raises(RefusedInC):
                probe.hear()
            probe("detach")


@pytest.mark.slow
def test_errors_of_the_broker(program: str, machine_files: list[int]) -> None:
    """What a broker could not do has the status of Python's error; a long sentence is cut at a whole character."""
    with StrangeBroker() as broker, Probe(program) as probe:
        for kind, expected in (
            ("LayoutMismatch", "LAYOUT_MISMATCH"),
            ("NotAttached", "NOT_ATTACHED"),
            ("CapshmError", "FAILED"),
        ):
            probe.tell("attach", broker.name)
            broker.accept()
            broker.answer({"error": {"type": kind, "message": "\u20ac" * 500}})
            with pytest.raises(RefusedInC) as caught:
                probe.hear()
            assert caught.value.status == status(expected)
            assert str(caught.value).endswith("\u20ac")
            assert 508 <= len(str(caught.value).encode()) <= 511
            broker.hang_up()
        attached(broker, probe, machine_files)
        probe.tell("shm_open", "/x", 0)
        broker.answer({"object": 1})  # and no descriptor
        with pytest.raises(RefusedInC, match="could not be understood"):
            probe.hear()
        assert refused(probe, "shm_unlink", "/x").status == status("BROKER_GONE")
