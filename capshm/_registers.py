"""Numbers of registers for Python objects.

A register belongs to one object. A single one goes back to the list below when its object is gone, without a native
call, so that finalizers are cheap and do nothing when the interpreter shuts down; it keeps its last value, which nobody
can name any more, until it is used again. Windows go back to the core.
"""

from __future__ import annotations

import weakref

from capshm import _status, process
from capshm._native import ffi, lib

_REFILL = 256

free: list[int] = []
give_back = free.append
take = free.pop  # IndexError: ask refill


def refill() -> int:
    """Get more registers from the core and return one of them. MemoryError when there are none left."""
    first = _reserve(_REFILL)
    free.extend(range(first + _REFILL - 1, first, -1))
    return first


def _reserve(count: int) -> int:
    process.ensure_attached()
    first = ffi.new("uint32_t *")
    status = lib.capshm_reserve(count, first)
    if status:
        _status.fail(status, f"reserve {count} registers")
    return int(first[0])


class Window:
    """A row of `count` registers from `first` on, given back when this object is gone."""

    __slots__ = ("_life", "first")

    def __init__(self, count: int) -> None:
        self.first = _reserve(count)
        # No __del__: in a dead cycle it would run although another finalizer may yet use what the window holds, or
        # bring it back. This C value takes no part in cycles, and dies with the window.
        self._life = ffi.new("char *")
        weakref.finalize(self._life, lib.capshm_release, self.first, count).atexit = False
