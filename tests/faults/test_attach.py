"""Attaching: by several threads at once, and where there is no room."""

import ctypes
import resource
import threading

import pytest

from capshm import CapshmError
from capshm.testing import Segment
from tests.faults.isolation import isolated


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
        thread.join()
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
