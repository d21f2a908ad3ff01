"""Forked children, and what happens between them, for bodies of `isolated` tests. Waits are plain: see isolation.py."""

import os
import pickle
import select
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self, TypeVar, cast

from tests.faults.isolation import print_traceback

T = TypeVar("T")


def stop_here() -> None:
    """Stop the calling process; it goes on when somebody resumes it."""
    os.kill(os.getpid(), signal.SIGSTOP)


def join(thread: threading.Thread) -> None:
    """Wait until a thread has ended, for the kernel, too: Python's own join returns before what the core does then."""
    thread.join()
    while Path(f"/proc/self/task/{thread.native_id}").exists():
        os.sched_yield()


class Child:
    """A process that runs `body` and ends: with status 0, or with 1 after printing the traceback of what it raised.

    fork: makes it, and returns as os.fork does; another one leaves out the hooks. A context manager that kills it, if
    it still runs, and reaps it.
    """

    def __init__(self, body: Callable[[], object], *, fork: Callable[[], int] = os.fork) -> None:
        self._status: int | None = None
        self.pid = fork()
        if self.pid == 0:
            _run(body)

    def wait(self) -> int:
        """Its exit status, or the negative number of the signal that ended it."""
        while self._status is None:
            self._look()
        return self._status

    def wait_stopped(self) -> bool:
        """Wait until a signal has stopped it. False: it has ended instead."""
        self._look()
        return self._status is None

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        assert self.wait_stopped()

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def _look(self) -> None:
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            self._status = os.waitstatus_to_exitcode(status)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()


def _run(body: Callable[[], object]) -> NoReturn:
    status = 1
    try:
        body()
        status = 0
    except BaseException as error:
        print_traceback(error)
    os._exit(status)


def ask_child(body: Callable[[], T]) -> T:
    """What `body` returns in a forked child."""
    read, write = os.pipe()

    def answer() -> None:
        with os.fdopen(write, "wb") as pipe:
            pickle.dump(body(), pipe)

    with Child(answer) as child:
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            text = pipe.read()
        assert child.wait() == 0
    return cast(T, pickle.loads(text))


def wait_until_parked(pid: int, thread: int | None = None) -> None:
    """Return when that thread, the first of the process by default, waits in a futex: for a lock, or to be woken."""
    place = Path(f"/proc/{pid}/task/{thread or pid}/wchan")
    while "futex" not in place.read_text(encoding="ascii"):
        os.sched_yield()


class Event:
    """Happens once, in any process, and can be waited for in all that were forked after it was made."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def set(self) -> None:
        os.write(self._write, b"!")

    def is_set(self) -> bool:
        return bool(select.select([self._read], [], [], 0)[0])

    def wait(self) -> None:
        select.select([self._read], [], [])

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)
