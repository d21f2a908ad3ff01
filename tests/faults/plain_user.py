"""An ordinary user, for bodies of `isolated` tests that are run as root: rules of the kernel that do not bind root."""

import ctypes
import os
import struct

_NOBODY = 65534
_CAP_DAC_READ_SEARCH = 2
_PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 4, 8, 47, 2
_VERSION_3 = 0x2008_0522

_libc = ctypes.CDLL(None, use_errno=True)


def become_plain() -> None:
    """Become user 65534, as a login would; nothing if this is a plain user already.

    The one privilege that is left is to read every file: Python itself may lie where only root can read.
    """
    if os.getuid() != 0:
        return
    _prctl(_PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    header = struct.pack("=Ii", _VERSION_3, 0)
    kept = 1 << _CAP_DAC_READ_SEARCH
    if _libc.capset(header, struct.pack("=6I", kept, kept, kept, 0, 0, 0)):
        raise OSError(ctypes.get_errno(), "capset")
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_READ_SEARCH)
    _prctl(_PR_SET_DUMPABLE, 1)  # which a change of the user takes away, and the exec of a login gives back


def _prctl(option: int, *arguments: int) -> None:
    values = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    if _libc.prctl(option, *values):
        raise OSError(ctypes.get_errno(), "prctl")
