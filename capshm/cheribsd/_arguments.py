"""What callers pass to CheriBSD's calls, as requests have it: checked here, before the broker is asked."""

from __future__ import annotations

import operator

from capshm.capability import Capability

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import SupportsIndex, TypeAlias

    from capshm.connection import Argument

    Address: TypeAlias = Capability | SupportsIndex | None

WORD_END = 1 << 64
"""Past the last address."""


def as_argument(addr: Address) -> Argument:
    """An address as a request has it."""
    if addr is None:
        return None
    if not isinstance(addr, Capability):
        return word("addr", addr)
    return addr._describe()


def word(what: str, value: SupportsIndex) -> int:
    """A 64-bit word. ValueError, TypeError."""
    number = operator.index(value)
    if not 0 <= number < WORD_END:
        raise ValueError(f"{what} must be at least 0 and below 2**64, not {number}")
    return number


def flag_bits(what: str, value: SupportsIndex) -> int:
    """A C int of flags, given with or without a sign. ValueError, TypeError."""
    number = operator.index(value)
    if not -(1 << 31) <= number < 1 << 32:
        raise ValueError(f"{what} must fit in 32 bits, not {number:#x}")
    return number
