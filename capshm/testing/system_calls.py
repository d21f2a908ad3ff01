"""Halts a process at its system calls: for tests of what a death between two of them leaves behind.

A `CallStepper` takes hold of a process and lets it go on to its n-th system call from there. `run` forks a child that
waits with its operation until then; the constructor takes any process that may be traced, a broker for example:

    with CallStepper.run(lambda: bsd.munmap(area, 4096)) as child:
        child.run_to_call(3)            # halted at the entry; the call has not been done, and will not be
        child.kill()

What a process does between two system calls is its own business, but for memory that it shares: `stepping` has the
instructions. Works by ptrace on Linux 5.3 or later; `SteppingUnavailable` where a process may not trace.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from types import TracebackType
from typing import Self

from capshm._children import fork_to_run
from capshm.testing.stepping import SteppingUnavailable, _ptrace

_DETACH, _SYSCALL, _SETOPTIONS, _GETEVENTMSG = 17, 24, 0x4200, 0x4201
_SEIZE, _INTERRUPT, _GET_SYSCALL_INFO = 0x4206, 0x4207, 0x420E
_OPTIONS = 1 | 1 << 20  # TRACESYSGOOD; EXITKILL: what is halted must not outlive its tracer
_OPTION_FORK, _EVENT_FORK = 2, 1
_CALL_STOP = signal.SIGTRAP | 0x80
_ENTRY = 1
_WALL = 0x4000_0000


class _SystemCallInfo(ctypes.Structure):
    """The beginning of struct ptrace_syscall_info of <linux/ptrace.h>."""

    _fields_ = (
        ("op", ctypes.c_uint8),
        ("padding", ctypes.c_uint8 * 3),
        ("arch", ctypes.c_uint32),
        ("instruction_pointer", ctypes.c_uint64),
        ("stack_pointer", ctypes.c_uint64),
        ("number", ctypes.c_uint64),
        ("arguments", ctypes.c_uint64 * 6),
        ("rest", ctypes.c_uint64 * 2),
    )


class CallStepper:
    """A process under control: halted somewhere at first, then at the entries of system calls.

    pid: of the process. is_traced: it is halted by this process already. call: number of the system call at whose entry
    it is, -1 before the first. A context manager: at the end a child that `run` has made is killed, if need be, and
    reaped; any other process is let go.
    """

    def __init__(self, pid: int, *, is_traced: bool = False) -> None:
        self.pid = pid
        self.call = -1
        self._is_own = False
        self._is_halted = False
        self._signal = 0  # to deliver when it goes on
        self._event = 0
        self._statuses: dict[int, int] = {}
        if not is_traced:
            try:
                _ptrace(_SEIZE, pid, 0, _OPTIONS)
            except OSError as error:
                reason = os.strerror(error.errno or 0)
                raise SteppingUnavailable(f"process {pid} may not be traced: {reason}") from None
            _ptrace(_INTERRUPT, pid)
        self._wait(None)

    @classmethod
    def run(cls, operation: Callable[[], object], *, prepare: Callable[[], object] | None = None) -> Self:
        """A forked child that runs `prepare`, and is halted before `operation`. RuntimeError: it did not come so far.

        A number that the operation returns is the exit status, anything else is 0, an exception is 1.
        """
        ready, tell = os.pipe()
        go, begin = os.pipe()

        def body() -> object:
            if prepare is not None:
                prepare()
            os.close(ready)
            os.write(tell, b"!")
            os.read(go, 1)
            return operation()

        pid = fork_to_run(body)
        os.close(tell)
        try:
            if not os.read(ready, 1):
                raise RuntimeError(f"process {pid} ended before its operation")
            stepper = cls(pid)
            os.write(begin, b"!")
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        finally:
            for fd in (ready, go, begin):
                os.close(fd)
        stepper._is_own = True
        stepper.run_to_call(1)  # that of reading from `go`
        return stepper

    def run_to_call(self, count: int, *, beside: int | None = None) -> bool:
        """Let it go on to the entry of its `count`-th system call from here. False: it has ended instead.

        beside: pid of a child of the caller, for whom it may work: if that ends first the answer is False, too, and
        the process goes on; `status` has how it ended.
        """
        while count:
            if not self._go_on(beside):
                return False
            count -= self._is_at_entry()
        return True

    def run_to_fork(self) -> CallStepper:
        """Let it go on until it has forked, and let go of it; its child, halted before its first system call.

        RuntimeError: it has ended instead.
        """
        _ptrace(_SETOPTIONS, self.pid, 0, _OPTIONS | _OPTION_FORK)
        while self._event != _EVENT_FORK:
            if not self._go_on(None):
                raise RuntimeError(f"process {self.pid} ended without a fork")
        message = ctypes.c_ulong()
        _ptrace(_GETEVENTMSG, self.pid, 0, ctypes.addressof(message))
        child = CallStepper(int(message.value), is_traced=True)
        _ptrace(_SETOPTIONS, child.pid, 0, _OPTIONS)
        self.let_go()
        return child

    def status(self, pid: int | None = None) -> int | None:
        """How this process, or the one beside it, ended: exit status or negative signal; None: not yet seen."""
        return self._statuses.get(pid or self.pid)

    def kill(self) -> None:
        """End it with SIGKILL, and wait for that."""
        if self.pid not in self._statuses:
            os.kill(self.pid, signal.SIGKILL)
            while self.pid not in self._statuses:
                self._wait(None)

    def let_go(self) -> None:
        """Let it run on by itself."""
        if self.pid in self._statuses:
            return
        try:
            if not self._is_halted:
                _ptrace(_INTERRUPT, self.pid)
                self._wait(None)
            if self.pid not in self._statuses:
                _ptrace(_DETACH, self.pid, 0, self._signal)
        except ProcessLookupError:
            pass  # killed from elsewhere, and to be reaped there

    def wait(self) -> int:
        """Its exit status, or the negative number of the signal that ended it, when it was let go or goes on."""
        while self.pid not in self._statuses:
            _, status = os.waitpid(self.pid, _WALL)
            self._note(self.pid, status)
        return self._statuses[self.pid]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_own:
            self.kill()
        else:
            self.let_go()

    def _go_on(self, beside: int | None) -> bool:
        """To the next halt. False: it, or the one beside it, has ended."""
        if self._is_halted:
            try:
                _ptrace(_SYSCALL, self.pid, 0, self._signal)
            except ProcessLookupError:
                pass  # killed from elsewhere
            self._is_halted = False
        return self._wait(beside)

    def _wait(self, beside: int | None) -> bool:
        pid, status = os.waitpid(self.pid if beside is None else -1, _WALL)
        if pid not in (self.pid, beside):
            raise RuntimeError(f"process {pid}, of whom nobody has spoken, ended with status {status:#x}")
        self._note(pid, status)
        return not {self.pid, beside} & set(self._statuses)

    def _note(self, pid: int, status: int) -> None:
        if not os.WIFSTOPPED(status):
            self._statuses[pid] = os.waitstatus_to_exitcode(status)
        elif pid == self.pid:
            self._is_halted = True
            stopped_by = os.WSTOPSIG(status)
            self._event = status >> 16
            is_signal = stopped_by != _CALL_STOP and not self._event
            self._signal = stopped_by if is_signal else 0

    def _is_at_entry(self) -> bool:
        info = _SystemCallInfo()
        _ptrace(_GET_SYSCALL_INFO, self.pid, ctypes.sizeof(info), ctypes.addressof(info))
        if info.op != _ENTRY:
            return False
        self.call = int(info.number)
        return True
