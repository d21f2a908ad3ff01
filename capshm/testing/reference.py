"""The capability format once more, in exact integers: what the compiled core is tested against.

Written from the ISA's description (CHERI ISAv9, CHERI Concentrate) and in other terms than native/encoding.c: decoding
follows the ISA's comparisons and corrections, encoding asks for the smallest exponent that fits. It shares no code and
no constant with the core, so that a mistake must be made twice to go unseen. Clear, not fast.

Words are plain ints and are not checked. `metadata` is the upper word as it lies in memory.
"""

from __future__ import annotations

from typing import NamedTuple

NULL_MASK = 0x0000_1FFF_FC01_8004
MAXIMUM_EXPONENT = 52
UNSEALED = 0x3FFFF


class Fields(NamedTuple):
    """The metadata taken apart. `bottom` and `top` are the full 14-bit mantissas."""

    bottom: int
    top: int
    exponent: int
    object_type: int
    permissions: int


def fields(metadata: int) -> Fields:
    """Take a metadata word apart; the exponent as encoded, up to 63. (ISAv9: capBitsToCapability)"""
    raw = metadata ^ NULL_MASK
    bottom = raw & 0x3FFF
    top = raw >> 14 & 0xFFF
    exponent = 0
    length_upper = 0
    if raw >> 26 & 1:
        exponent = (top % 8) * 8 + bottom % 8
        top -= top % 8
        bottom -= bottom % 8
        length_upper = 1
    if top < bottom % 4096:
        length_upper += 1
    top += (bottom // 4096 + length_upper) % 4 * 4096
    return Fields(bottom, top, exponent, raw >> 27 & 0x3FFFF, (raw >> 48 & 0xFFF) | (raw >> 60) << 15)


def bounds(metadata: int, address: int) -> tuple[int, int]:
    """Base and top; the top has up to 65 bits. (ISAv9: getCapBounds)"""
    bottom, top, exponent, _, _ = fields(metadata)
    exponent = min(exponent, MAXIMUM_EXPONENT)
    edge = (bottom // 2048 - 1) % 8  # in eighths of the representable window, as are the three compared with it
    is_address_high = (address >> exponent + 11) % 8 < edge
    is_base_high = bottom // 2048 < edge
    is_top_high = top // 2048 < edge
    window = address >> exponent + 14
    full_base = ((window + is_base_high - is_address_high) * 2**14 + bottom) * 2**exponent % 2**65
    full_top = ((window + is_top_high - is_address_high) * 2**14 + top) * 2**exponent % 2**65
    if exponent < MAXIMUM_EXPONENT - 1 and (full_top // 2**63 - full_base // 2**63 % 2) % 4 > 1:
        full_top ^= 2**64
    return full_base % 2**64, full_top


def is_sealed(metadata: int) -> bool:
    """Whether the object type is any but "unsealed"."""
    return fields(metadata).object_type != UNSEALED


def set_bounds(metadata: int, address: int, tag: bool, length: int) -> tuple[int, int, bool, bool]:
    """(metadata, address, tag, exact) of a capability narrowed to `length` bytes from `address`. (ISAv9: CSetBounds)"""
    old_base, old_top = bounds(metadata, address)
    end = address + length
    tag = tag and not is_sealed(metadata) and old_base <= address and end <= old_top
    field, granularity = _encode(address, end)
    exact = address % granularity == 0 and end % granularity == 0
    return metadata >> 27 << 27 | field ^ NULL_MASK % 2**27, address, tag, exact


def set_address(metadata: int, address: int, tag: bool, new_address: int) -> tuple[int, int, bool]:
    """(metadata, address, tag) of a capability moved to `new_address`. (ISAv9: CSetAddr)"""
    is_same = bounds(metadata, address) == bounds(metadata, new_address)
    return metadata, new_address, tag and is_same and not is_sealed(metadata)


def representable_mask(length: int) -> int:
    """The mask that aligns a base for bounds of `representable_length(length)` bytes. (ISAv9: CRAM)"""
    _, granularity = _encode(0, length)
    return 2**64 - granularity


def representable_length(length: int) -> int:
    """`length` rounded up to one that is exact at an aligned base, modulo 2**64. (ISAv9: CRRL)"""
    _, granularity = _encode(0, length)
    return -(-length // granularity) * granularity % 2**64


def _encode(base: int, end: int) -> tuple[int, int]:
    """The raw 27 bits of the smallest expressible bounds around [base, end), and their common granularity in bytes."""
    if end - base < 4096:
        return base % 2**14 | end % 2**12 << 14, 1
    for exponent in range(MAXIMUM_EXPONENT + 1):
        granularity = 2 ** (exponent + 3)
        bottom = base // granularity
        top = -(-end // granularity)
        if top - bottom < 2**10:
            lower = bottom % 2**11 << 3 | exponent % 8
            upper = top % 2**9 << 3 | exponent // 8
            return 1 << 26 | upper << 14 | lower, granularity
    raise AssertionError(f"no exponent fits a length of {end - base:#x}")
