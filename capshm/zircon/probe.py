"""Touching memory, to see what happens.

The touch is real, by a system call that reports a fault instead of raising it, and heeds what the pages permit now.
Why it failed the model says, since a gap and a mapping that permits nothing look alike to the hardware.
"""

from __future__ import annotations

import os

from capshm import client
from capshm.cheribsd._arguments import word
from capshm.model.zircon_constants import ERR_INTERNAL, OK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import SupportsIndex


def probe_read(address: SupportsIndex) -> int:
    """Read a byte of this process: OK, NOT_FOUND, ACCESS_DENIED or OUT_OF_RANGE."""
    return _status(word("address", address), _touch(word("address", address), is_write=False), is_write=False)


def probe_write(address: SupportsIndex) -> int:
    """Write a byte of this process, the one that is there if it can be read: as `probe_read`."""
    return _status(word("address", address), _touch(word("address", address), is_write=True), is_write=True)


def _status(address: int, is_touched: bool, *, is_write: bool) -> int:
    if is_touched:
        return OK
    status = client.current().ask("touch", address=address, is_write=is_write).number("status")
    return status if status != OK else ERR_INTERNAL  # model and kernel differ, which tests look for


def _touch(address: int, *, is_write: bool) -> bool:
    """Whether it can be."""
    import ctypes  # only here: attaching must stay cheap

    class Vector(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))

    libc = ctypes.CDLL(None, use_errno=True)
    byte = ctypes.create_string_buffer(1)
    here, there = Vector(ctypes.addressof(byte), 1), Vector(address, 1)
    arguments = (os.getpid(), ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
    can_read: bool = libc.process_vm_readv(*arguments) == 1
    return can_read if not is_write else bool(libc.process_vm_writev(*arguments) == 1)
