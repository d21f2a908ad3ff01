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
