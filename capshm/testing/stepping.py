"""Stops a process between two instructions of the core: for tests of what a death, a stop or a truncation leaves there.

A `Stepper` forks a child that runs a function, halts it where it first comes to a named function of the core, and then
lets it do one instruction after the other. Between any two of them the child can be killed, stopped as by SIGSTOP, or
left to run on by itself; meanwhile the parent does what another process would do:

    with Stepper(lambda: root.store_capability(0, value), at="capshm_store") as child:
        while child.step():
            ...  # another process in the middle of the store
        child.resume()
        assert child.wait() == 0

Works by ptrace, so on x86-64 Linux, where a process may trace its children, and with a core whose symbols were not
stripped; `SteppingUnavailable` says which of these is missing. Named places without these conditions: native/step.h.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType

from capshm._children import fork_to_run
from capshm._native import ffi, lib
from capshm.errors import CapshmError

_TRACEME, _PEEKTEXT, _PEEKUSER, _POKETEXT, _POKEUSER, _CONT, _SINGLESTEP, _DETACH = 0, 1, 3, 4, 6, 7, 9, 17
_SETOPTIONS, _OPTION_EXITKILL = 0x4200, 1 << 20
_RIP, _RSP = 16 * 8, 19 * 8  # offsets in struct user of <sys/user.h>
_BREAKPOINT = 0xCC  # int3
_REFUSED = 255  # exit status of a child that may not be traced

_WORD = (1 << 64) - 1

_libc_ptrace = ctypes.CDLL(None, use_errno=True).ptrace
_libc_ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc_ptrace.restype = ctypes.c_long


class SteppingUnavailable(CapshmError):
    """This machine, or this build of the core, does not allow single steps; the message says why."""


def _ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> int:
    """The answer of ptrace(2) as an unsigned word. OSError if it refuses."""
    ctypes.set_errno(0)
    answer = int(_libc_ptrace(request, pid, address, data))
    if answer == -1 and ctypes.get_errno():
        raise OSError(ctypes.get_errno(), f"ptrace request {request:#x} on process {pid}")
    return answer & _WORD


def _symbols(path: Path) -> dict[str, int]:
    """What the symbol table of a 64-bit ELF file says: name and value, local symbols included."""
    image = path.read_bytes()
    (section_offset,) = struct.unpack_from("<Q", image, 0x28)
    size, count = struct.unpack_from("<HH", image, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", image, section_offset + i * size) for i in range(count)]
    symbols = {}
    for _, kind, _, _, offset, length, link, _, _, entry_size in sections:
        if kind != 2:  # SHT_SYMTAB
            continue
        names = sections[link][4]
        for place in range(offset, offset + length, entry_size):
            name, _, _, _, value = struct.unpack_from("<IBBHQ", image, place)
            end = image.index(b"\0", names + name)
            symbols[image[names + name : end].decode()] = value
    return symbols


@cache
def _core_symbols() -> dict[str, int]:
    """Where each function of the core lies in this process, and so in every process forked from it."""
    # What cffi calls the capshm_store that Python can take the address of; the real one is not exported.
    known, address = "_cffi_d_capshm_store", int(ffi.cast("uintptr_t", ffi.addressof(lib, "capshm_store")))
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        area, _, _, _, _, *path = line.split(maxsplit=5)
        first, end = (int(number, 16) for number in area.split("-"))
        if first <= address < end and path:
            symbols = _symbols(Path(path[0]))
            if known not in symbols:
                raise SteppingUnavailable(f"{path[0]} has no symbol {known}: it was stripped")
            shift = address - symbols[known]
            return {name: value + shift for name, value in symbols.items()}
    raise SteppingUnavailable("the core was not loaded from a file")


def _address_of(function: str) -> int:
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        raise SteppingUnavailable(f"single steps need Linux on x86_64, not {sys.platform} on {os.uname().machine}")
    symbols = _core_symbols()
    if function not in symbols:
        raise ValueError(f"the core has no function {function!r}, or the compiler has put it into its callers")
    return symbols[function]


class Stepper:
    """A forked child, halted at the entry of a function of the core.

    operation: what the child runs. A number that it returns is the exit status, anything else is 0; an exception prints
    its traceback and is 1. at: a C function that it comes to, exported or not. prepare: run in the child before;
    passages of the function there do not count.

    pid: of the child. instructions: how many it has done since the entry. is_inside: the function has not returned yet.

    A context manager: at the end the child is killed, if need be, and reaped. If the calling process dies the child
    dies with it, unless `stop` or `resume` has let go of it. SteppingUnavailable, ValueError (no such function),
    RuntimeError (the child ended before it came there): no child is left.
    """

    def __init__(
        self, operation: Callable[[], object], *, at: str, prepare: Callable[[], object] | None = None
    ) -> None:
        entry = _address_of(at)
        self.instructions = 0
        self.is_inside = True
        self._signal = 0  # to deliver when it goes on
        self._is_traced = True
        self._status: int | None = None
        self.pid = fork_to_run(lambda: _run_traced(operation, prepare))
        try:
            self._run_to_entry(at, entry)
        except BaseException:
            self.kill()
            raise

    def _run_to_entry(self, at: str, entry: int) -> None:
        if self._wait() != signal.SIGSTOP:
            if self._status == _REFUSED:
                raise SteppingUnavailable("this machine does not let a process trace its children (ptrace)")
            raise RuntimeError(f"the child came to no halt before {at}: {self._describe()}")
        _ptrace(_SETOPTIONS, self.pid, 0, _OPTION_EXITKILL)
        self._signal = 0  # the SIGSTOP has done its work
        self._run_to(entry)
        stack = _ptrace(_PEEKUSER, self.pid, _RSP)
        self._return_address = _ptrace(_PEEKTEXT, self.pid, stack)
        self._return_stack = stack + 8

    def step(self, count: int = 1) -> bool:
        """Let it do `count` more instructions, fewer if the function returns before. True: it has not returned yet.

        Blocks for as long as one of the instructions does. RuntimeError: the child has ended, or was let go.
        """
        if not self._is_traced:
            raise RuntimeError(f"process {self.pid} was let go: there are no more single steps")
        for _ in range(count):
            if not self.is_inside:
                break
            self._step_once()
            self.instructions += 1
            # A recursive call returns to the same place with another stack.
            self.is_inside = (
                self._instruction_pointer() != self._return_address
                or _ptrace(_PEEKUSER, self.pid, _RSP) != self._return_stack
            )
        return self.is_inside

    def trace(self) -> list[int]:
        """Step to the function's return; the address of each instruction that was done, in order."""
        path = []
        while self.is_inside:
            path.append(self._instruction_pointer())
            self.step()
        return path

    def advance(self, path: Sequence[int], count: int) -> None:
        """As `step(count)` from the entry, for a child that goes the same way as one before whose `trace` was `path`.

        Faster by far than single steps, because the child is halted only where it comes by the instruction that it is
        to halt before. RuntimeError: it went another way, and has ended.
        """
        if self.instructions or not self._is_traced:
            raise RuntimeError(f"process {self.pid} is not at the entry of the function any more")
        for _ in range(path[:count].count(path[count])):
            self._run_to(path[count])
            self._step_once()
        self._run_to(path[count])
        self.instructions = count

    def stop(self) -> None:
        """Leave it stopped where it is, as SIGSTOP would, and let go of it: SIGCONT, or `resume`, makes it go on."""
        self._let_go(signal.SIGSTOP)
        if self._wait() is None:
            raise RuntimeError(f"the child ended instead of stopping: {self._describe()}")

    def resume(self) -> None:
        """Let it run on by itself from where it is."""
        if self._is_traced:
            self._let_go(self._signal)
        else:
            os.kill(self.pid, signal.SIGCONT)

    def wait_stopped(self) -> bool:
        """Wait until it has stopped itself by a signal. False: it has ended instead."""
        return self._wait() is not None

    def wait(self) -> int:
        """Wait until it has ended; its exit status, or the negative number of the signal that ended it."""
        while self._status is None:
            self._wait()
        return self._status

    def kill(self) -> None:
        """End it by SIGKILL where it is, and reap it. Does nothing if it has ended before."""
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def __enter__(self) -> Stepper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    def _instruction_pointer(self) -> int:
        return _ptrace(_PEEKUSER, self.pid, _RIP)

    def _step_once(self) -> None:
        if self._continue(_SINGLESTEP) is None:
            self.is_inside = False
            raise RuntimeError(f"the child ended inside the function: {self._describe()}")

    def _run_to(self, address: int) -> None:
        """Go on to this instruction by a breakpoint; signals that come before are delivered."""
        original = _ptrace(_PEEKTEXT, self.pid, address)
        _ptrace(_POKETEXT, self.pid, address, original & ~0xFF | _BREAKPOINT)
        while (stopped_by := self._continue(_CONT)) != signal.SIGTRAP:
            if stopped_by is None:
                self.is_inside = False
                raise RuntimeError(f"the child never came to {address:#x}: {self._describe()}")
        _ptrace(_POKETEXT, self.pid, address, original)
        _ptrace(_POKEUSER, self.pid, _RIP, address)  # the breakpoint counts as an instruction of its own

    def _continue(self, how: int) -> int | None:
        """Go on with the signal that came last; the signal that halts it next, or None if it has ended."""
        try:
            _ptrace(how, self.pid, 0, self._signal)
        except ProcessLookupError:
            pass  # killed from elsewhere
        return self._wait()

    def _let_go(self, with_signal: int) -> None:
        if not self._is_traced:
            raise RuntimeError(f"process {self.pid} was let go before")
        _ptrace(_DETACH, self.pid, 0, with_signal)
        self._is_traced = False

    def _wait(self) -> int | None:
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            self._status = os.waitstatus_to_exitcode(status)
            return None
        stopped_by = os.WSTOPSIG(status)
        self._signal = 0 if stopped_by == signal.SIGTRAP else stopped_by
        return stopped_by

    def _describe(self) -> str:
        return f"process {self.pid} has ended with status {self._status}"


def _run_traced(operation: Callable[[], object], prepare: Callable[[], object] | None) -> object:
    """What the child does; returns its exit status."""
    if prepare is not None:
        prepare()
    try:
        _ptrace(_TRACEME, 0)
    except OSError:
        return _REFUSED
    os.kill(os.getpid(), signal.SIGSTOP)
    return operation()
