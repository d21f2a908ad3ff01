"""Where the header and the library for programs in C lie: beside the core that came with this capshm."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from capshm.errors import CapshmError


def get_include() -> str:
    """The folder for the compiler's -I: it has `capshm/client.h`. CapshmError: it was not installed."""
    return _beside_core("include", "capshm/client.h")


def get_library_dir() -> str:
    """The folder for the linker's -L and -rpath: it has `libcapshm.so`. CapshmError: it was not installed."""
    return _beside_core("lib", "libcapshm.so")


def _beside_core(folder: str, file: str) -> str:
    core = find_spec("capshm._core")  # whichever CAPSHM_CORE names
    path = Path(core.origin if core is not None and core.origin else __file__).with_name(folder)
    if not (path / file).is_file():
        raise CapshmError(f"{path / file} is not there: install capshm with pip, or run make")
    return str(path)
