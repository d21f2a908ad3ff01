"""Writes the C source of a cffi API-mode module that binds the core.

    python cffi_build.py capshm._core OUTPUT.c FILE.cdef...

NAME.cdef holds declarations in cffi's language, which the compiler checks against NAME.h. A file about other headers,
or more of them, names all that it needs in comment lines, because cffi itself knows no includes:

    // include "capshm.h"
    // include <sys/types.h>

Files are read in the order of their names; a typedef must be declared in the same file as its users or an earlier one.
"""

import re
import sys
from pathlib import Path

import cffi

INCLUDE = re.compile(r'^// include ("[^"]+"|<[^>]+>)$', re.MULTILINE)


def write_module_source(module: str, output: Path, declarations: list[Path]) -> None:
    """Write to `output` the C source of the extension `module`, a full dotted name, binding all `declarations`."""
    ffi = cffi.FFI()
    headers: dict[str, None] = {}  # in order, each once
    for path in sorted(declarations):
        text = path.read_text(encoding="utf-8")
        named = INCLUDE.findall(text)
        own = path.with_suffix(".h")
        if not named and not own.is_file():
            raise SystemExit(f'{path.name}: there is no {own.name}; name the header in a line // include "NAME.h"')
        named = named or [f'"{own.name}"']
        headers.update(dict.fromkeys(named))
        try:
            ffi.cdef(text)
        except (cffi.CDefError, cffi.FFIError) as error:
            raise SystemExit(f"{path.name}: {error}") from error
    ffi.set_source(module, "".join(f"#include {header}\n" for header in headers))
    ffi.emit_c_code(str(output))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit("usage: cffi_build.py MODULE OUTPUT.c [FILE.cdef ...]")
    write_module_source(sys.argv[1], Path(sys.argv[2]), [Path(argument) for argument in sys.argv[3:]])
