"""Attacks on the broker, by packets, descriptors and deaths: it goes on, tells what was wrong, and leaves nothing."""

import array
import contextlib
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import cast

import pytest

import capshm
from capshm import cheribsd as bsd
from capshm import client
from capshm.connection import receive
from capshm.process import request_lock
from tests.faults.isolation import isolated
from tests.faults.processes import Child, ask_child

CAP = bsd.PROT_READ | bsd.PROT_WRITE | bsd.PROT_CAP


def _names(folder: str) -> list[str]:
    return [each.name for each in Path(folder).iterdir()]


@contextmanager
def _connection(machine: capshm.Machine) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(f"\0capshm/{os.getuid()}/{machine.name}".encode())
        yield sock


def _mine() -> socket.socket:
    """This process's own connection."""
    link = client.current()._connection
    assert link is not None
    assert link._socket is not None
    return cast("socket.socket", link._socket)


def _send(sock: socket.socket, packet: bytes, descriptors: list[int] | None = None) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    sock.sendmsg([packet], rights)


def _answer(sock: socket.socket) -> dict[str, object]:
    answer: dict[str, object] = json.loads(sock.recv(1 << 16))
    return answer


def _count(machine: capshm.Machine) -> int:
    return len(_names(f"/proc/{machine.broker_pid}/fd"))


def _works() -> None:
    area = bsd.mmap(None, 4096, CAP, bsd.MAP_SHARED | bsd.MAP_ANON)
    area.store_capability(0, area)
    assert ask_child(lambda: area.load_capability(0).tag)
    bsd.munmap(area, 4096)


@pytest.mark.slow
@isolated()
def test_bad_packets() -> None:
    """Each is answered with what is wrong, on attached and on new connections; nothing stays open."""
    packets = [b"", b"\xff", b"{}", b"[[[[", b'{"do":"leave","n":5,"x":1}', b"x" * 65536, b'{"do":"what","n":5}']
    with capshm.Machine() as machine:
        _works()
        before = _count(machine)
        with _connection(machine) as stranger:
            for sock in (stranger, _mine()):
                for packet in packets:
                    _send(sock, packet)
                    answer = _answer(sock)
                    assert isinstance(answer["error"], dict)
                    assert answer["n"] in (0, 5)
            for do in ("forked", "fork", "end", "leave"):
                _send(stranger, json.dumps({"do": do, "n": 6}).encode())
                assert "error" in _answer(stranger)
            for do in ("processes", "objects", "audit"):  # whoever is of this user may look
                _send(stranger, json.dumps({"do": do, "n": 6}).encode())
                assert "error" not in _answer(stranger)
        _send(_mine(), b'{"do":"attach","n":7}')
        assert "in use" in str(_answer(_mine()))
        _works()
        while _count(machine) > before:
            os.sched_yield()


@isolated()
def test_text_that_is_none() -> None:
    """A message's data that is no ASCII, a process's name with NUL: an answer says so, and the connection stays."""
    requests = (
        {"do": "channel_write", "channel": 0, "data": "\u00e9", "entries": []},
        {"do": "process_create", "name": "a\0b"},
    )
    with capshm.Machine():
        for request in requests:
            _send(_mine(), json.dumps({**request, "n": 5}).encode())
            assert isinstance(_answer(_mine())["error"], dict)
        _works()


@pytest.mark.slow
@isolated()
def test_descriptors_in_surplus() -> None:
    """More than one descriptor, or one that was not asked for, is an error; the broker keeps none of them."""
    with capshm.Machine() as machine:
        before = _count(machine)
        _works()
        read, write = os.pipe()
        for count in (1, 2, 4, 5, 100, 250):
            for packet in (b'{"do":"processes","n":5}', b'{"do":"fork","n":5}', b"nonsense"):
                _send(_mine(), packet, [write] * count)
                _answer(_mine())
        os.close(write)
        assert os.read(read, 1) == b""  # all copies of the other end are closed
        while _count(machine) > before:  # the kernel tells when what was mapped is gone
            os.sched_yield()
        _works()


@isolated()
def test_a_socket_whose_close_waits() -> None:
    """The last descriptor of a socket, whose close waits until its bytes are read: the broker does not wait."""
    with capshm.Machine() as machine, socket.create_server(("127.0.0.1", 0)) as listener:
        client_end = socket.create_connection(listener.getsockname())
        server_end, _ = listener.accept()
        with server_end:
            client_end.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    client_end.send(bytes(1 << 16))
            client_end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
            os.kill(machine.broker_pid, signal.SIGSTOP)
            for packet in (b"nonsense", b'{"do":"fork","n":5}'):
                _send(_mine(), packet, [client_end.fileno()])
            client_end.close()
            os.kill(machine.broker_pid, signal.SIGCONT)
            signal.alarm(20)
            for _ in range(2):
                assert "error" in _answer(_mine())
            _works()
            signal.alarm(0)


@isolated()
def test_a_client_that_closes_all_descriptors() -> None:
    """It is told so, and waits for nobody, even if another socket has the number of its connection."""

    def body() -> None:
        signal.alarm(20)
        fd = _mine().fileno()
        os.closerange(fd, fd + 1)
        if os.fork() == 0:  # its pair of sockets takes that number
            with pytest.raises(capshm.CapshmError):
                _works()
            os._exit(0)
        assert os.wait()[1] == 0
        other = socket.socketpair()
        with other[0], other[1], pytest.raises(capshm.BrokerGone, match="has closed the descriptor"):
            _works()
        signal.alarm(0)

    with capshm.Machine(), Child(body) as child:
        assert child.wait() == 0


@pytest.mark.slow
@isolated()
def test_packets_from_somebody_else() -> None:
    """A packet that another process sends on an inherited connection is not answered, and is in the audit."""
    with capshm.Machine() as machine:
        inherited = os.dup(_mine().fileno())

        def send() -> None:
            with socket.socket(fileno=inherited) as sock:
                _send(sock, b'{"do":"processes","n":5}')

        with Child(send) as child:
            assert child.wait() == 0
        strangers = [each for each in machine.audit() if each.event == "stranger"]
        assert [(each.pid, each.rule, each.allowed) for each in strangers] == [(child.pid, "credentials", False)]


@pytest.mark.slow
@isolated()
def test_forged_forks() -> None:
    """A connection that was prepared for a child is no second one for the parent; strange descriptors are refused."""
    with capshm.Machine() as machine:
        before = _count(machine)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        client.current().ask("fork", descriptors=[theirs.fileno()]).close()
        theirs.close()
        _send(ours, b'{"do":"processes","n":5}')
        answer = _answer(ours)
        assert "not attached" in str(answer)
        assert cast("dict[str, str]", answer["error"])["type"] == "NotAttached"
        _send(ours, b'{"do":"forked","n":5}')
        assert ours.recv(1 << 16) == b""
        ours.close()
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            one, other = socket.socketpair(socket.AF_UNIX, kind)
            with one, other, pytest.raises(capshm.CapshmError, match="no end of a pair"):
                client.current().ask("fork", descriptors=[one.fileno()])
        with pytest.raises(capshm.CapshmError, match="child's connection"):
            client.current().ask("fork")
        read, write = os.pipe()
        with pytest.raises(capshm.CapshmError, match="no socket"):
            client.current().ask("fork", descriptors=[read])
        os.close(read)
        os.close(write)
        _works()
        while _count(machine) > before or len(machine.processes()) > 1:
            os.sched_yield()


@pytest.mark.slow
@isolated()
def test_a_client_that_does_not_read() -> None:
    """It is cut off; the broker does not wait for it."""
    with capshm.Machine() as machine, _connection(machine) as sock:
        for _ in range(100_000):
            try:
                _send(sock, b'{"do":"processes","n":5}')
            except OSError:
                break
        else:
            pytest.fail("the broker goes on listening to somebody who does not read")
        _works()


@pytest.mark.slow
@isolated()
def test_many_dying_clients() -> None:
    """Processes that die at any time leave neither descriptors nor objects with the broker."""
    with capshm.Machine() as machine:
        _works()
        before = _count(machine)

        def make() -> None:
            for _ in range(20):
                fd = bsd.memfd_create("x")
                os.ftruncate(fd, 4096)
                bsd.mmap(None, 4096, CAP, bsd.MAP_SHARED, fd, 0)
            threading.Event().wait()

        for _ in range(3):
            children = [Child(make) for _ in range(10)]
            while sum(each.event == "map" for each in machine.audit()) < 100:
                os.sched_yield()
            for child in children:
                child.kill()
        while _count(machine) > before or machine.objects() or len(machine.processes()) > 1:
            os.sched_yield()
        _works()


@pytest.mark.slow
@isolated()
def test_the_broker_is_killed() -> None:
    """Every call that needs it raises BrokerGone, in forked children too; memory stays; leaving ends the others."""
    with capshm.Machine() as machine:
        area = bsd.mmap(None, 4096, CAP, bsd.MAP_SHARED | bsd.MAP_ANON)
        area.store_capability(0, area)
        ready, ready_write = os.pipe()
        go, go_write = os.pipe()

        def survive() -> None:
            os.write(ready_write, b"!")
            os.read(go, 1)
            for call in (lambda: bsd.malloc(16), lambda: bsd.munmap(area, 4096)):
                with pytest.raises(capshm.BrokerGone):
                    call()
            assert area.load_capability(0).tag
            os.write(ready_write, b"!")
            threading.Event().wait()

        child = Child(survive)
        os.read(ready, 1)
        os.kill(machine.broker_pid, signal.SIGKILL)
        os.waitid(os.P_PID, machine.broker_pid, os.WEXITED | os.WNOWAIT)
        os.write(go_write, b"!")
        os.read(ready, 1)
        with pytest.raises(capshm.BrokerGone):
            machine.processes()
        with pytest.raises(capshm.BrokerGone):
            bsd.mmap(None, 4096, CAP, bsd.MAP_SHARED | bsd.MAP_ANON)
        assert area.load_capability(0).tag

        def unattached() -> None:
            with pytest.raises((capshm.NotAttached, capshm.BrokerGone)):
                bsd.malloc(16)
            with pytest.raises(capshm.NotAttached):
                area.load_capability(0)

        with Child(unattached) as orphan:
            assert orphan.wait() == 0
    assert child.wait() == -signal.SIGKILL


@pytest.mark.slow
@isolated()
def test_the_creator_is_killed() -> None:
    """The broker ends by itself, and the machine's processes with it."""
    program = (
        "import capshm, os, sys, threading\n"
        "machine = capshm.Machine().__enter__()\n"
        "child = os.fork()\n"
        "if child: print(machine.broker_pid, child, flush=True)\n"
        "threading.Event().wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        process.kill()
    assert len(pids) == 2
    for pid in pids:
        while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text(encoding="ascii"):
            os.sched_yield()


@pytest.mark.slow
@isolated()
def test_exec_is_a_new_program() -> None:
    """A process that becomes another program is cut off; its address space owns nothing any more."""
    with capshm.Machine() as machine:
        read, write = os.pipe()
        os.set_inheritable(read, True)

        def become() -> None:
            os.close(write)
            bsd.memfd_create("x")
            os.execv("/bin/sh", ["sh", "-c", f"read x <&{read}"])

        with Child(become):
            while [each.state for each in machine.processes()] != ["running", "cut off"]:
                os.sched_yield()
            assert [each.owner for each in machine.objects()] == [None]
            os.close(write)


@pytest.mark.slow
@isolated()
def test_long_answers() -> None:
    """What does not fit a packet arrives all the same."""
    with capshm.Machine() as machine:
        area = bsd.mmap(None, 2000 * 4096, bsd.PROT_READ, bsd.MAP_PRIVATE | bsd.MAP_ANON)
        for page in range(0, 2000, 2):
            bsd.mprotect(area + page * 4096, 4096, bsd.PROT_NONE)
        assert len(machine.mappings(os.getpid())) == 2000
        assert ask_child(lambda: len(machine.mappings(os.getpid()))) == 2000
        bsd.munmap(area, 2000 * 4096)


@pytest.mark.slow
@isolated()
def test_failed_forks_leave_nothing() -> None:
    """A fork that the kernel refuses takes its plan with it: the hooks run as around a fork, and there is no child."""
    with capshm.Machine() as machine:
        _works()
        before, own = _count(machine), len(_names("/proc/self/fd"))
        with request_lock:
            assert client.current().before_fork()
            client.current().after_fork_in_parent()
        while _count(machine) > before:
            os.sched_yield()
        assert len(_names("/proc/self/fd")) == own
        assert len(machine.processes()) == 1
        assert machine.audit()[-1].event == "fork failed"
        _works()


@pytest.mark.slow
@isolated()
def test_what_cannot_be_recorded_does_not_happen() -> None:
    """While the audit has no room, names and segments stay as they are, nobody can attach, and nothing stays open."""
    with capshm.Machine() as machine:
        for name in ("/a", "/b"):
            os.close(bsd.shm_open(name, os.O_RDWR | os.O_CREAT))
        segment = bsd.shmget(7, 4096, bsd.IPC_CREAT | 0o600)
        before, records = _count(machine), len(machine.audit())
        _, hard = resource.prlimit(machine.broker_pid, resource.RLIMIT_FSIZE)
        resource.prlimit(machine.broker_pid, resource.RLIMIT_FSIZE, (0, hard))
        calls: list[Callable[[], object]] = [
            lambda: bsd.shm_unlink("/a"),
            lambda: bsd.shm_rename("/a", "/b"),
            lambda: bsd.shm_rename("/a", "/c"),
            lambda: bsd.shmctl(segment, bsd.IPC_RMID),
        ]
        for call in calls:
            with pytest.raises(capshm.Refused) as caught:
                call()
            assert caught.value.rule == "host"
        command = [sys.executable, "-c", "import capshm; capshm.attach()"]
        assert machine.spawn(command, stderr=subprocess.DEVNULL).wait() == 1
        while _count(machine) > before:
            os.sched_yield()
        resource.prlimit(machine.broker_pid, resource.RLIMIT_FSIZE, (hard, hard))
        assert len(machine.audit()) == records
        assert {each.name for each in machine.objects()} == {"/a", "/b", None}
        assert bsd.shmget(7, 4096, 0o600) == segment
        _works()


@pytest.mark.slow
@isolated()
def test_nothing_is_left() -> None:
    """After a machine there is no segment, no process, and no descriptor more than before."""
    before = set(_names("/dev/shm"))
    own = len(_names("/proc/self/fd"))
    with capshm.Machine() as machine:
        bsd.shm_open("/name", os.O_RDWR | os.O_CREAT)
        broker = machine.broker_pid
        children = Path(f"/proc/{broker}/task/{broker}/children").read_text(encoding="ascii").split()
    assert set(_names("/dev/shm")) == before
    assert not [pid for pid in [broker, *children] if Path(f"/proc/{pid}").exists()]
    assert len(_names("/proc/self/fd")) == own + 1  # the program's own descriptor of /name


@pytest.mark.slow
@isolated()
def test_random_requests() -> None:
    """Well-formed requests with any values are answered, each once; the broker goes on and its model stays sane."""
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"seed {seed}")
    random = Random(seed)
    words = [0, 1, 16, 4095, 4096, 8192, 1 << 20, 0x5500_0000_0000, (1 << 63) - 1, (1 << 64) - 1]
    numbers = [-(1 << 31), -1, 0, 1, 2, 3, 4, 8, 0x10, 0x1000, 0x1002, 0x1001, 0x1012, 0xB0003, 0xFFFF_FFFF]
    paths = [None, "", "/", "/a", "/b", "a", "/" + "x" * 2000, "/\0", "/é"]

    def address() -> object:
        permissions = random.choice([0, 0x3FFFF, 1 << 16, 0x1003F])
        start = random.choice(words)
        pointer = [start, random.choice([0, start]), random.choice([1 << 64, start]), permissions, True, False]
        return random.choice([None, start, pointer, [*pointer[:4], random.random() < 0.5, random.random() < 0.5]])

    fields: dict[str, dict[str, Callable[[], object]]] = {
        "map": {"address": address, "length": lambda: random.choice(words), "offset": lambda: random.choice(numbers)},
        "unmap": {"address": address, "length": lambda: random.choice(words)},
        "undo": {"start": lambda: random.choice(words), "end": lambda: random.choice(words)},
        "protect": {"address": address, "length": lambda: random.choice(words), "prot": lambda: random.choice(numbers)},
        "inherit": {
            "address": address,
            "length": lambda: random.choice(words),
            "inherit": lambda: random.choice(numbers),
        },
        "shm_open": {"path": lambda: random.choice(paths), "flags": lambda: random.choice([*numbers, 0o102, 0o1102])},
        "memfd_create": {"name": lambda: random.choice(paths[1:]), "flags": lambda: random.choice(numbers)},
        "shm_unlink": {"path": lambda: random.choice(paths[1:])},
        "shm_rename": {"old": lambda: random.choice(paths[1:]), "new": lambda: random.choice(paths[1:])},
        "shmget": {"size": lambda: random.choice(words), "flags": lambda: random.choice([*numbers, 0o1600])},
        "shmat": {"id": lambda: random.choice(numbers), "address": address, "flags": lambda: random.choice(numbers)},
        "shmdt": {"address": address},
        "shmctl": {"id": lambda: random.choice(numbers), "command": lambda: random.choice(numbers)},
        "knob": {"process": lambda: random.choice([None, 0, 1, 2]), "program": lambda: random.choice([None, -1, 0, 1])},
    }
    with capshm.Machine() as machine:
        for number in range(100, 1600):
            do = random.choice(list(fields))
            request = {"do": do, "n": number, **{name: make() for name, make in fields[do].items()}}
            if do == "map":
                request |= {"prot": random.choice(numbers), "flags": random.choice(numbers)}
            if do == "shmget":
                request |= {"key": random.choice(numbers)}
            _send(_mine(), json.dumps(request).encode())
            answer = receive(_mine())
            answer.close()
            assert answer.body["n"] == number, request
            assert "could not" not in str(answer.body.get("error")), (request, answer.body)
        bsd.procctl(bsd.PROC_SHARECAP_CTL, bsd.PROC_SHARECAP_ENABLE)
        assert machine.run(lambda: bsd.malloc(16).tag)
        assert machine.processes()
