"""What must hold for every capability, and that the core computes what the reference model does."""

from typing import NamedTuple

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from capshm import encoding
from capshm._native import lib
from capshm.testing import reference

WORD_END = 1 << 64
ROOT = int(lib.METADATA_ROOT)
UPPER_FIELDS = ~((1 << 27) - 1)  # all of the metadata but the bounds

pytestmark = pytest.mark.slow

# No deadline: how fast the machine is, is no property of the format.
thoroughly = settings(max_examples=400, deadline=None, print_blob=True)


class Value(NamedTuple):
    """A capability, tagged."""

    metadata: int
    address: int

    @property
    def base(self) -> int:
        return encoding.decode(*self).base

    @property
    def top(self) -> int:
        return encoding.decode(*self).top


@st.composite
def near_powers_of_two(draw: st.DrawFn) -> int:
    """Words around the edges where exponents and carries change."""
    return ((1 << draw(st.integers(0, 64))) + draw(st.integers(-9, 9))) % WORD_END


# Every magnitude alike: nearly all uniform words have over 50 bits and would leave small exponents untried.
words = st.one_of(
    st.integers(0, WORD_END - 1),
    near_powers_of_two(),
    st.builds(int.__rshift__, st.integers(0, WORD_END - 1), st.integers(0, 63)),
)


@st.composite
def internal_exponents(draw: st.DrawFn) -> int:
    """Unsealed metadata with an internal exponent, 0 to 63: half of uniform metadata has none, and few are near 52."""
    exponent = draw(st.one_of(st.integers(0, 63), st.integers(48, 56)))
    top, bottom = draw(st.integers(0, 0x1FF)), draw(st.integers(0, 0x7FF))
    raw = 1 << 26 | top << 17 | exponent >> 3 << 14 | bottom << 3 | exponent & 7
    return ROOT & UPPER_FIELDS | raw ^ reference.NULL_MASK % (1 << 27)


any_metadata = st.one_of(st.integers(0, WORD_END - 1), internal_exponents())


@st.composite
def requests(draw: st.DrawFn, base: int = 0, top: int = WORD_END) -> tuple[int, int]:
    """(address, length) of a range inside [base, top)."""
    length = min(draw(words), top - base)
    room = min(top - length, WORD_END - 1) - base
    return base + min(draw(words), room), length


@st.composite
def capabilities(draw: st.DrawFn) -> Value:
    """A tagged capability as programs come to have one: narrowed from the root, at most four times."""
    value = Value(ROOT, 0)
    for _ in range(draw(st.integers(0, 4))):
        address, length = draw(requests(value.base, value.top))
        moved = encoding.set_address(*value, True, address)
        narrowed = encoding.set_bounds(*moved, length)
        assert moved[2]
        assert narrowed[2]
        value = Value(*narrowed[:2])
    return value


@thoroughly
@given(any_metadata, words)
def test_decode_agrees_with_the_reference(metadata: int, address: int) -> None:
    """Any metadata, malformed too, decodes as the ISA's formulas say."""
    fields = reference.fields(metadata)
    bounds = reference.bounds(metadata, address)
    assert encoding.decode(metadata, address) == (*bounds, fields.permissions, fields.object_type, True)


@thoroughly
@given(any_metadata, words, st.booleans(), words)
def test_set_bounds_agrees_with_the_reference(metadata: int, address: int, tag: bool, length: int) -> None:
    """Any metadata is narrowed as the smallest exponent that fits says, inside the old bounds or not."""
    result = encoding.set_bounds(metadata, address, tag, length)
    assert result == reference.set_bounds(metadata, address, tag, length)


@thoroughly
@given(any_metadata, words, st.booleans(), words)
def test_set_address_agrees_with_the_reference(metadata: int, address: int, tag: bool, new_address: int) -> None:
    """Any metadata is moved as the ISA's comparison of bounds says."""
    result = encoding.set_address(metadata, address, tag, new_address)
    assert result == reference.set_address(metadata, address, tag, new_address)


@thoroughly
@given(words)
def test_representable_agrees_with_the_reference(length: int) -> None:
    """Masks and rounded lengths are those of the smallest exponent that fits."""
    assert encoding.representable_mask(length) == reference.representable_mask(length)
    assert encoding.representable_length(length) == reference.representable_length(length)


@thoroughly
@given(capabilities(), st.data())
def test_bounds_never_grow(value: Value, data: st.DataObject) -> None:
    """Whatever is asked for, a result that has a tag lies inside the bounds that it was made from."""
    address, length = data.draw(words), data.draw(words)
    metadata, _, tag = encoding.set_address(*value, True, address)
    metadata, _, tag, _ = encoding.set_bounds(metadata, address, tag, length)
    if tag:
        assert value.base <= Value(metadata, address).base
        assert Value(metadata, address).top <= value.top


@thoroughly
@given(capabilities(), st.data())
def test_set_bounds_inside_covers_the_request(value: Value, data: st.DataObject) -> None:
    """A request inside the bounds keeps the tag, is covered, and is exact if and only if it got what it asked for."""
    address, length = data.draw(requests(value.base, value.top))
    metadata, kept_address, tag, exact = encoding.set_bounds(value.metadata, address, True, length)
    result = Value(metadata, address)
    assert tag
    assert kept_address == address
    assert value.base <= result.base <= address <= address + length <= result.top <= value.top
    assert exact == ((result.base, result.top) == (address, address + length))
    assert exact or length >= 4096
    assert (metadata ^ value.metadata) & UPPER_FIELDS == 0


@thoroughly
@given(requests())
def test_rounding_is_small_and_final(wanted: tuple[int, int]) -> None:
    """Base and top move by at most a 256th of the length, to bounds that need no more rounding."""
    address, length = wanted
    metadata, _, _, _ = encoding.set_bounds(ROOT, address, True, length)
    result = Value(metadata, address)
    assert (address - result.base) * 2**8 <= length
    assert (result.top - address - length) * 2**8 <= length
    assert encoding.set_bounds(ROOT, result.base, True, min(result.top - result.base, WORD_END - 1))[0] == metadata


@thoroughly
@given(capabilities(), words)
def test_set_address_keeps_the_tag_iff_the_bounds_stay(value: Value, address: int) -> None:
    """An address change keeps the metadata, and the tag if and only if that still means the same bounds."""
    metadata, new_address, tag = encoding.set_address(*value, True, address)
    assert (metadata, new_address) == (value.metadata, address)
    assert tag == ((value.base, value.top) == (Value(metadata, address).base, Value(metadata, address).top))


@thoroughly
@given(capabilities(), st.data())
def test_every_address_inside_is_representable(value: Value, data: st.DataObject) -> None:
    """A capability may point anywhere in its bounds, to their end, and up to an eighth of its window below them."""
    fields = reference.fields(value.metadata)
    window = 1 << fields.exponent + 14
    lowest = max(value.base - window // 8, 0)
    address = data.draw(st.integers(lowest, min(value.top, WORD_END - 1)))
    assert encoding.set_address(*value, True, address)[2]


@thoroughly
@given(words, words)
def test_representable_lengths_are_exact_at_aligned_bases(base: int, length: int) -> None:
    """A rounded length at a base that the mask aligned needs no rounding, and the rounding was less than the mask's."""
    mask = encoding.representable_mask(length)
    rounded = encoding.representable_length(length)
    granularity = WORD_END - mask
    assume(rounded != 0 or length == 0)
    assert length <= rounded < length + granularity
    assert granularity & (granularity - 1) == 0
    assert encoding.representable_length(rounded) == rounded
    assert encoding.set_bounds(ROOT, base & mask, True, rounded)[3]


@thoroughly
@given(words)
def test_a_length_is_exact_at_0_iff_it_is_representable(length: int) -> None:
    """`set_bounds` at address 0 rounds exactly those lengths that `representable_length` rounds, and to the same."""
    metadata, _, _, exact = encoding.set_bounds(ROOT, 0, True, length)
    rounded = encoding.representable_length(length)
    assert exact == (rounded == length)
    assert Value(metadata, 0).top % WORD_END == rounded
