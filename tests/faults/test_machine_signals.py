"""Signals that come while a process asks its broker: their handlers run before or after a call, never within it."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest

import capshm
from capshm import cheribsd as bsd
from capshm._native import lib
from tests.faults.isolation import isolated
from tests.faults.processes import Child
from tests.faults.test_machine_fork import _fork_among_threads

_PRIVATE = bsd.MAP_ANON | bsd.MAP_PRIVATE
_READ_WRITE = bsd.PROT_READ | bsd.PROT_WRITE
_SIZE = 2 * lib.PAGE_BYTES
_ROUNDS = 300


class _Interrupted(Exception):
    pass


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise _Interrupted


def _map(size: int = _SIZE) -> capshm.Capability:
    return bsd.mmap(None, size, _READ_WRITE, _PRIVATE)


def _in_kernel() -> dict[int, str]:
    """The permissions of every page of the arena that allow something, as the kernel has them."""
    pages: dict[int, str] = {}
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        place, letters = line.split()[:2]
        start, end = (int(part, 16) for part in place.split("-"))
        if 0x5500_0000_0000 <= start < 0x5510_0000_0000 and letters[:2] != "--":
            pages |= dict.fromkeys(range(start, end, lib.PAGE_BYTES), letters[:2])
    return pages


def _check_agreement(machine: capshm.Machine) -> None:
    """The model, the page table and the kernel know the same pages, with the same permissions."""
    modelled = {}
    for mapping in machine.mappings(os.getpid()):
        for page in range(mapping.start, mapping.end, lib.PAGE_BYTES):
            modelled[page] = "".join(letter if letter in mapping.current else "-" for letter in "rw")
            entry = lib.capshm_page_entry(page)
            assert entry & lib.PAGE_MAPPED
            assert bool(entry & lib.PAGE_WRITE) == ("w" in mapping.current)
    assert _in_kernel() == {page: letters for page, letters in modelled.items() if letters != "--"}


def _stop_broker_until(machine: capshm.Machine, number: int) -> threading.Thread:
    """The broker stands still; another thread sends this process a signal when the first one waits, then resumes it."""
    assert machine.broker_pid is not None
    broker, pid = machine.broker_pid, os.getpid()
    os.kill(broker, signal.SIGSTOP)
    place = Path(f"/proc/{pid}/task/{pid}/wchan")

    def disturb() -> None:
        while place.read_text(encoding="ascii") == "0":
            os.sched_yield()
        os.kill(pid, number)
        os.kill(broker, signal.SIGCONT)

    thread = threading.Thread(target=disturb)
    thread.start()
    return thread


@pytest.mark.slow
@isolated()
def test_a_handler_that_raises_leaves_model_and_kernel_alike() -> None:
    """A timer's handler raises wherever it can, and after each round the model is what the kernel has."""
    interrupted = 0
    with capshm.Machine() as machine:
        areas: list[capshm.Capability] = []

        def change() -> None:
            area = _map()
            areas.append(area)
            bsd.mprotect(area, lib.PAGE_BYTES, bsd.PROT_READ)
            bsd.minherit(area, _SIZE, bsd.INHERIT_NONE)
            bsd.munmap(area.with_address(area.base + lib.PAGE_BYTES), lib.PAGE_BYTES)
            bsd.munmap(areas.pop(0), _SIZE)

        signal.signal(signal.SIGALRM, _interrupt)
        for number in range(_ROUNDS):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-5 * (1 + number))
                change()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except _Interrupted:
                interrupted += 1
            if number % 20 == 0:
                _check_agreement(machine)
        _check_agreement(machine)
        assert interrupted


@pytest.mark.slow
@isolated()
def test_forks_and_signals() -> None:
    """A handler that maps runs around forks, and each child has what its parent had."""
    with capshm.Machine() as machine:
        handled: list[capshm.Capability] = []

        def handle(number: int, frame: FrameType | None) -> None:
            if os.getpid() == pid:
                handled.append(_map())

        pid = os.getpid()
        signal.signal(signal.SIGALRM, handle)
        for number in range(_ROUNDS // 10):
            signal.setitimer(signal.ITIMER_REAL, 2e-5 * (1 + number))
            with Child(lambda: _check_agreement(machine)) as child:
                signal.setitimer(signal.ITIMER_REAL, 0)
                assert child.wait() == 0
        _check_agreement(machine)
        assert handled


def _ask(number: int, frame: FrameType | None) -> None:
    bsd.munmap(_map(), _SIZE)


def _fork(number: int, frame: FrameType | None) -> None:
    with Child(lambda: _ask(number, frame), fork=_fork_among_threads) as child:
        assert child.wait() == 0


@pytest.mark.slow
@pytest.mark.parametrize("handler", [0, 1, 2])
@isolated()
def test_a_handler_among_threads(handler: int) -> None:
    """The kernel gives the signal to another thread; the handler asks, forks or raises while the first thread waits."""
    handlers: list[Callable[[int, FrameType | None], None]] = [_ask, _fork, _interrupt]
    with capshm.Machine() as machine:
        area = _map()
        signal.signal(signal.SIGUSR1, handlers[handler])
        thread = _stop_broker_until(machine, signal.SIGUSR1)
        try:
            bsd.mprotect(area, _SIZE, bsd.PROT_READ)
        except _Interrupted:
            assert handler == 2
        thread.join()
        _check_agreement(machine)
        with pytest.raises(capshm.PageViolation):
            area.write(0, b"w")


@pytest.mark.slow
@isolated()
def test_the_mask_is_as_before() -> None:
    """Neither a request, nor a refusal, nor a fork leaves a signal blocked that was not, or the other way round."""
    with capshm.Machine() as machine:
        for mask in (set(), {signal.SIGUSR2}):
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            bsd.munmap(_map(), _SIZE)
            with pytest.raises(capshm.Refused):
                bsd.munmap(machine.broker_pid, _SIZE)

            def look(mask: set[signal.Signals] = mask) -> None:
                assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask

            look()
            with Child(look) as child:
                assert child.wait() == 0
            look()
