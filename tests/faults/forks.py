"""Other ways to fork, for `Child(fork=...)`: past Python, so that no hook runs, and without Python's warning."""

import ctypes
import os
import warnings
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


def fork_among_threads() -> int:
    """os.fork in a process with several threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on: what these tests are about
        return os.fork()
