"""A process in C beside one in Python: what it may do, what it is told, and what revocation takes from it."""

import os
import re
import resource
import select
import signal
from collections.abc import Iterator

import pytest

from capshm import Capability, Machine, Permissions, Refused
from capshm import cheribsd as bsd
from capshm.capability import untagged
from capshm.model.constants import EPROT
from tests.client.programs import ROOT, Probe, refused

PAGE = 4096
ALL = bsd.PROT_READ | bsd.PROT_WRITE | bsd.PROT_CAP
HEADER = ROOT / "native/client/capshm/client.h"
STATUSES = re.findall(r"^    CAPSHM_(\w+),", HEADER.read_text(encoding="utf-8"), re.MULTILINE)


def status(name: str) -> int:
    """The number of a status in C."""
    return STATUSES.index(name)


@pytest.fixture
def machine() -> Iterator[Machine]:
    """One whose passes reach what belongs to everybody, too."""
    with Machine(policy="cheribsd", scope="machine") as made:
        yield made


def open_box(name: str = "/box", flags: int = bsd.O_SHARECAP) -> Capability:
    """A page that this process and others may map, with its name."""
    fd = bsd.shm_open(name, os.O_RDWR | os.O_CREAT | flags)
    os.ftruncate(fd, PAGE)
    try:
        return bsd.mmap(None, PAGE, ALL, bsd.MAP_SHARED, fd)
    finally:
        os.close(fd)


def map_box(probe: Probe, name: str = "/box", address: int | None = None) -> int:
    """The handle to the same page in C, there if an address is given."""
    place: object = "-" if address is None else probe.number("from_number", address)
    flags = bsd.MAP_SHARED | (0 if address is None else bsd.MAP_FIXED)
    return probe.number("mmap", place, PAGE, ALL, flags, probe.number("shm_open", name, os.O_RDWR))


def test_numbers_in_the_header_are_those_of_python() -> None:
    """Protections, flags and permissions have the same values in C."""
    text = HEADER.read_text(encoding="utf-8")
    found = dict(re.findall(r"CAPSHM_((?:PROT|MAP)_\w+|O_SHARECAP) (?:= )?(0x\w+)", text))
    assert len(found) == 13
    assert {name: int(value, 16) for name, value in found.items()} == {name: getattr(bsd, name) for name in found}
    permissions = re.findall(r"CAPSHM_PERMISSION_(\w+) = 1 << (\d+)", text)
    assert len(permissions) == 8
    assert [(name, 1 << int(bit)) for name, bit in permissions] == [
        (name, Permissions[name].raw) for name, _ in permissions
    ]
    assert int(re.findall(r"CAPSHM_EPROT (\d+)", text)[0]) == EPROT


def test_statuses_are_read_from_the_header() -> None:
    """The tests know the statuses by their order."""
    assert (STATUSES[:2], len(STATUSES)) == (["OK", "REFUSED"], 16)


@pytest.mark.slow
def test_capabilities_travel_both_ways(program: str, machine: Machine) -> None:
    """C loads with its tag what Python stored, writes through it, and narrows it for Python, which loads it tagged."""
    box = open_box()
    box.store_capability(0, (box + 64).with_bounds(64))
    with Probe(program, machine) as probe:
        handle = map_box(probe, address=box.address)
        gift = probe.number("load", handle, 0)
        assert probe.see(gift)[:4] == (True, box.address + 64, box.address + 64, 64)
        probe("write", gift, 8, "hello")
        narrow = probe.number("with_bounds", probe.number("with_address", gift, box.address + 72), 5)
        letters = Permissions.LOAD | Permissions.GLOBAL
        probe("store", handle, 16, probe.number("with_permissions", narrow, letters.raw))
        present = box.load_capability(16)
        assert (present.tag, present.length, present.permissions) == (True, 5, letters)
        assert present.read(0, 5) == b"hello"
        assert probe("read", handle, 72, 5) == "hello"


@pytest.mark.slow
def test_facts_and_the_list_of_processes(program: str) -> None:
    """A process in C is one of the machine, under its program's name; when it leaves it is none any more."""
    with Machine(policy="isolated", isa="rvy", hardened=True) as machine, Probe(program, machine) as probe:
        [found] = [each for each in machine.processes() if each.pid == probe.pid]
        assert probe("facts") == f"{found.vmspace} isolated rvy"
        assert [each.message for each in machine.audit() if (each.event, each.pid) == ("attach", probe.pid)] == [
            program
        ]
        assert probe("attach", machine.name) == ""  # it is in it already
        assert "already" in str(refused(probe, "attach", "another"))
        probe("detach")
        assert probe.pid not in [each.pid for each in machine.processes()]
        assert refused(probe, "facts").status == status("NOT_ATTACHED")
        assert probe("attach", machine.name) == ""
        assert probe("facts") == f"{found.vmspace + 1} isolated rvy"


def in_python(call: str, *arguments: object) -> Refused:
    """What Python's face refuses."""
    with pytest.raises(Refused) as caught:
        getattr(bsd, call)(*arguments)
    return caught.value


@pytest.mark.slow
def test_refusals_are_those_of_python(program: str, machine: Machine) -> None:
    """The same calls are refused by the same rules, with the same error numbers and sentences."""
    anonymous = bsd.MAP_ANON | bsd.MAP_PRIVATE
    fixed = anonymous | bsd.MAP_FIXED
    page = bsd.mmap(None, PAGE, ALL, anonymous)
    with Probe(program, machine) as probe:
        handle = probe.number("mmap", "-", PAGE, ALL, anonymous, -1)
        number = probe.number("from_number", page.address)
        without = probe.number("with_permissions", handle, page.permissions.without(Permissions.SW_VMEM).raw)
        blunt = page.with_permissions(page.permissions.without(Permissions.SW_VMEM))
        open_box("/own", 0)
        own = [bsd.shm_open("/own", os.O_RDWR), probe.number("shm_open", "/own", os.O_RDWR)]
        assert probe.see(handle).base == page.address  # so that the sentences are the same
        for there, here in (
            (("shm_open", "/none", os.O_RDWR),) * 2,
            (("shm_open", "slash", os.O_RDWR | os.O_CREAT),) * 2,
            (("shm_unlink", "/none"),) * 2,
            (("mmap", "-", 0, ALL, anonymous, -1), ("mmap", None, 0, ALL, anonymous)),
            (("mmap", "-", PAGE, 1 << 30, anonymous, -1), ("mmap", None, PAGE, 1 << 30, anonymous)),
            (("mmap", number, PAGE, ALL, fixed, -1), ("mmap", untagged(page.address, 0), PAGE, ALL, fixed)),
            (("mprotect", without, PAGE, 0), ("mprotect", blunt, PAGE, 0)),
            (("mprotect", handle, PAGE, bsd.PROT_EXEC), ("mprotect", page, PAGE, bsd.PROT_EXEC)),
            (("mprotect", "-", PAGE, 0), ("mprotect", None, PAGE, 0)),
            (("munmap", without, PAGE), ("munmap", blunt, PAGE)),
            (("munmap", number, PAGE), ("munmap", untagged(page.address, 0), PAGE)),
        ):
            told = refused(probe, *there)
            expected = in_python(*here)
            assert (told.status, told.rule, told.errno) == (status("REFUSED"), expected.rule, expected.errno), there
            assert str(expected).split(": ", 1)[1].startswith(str(told).split(": ", 1)[1])
        told = refused(probe, "mmap", "-", PAGE, ALL, bsd.MAP_SHARED, own[1])
        assert (told.rule, told.errno) == ("cheribsd:E2", 13)
        assert bsd.mmap(None, PAGE, ALL, bsd.MAP_SHARED, own[0]).tag  # its owner may


@pytest.mark.slow
def test_violations(program: str, machine: Machine) -> None:
    """Each check of an access has its status, its code as in Python, and the address in the message."""
    with Probe(program, machine) as probe:
        private = bsd.MAP_ANON | bsd.MAP_PRIVATE
        handle = probe.number("mmap", "-", 2 * PAGE, ALL, private, -1)
        base = probe.see(handle).base
        plain = probe.number("mmap", "-", PAGE, bsd.PROT_READ | bsd.PROT_WRITE | bsd.PROT_NO_CAP, private, -1)
        reader = probe.number("with_permissions", handle, Permissions.LOAD.raw)
        gone = probe.number("with_bounds", handle, 3 * PAGE)
        probe("store", handle, 0, handle)
        assert probe.see(probe.number("load", handle, 0)).tag
        probe("mprotect", probe.number("with_address", handle, base + PAGE), PAGE, 0)
        for name, code, words in (
            ("TAG", "PROT_CHERI_TAG", ("load", gone, 0)),
            ("PERMISSION", "PROT_CHERI_PERM", ("write", reader, 0, "x")),
            ("BOUNDS", "PROT_CHERI_BOUNDS", ("load", handle, 2 * PAGE)),
            ("ALIGNMENT", "PROT_CHERI_UNALIGNED_BASE", ("load", handle, 8)),
            ("PAGE", "SEGV_ACCERR", ("read", handle, PAGE, 1)),
            ("STORE_TAG", "SEGV_STORETAG", ("store", plain, 0, handle)),
        ):
            told = refused(probe, *words)
            assert (told.status, told.rule) == (status(f"{name}_VIOLATION"), code), words
        assert f"{base + PAGE:#x}" in str(refused(probe, "read", handle, PAGE, 1))
        probe("poke", base)  # one byte of the capability, past the library
        assert not probe.see(probe.number("load", handle, 0)).tag
        probe("munmap", handle, 2 * PAGE)
        assert refused(probe, "load", handle, 0).rule == "SEGV_MAPERR"
        assert machine.mappings(probe.pid)[1:] == []


@pytest.mark.slow
def test_an_object_that_is_cut_short(program: str, machine: Machine) -> None:
    """What another process has truncated faults as an emulated violation, and the process in C goes on."""
    open_box()
    with Probe(program, machine) as probe:
        handle = map_box(probe)
        fd = bsd.shm_open("/box", os.O_RDWR)
        os.ftruncate(fd, 0)
        for words in (
            ("read", handle, 0, 1),
            ("write", handle, 0, "x"),
            ("load", handle, 0),
            ("store", handle, 0, handle),
        ):
            told = refused(probe, *words)
            assert (told.status, told.rule) == (status("PAGE_VIOLATION"), "BUS_ADRERR"), words
        os.ftruncate(fd, PAGE)
        os.close(fd)
        probe("store", handle, 0, handle)
        assert probe.see(probe.number("load", handle, 0)).tag


@pytest.mark.slow
def test_handles_that_name_nothing(program: str, machine: Machine) -> None:
    """One that was never made is an invalid argument; one that was released has no authority; nothing is harmed."""
    with Probe(program, machine) as probe:
        handle = probe.number("mmap", "-", PAGE, ALL, bsd.MAP_ANON | bsd.MAP_PRIVATE, -1)
        for words in (("load", 99, 0), ("store", 99, 0, handle), ("describe", 99), ("munmap", 99, PAGE)):
            assert refused(probe, *words).status == status("INVALID"), words
        assert refused(probe, "load", "-", 0).status == status("INVALID")
        probe("release", "-")
        probe("release", handle)
        assert refused(probe, "load", handle, 0).status == status("TAG_VIOLATION")


@pytest.mark.slow
@pytest.mark.parametrize("stopper", ["gate", "signal", "sigstop"])
def test_revocation_reaches_c(program: str, stopper: str) -> None:
    """Python frees: a pass takes the tag in C's handles and private memory, of one that sleeps and one that is busy."""
    with Machine(scope="machine", stopper=stopper) as machine:
        box = open_box()
        secret = bsd.malloc(64)
        box.store_capability(0, secret)
        box.store_capability(16, box)
        with Probe(program, machine) as probe, Probe(program, machine) as busy:
            handle = map_box(probe)
            stolen = probe.number("load", handle, 0)
            kept = probe.number("load", handle, 16)
            hiding_place = probe.number("mmap", "-", PAGE, ALL, bsd.MAP_ANON | bsd.MAP_PRIVATE, -1)
            probe("store", hiding_place, 32, stolen)
            assert probe.see(stolen).tag
            busy("spin", busy.number("load", map_box(busy), 0))
            bsd.free(secret)
            bsd.malloc_revoke_quarantine_force_flush()
            assert busy.hear() == ""
            assert not probe.see(stolen).tag
            assert probe.see(kept).tag
            for place, offset in ((hiding_place, 32), (handle, 0)):
                assert not probe.see(probe.number("load", place, offset)).tag
            assert refused(probe, "read", stolen, 0, 1).status == status("TAG_VIOLATION")


@pytest.mark.slow
def test_revocation_reaches_one_that_is_stopped(program: str, machine: Machine) -> None:
    """A process in C that SIGSTOP has stopped outside any operation does not keep the pass; it finds no tag later."""
    box = open_box()
    secret = bsd.malloc(64)
    box.store_capability(0, secret)
    with Probe(program, machine) as probe:
        stolen = probe.number("load", map_box(probe), 0)
        os.kill(probe.pid, signal.SIGSTOP)
        bsd.free(secret)
        bsd.malloc_revoke_quarantine_force_flush()
        os.kill(probe.pid, signal.SIGCONT)
        assert not probe.see(stolen).tag


@pytest.mark.slow
def test_the_child_of_a_fork(program: str, machine: Machine) -> None:
    """It is not attached and is told so, without harm to its parent's connection; it may attach as another process."""
    box = open_box()
    box.store_capability(0, box)
    with Probe(program, machine) as probe:
        handle = map_box(probe)
        vmspace = int(probe("facts").split()[0])
        probe("fork")  # the child answers from here on
        for words in (
            ("facts",),
            ("load", handle, 0),
            ("shm_open", "/box", 2),
            ("attach",),
            ("with_bounds", handle, 1),
        ):
            assert refused(probe, *words).status == status("NOT_ATTACHED"), words
        probe("detach")
        assert refused(probe, "load", handle, 0).status == status("NOT_ATTACHED")
        probe("attach")
        assert int(probe("facts").split()[0]) == vmspace + 1
        assert not probe.see(handle).tag
        assert probe.see(probe.number("load", map_box(probe), 0)).tag
        assert len(machine.processes()) == 3
        assert probe.end() == 0


@pytest.mark.slow
def test_a_machine_that_ends(program: str) -> None:
    """After the broker's death every request is told; detaching works, and there is no machine to attach to."""
    with Machine() as machine, Probe(program, machine) as probe:
        handle = probe.number("mmap", "-", PAGE, ALL, bsd.MAP_ANON | bsd.MAP_PRIVATE, -1)
        broker = os.pidfd_open(machine.broker_pid)
        signal.pidfd_send_signal(broker, signal.SIGKILL)
        select.select([broker], [], [])  # until its sockets are closed, too
        os.close(broker)
        assert refused(probe, "shm_unlink", "/x").status == status("BROKER_GONE")
        assert refused(probe, "munmap", handle, PAGE).status == status("BROKER_GONE")
        probe("detach")
        assert refused(probe, "attach", machine.name).status == status("FAILED")


@pytest.mark.slow
def test_names_of_no_machine(program: str) -> None:
    """Without a name, with an unknown one or one that none can have, attaching fails and says why."""
    with Probe(program) as probe:
        assert "CAPSHM_MACHINE" in str(refused(probe, "attach"))
        assert "no machine 'nobody'" in str(refused(probe, "attach", "nobody"))
        assert refused(probe, "attach", "x" * 200).status == status("INVALID")
        assert refused(probe, "mmap", "-", PAGE, ALL, bsd.MAP_ANON, -1).status == status("NOT_ATTACHED")


@pytest.mark.slow
def test_no_descriptor_is_free(program: str, machine: Machine) -> None:
    """Where a process has no room for descriptors, nothing is opened or mapped, and the broker knows it."""
    open_box()
    with Probe(program, machine) as probe:
        fd = probe.number("shm_open", "/box", os.O_RDWR)
        before = machine.mappings(probe.pid)
        _, hard = resource.prlimit(probe.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(probe.pid, resource.RLIMIT_NOFILE, (fd + 1, hard))
        assert refused(probe, "shm_open", "/box", os.O_RDWR).errno == 24
        told = refused(probe, "mmap", "-", PAGE, ALL, bsd.MAP_SHARED, fd)
        assert (told.rule, told.errno) == ("host", 24)
        assert machine.mappings(probe.pid) == before
        resource.prlimit(probe.pid, resource.RLIMIT_NOFILE, (hard, hard))
        probe("mmap", "-", PAGE, ALL, bsd.MAP_SHARED, fd)


@pytest.mark.slow
def test_an_answer_that_is_too_long_for_a_packet(program: str, machine: Machine) -> None:
    """A change of more ranges than a packet holds is carried out on all of them."""
    pages = 3000
    with Probe(program, machine) as probe:
        handle = probe.number("mmap", "-", pages * PAGE, ALL, bsd.MAP_ANON | bsd.MAP_PRIVATE, -1)
        base = probe.see(handle).base
        for page in range(0, pages, 2):
            probe("mprotect", probe.number("with_address", handle, base + page * PAGE), PAGE, bsd.PROT_READ)
        assert refused(probe, "write", handle, (pages - 2) * PAGE, "x").rule == "SEGV_ACCERR"
        probe("mprotect", handle, pages * PAGE, bsd.PROT_READ | bsd.PROT_WRITE)
        probe("write", handle, (pages - 2) * PAGE, "x")
        assert probe("read", handle, (pages - 2) * PAGE, 1) == "x"


@pytest.mark.slow
def test_threads_and_forks_at_once(program: str, machine: Machine) -> None:
    """Threads ask, map and store while another forks: each gets its own, and no child begins with another's turn."""
    with Probe(program, machine) as probe:
        assert probe.number("threads", 40) == 0
        assert len(machine.mappings(probe.pid)) == 0
