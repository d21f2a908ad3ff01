"""What a request to the broker asks the kernel beforehand."""

import os
import signal
import threading

import pytest

from capshm._native import lib
from tests.faults.isolation import isolated

_UNBLOCKED = {
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGTRAP,
    signal.SIGKILL,
    signal.SIGSTOP,
}


@pytest.mark.slow
@isolated()
def test_threads_are_seen_while_they_live() -> None:
    """A process has no other threads before its first, has some while one lives, and none again after the last."""
    assert not lib.capshm_has_other_threads()
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    assert lib.capshm_has_other_threads()
    end.set()
    thread.join()
    while len(os.listdir("/proc/self/task")) > 1:  # noqa: PTH208  # joined, it may still be on its way out
        pass
    assert not lib.capshm_has_other_threads()


def test_all_signals_but_those_of_faults_are_blocked_and_restored() -> None:
    """What Python sees blocked is every signal that can wait, and afterwards what was blocked before."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        held = lib.capshm_blocked_signals()
        lib.capshm_block_signals()
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == signal.valid_signals() - _UNBLOCKED
        lib.capshm_restore_signals(held)
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before | {signal.SIGUSR2}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_a_number_that_stands_for_another_file_is_told() -> None:
    """A descriptor is the file's until it is closed, and not again when its number is another's."""
    one, other = os.pipe()
    inode = os.fstat(one).st_ino
    assert lib.capshm_is_descriptor_of(one, inode)
    os.close(one)
    assert not lib.capshm_is_descriptor_of(one, inode)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, one)
    assert not lib.capshm_is_descriptor_of(one, inode)
    for fd in {one, other, null}:
        os.close(fd)
