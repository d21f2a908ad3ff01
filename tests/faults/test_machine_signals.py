"""Signals that come while a process asks its broker: their handlers run before or after a call, never within it."""

import _thread
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import capshm
from capshm import cheribsd as bsd
from capshm._native import lib
from tests.faults.forks import fork_among_threads
from tests.faults.isolation import isolated
from tests.faults.machines import wait_until_alone
from tests.faults.processes import Child, join
from tests.faults.residue import threads

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
    """The broker stands still; another thread sends a signal when a third one, made for it, asks; then it goes on."""
    assert machine.broker_pid is not None
    broker = machine.broker_pid
    os.kill(broker, signal.SIGSTOP)

    def disturb() -> None:
        while threads(os.getpid()) < 3:
            os.sched_yield()
        os.kill(os.getpid(), number)
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
    with Child(lambda: _ask(number, frame), fork=fork_among_threads) as child:
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
        join(thread)
        while lib.capshm_page_entry(area.address) & lib.PAGE_WRITE:  # the call that the handler left goes on to its end
            os.sched_yield()
        _check_agreement(machine)
        with pytest.raises(capshm.PageViolation):
            area.write(0, b"w")


class _At:
    """Has a signal handler run in the main thread before the instruction of that number within the hooks of a fork.

    As where the kernel has given the signal to another thread: Python then runs the handler in the main one, whose mask
    does not keep it out.
    """

    def __init__(self, number: int) -> None:
        self.left = number
        self._pid = os.getpid()

    def trace(self, frame: FrameType, event: str, argument: object) -> Any:
        if Path(frame.f_code.co_filename).name not in {"client.py", "connection.py", "process.py"}:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and os.getpid() == self._pid:
            self.left -= 1
            if self.left == 0:
                sys.settrace(None)
                _thread.interrupt_main(signal.SIGUSR1)
        return self.trace


def _fork_and_be_disturbed(number: int, body: Callable[[], None]) -> bool:
    at = _At(number)

    def fork() -> int:
        sys.settrace(at.trace)
        try:
            return fork_among_threads()
        finally:
            sys.settrace(None)

    with Child(body, fork=fork) as child:
        assert child.wait() == 0
    return at.left <= 0


@pytest.mark.slow
@pytest.mark.parametrize(("handler", "step"), [("asks", 1), ("looks", 3), ("forks", 3), ("raises", 3)])
@isolated(bound=250)
def test_a_handler_amid_a_fork_among_threads(handler: str, step: int) -> None:
    """At each instruction of the hooks: nobody waits for ever, and the child is attached, or says that it is not."""
    with capshm.Machine() as machine:
        _map()
        handled = unattached = 0

        def disturb(number: int, frame: FrameType | None) -> None:
            nonlocal handled
            handled += 1
            if handler == "asks":
                _ask(number, frame)
            elif handler == "looks":
                assert machine.processes()
            elif handler == "forks":
                with Child(lambda: None, fork=fork_among_threads) as child:
                    assert child.wait() == 0
            else:
                raise _Interrupted

        def look() -> None:
            sys.stderr = sys.__stderr__
            try:
                _check_agreement(machine)
            except capshm.NotAttached:
                os.write(write, b"!")

        signal.signal(signal.SIGUSR1, disturb)
        read, write = os.pipe()
        end = threading.Event()
        threading.Thread(target=end.wait, daemon=True).start()
        number = 1
        is_disturbed = True
        with open(os.devnull, "w", encoding="ascii") as nowhere, contextlib.redirect_stderr(nowhere):  # noqa: PTH123
            while is_disturbed:
                try:
                    is_disturbed = _fork_and_be_disturbed(number, look)
                except _Interrupted:
                    pass  # on the way out of the hooks
                assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
                number += step
        end.set()
        os.set_blocking(read, False)
        with contextlib.suppress(BlockingIOError):
            unattached = len(os.read(read, 1 << 16))
        assert handled > 500 // step
        assert unattached < handled
        _check_agreement(machine)
        wait_until_alone(machine)


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
