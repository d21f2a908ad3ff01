"""What the tests of rows share: a machine around a test, a witness that looks after each call, and short forms."""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from capshm import Machine
from capshm import zircon as zx
from tests.conformance.cheribsd.support import emulated as emulated
from tests.conformance.zircon.witness import check, check_maps

PAGE = 4096
TOP = 1 << 64
R = zx.VM_PERM_READ
RW = R | zx.VM_PERM_WRITE
RX = R | zx.VM_PERM_EXECUTE
RWX = RW | zx.VM_PERM_EXECUTE
SPECIFIC = zx.VM_SPECIFIC
CAN_MAP = zx.VM_CAN_MAP_READ | zx.VM_CAN_MAP_WRITE | zx.VM_CAN_MAP_EXECUTE
CAN_ALL = CAN_MAP | zx.VM_CAN_MAP_SPECIFIC
CAN_CAP = CAN_ALL | zx.VM_CAN_MAP_CAP
RC = R | zx.VM_PERM_CAP
RWC = RW | zx.VM_PERM_CAP
STREAM = zx.VM_FAULT_BEYOND_STREAM_SIZE | zx.VM_ALLOW_FAULTS
PERMS = {zx.VM_PERM_READ: zx.RIGHT_READ, zx.VM_PERM_WRITE: zx.RIGHT_WRITE, zx.VM_PERM_EXECUTE: zx.RIGHT_EXECUTE}


@contextmanager
def refused(rule: str, status: int) -> Iterator[None]:
    """The body is refused, by that row and with that status."""
    with pytest.raises(zx.ZxError) as caught:
        yield
    assert (caught.value.rule, caught.value.status) == (f"vmar:{rule}", status), str(caught.value)


class Calls:
    """The calls of `capshm.zircon`, in the calling process; after each, refused or not, the witness looks."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._unseen = zx.vmar_root_self()
        self.root = zx.vmar_root_self()
        self.me = zx.process_self()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(zx, name)

        @functools.wraps(call)
        def checked(*arguments: object) -> object:
            try:
                return call(*arguments)
            finally:
                self.look()

        return checked

    def look(self) -> None:
        """AssertionError where model, maps topic and Linux differ."""
        check_maps(self._unseen, check(self._machine, os.getpid()))

    # Short forms

    def allocate(
        self, parent: zx.Handle | None = None, pages: int = 16, options: int = CAN_ALL, page: int = 0
    ) -> tuple[zx.Handle, int]:
        """vmar_allocate, of the root by default; with SPECIFIC at that page."""
        offset = page * PAGE if options & SPECIFIC else 0
        found: tuple[zx.Handle, int] = self.vmar_allocate(parent or self.root, options, offset, pages * PAGE)
        return found

    def vmo(self, pages: int = 1, options: int = 0) -> zx.Handle:
        """An executable VMO."""
        found: zx.Handle = self.vmo_replace_as_executable(zx.vmo_create(pages * PAGE, options))
        return found

    def map(
        self, vmar: zx.Handle, page: int | None = None, pages: int = 1, options: int = RW, vmo: zx.Handle | None = None
    ) -> int:
        """vmar_map, SPECIFIC if a page is given; of a new VMO by default."""
        where = 0 if page is None else page * PAGE
        how = options if page is None else options | SPECIFIC
        address: int = self.vmar_map(vmar, how, where, vmo or self.vmo(pages), 0, pages * PAGE)
        return address

    def is_mapped(self, address: int) -> bool:
        """By process_read_memory, as upstream's tests see it."""
        try:
            return len(zx.process_read_memory(self.me, address, 1)) == 1
        except zx.ZxError as error:
            if error.status != zx.ERR_NOT_FOUND:
                raise
            return False

    def mapped(self, address: int, pages: int) -> str:
        """x for each page that is mapped, - for others."""
        return "".join("x" if self.is_mapped(address + n * PAGE) else "-" for n in range(pages))

    def current(self, address: int, pages: int = 1) -> list[str]:
        """What each page permits now, by the broker's word, which Linux has confirmed; "-" for a gap."""
        mappings = check(self._machine, os.getpid())
        found = []
        for place in range(address, address + pages * PAGE, PAGE):
            there = [each.current for each in mappings if each.start <= place < each.end]
            found.append(there[0] if there else "-")
        return found

    def without(self, handle: zx.Handle, rights: int) -> zx.Handle:
        """A duplicate that lacks these rights."""
        return zx.handle_duplicate(handle, handle.rights & ~rights)

    def bare(self, vmar: zx.Handle) -> zx.Handle:
        """A duplicate without OP_CHILDREN."""
        return self.without(vmar, zx.RIGHT_OP_CHILDREN)


def streaming(stream_size: int, pages: int) -> zx.Handle:
    """A VMO with another stream size."""
    vmo = zx.vmo_create(pages * PAGE)
    zx.vmo_set_stream_size(vmo, stream_size)
    return vmo


def probes(address: int) -> tuple[int, int]:
    """Status of a read and of a write there, both real."""
    return zx.probe_read(address), zx.probe_write(address)


def rights_of(perms: int) -> int:
    """The rights of a handle that these PERM options need."""
    return sum(right for perm, right in PERMS.items() if perms & perm)


READ_ONLY = (zx.OK, zx.ERR_ACCESS_DENIED)
NOTHING = (zx.ERR_ACCESS_DENIED, zx.ERR_ACCESS_DENIED)
ABSENT = (zx.ERR_NOT_FOUND, zx.ERR_NOT_FOUND)
WRITABLE = (zx.OK, zx.OK)
BEYOND = (zx.ERR_OUT_OF_RANGE, zx.ERR_OUT_OF_RANGE)
