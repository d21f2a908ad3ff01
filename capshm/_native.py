"""The compiled core: `ffi` and `lib`.

The only module that imports the compiled library, and the only one where `Any` is allowed: whatever comes out of `lib`
gets its type in the module that wraps it.

The core is chosen once, at import, by the environment variable `CAPSHM_CORE`, so that every process of a machine,
however it was started, runs the same one:

    unset, "release"   capshm._core, what users run
    "steps"            capshm._core_steps, the same sources with step points compiled in
    an absolute path   a compiled extension file: portable, sanitizer and seeded-bug variants
"""

import os
import sys
from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any, TypeAlias

    CData: TypeAlias = Any
    """A C value that cffi made."""

_BUILT_IN = {"release": "capshm._core", "steps": "capshm._core_steps"}


def _load(choice: str) -> "ModuleType":
    """Import the core that `choice`, a value of CAPSHM_CORE, stands for; ImportError says what is wrong with it."""
    if choice in _BUILT_IN:
        name = _BUILT_IN[choice]
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise  # something that the core needs is missing (cffi's runtime): its own message is the right one
            raise ImportError(f"{name} has not been built: install capshm with pip, or run make", name=name) from error
    import importlib.util  # only here: attaching must stay cheap
    from importlib.machinery import ExtensionFileLoader
    from pathlib import Path

    path = Path(choice)
    if not path.is_absolute():
        raise ImportError(f"CAPSHM_CORE={choice!r}: give 'release', 'steps', or the absolute path of an extension file")
    if not path.is_file():
        raise ImportError(f"CAPSHM_CORE={choice!r}: there is no such file", path=choice)
    # Python looks for the function PyInit_<last part of the name>; the file is named after it.
    name = f"capshm.{path.name.partition('.')[0]}"
    loader = ExtensionFileLoader(name, choice)
    spec = importlib.util.spec_from_file_location(name, choice, loader=loader)
    assert spec is not None  # only without a loader
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    sys.modules[name] = module  # a second core in one process would have a register file of its own
    return module


_core = _load(os.environ.get("CAPSHM_CORE") or "release")

ffi: "Any" = _core.ffi
lib: "Any" = _core.lib


def layout() -> str:
    """What two processes must have in common to share memory."""
    return f"{lib.capshm_gate_size()}-{lib.capshm_records_size()}-{lib.OBJECT_SIZE_MAX}-{lib.ORIGINS_OFFSET}"
