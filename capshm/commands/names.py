"""Names that a user has typed: an unknown one is a wrong command line, which tells those that are near."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import cyclopts


def check(kind: str, name: str, known: Iterable[str], otherwise: str) -> None:
    """CycloptsError if `name` is none of those. kind: what it should be. otherwise: what to say where none is near."""
    names = sorted(set(known))
    if name in names:
        return
    near = difflib.get_close_matches(name, names)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else otherwise
    raise cyclopts.CycloptsError(msg=f"there is no {kind} {name!r}: {hint}")
