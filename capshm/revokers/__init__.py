"""Revokers: how memory that was freed loses its capabilities, one file each (cheribsd:2.5).

A revoker is any object with the methods of `Revoker`. Those that come with capshm stand here; all others are found by
their names in the entry point group "capshm.revokers".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from capshm.model.revoker import Revoker, World
from capshm.revokers.none import NoRevoker
from capshm.revokers.stop_the_world import StopTheWorld

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

__all__ = ["GROUP", "Revoker", "World", "load", "names"]

GROUP = "capshm.revokers"

_OWN: dict[str, type[Revoker]] = {"none": NoRevoker, "stop-the-world": StopTheWorld}


def names() -> list[str]:
    """Of all revokers that are installed."""
    return sorted({*_OWN, *_others().names})


def load(name: str) -> Revoker:
    """The revoker of a name. ValueError, naming those that there are: there is none; TypeError: it is no revoker."""
    if name in _OWN:
        return _OWN[name]()
    found = list(_others().select(name=name))
    if not found:
        raise ValueError(f"there is no revoker {name!r}; there are {', '.join(names())}")
    revoker: Revoker = found[0].load()()
    missing = [method for method in dir(Revoker) if method[0] != "_" and not hasattr(revoker, method)]
    if missing:
        raise TypeError(f"{found[0].value} is no revoker: it lacks {', '.join(missing)}")
    return revoker


def _others() -> EntryPoints:
    from importlib.metadata import entry_points  # only here: a broker's start is dear enough

    return entry_points(group=GROUP)
