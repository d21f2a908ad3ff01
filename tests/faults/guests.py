"""Processes whose root VMARs others have: what tests of calls on another process's VMAR share."""

import os
import signal
from collections.abc import Callable
from contextlib import contextmanager
from typing import NamedTuple, Self

import pytest

from capshm import Machine
from capshm import zircon as zx
from capshm.testing import steps
from tests.conformance.zircon.witness import kernel_areas
from tests.faults.processes import Child, Event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

PAGE = 4096
PAGES = 6
R = zx.VM_PERM_READ
RW = R | zx.VM_PERM_WRITE
_FLAGS = {"r": "rd", "w": "wr", "x": "ex"}


def wait_for_ever() -> None:
    """Asleep in a system call, until somebody ends the process."""
    while True:
        signal.pause()


def striped() -> tuple[zx.Handle, int]:
    """Memory of this process, every other page of which may be written: the root's handle, and the address."""
    root = zx.vmar_root_self()
    address = zx.vmar_map(root, RW, 0, zx.vmo_create(PAGES * PAGE), 0, PAGES * PAGE)
    for page in range(1, PAGES, 2):
        zx.vmar_protect(root, R, address + page * PAGE, PAGE)
    return root, address


class Place(NamedTuple):
    """A VMAR, and memory that is mapped in it."""

    vmar: zx.Handle
    address: int


class Guest:
    """A child that gives its root VMAR away, with memory as of `striped` in it, and then runs `life`.

    action: what it does to itself at that step of the first call on it. A context manager, as Child is.
    """

    def __init__(self, life: Callable[[], object] = wait_for_ever, *, step: str = "", action: str = "") -> None:
        ours, theirs = zx.channel_create()
        is_there = Event()

        def body() -> None:
            root, address = striped()
            zx.channel_write(theirs, address.to_bytes(8, "little"), [root])
            if step:
                steps.arm(step, action=action)  # before anybody can call
            is_there.set()
            life()

        self.child = Child(body)
        self.pid = self.child.pid
        is_there.wait()
        is_there.close()
        data, (vmar,) = zx.channel_read(ours)
        self.place = Place(vmar, int.from_bytes(data, "little"))

    def protect(self, options: int, page: int = 0, pages: int = PAGES) -> None:
        """vmar_protect, there."""
        zx.vmar_protect(self.place.vmar, options, self.place.address + page * PAGE, pages * PAGE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: "TracebackType | None"
    ) -> None:
        self.child.kill()


@contextmanager
def refused(status: int, *rules: str) -> "Iterator[None]":
    """The body is refused with that status, by one of these rules; any, if none is given."""
    with pytest.raises(zx.ZxError) as caught:
        yield
    assert caught.value.status == status, str(caught.value)
    assert not rules or caught.value.rule in rules, str(caught.value)


def agreed(machine: Machine, pid: int, address: int, pages: int = PAGES) -> list[str]:
    """What each of these pages permits now. AssertionError: by the broker's word another thing than by Linux's."""
    mappings = machine.mappings(pid)
    areas = kernel_areas(pid)
    found = []
    for place in range(address, address + pages * PAGE, PAGE):
        # A gap may stand in smaps twice: it is read in parts, and what the process unmaps meanwhile joins a gap.
        [flags] = {area.flags & set(_FLAGS.values()) for area in areas if area.start <= place < area.end}
        letters = [each.current for each in mappings if each.start <= place < each.end]
        assert flags == {_FLAGS[letter] for each in letters for letter in each}, f"process {pid}, {place:#x}: {letters}"
        found.append(letters[0] if letters else "-")
    return found


def check_here(machine: Machine, address: int) -> None:
    """The same in the calling process, which need not be known to anybody yet."""
    agreed(machine, os.getpid(), address)
