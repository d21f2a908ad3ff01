"""What the broker decides about mappings of a machine, the kernel holds: past capshm as well."""

import ctypes
import os

import pytest

from capshm import Machine
from capshm import cheribsd as bsd
from tests.faults.isolation import isolated

READ_WRITE = bsd.PROT_READ | bsd.PROT_WRITE


@pytest.mark.slow
@pytest.mark.parametrize("flags", [bsd.MAP_SHARED | bsd.MAP_ANON, bsd.MAP_SHARED])
@isolated()
def test_no_writing_beyond_the_maximum(flags: int) -> None:
    """Shared memory whose maximum lacks WRITE cannot be made writable past capshm, anonymous or not."""
    with Machine():
        fd = -1 if flags & bsd.MAP_ANON else os.open("/dev/zero", os.O_RDWR)
        for prot in (bsd.PROT_READ | bsd.PROT_CAP, bsd.PROT_READ, bsd.PROT_EXEC):
            memory = bsd.mmap(None, 4096, prot, flags, fd, 0)
            libc = ctypes.CDLL(None, use_errno=True)
            assert libc.mprotect(ctypes.c_void_p(memory.address), ctypes.c_size_t(4096), READ_WRITE) != 0


@pytest.mark.slow
@isolated()
def test_what_becomes_shared_is_held_to_its_maximum() -> None:
    """INHERIT_SHARE of private memory whose maximum lacks WRITE: it stays so for the kernel, with its content."""
    with Machine(policy="open"):
        memory = bsd.mmap(None, 4096, READ_WRITE, bsd.MAP_PRIVATE | bsd.MAP_ANON)
        memory.store_capability(0, memory)
        bsd.mprotect(memory, 4096, bsd.PROT_READ | bsd.PROT_MAX(bsd.PROT_READ))
        bsd.minherit(memory, 4096, bsd.INHERIT_SHARE)
        assert memory.load_capability(0) == memory
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mprotect(ctypes.c_void_p(memory.address), ctypes.c_size_t(4096), READ_WRITE) != 0
