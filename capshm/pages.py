"""What a page permits, in the core's bits: for processes, which change their mappings, and for the broker's orders."""

from __future__ import annotations

from capshm._native import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_LETTERS = {
    "r": lib.PAGE_READ,
    "w": lib.PAGE_WRITE,
    "x": lib.PAGE_EXECUTE,
    "R": lib.PAGE_LOAD_CAP,
    "W": lib.PAGE_STORE_CAP,
}


def page_permissions(letters: Iterable[str]) -> int:
    """Procstat's letters as the core has them."""
    permissions = 0
    for letter in letters:
        permissions |= _LETTERS[letter]
    return permissions
