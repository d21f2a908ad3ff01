"""What a page allows, and how a protection argument is read: rows A7 to A13 of mmap, and B5 of mprotect."""

from __future__ import annotations

import enum
import functools
from typing import Final, NamedTuple

from capshm.model.constants import (
    PROT_CAP,
    PROT_EXEC,
    PROT_MAX_SHIFT,
    PROT_NO_CAP,
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
)
from capshm.model.rules import Refusal

_PROT_NAMES: Final = {PROT_READ: "READ", PROT_WRITE: "WRITE", PROT_EXEC: "EXEC", PROT_CAP: "CAP", PROT_NO_CAP: "NO_CAP"}
_PROT_ACCESS: Final = PROT_READ | PROT_WRITE | PROT_EXEC
_PROT_MARK: Final = PROT_CAP | PROT_NO_CAP
_PROT_ALL: Final = _PROT_ACCESS | _PROT_MARK


class Rights(enum.Flag):
    """What a mapping allows to be done with its pages; immutable. `Rights(0)`: nothing."""

    READ = enum.auto()
    WRITE = enum.auto()
    EXECUTE = enum.auto()
    LOAD_CAP = enum.auto()
    STORE_CAP = enum.auto()

    CAP = LOAD_CAP | STORE_CAP
    """Capability permission in either direction."""

    # The operators of enum search for their result each time, and the broker spends its life here: these look it up.

    def __and__(self, other: Rights) -> Rights:
        return _BY_VALUE[self._value_ & other._value_]

    def __or__(self, other: Rights) -> Rights:
        return _BY_VALUE[self._value_ | other._value_]

    def __invert__(self) -> Rights:
        return _BY_VALUE[~self._value_]  # counted from the end

    def __contains__(self, other: Rights) -> bool:
        return bool(self._value_ & other._value_ == other._value_)

    @classmethod
    def from_letters(cls, letters: str) -> Rights:
        """The rights of procstat's letters, in any order; ValueError for any other letter."""
        rights = cls(0)
        for letter in letters:
            if letter not in _BY_LETTER:
                raise ValueError(f"{letter!r} is no right; rights are the letters {''.join(_BY_LETTER)}")
            rights |= _BY_LETTER[letter]
        return rights

    @property
    def letters(self) -> str:
        """In procstat's order, `rwxRW`; those that are not there are left out."""
        return _LETTERS[self._value_]

    def without(self, other: Rights) -> Rights:
        """These rights less those of `other`, and less the capability permissions that then stand alone."""
        return (self & ~other).settled()

    def settled(self) -> Rights:
        """Without LOAD_CAP where there is no READ, and without STORE_CAP where there is no WRITE."""
        rights = self
        if Rights.READ not in rights:
            rights &= ~Rights.LOAD_CAP
        if Rights.WRITE not in rights:
            rights &= ~Rights.STORE_CAP
        return rights


_BY_VALUE: Final = tuple(Rights(value) for value in range(1 << 5))

_BY_LETTER: Final = {
    "r": Rights.READ,
    "w": Rights.WRITE,
    "x": Rights.EXECUTE,
    "R": Rights.LOAD_CAP,
    "W": Rights.STORE_CAP,
}


_LETTERS: Final = tuple(
    "".join(letter for letter, right in _BY_LETTER.items() if right in rights) for rights in _BY_VALUE
)


class Asked(NamedTuple):
    """A protection argument, read.

    maximum: as given by PROT_MAX; where it was not given it is what is asked now, as it is for every CheriABI process.
    is_cap_explicit: PROT_CAP stands somewhere in it; otherwise capability permission, if any, was implied.
    """

    current: Rights
    maximum: Rights
    is_cap_explicit: bool
    has_maximum: bool


@functools.lru_cache(maxsize=1024)  # programs ask for the same again and again
def read_protection(prot: int, *, is_cap_implied: bool, subset_rule: str = "cheribsd:A10") -> Asked:
    """Read the argument of mmap or mprotect. Refused by A9, A10 (for mprotect: B5), A11 and A12.

    is_cap_implied: whether the memory is of a kind whose protection includes capability permission unless PROT_NO_CAP
    is given (A1 to A6, B1).
    """
    unknown = prot & ~(_PROT_ALL | _PROT_ALL << PROT_MAX_SHIFT)
    if unknown:  # of a negative number, too
        raise Refusal(
            "cheribsd:A12",
            asked=f"protection {prot:#x}",
            allowed=f"the bits {unknown:#x} have no meaning",
            needed="PROT_READ, PROT_WRITE, PROT_EXEC, PROT_CAP or PROT_NO_CAP, and PROT_MAX of these",
        )
    now, most = prot & _PROT_ALL, prot >> PROT_MAX_SHIFT
    for part in (now, most):
        _check_cap_has_company(prot, part)
    if most:
        _check_subset(prot, now & _PROT_ACCESS, most, subset_rule)
        _check_not_mixed(prot, now, most)
        _check_subset(prot, now & ~PROT_NO_CAP, most, subset_rule)
    return Asked(
        current=_rights(now, is_cap_implied),
        maximum=_rights(most or now, is_cap_implied),
        is_cap_explicit=bool((now | most) & PROT_CAP),
        has_maximum=bool(most),
    )


def _check_cap_has_company(prot: int, part: int) -> None:
    """Row A9; and to ask for both marks at once, which is to mix them (A11)."""
    if part & _PROT_MARK == _PROT_MARK:
        raise Refusal(
            "cheribsd:A11",
            asked=describe(prot),
            allowed="PROT_CAP and PROT_NO_CAP are opposites",
            needed="one of them, or neither",
        )
    if part & PROT_CAP and not part & (PROT_READ | PROT_WRITE):
        raise Refusal(
            "cheribsd:A9",
            asked=describe(prot),
            allowed="PROT_CAP qualifies PROT_READ and PROT_WRITE and means nothing without them",
            needed="PROT_READ or PROT_WRITE beside PROT_CAP, in PROT_MAX as well",
        )


def _check_subset(prot: int, now: int, most: int, rule: str) -> None:
    """Rows A10 and B5: nothing is asked for now that the maximum lacks."""
    if now & ~most:
        raise Refusal(
            rule,
            asked=describe(prot),
            allowed=f"PROT_MAX lacks {_names(now & ~most)}",
            needed="a PROT_MAX that contains all that is asked for now",
        )


def _check_not_mixed(prot: int, now: int, most: int) -> None:
    """Row A11. Nothing is implied for PROT_NONE, so nothing is mixed there."""
    if now != PROT_NONE and bool(now & _PROT_MARK) != bool(most & _PROT_MARK):
        raise Refusal(
            "cheribsd:A11",
            asked=describe(prot),
            allowed="capability permission is implied for both what is asked now and the maximum, or for neither",
            needed="PROT_CAP or PROT_NO_CAP in both, or in neither",
        )


def _rights(part: int, is_cap_implied: bool) -> Rights:
    """Rows A7 and A8: READ gives load-capability, WRITE gives store-capability permission."""
    rights = Rights(0)
    if part & PROT_READ:
        rights |= Rights.READ
    if part & PROT_WRITE:
        rights |= Rights.WRITE
    if part & PROT_EXEC:
        rights |= Rights.EXECUTE
    if part & PROT_CAP or (is_cap_implied and not part & PROT_NO_CAP):
        rights |= Rights.CAP
    return rights.settled()


def describe(prot: int) -> str:
    """A protection argument in words: "PROT_READ|PROT_CAP, PROT_MAX(READ|WRITE)"."""
    now, most = prot & _PROT_ALL, prot >> PROT_MAX_SHIFT
    text = "|".join(f"PROT_{name}" for bit, name in _PROT_NAMES.items() if now & bit) or "PROT_NONE"
    return f"{text}, PROT_MAX({_names(most)})" if most else text


def _names(part: int) -> str:
    return "|".join(name for bit, name in _PROT_NAMES.items() if part & bit)
