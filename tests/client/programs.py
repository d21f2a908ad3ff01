"""Programs in C, compiled with what an installed capshm says, and the one that does what a test tells it."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import pytest

from capshm import Machine

ROOT = Path(__file__).resolve().parents[2]
STRICT = ("-Wall", "-Wextra", "-Werror", "-Wpedantic")


@cache
def library_flags(python: str = sys.executable) -> tuple[str, ...]:
    """What the capshm of that Python says a compiler is to be told."""
    asked = [python, "-P", "-m", "capshm", "config", "--cflags", "--libs"]
    return tuple(shlex.split(subprocess.run(asked, stdout=subprocess.PIPE, text=True, check=True).stdout))


def compile_program(
    source: Path, output: Path, *flags: str, compiler: str = "cc", library: Sequence[str] | None = None
) -> Path:
    """Compile a source that uses the library, without a warning. library: its flags, by default those that are here."""
    command = [compiler, *STRICT, *flags, str(source), *(library or library_flags()), "-o", str(output)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}"
    return output


class RefusedInC(Exception):
    """What the library has refused."""

    def __init__(self, status: int, rule: str, errno: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.rule = rule
        self.errno = errno


class Seen(NamedTuple):
    """A capability as it was when it was described."""

    tag: bool
    address: int
    base: int
    length: int
    permissions: int
    is_sealed: bool


class Probe:
    """The process of tests/client/probe.c. A context manager; its input's end ends it, and its forks with it."""

    def __init__(self, program: str, machine: Machine | None = None) -> None:
        start = subprocess.Popen if machine is None else machine.spawn
        self._process: subprocess.Popen[bytes] = start([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pid = self._process.pid
        if machine is not None:
            self("attach")

    def tell(self, *words: object) -> None:
        """Have it begin a call."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(str(word) for word in words).encode() + b"\n")
        self._process.stdin.flush()

    def hear(self) -> str:
        """Wait for what it has to say. RefusedInC."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode().rstrip("\n")
        if line.startswith("ok"):
            return line[3:]
        assert line, f"it has ended, with status {self._process.wait()}"
        status, rule, errno, message = line.split("|", 3)
        raise RefusedInC(int(status), rule, int(errno), message)

    def __call__(self, *words: object) -> str:
        self.tell(*words)
        return self.hear()

    def number(self, *words: object) -> int:
        """A call that makes a handle, or a descriptor."""
        return int(self(*words))

    def see(self, handle: int) -> Seen:
        tag, address, base, length, permissions, is_sealed = map(int, self("describe", handle).split())
        return Seen(bool(tag), address, base, length, permissions, bool(is_sealed))

    def end(self) -> int:
        """Its exit status, after it was told everything."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process.stdout is not None
        if self._process.poll() is None:
            os.kill(self.pid, signal.SIGCONT)  # a test may have stopped it
        status = self.end()
        self._process.stdout.close()
        assert error is not None or status == 0


def refused(probe: Probe, *words: object) -> RefusedInC:
    """The refusal of a call."""
    with pytest.raises(RefusedInC) as caught:
        probe(*words)
    return caught.value
