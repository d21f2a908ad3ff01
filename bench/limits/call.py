"""The limits of calls from Python: through cffi's API mode, to a C function that does nothing, libc's heap, mprotect.

The arguments of the first have the types of those of `capshm_store` and `capshm_load`, and it is compiled with the
core's flags; so what it costs is what Python and cffi cost, and nothing that is ours to save. The heap's functions are
called as a program without capabilities would.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import cffi

ROOT = Path(__file__).resolve().parents[2]
_MODULE = "capshm_bench_call"
_DECLARATION = """
long long nothing(uint32_t, uint64_t, uint32_t);
void *malloc(size_t);
void free(void *);
int protect_each(const char *addresses, uint32_t count, size_t length, int protection);
"""
_SOURCE = """
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
static long long nothing(uint32_t authority, uint64_t offset, uint32_t value) {
    (void)authority, (void)offset, (void)value;
    return 0;
}
static int protect_each(const char *addresses, uint32_t count, size_t length, int protection) {
    for (uint32_t number = 0; number < count; number++) {
        void *address;
        memcpy(&address, addresses + number * sizeof(address), sizeof(address));
        if (mprotect(address, length, protection) != 0)
            return -1;
    }
    return 0;
}
"""


class _Library(Protocol):
    def nothing(self, authority: int, offset: int, value: int, /) -> int: ...

    def malloc(self, size: int, /) -> object: ...

    def free(self, pointer: object, /) -> None: ...

    def protect_each(self, addresses: bytes, count: int, length: int, protection: int, /) -> int: ...


def nothing() -> Callable[[int, int, int], int]:
    """The function that does nothing."""
    return _library().nothing


def heap() -> tuple[Callable[[int], object], Callable[[object], None]]:
    """libc's malloc and free."""
    library = _library()
    return library.malloc, library.free


def protect_each() -> Callable[[bytes, int, int, int], int]:
    """mprotect of pages at these addresses (machine words), one call each; 0, or -1 at the first that is refused."""
    return _library().protect_each


def _library() -> _Library:
    """Compiled at the first request and kept in build/bench. RuntimeError: what the compiler said."""
    path = _built()
    spec = importlib.util.spec_from_file_location(_MODULE, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    library: _Library = module.lib
    return library


def _built() -> Path:
    flags = [line for line in (ROOT / "native" / "cflags.txt").read_text().splitlines() if line.startswith("-")]
    ingredients = repr((cffi.__version__, sys.version, flags, _DECLARATION, _SOURCE))
    path = ROOT / "build" / "bench" / hashlib.sha256(ingredients.encode()).hexdigest()[:16] / f"{_MODULE}.so"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    ffi = cffi.FFI()
    ffi.cdef(_DECLARATION)
    ffi.set_source(_MODULE, _SOURCE)
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        source, made = Path(directory, "call.c"), Path(directory, "call.so")
        with contextlib.redirect_stdout(sys.stderr):  # it says what it does; standard output is for figures
            ffi.emit_c_code(str(source))
        # The generated part is cffi's: its warnings are not ours.
        include = f"-I{sysconfig.get_path('include')}"
        command = ["cc", *flags, "-w", include, "-shared", str(source), "-o", str(made)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{shlex.join(command)}\nended with status {done.returncode}:\n{done.stdout}")
        made.rename(path)  # whoever builds the same at the same time makes the same file
    return path
