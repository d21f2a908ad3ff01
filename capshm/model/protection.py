"""mprotect: rows B1 to B7."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capshm.model.mapping import check_reserved
from capshm.model.pointer import Address, pages_of
from capshm.model.rights import Asked, Rights, describe, read_protection
from capshm.model.rules import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from capshm.model.address_space import AddressSpace, Entry


def plan_protect(space: AddressSpace, address: Address, length: int, prot: int) -> list[Entry]:
    """The entries as mprotect leaves them, cut to its range. Refused by B2 to B7, A9, A11, A12; nothing is changed.

    Guards and holes stay as they are: nothing is mapped there that could be protected.
    """
    start, end = pages_of(address, length, call="mprotect", rule="cheribsd:B7")
    check_reserved(space, start, end, call="mprotect", rule="cheribsd:B7")
    entries = [entry for entry in space.within(start, end) if not entry.is_guard]
    is_cap_implied = any(entry.can_hold_capabilities for entry in entries)
    asked = read_protection(prot, is_cap_implied=is_cap_implied, subset_rule="cheribsd:B5")
    for entry in entries:
        _check(entry, asked, prot)
    return [
        entry._replace(current=asked.current, maximum=asked.maximum if asked.has_maximum else entry.maximum)
        for entry in entries
    ]


def commit_protect(space: AddressSpace, entries: Iterable[Entry]) -> list[Entry]:
    """Put the new entries in the place of the old, which are returned. Cannot fail."""
    return [old for entry in entries for old in space.replace(entry)]


def _check(entry: Entry, asked: Asked, prot: int) -> None:
    """Refuse what goes beyond an entry's maximum: rows B6, B2 and B3."""
    wanted = asked.current | asked.maximum if asked.has_maximum else asked.current
    missing = wanted & ~entry.maximum
    if not missing:
        return
    request = f"mprotect([{entry.start:#x}, {entry.end:#x}), {describe(prot)})"
    limit = f"the maximum permission there is {entry.maximum.letters or 'none'}, without {missing.letters}"
    if missing & ~Rights.CAP:
        raise Refusal(
            "cheribsd:B6",
            asked=request,
            allowed=limit,
            needed="a mapping whose PROT_MAX, and whose descriptor, allow it",
        )
    if asked.is_cap_explicit:
        raise Refusal(
            "cheribsd:B3",
            asked=request,
            allowed=limit + ", be it that it never had it or that a fork took it",
            needed="a mapping made with capability permission, by the owner of the object",
        )
    raise Refusal(
        "cheribsd:B2",
        asked=request,
        allowed=limit + "; capability permission is implied since other memory in the range has it",
        needed="PROT_NO_CAP, or a call for each part",
    )
