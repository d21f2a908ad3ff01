"""Attaching: by several threads at once, and where there is no room, or no permission."""

import ctypes
import errno
import resource
import struct
import threading

import pytest

from capshm import CapshmError
from capshm.testing import Segment
from tests.faults.isolation import isolated
from tests.faults.processes import join


@pytest.mark.slow
@isolated()
def test_threads_that_attach_at_once() -> None:
    """However many threads come first, the process is attached once, and all of them can work."""
    start = threading.Barrier(4)
    tags: list[bool] = []

    def work() -> None:
        start.wait()
        with Segment(4096) as segment:
            segment.root.store_capability(0, segment.root)
            tags.append(segment.root.load_capability(0).tag)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        join(thread)
    assert tags == [True] * 4


@pytest.mark.skipif(
    hasattr(ctypes.CDLL(None), "__asan_init"), reason="the address sanitizer dies where it has no address space"
)
@pytest.mark.slow
@isolated()
def test_an_address_space_limit_is_named() -> None:
    """Where the arena does not fit, the error says what limits it; without the limit the process can still attach."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, hard))
    with pytest.raises(CapshmError, match="ulimit -v"):
        Segment(4096)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    with Segment(4096) as segment:
        assert segment.root.tag


def _forbid_system_call(number: int) -> None:
    """Make a system call fail with EPERM in this process from now on, as container runtimes do with unknown ones."""
    load, jump_if_equal, answer = 0x20, 0x15, 0x06
    program = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (load, 0, 0, 0),
            (jump_if_equal, 0, 1, number),
            (answer, 0, 0, 0x0005_0000 | errno.EPERM),
            (answer, 0, 0, 0x7FFF_0000),
        )
    )
    instructions = ctypes.create_string_buffer(program, len(program))
    filter_program = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))
    libc = ctypes.CDLL(None, use_errno=True)
    nothing = ctypes.c_ulong(0)
    for option, argument, pointer in ((38, 1, nothing), (22, 2, filter_program)):  # no new privileges; seccomp filter
        if libc.prctl(option, ctypes.c_ulong(argument), pointer, nothing, nothing):
            raise OSError(ctypes.get_errno(), "prctl")


@pytest.mark.slow
@isolated()
def test_a_kernel_without_pidfd_is_named() -> None:
    """Without pidfd_open nobody could tell the dead from the living: attaching is refused, and the error says why."""
    _forbid_system_call(434)
    with pytest.raises(CapshmError, match="pidfd_open: Operation not permitted"):
        Segment(4096)
