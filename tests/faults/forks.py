"""Forks that Python knows nothing of, so that no hook runs; for `Child(fork=...)`."""

import ctypes
import os
from collections.abc import Callable

import pytest

_SYS_CLONE = {"x86_64": 56, "aarch64": 220}.get(os.uname().machine)
_SIGCHLD = 17
_python = ctypes.PyDLL(None)  # keeps the interpreter's lock, which the child needs as much as its parent


def fork_by_libc() -> int:
    """fork(3)."""
    return int(_python.fork())


def _clone() -> int:
    if _SYS_CLONE is None:
        pytest.skip(f"the number of clone on {os.uname().machine} is not known here")
    return int(_python.syscall(_SYS_CLONE, _SIGCHLD, 0, 0, 0, 0))


FORKS: dict[str, Callable[[], int]] = {"fork": fork_by_libc, "clone": _clone}
