"""The 128-bit capability format of CHERI-RISC-V (CHERI ISAv9): pure functions, no machine needed.

A capability is two 64-bit words and a tag. `metadata` is the upper word as it lies in memory, where the null capability
is all zero; `address` is the lower one. How the words are made up stands in native/encoding.h.

Every function takes any pair of words, malformed ones too, and raises TypeError for what is not an int (or is a bool,
which would be a tag in the wrong place) and ValueError for an int that is no 64-bit word.
"""

from __future__ import annotations

import operator
from collections import namedtuple

from capshm._native import ffi, lib

_WORD_END = 1 << 64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple, SupportsIndex

    class _Decoded(NamedTuple):
        base: int
        top: int
        permissions: int
        object_type: int
        is_valid: bool

else:
    _Decoded = namedtuple("_Decoded", "base top permissions object_type is_valid")  # typing is a dear import


class Decoded(_Decoded):
    """What a capability says, whatever its tag.

    `top` may be 2**64, the end of the address space; in a malformed capability it may be less than `base` or up to
    2**65 - 1. `permissions`: the raw number, see `Permissions.from_raw`. `object_type`: the raw 18 bits, 0x3ffff for an
    unsealed capability and 0x3fffe for a sentry. `is_valid`: whether the bounds could be decoded; in this format they
    always can be.
    """

    __slots__ = ()


def decode(metadata: SupportsIndex, address: SupportsIndex) -> Decoded:
    """Read the bounds, permissions and object type of a capability. (ISAv9: capBitsToCapability, getCapBounds)"""
    out = ffi.new("struct capshm_decoded *")
    lib.capshm_decode(_word("metadata", metadata), _word("address", address), out)
    return Decoded(out.base, out.top_carry << 64 | out.top, out.permissions, out.object_type, bool(out.is_valid))


def set_bounds(
    metadata: SupportsIndex, address: SupportsIndex, tag: SupportsIndex, length: SupportsIndex
) -> tuple[int, int, bool, bool]:
    """Narrow a capability to `length` bytes from its address: (metadata, address, tag, exact).

    The bounds are rounded outwards to the next that the format can express; `exact` says that they needed no rounding.
    The tag is cleared when the request is not inside the old bounds and when the capability is sealed; it is never set.
    (ISAv9: CSetBounds)
    """
    out = ffi.new("struct capshm_derived *")
    lib.capshm_set_bounds(
        _word("metadata", metadata), _word("address", address), _tag(tag), _word("length", length), out
    )
    return out.metadata, out.address, bool(out.tag), bool(out.is_exact)


def set_address(
    metadata: SupportsIndex, address: SupportsIndex, tag: SupportsIndex, new_address: SupportsIndex
) -> tuple[int, int, bool]:
    """Move a capability to another address: (metadata, address, tag).

    The tag is cleared when the bounds would not decode as before and when the capability is sealed; it is never set.
    (ISAv9: CSetAddr, with its exact check)
    """
    out = ffi.new("struct capshm_derived *")
    lib.capshm_set_address(
        _word("metadata", metadata), _word("address", address), _tag(tag), _word("new_address", new_address), out
    )
    return out.metadata, out.address, bool(out.tag)


def representable_length(length: SupportsIndex) -> int:
    """`length` rounded up to one that bounds can have exactly at an aligned base. (ISAv9: CRRL)

    Modulo 2**64, as in the ISA's register: 0 for lengths that round up to the whole address space.
    """
    return int(lib.capshm_representable_length(_word("length", length)))


def representable_mask(length: SupportsIndex) -> int:
    """The mask that aligns a base for bounds of `representable_length(length)` bytes. (ISAv9: CRAM)"""
    return int(lib.capshm_representable_mask(_word("length", length)))


def _word(name: str, value: SupportsIndex) -> int:
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not a bool")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, not {type(value).__name__}") from None
    if not 0 <= number < _WORD_END:
        raise ValueError(f"{name} must be a 64-bit word, 0 to 2**64 - 1, not {number:#x}")
    return number


def _tag(value: SupportsIndex) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"tag must be a bool or an int, not {type(value).__name__}") from None
    if number not in (0, 1):
        raise ValueError(f"tag must be 0 or 1, not {number:#x}")
    return number
