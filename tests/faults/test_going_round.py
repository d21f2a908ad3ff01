"""Going round capshm with what every process has: raw system calls, ctypes, its own /proc. The table of design.md 1.1.

The kernel holds the broker's decisions: so a process gets no tag, and no write, that it has no right to. Bodies run as
a plain user where root could do more than the table promises.
"""

import ctypes
import errno
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from capshm import Capability, CapshmError, Machine, Refused
from capshm import cheribsd as bsd
from tests.faults.forks import FORKS
from tests.faults.isolation import isolated
from tests.faults.machines import ALL, PAGE, READ_WRITE, SIZE, new_machine, new_object, share
from tests.faults.plain_user import become_plain
from tests.faults.processes import Child, Event, ask_child
from tests.faults.residue import Residue, descriptors, maps, names_in

_READ, _WRITE = 1, 2
_SYS_PIDFD_GETFD = 438
_PTRACE_SEIZE = 0x4206

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p


def _tagged_object(*, is_share_cap: bool = False) -> tuple[int, Capability]:
    """A descriptor of a new object, and a mapping of it that holds a capability."""
    fd = new_object(is_share_cap=is_share_cap)
    area = bsd.mmap(None, SIZE, ALL, bsd.MAP_SHARED, fd)
    area.store_capability(0, area)
    return fd, area


def _areas(name: str) -> list[tuple[int, int, str]]:
    """Start, end and permissions of what this process has mapped of a sideband."""
    found = []
    for line in maps(os.getpid()):
        if name in line:
            start, end, permissions = re.match(r"(\w+)-(\w+) (\S+)", line).groups()  # type: ignore[union-attr]
            found.append((int(start, 16), int(end, 16), permissions))
    return found


def _raw_protect(address: int, protection: int) -> int:
    """The errno of mprotect(2) on a page."""
    ctypes.set_errno(0)
    answer = _libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(PAGE), protection)
    return ctypes.get_errno() if answer else 0


def _write_through_proc(address: int) -> int:
    """The errno of writing a byte to /proc/self/mem."""
    memory = os.open("/proc/self/mem", os.O_RDWR)
    try:
        os.pwrite(memory, b"!", address)
    except OSError as error:
        return error.errno or 0
    finally:
        os.close(memory)
    return 0


def _check_read_only(address: int) -> None:
    """Nothing that a process can do makes this page of it writable."""
    assert _raw_protect(address, _READ | _WRITE) == errno.EACCES
    assert _write_through_proc(address) in (errno.EIO, errno.EFAULT)
    file = f"/proc/self/map_files/{address:x}-"
    for entry in names_in("/proc/self/map_files") if os.getuid() else []:
        if entry.startswith(file.rpartition("/")[2]):
            with pytest.raises(PermissionError):
                os.open(f"/proc/self/map_files/{entry}", os.O_RDWR)


def _has_tags() -> bool:
    """Whether anything of any tags is open or mapped here."""
    return any("capshm-tags" in line for line in maps(os.getpid()) + descriptors(os.getpid()))


@pytest.mark.slow
@isolated()
def test_the_mode_binds_until_its_owner_changes_it() -> None:
    """The limit of one user for all: a read-only descriptor opens nothing for writing, before its holder's fchmod."""
    become_plain()
    with new_machine():
        os.close(bsd.shm_open("/limit", os.O_RDWR | os.O_CREAT))
        fd = bsd.shm_open("/limit", os.O_RDONLY)
        with pytest.raises(PermissionError):
            os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        os.fchmod(fd, 0o600)
        os.close(os.open(f"/proc/self/fd/{fd}", os.O_RDWR))
        os.close(fd)
        bsd.shm_unlink("/limit")


@pytest.mark.slow
@isolated()
def test_without_capability_permission_there_are_no_tags() -> None:
    """A process without capability permission has neither a descriptor nor a mapping of tags, and raw stores untag."""
    become_plain()
    with new_machine():
        fd, area = _tagged_object()
        area.store_capability(16, area)

        def body() -> None:
            with pytest.raises(Refused):
                bsd.mmap(None, SIZE, ALL, bsd.MAP_SHARED, fd)
            data = bsd.mmap(None, SIZE, READ_WRITE | bsd.PROT_NO_CAP, bsd.MAP_SHARED, fd)
            assert not _has_tags()
            raw = _libc.mmap(None, ctypes.c_size_t(SIZE), _READ | _WRITE, 1, fd, ctypes.c_long(0))
            ctypes.memmove(raw, b"other bytes than before", 16)
            assert not data.load_capability(16).tag

        ask_child(body)
        assert not area.load_capability(0).tag
        assert area.load_capability(16).tag
        os.close(fd)


@pytest.mark.slow
@pytest.mark.parametrize("fork", ["hooks", *FORKS])
@isolated()
def test_fork_takes_owner_bound_tags_from_the_kernel_on(fork: str) -> None:
    """After a fork, by the hooks or by raw ones, the tags of the parent's objects are not in the child's memory."""
    become_plain()
    with new_machine():
        fd, area = _tagged_object()
        assert len(_areas("capshm-tags")) == 3  # tag lines, twins, origins

        def body() -> None:
            assert not _has_tags()

        with Child(body, fork=FORKS.get(fork, os.fork)) as child:
            assert child.wait() == 0
        assert area.load_capability(0).tag
        os.close(fd)


@pytest.mark.slow
@isolated()
def test_knob_takes_shared_tags_from_children() -> None:
    """A child of a process that may not share capabilities has no tags of shared objects in its memory either."""
    become_plain()
    with new_machine():
        area = share()
        area.store_capability(0, area)
        bsd.procctl(bsd.PROC_SHARECAP_CTL, bsd.PROC_SHARECAP_DISABLE)

        def body() -> None:
            assert not area.load_capability(0).tag
            assert not _has_tags()

        ask_child(body)
        assert area.load_capability(0).tag
        bsd.procctl(bsd.PROC_SHARECAP_CTL, bsd.PROC_SHARECAP_ENABLE)
        assert ask_child(lambda: area.load_capability(0).tag)


@pytest.mark.slow
@isolated()
def test_load_only_tags_stay_read_only() -> None:
    """Where capabilities may only be loaded, tags are mapped read-only and Linux refuses more, by every way."""
    become_plain()
    with new_machine():
        fd, area = _tagged_object(is_share_cap=True)

        def body() -> None:
            bsd.munmap(area, SIZE)
            reading = bsd.PROT_READ | bsd.PROT_CAP
            mine = bsd.mmap(None, SIZE, reading | bsd.PROT_MAX(reading), bsd.MAP_SHARED, fd)
            assert mine.load_capability(0).tag
            areas = _areas("capshm-tags")
            assert areas
            for start, end, permissions in [*areas, *_areas("capshm-clear")]:
                assert permissions == "r--s"
                for page in range(start, end, PAGE):
                    _check_read_only(page)
            with pytest.raises(CapshmError):
                mine.store_capability(0, mine)

        ask_child(body)
        assert area.load_capability(0).tag
        os.close(fd)


@pytest.mark.slow
@pytest.mark.parametrize("sharing", ["MAP_SHARED", "MAP_PRIVATE"])
@isolated()
def test_tags_of_a_private_mapping_stay_read_only(sharing: str) -> None:
    """MAP_PRIVATE, and a maximum without WRITE, give no way to change an object's tags, nor to clear any."""
    become_plain()
    with new_machine():
        fd, area = _tagged_object(is_share_cap=True)

        def body() -> None:
            bsd.munmap(area, SIZE)
            if sharing == "MAP_PRIVATE":
                mine = bsd.mmap(None, SIZE, ALL, bsd.MAP_PRIVATE, fd)
                mine.store_capability(16, mine)
            else:
                bsd.mmap(None, SIZE, bsd.PROT_READ | bsd.PROT_MAX(bsd.PROT_READ), bsd.MAP_SHARED, fd)
            assert _areas("capshm-clear")
            for start, _, _ in _areas("capshm-tags") + _areas("capshm-clear"):
                _check_read_only(start)

        ask_child(body)
        assert area.load_capability(0).tag
        os.close(fd)


@pytest.mark.slow
@isolated()
def test_maximum_without_write_holds() -> None:
    """Data whose maximum has no WRITE cannot be made writable, though the descriptor could write."""
    become_plain()
    with new_machine():
        fd = new_object()
        area = bsd.mmap(None, SIZE, bsd.PROT_READ | bsd.PROT_MAX(bsd.PROT_READ), bsd.MAP_SHARED, fd)
        with pytest.raises(Refused):
            bsd.mprotect(area, SIZE, READ_WRITE)
        _check_read_only(area.address)
        os.close(fd)


@pytest.mark.slow
@isolated()
def test_read_only_descriptor_is_not_reopened_for_writing() -> None:
    """A plain user cannot get a writable descriptor of an object from one that only reads, however it came by it."""
    become_plain()
    with new_machine():
        writing = bsd.shm_open("/round", os.O_RDWR | os.O_CREAT)
        os.ftruncate(writing, SIZE)
        reading = bsd.shm_open("/round", os.O_RDONLY)
        with pytest.raises(PermissionError):
            os.open(f"/proc/self/fd/{reading}", os.O_RDWR)
        with pytest.raises(PermissionError):
            os.truncate(f"/proc/self/fd/{reading}", 0)
        with pytest.raises(Refused):
            bsd.mmap(None, SIZE, READ_WRITE, bsd.MAP_SHARED, reading)
        bsd.shm_unlink("/round")
        os.close(writing)
        os.close(reading)


@pytest.mark.slow
@isolated()
def test_page_table_in_the_hands_of_its_owner() -> None:
    """A process that gives itself every permission in its own core has still no tag: there is no sideband to read."""
    with new_machine():
        fd, area = _tagged_object()

        def body() -> None:
            from capshm._native import lib

            everything = lib.PAGE_READ | lib.PAGE_WRITE | lib.PAGE_LOAD_CAP | lib.PAGE_STORE_CAP
            lib.capshm_protect(area.address, SIZE, everything)
            assert not area.load_capability(0).tag
            with pytest.raises(CapshmError):
                area.store_capability(32, area)

        ask_child(body)
        assert area.load_capability(0).tag
        os.close(fd)


# Hardened: other processes of the same user


def _looks(pid: int) -> dict[str, Callable[[], object]]:
    """Ways to look into another process of the same user."""

    def trace() -> None:
        if _libc.ptrace(_PTRACE_SEIZE, pid, None, None):
            raise OSError(ctypes.get_errno(), "ptrace")

    def get_descriptor() -> None:
        pidfd = os.pidfd_open(pid)
        fd = _libc.syscall(_SYS_PIDFD_GETFD, pidfd, 0, 0)
        reason = ctypes.get_errno()
        os.close(pidfd)
        if fd < 0:
            raise OSError(reason, "pidfd_getfd")

    def read_memory() -> None:
        byte = ctypes.create_string_buffer(1)
        here = struct.pack("@PN", ctypes.addressof(byte), 1)
        there = struct.pack("@PN", 0x5500_0000_0000, 1)
        if _libc.process_vm_readv(pid, here, 1, there, 1, 0) < 0 and ctypes.get_errno() != errno.EFAULT:
            raise OSError(ctypes.get_errno(), "process_vm_readv")

    return {
        "mem": lambda: os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR)),
        "read mem": lambda: os.close(os.open(f"/proc/{pid}/mem", os.O_RDONLY)),
        "maps": lambda: os.close(os.open(f"/proc/{pid}/maps", os.O_RDONLY)),
        "fd": lambda: Path(f"/proc/{pid}/fd/0").readlink(),
        "pidfd_getfd": get_descriptor,
        "process_vm_readv": read_memory,
        "ptrace": trace,
    }


@pytest.mark.slow
@pytest.mark.parametrize("is_hardened", [False, True])
@isolated()
def test_hardened_machine_cannot_be_looked_into(is_hardened: bool) -> None:
    """Hardened, nobody of the same user opens memory or descriptors of broker and clients; else, the same user may."""
    become_plain()
    stranger_may_begin, stranger_ends = Event(), Event()
    pids, tell = os.pipe()

    def look() -> None:
        stranger_may_begin.wait()
        for pid in (int(each) for each in os.read(pids, 100).split()):
            for name, way in _looks(pid).items():
                try:
                    way()
                    is_open = True
                except PermissionError:
                    is_open = False
                assert is_open is not is_hardened, f"{name} of {pid}"

    stranger = Child(look)
    with Machine(hardened=is_hardened) as machine:
        area = share()
        area.store_capability(0, area)
        own = new_object()

        def wait() -> None:
            assert area.load_capability(0).tag
            stranger_ends.wait()

        with Child(wait) as child:
            os.write(tell, f"{machine.broker_pid} {child.pid} {os.getpid()}".encode())
            stranger_may_begin.set()
            assert stranger.wait() == 0
            stranger_ends.set()
            assert child.wait() == 0
        os.close(own)
    os.close(os.open("/proc/self/mem", os.O_RDWR))  # what was taken away is given back


@pytest.mark.slow
@isolated()
def test_hardened_machine_without_broker_ends_its_processes() -> None:
    """When the broker of a hardened machine was killed, leaving the machine still finds and ends all processes."""
    become_plain()
    with Residue("") as residue:
        machine = Machine(hardened=True)
        residue.name = machine.name
        with machine:
            area = share()
            waiting = Event()
            children = [Child(lambda: waiting.wait() if area.tag else None) for _ in range(3)]
            while len(machine.processes()) < 4:
                os.sched_yield()
            os.kill(machine.broker_pid, 9)
        assert [child.wait() for child in children] == [-9] * 3
        waiting.close()
