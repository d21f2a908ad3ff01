"""Calls on another process's VMAR, whatever that process does meanwhile: tree and Linux agree, and nobody hangs."""

import os
import random
import resource
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from capshm import CapshmError, Machine, client
from capshm import cheribsd as bsd
from capshm import zircon as zx
from capshm._native import ffi
from capshm.model.constants import ARENA_START
from tests.faults.guests import PAGE, PAGES, RW, Guest, Place, R, agreed, check_here, refused, striped, wait_for_ever
from tests.faults.isolation import isolated
from tests.faults.processes import Child, Event
from tests.faults.residue import wait_for_end

PATIENT = 60.0  # seconds: no call of these tests may be given up
BULK = 16 << 20
ROUNDS = 48


def sleep_in_a_system_call() -> None:
    """In one that restarts, and reads nothing."""
    read, _write = os.pipe()
    os.read(read, 1)


def compute() -> None:
    """Without coming by."""
    number = 1
    while number:
        number = number * 5 % 1000003


def operate() -> None:
    """Inside an operation nearly all the time: reading 16 MiB through a capability."""
    memory = bsd.mmap(None, BULK, bsd.PROT_READ | bsd.PROT_WRITE, bsd.MAP_ANON | bsd.MAP_PRIVATE)
    while memory.read(0, BULK):
        pass


def ask_again_and_again() -> None:
    """With requests of its own under way."""
    root = zx.vmar_root_self()
    vmo = zx.vmo_create(PAGE)
    while True:
        zx.vmar_unmap(root, zx.vmar_map(root, R, 0, vmo, 0, PAGE), PAGE)


def have_threads() -> None:
    """Two that compute, two that ask; the main one waits for them."""
    bodies = (compute, compute, ask_again_and_again, ask_again_and_again)
    threads = [threading.Thread(target=body) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


LIVES: dict[str, Callable[[], None]] = {
    life.__name__: life for life in (sleep_in_a_system_call, compute, operate, ask_again_and_again, have_threads)
}


@pytest.mark.slow
@pytest.mark.parametrize("life", LIVES)
@isolated()
def test_whatever_the_target_does(life: str) -> None:
    """A process is changed while it sleeps, computes, is inside operations, asks for itself, or has threads."""
    with Machine(stop_timeout=PATIENT) as machine, Guest(LIVES[life]) as guest:
        vmar, address = guest.place
        for _ in range(3):
            guest.protect(RW)
            assert agreed(machine, guest.pid, address) == ["rw"] * PAGES
            guest.protect(R, 1, 3)
            assert agreed(machine, guest.pid, address) == ["rw", *["r"] * 3, "rw", "rw"]
        child, start = zx.vmar_allocate(vmar, zx.VM_CAN_MAP_READ | zx.VM_CAN_MAP_WRITE, 0, 2 * PAGE)
        vmo = zx.vmo_create(PAGE)
        assert zx.vmar_map(child, R, 0, vmo, 0, PAGE) in (start, start + PAGE)
        assert sorted(agreed(machine, guest.pid, start, 2)) == ["-", "r"]
        zx.vmar_destroy(child)
        zx.vmar_unmap(vmar, address + PAGE, PAGE)
        assert agreed(machine, guest.pid, address) == ["rw", "-", "r", "r", "rw", "rw"]
        assert guest.pid in {each.pid for each in machine.processes()}


@pytest.mark.slow
@isolated()
def test_capabilities_are_mapped_there() -> None:
    """A VMO that is made to share them arrives with its tags: the process stores one, and others load it."""
    with Machine(stop_timeout=PATIENT):
        is_mapped, is_stored = Event(), Event()

        def store() -> None:
            is_mapped.wait()
            root = zx.vmar_root_self()
            maps = zx.object_get_info(root, zx.INFO_VMAR_MAPS)
            assert isinstance(maps, list)
            [address] = [each.base for each in maps if each.mmu_flags & zx.VM_PERM_CAP]
            memory = zx.vmar_capability(root, address, PAGE)
            memory.store_capability(0, memory)
            is_stored.set()

        with Guest(store) as guest:
            shared = zx.vmo_create(PAGE, zx.VMO_SHARE_CAP)
            zx.vmar_map(guest.place.vmar, RW | zx.VM_PERM_CAP, 0, shared, 0, PAGE)
            is_mapped.set()
            is_stored.wait()
            assert guest.child.wait() == 0
            root = zx.vmar_root_self()
            mine = zx.vmar_map(root, RW | zx.VM_PERM_CAP, 0, shared, 0, PAGE)
            assert zx.vmar_capability(root, mine, PAGE).load_capability(0).tag


def _fight(own: Place, other: Place, machine: Machine, seed: int, refused_once: Event) -> list[str]:
    """Protect the other's pages and one's own, and fork; each child finds that tree and Linux agree.

    Returned: the rules that refused.
    """
    dice = random.Random(seed)
    rules = []
    for round_ in range(ROUNDS):
        whose = dice.choice((own, other, other))
        page = dice.randrange(PAGES)
        pages = dice.randrange(1, PAGES - page + 1)
        try:
            zx.vmar_protect(whose.vmar, dice.choice((R, RW)), whose.address + page * PAGE, pages * PAGE)
        except zx.ZxError as error:
            rules.append(error.rule)
            refused_once.set()
            if error.status == zx.ERR_BAD_STATE:
                break
        if round_ % 8 == 0:
            with Child(lambda: check_here(machine, own.address)) as child:
                assert child.wait() == 0
    refused_once.set()
    return rules


def _next_message(end: zx.Handle) -> tuple[bytes, list[zx.Handle]]:
    """Wait for it."""
    while True:
        try:
            return zx.channel_read(end)
        except zx.ZxError as error:
            if error.status != zx.ERR_SHOULD_WAIT:
                raise
            os.sched_yield()


def _exchange(mine: zx.Handle) -> tuple[Place, Place]:
    """Own memory, and that of whoever has the channel's other end."""
    own = Place(*striped())
    zx.channel_write(mine, own.address.to_bytes(8, "little"), [zx.handle_duplicate(own.vmar, zx.RIGHT_SAME_RIGHTS)])
    data, (vmar,) = _next_message(mine)
    return own, Place(vmar, int.from_bytes(data, "little"))


@pytest.mark.slow
@pytest.mark.parametrize("what", ["nothing", "stop", "kill"])
@isolated()
def test_two_that_protect_each_others_regions(what: str) -> None:
    """Both fork all the time, and one is stopped, or killed: no hang, and in the end tree and Linux agree."""
    seed = random.randrange(1 << 30)
    print("seed", seed)
    dice = random.Random(seed)
    with Machine(stop_timeout=1.0 if what == "stop" else PATIENT) as machine:
        ends = zx.channel_create()
        begun, refused_once, may_end = Event(), Event(), Event()
        over = [Event(), Event()]
        read, write = os.pipe()

        def fighter(number: int) -> Callable[[], None]:
            def body() -> None:
                own, other = _exchange(ends[number])
                begun.set()
                rules = _fight(own, other, machine, seed + number, refused_once)
                os.write(write, f"{number} {own.address} {','.join(rules)}\n".encode())
                over[number].set()
                may_end.wait()

            return body

        with Child(fighter(0)) as first, Child(fighter(1)) as second:
            begun.wait()
            for _ in range(dice.randrange(200)):
                os.sched_yield()
            if what == "kill":
                second.kill()
            elif what == "stop":
                second.stop()
                refused_once.wait()  # a call of the first, unless that had none left
                second.resume()
            over[0].wait()
            if what != "kill":
                over[1].wait()
            lines = dict(line.split(" ", 1) for line in os.read(read, 1 << 16).decode().splitlines())
            for number, child in enumerate((first, second)):
                if str(number) in lines and not (what == "kill" and number == 1):
                    address, rules = lines[str(number)].split(" ")
                    agreed(machine, child.pid, int(address))
                    allowed = {"nothing": set(), "stop": {"vmar:REMOTE/1", "vmar:REMOTE/2"}, "kill": {"vmar:1.3/6"}}
                    assert set(filter(None, rules.split(","))) <= allowed[what]
            may_end.set()
            assert first.wait() == 0
            assert second.wait() == (-signal.SIGKILL if what == "kill" else 0)


@pytest.mark.slow
@isolated()
def test_a_ring_of_three() -> None:
    """Each of three calls on the next one, all at once."""
    with Machine(stop_timeout=PATIENT):
        channels = [zx.channel_create() for _ in range(3)]
        exchange = [zx.channel_create() for _ in range(3)]
        go, may_end = Event(), Event()
        are_over = [Event() for _ in range(3)]

        def member(number: int) -> Callable[[], None]:
            def body() -> None:
                root, address = striped()
                zx.channel_write(channels[number][0], address.to_bytes(8, "little"), [root])
                go.wait()
                data, (vmar,) = zx.channel_read(exchange[number][1])
                for _ in range(30):
                    zx.vmar_protect(vmar, R, int.from_bytes(data, "little"), PAGE)
                    zx.vmar_protect(vmar, RW, int.from_bytes(data, "little"), PAGE)
                are_over[number].set()
                may_end.wait()

            return body

        children = [Child(member(number)) for number in range(3)]
        for number in range(3):
            zx.channel_write(exchange[(number + 1) % 3][0], *_next_message(channels[number][1]))
        go.set()
        for is_over in are_over:
            is_over.wait()
        may_end.set()
        assert [child.wait() for child in children] == [0, 0, 0]


@pytest.mark.slow
@isolated()
def test_a_created_process_ends_with_its_last_handle() -> None:
    """It has nothing of its creator's, others work in it, and closing the handle to it ends it."""
    with Machine(stop_timeout=PATIENT) as machine:
        process, root = zx.process_create("loader")
        pid = process.pid
        assert pid in {each.pid for each in machine.processes()}
        assert machine.mappings(pid) == []
        address = zx.vmar_map(root, RW, 0, zx.vmo_create(2 * PAGE), 0, 2 * PAGE)
        assert zx.process_write_memory(process, address, b"there") == 5
        assert zx.process_read_memory(process, address, 5) == b"there"
        zx.vmar_protect(root, 0, address, PAGE)
        assert agreed(machine, pid, address, 2) == ["", "rw"]
        with refused(zx.ERR_ACCESS_DENIED, "vmar:1.3/8b"):
            zx.vmar_protect(root, R | zx.VM_PERM_EXECUTE, address, PAGE)
        assert agreed(machine, pid, address, 2) == ["", "rw"]
        process.close()
        with refused(zx.ERR_BAD_STATE, "vmar:1.3/6"):
            zx.vmar_protect(root, R, address, PAGE)
        with refused(zx.ERR_BAD_STATE, "vmar:1.7/3"):
            zx.object_get_info(root, zx.INFO_VMAR_MAPS)
        wait_for_end(pid)
        with pytest.raises(ValueError, match="at most 31 characters"):
            zx.process_create("x" * 32)
        with pytest.raises(TypeError, match="a str, not bytes"):
            zx.process_create(b"loader")  # type: ignore[arg-type]


@pytest.mark.slow
@isolated()
def test_a_target_that_creates_processes() -> None:
    """It waits for the new one to attach, which takes longer than callers do, and does what they want meanwhile."""

    def create() -> None:
        while True:
            zx.process_create("one more")[0].close()

    with Machine(stop_timeout=0.1) as machine, Guest(create) as guest:
        for _ in range(100):
            guest.protect(RW)
            guest.protect(R)
        assert agreed(machine, guest.pid, guest.place.address) == ["r"] * PAGES


@pytest.mark.slow
@isolated()
def test_a_report_of_no_error_that_linux_has() -> None:
    """It is no report: the caller is told that there is none, and its target goes on."""

    def lie() -> None:
        link = client.current()._connection
        assert link is not None
        assert link._socket is not None
        orders = b""
        while len(orders) <= ffi.offsetof("struct remote_orders", "orders"):  # the call may not have come yet
            link._socket.send(b'{"do":"remote_next","n":0}')
            orders = link._socket.recv(1 << 16)
        number = int.from_bytes(orders[8:16], sys.byteorder)
        link._socket.send(b'{"do":"remote_done","n":0,"number":%d,"done":0,"errno":4294967295}' % number)
        wait_for_ever()

    def body() -> None:
        is_called.wait()
        lie()

    is_called = Event()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGURG])  # in the child as well, which asks by itself
    with Machine(stop_timeout=2.0), Guest(body) as guest:
        is_called.set()
        with refused(zx.ERR_UNAVAILABLE, "vmar:REMOTE/1", "vmar:REMOTE/2"):
            guest.protect(R)


@pytest.mark.slow
@isolated()
def test_created_processes_of_a_program_that_ignores_its_children() -> None:
    """The broker waits for them all the same: nothing is written, and the next one is made."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with Machine() as machine:
        status = Path(f"/proc/{machine.broker_pid}/status").read_text()
        [ignored] = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigIgn")]
        assert not ignored >> (signal.SIGCHLD - 1) & 1
        for _ in range(2):
            process, _ = zx.process_create("loader")
            process.close()
            wait_for_end(process.pid)


@pytest.mark.slow
@isolated()
def test_a_handler_of_the_programs_own() -> None:
    """One that was there before the machine is still called, for calls of others as well."""
    calls: list[int] = []
    signal.signal(signal.SIGURG, lambda number, frame: calls.append(number))
    with Machine(stop_timeout=PATIENT) as machine:
        os.kill(os.getpid(), signal.SIGURG)
        assert calls == [signal.SIGURG]
        root, address = striped()
        with Child(lambda: zx.vmar_protect(root, R, address, PAGES * PAGE)) as child:
            assert child.wait() == 0
        assert agreed(machine, os.getpid(), address) == ["r"] * PAGES


@pytest.mark.slow
@isolated()
def test_a_handler_from_between_two_machines() -> None:
    """A program leaves a machine, handles SIGURG by itself, and enters another: its own is called, and calls arrive."""
    with Machine():
        pass
    calls: list[int] = []
    signal.signal(signal.SIGURG, lambda number, frame: calls.append(number))
    with Machine(stop_timeout=2.0) as machine, Guest(compute) as guest:
        guest.protect(R)
        assert agreed(machine, guest.pid, guest.place.address) == ["r"] * PAGES
        os.kill(os.getpid(), signal.SIGURG)
        assert calls == [signal.SIGURG]


@pytest.mark.slow
@isolated()
def test_what_linux_refuses_there_and_nobody_can_write() -> None:
    """The audit is full: the caller is told one thing or the other, and tree and Linux are as before."""
    limited = Event()

    def life() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        limited.set()
        wait_for_ever()

    with (
        TemporaryDirectory() as folder,
        Machine(stop_timeout=PATIENT, audit=Path(folder, "audit")) as machine,
        Guest(life) as guest,
    ):
        limited.wait()
        vmar, _ = guest.place
        vmo = zx.vmo_create(PAGE)
        before = machine.mappings(guest.pid)
        for room in range(0, 1200, 40):  # for the call's record, for the failure's, for the refusal's
            limit = Path(folder, "audit").stat().st_size + room, resource.RLIM_INFINITY
            resource.prlimit(machine.broker_pid, resource.RLIMIT_FSIZE, limit)
            with pytest.raises((zx.ZxError, CapshmError)):
                zx.vmar_map(vmar, R, 0, vmo, 0, PAGE)
            assert machine.mappings(guest.pid) == before
        resource.prlimit(machine.broker_pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.mark.slow
@isolated()
def test_what_linux_refuses_there() -> None:
    """A target without room for the VMO's descriptor: the caller is told, and tree and Linux are as before."""
    limited = Event()

    def life() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        limited.set()
        wait_for_ever()

    with Machine(stop_timeout=PATIENT) as machine, Guest(life) as guest:
        limited.wait()
        vmar, address = guest.place
        before = machine.mappings(guest.pid)
        with refused(zx.ERR_NO_MEMORY, "vmar:host"):
            zx.vmar_map(vmar, RW | zx.VM_SPECIFIC_OVERWRITE, address - ARENA_START, zx.vmo_create(PAGE), 0, PAGE)
        assert machine.mappings(guest.pid) == before
        assert agreed(machine, guest.pid, address) == ["rw", "r"] * (PAGES // 2)
        guest.protect(R)
        assert agreed(machine, guest.pid, address) == ["r"] * PAGES
