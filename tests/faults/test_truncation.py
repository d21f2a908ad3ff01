"""Memory that goes away under an operation: `PageViolation`, nothing stays locked, and later all is well again."""

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from capshm import Capability, CapabilityArray, PageViolation
from capshm.testing import Segment, closed_gate
from capshm.testing.stepping import Stepper
from tests.faults.isolation import isolated
from tests.faults.processes import Child, ask_child, stop_here
from tests.faults.scene import GRANULE, assert_unlocked, chosen

PAGE = 4096
EDGE = PAGE - 2 * GRANULE  # here begins what crosses into the page that goes away
COUNT = 5  # granules; two of them stay
FAULTED = 3  # exit status of a child that met a PageViolation

_CLONE_NEWUSER, _CLONE_NEWNS = 0x1000_0000, 0x0002_0000
_MS_REC, _MS_PRIVATE = 1 << 14, 1 << 18
_PROT_NONE, _PROT_READ, _PROT_WRITE = 0, 1, 2
_MAP_SHARED, _MAP_FIXED = 0x01, 0x10
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.argtypes = [ctypes.c_size_t, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_size_t]
_libc.mmap.restype = ctypes.c_size_t
_libc.munmap.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
_libc.mprotect.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]


@dataclass(frozen=True)
class Access:
    """A way into memory, through a function of the core: COUNT granules from EDGE on, or the one at PAGE."""

    function: str
    run: Callable[[Capability], object]
    is_write: bool = False


ACCESSES = {
    "load": Access("capshm_load", lambda root: root.load_capability(PAGE)),
    "store": Access("capshm_store", lambda root: root.store_capability(PAGE, root), True),
    "store untagged": Access("capshm_store", lambda root: root.store_capability(PAGE, root.without_tag()), True),
    "load many": Access("capshm_load_many", lambda root: root.load_capabilities(EDGE, COUNT)),
    "store many": Access(
        "capshm_store_many", lambda root: root.store_capabilities(EDGE, CapabilityArray.of([root] * COUNT)), True
    ),
    "fill": Access("capshm_fill", lambda root: root.fill_capabilities(EDGE, COUNT, root), True),
    "read": Access("capshm_read", lambda root: root.read(EDGE + 3, COUNT * GRANULE)),
    "write": Access("capshm_write", lambda root: root.write(EDGE + 3, bytes(COUNT * GRANULE)), True),
    "copy from": Access("capshm_copy", lambda root: (root + EDGE).copy_to(root, COUNT * GRANULE)),
    "copy to": Access("capshm_copy", lambda root: root.copy_to(root + EDGE, COUNT * GRANULE), True),
    "copy bytes from": Access("capshm_copy", lambda root: (root + EDGE).copy_to(root + 1, COUNT * GRANULE)),
    "copy bytes to": Access("capshm_copy", lambda root: (root + 1).copy_to(root + EDGE, COUNT * GRANULE), True),
}

MODES = ("alone", "locked")


class Victim:
    """A segment of two pages over `fd`, all of it tagged. In mode "alone" no other process has seen its tags."""

    def __init__(self, fd: int, mode: str) -> None:
        self.segment = Segment(2 * PAGE, fd=fd)
        self.root = self.segment.root
        if mode == "locked":
            ask_child(lambda: None)
        self.fill()

    def fill(self) -> None:
        """Make all of it tagged."""
        self.root.fill_capabilities(0, 2 * PAGE // GRANULE, self.root)
        assert all(self.root.load_capabilities(0, 2 * PAGE // GRANULE).tags)

    def meet_loss(self, access: Access, *, signal_name: str = "SIGBUS", code: str = "BUS_ADRERR") -> bool:
        """Run the access and stop, for others to look around. True: it raised the PageViolation of such a loss."""
        loss: PageViolation | None = None
        try:
            access.run(self.root)
        except PageViolation as error:
            loss = error
        assert_unlocked(self.segment)
        stop_here()
        if loss is not None:
            assert (loss.signal, loss.code) == (signal_name, code)
            assert PAGE <= loss.address - self.root.address < EDGE + COUNT * GRANULE
        return loss is not None

    def assert_usable(self, access: Access, *, is_emptied: bool = True) -> None:
        """The page is there again, after a loss. is_emptied: its old bytes are not, and so no tag may be."""
        tags = self.root.load_capabilities(PAGE, PAGE // GRANULE).tags
        if is_emptied:
            assert not any(tags)
        else:
            assert tags[0] == (not access.is_write)
            assert all(tags[COUNT:])
        self.fill()
        access.run(self.root)
        assert_unlocked(self.segment)
        self.segment.close()


def _memory_file() -> int:
    fd = os.memfd_create("data")
    os.ftruncate(fd, 2 * PAGE)
    return fd


def _assert_survives(
    access: Access, mode: str, fd: int, take: Callable[[], object], give_back: Callable[[], object]
) -> None:
    """A child accesses memory that this process takes away before, and gives back after."""
    Segment(PAGE).close()  # the child is to be of the same gate

    def body() -> None:
        victim = Victim(fd, mode)
        stop_here()
        assert victim.meet_loss(access)
        victim.assert_usable(access)

    with Child(body) as child:
        assert child.wait_stopped()
        take()
        child.resume()
        assert child.wait_stopped()
        with closed_gate(timeout=0):
            pass
        give_back()
        child.resume()
        assert child.wait() == 0


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@isolated()
def test_truncated_before_access(mode: str) -> None:
    """An access past the end that another process has set is a PageViolation with SIGBUS, and leaves nothing locked."""
    for name, access in ACCESSES.items():
        print(name)
        fd = _memory_file()
        _assert_survives(access, mode, fd, partial(os.ftruncate, fd, PAGE), partial(os.ftruncate, fd, 2 * PAGE))
        os.close(fd)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ACCESSES)
@isolated()
def test_truncated_at_some_instructions(name: str, mode: str) -> None:
    """A truncation in the middle of an access: it has done its work by then, or it is a PageViolation."""
    _truncate_within(ACCESSES[name], mode, sample=10)


@pytest.mark.soak
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ACCESSES)
@isolated(bound=3600)
def test_truncated_at_every_instruction(name: str, mode: str) -> None:
    """The same between any two instructions."""
    _truncate_within(ACCESSES[name], mode, sample=None)


def _truncate_within(access: Access, mode: str, *, sample: int | None) -> None:
    fd = _memory_file()
    Segment(PAGE).close()
    victim: Victim  # only in the child

    def prepare() -> None:
        nonlocal victim
        victim = Victim(fd, mode)

    def body() -> int:
        is_lost = victim.meet_loss(access)
        victim.assert_usable(access)
        return FAULTED if is_lost else 0

    def is_lost_after(instructions: int) -> bool:
        with Stepper(body, at=access.function, prepare=prepare) as child:
            child.advance(path, instructions)
            os.ftruncate(fd, PAGE)
            child.resume()
            assert child.wait_stopped()
            with closed_gate(timeout=0):
                pass
            os.ftruncate(fd, 2 * PAGE)
            child.resume()
            status = child.wait()
            assert status in (0, FAULTED), f"after {instructions} instructions"
            return status == FAULTED

    with Stepper(body, at=access.function, prepare=prepare) as child:
        path = child.trace()
    assert is_lost_after(0)
    assert not is_lost_after(len(path) - 1)
    for instructions in chosen(len(path), sample):
        is_lost_after(instructions)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@isolated()
def test_full_file_system(mode: str) -> None:
    """A page that the file system has no room for is a PageViolation with SIGBUS; with room again, all is well."""
    place = Path("/mnt")
    _mount_tiny_file_system(place)
    rest = place / "rest"
    for name, access in ACCESSES.items():
        print(name)
        fd = os.open(place / "data", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.ftruncate(fd, 2 * PAGE)

        def use_up(fd: int = fd) -> None:
            os.ftruncate(fd, PAGE)
            os.ftruncate(fd, 2 * PAGE)  # the second page is a hole now
            with pytest.raises(OSError, match="No space"):
                rest.write_bytes(bytes(1 << 20))

        _assert_survives(access, mode, fd, use_up, rest.unlink)
        os.close(fd)


def _mount_tiny_file_system(place: Path) -> None:
    """A file system of four pages that only this process and its children see."""
    if _libc.unshare(_CLONE_NEWNS) and _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS):
        pytest.skip("this machine does not let a process have mounts of its own (unshare)")
    if _libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None) or _libc.mount(
        b"none", bytes(place), b"tmpfs", 0, b"size=16k"
    ):
        pytest.skip(f"this machine does not let a process mount a tmpfs: {os.strerror(ctypes.get_errno())}")


def _unmap(victim: Victim) -> None:
    _libc.munmap(victim.root.address + PAGE, PAGE)


def _forbid(victim: Victim) -> None:
    _libc.mprotect(victim.root.address + PAGE, PAGE, _PROT_NONE)


def _map_again(victim: Victim) -> None:
    address = victim.root.address + PAGE
    protection, flags = _PROT_READ | _PROT_WRITE, _MAP_SHARED | _MAP_FIXED
    assert _libc.mmap(address, PAGE, protection, flags, victim.segment.fd, PAGE) == address


LOSSES: dict[str, tuple[Callable[[Victim], None], str]] = {
    "munmap": (_unmap, "SEGV_MAPERR"),
    "mprotect": (_forbid, "SEGV_ACCERR"),
}


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("mode", MODES)
@isolated()
def test_unmapped_behind_the_library(mode: str, loss: str) -> None:
    """Memory that the program itself has unmapped or protected, past the library, is a PageViolation with SIGSEGV."""
    take, code = LOSSES[loss]
    Segment(PAGE).close()
    for name, access in ACCESSES.items():
        print(name)
        fd = _memory_file()

        def body(access: Access = access, fd: int = fd) -> None:
            victim = Victim(fd, mode)
            take(victim)
            assert victim.meet_loss(access, signal_name="SIGSEGV", code=code)
            _map_again(victim)
            victim.assert_usable(access, is_emptied=False)

        with Child(body) as child:
            assert child.wait_stopped()
            with closed_gate(timeout=0):
                pass
            child.resume()
            assert child.wait() == 0
        os.close(fd)
