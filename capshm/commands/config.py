"""capshm config: the flags with which programs in C are compiled."""

from __future__ import annotations

import shlex

import cyclopts

from capshm import get_include, get_library_dir
from capshm.commands.options import Flag


def config(
    *,
    cflags: Flag = False,
    libs: Flag = False,
    pkgconfigdir: Flag = False,
) -> None:
    """Print the flags with which a program in C or C++ that attaches to machines is compiled and linked.

    `cc program.c $(capshm config --cflags --libs) -o program`. What can be called stands in the header,
    `capshm/client.h`. The program finds the library where it lies now.

    Parameters
    ----------
    cflags
        Where the header is.
    libs
        Where the library is, for the linker and for the program that runs.
    pkgconfigdir
        The folder for PKG_CONFIG_PATH, so that `pkg-config --cflags --libs capshm` says the same.
    """
    flags = []
    if cflags:
        flags.append(f"-I{get_include()}")
    if libs:
        flags += [f"-L{get_library_dir()}", f"-Wl,-rpath,{get_library_dir()}", "-lcapshm"]
    if pkgconfigdir:
        flags.append(f"{get_library_dir()}/pkgconfig")
    if not flags:
        raise cyclopts.CycloptsError(msg="say what is wanted: --cflags, --libs, --pkgconfigdir")
    print(shlex.join(flags))
