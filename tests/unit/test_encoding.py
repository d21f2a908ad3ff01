"""`capshm.encoding`: every published vector, the capabilities that programs start from, and the checks of arguments."""

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from capshm import encoding
from capshm._native import lib
from capshm.testing import reference

VECTORS = Path(__file__).parent.parent / "vectors" / "cc128.jsonl.gz"
WORD_END = 1 << 64
NULL, ROOT = int(lib.METADATA_NULL), int(lib.METADATA_ROOT)


def vectors(operation: str) -> list[tuple[int, Any]]:
    """(line number, vector) of each vector of `operation`."""
    with gzip.open(VECTORS, "rt", encoding="ascii") as lines:
        numbered = [(number, json.loads(line)) for number, line in enumerate(lines, 1)]
    return [(number, vector) for number, vector in numbered if vector["op"] == operation]


def word(text: str) -> int:
    """A number of the vectors, all of which are hexadecimal."""
    return int(text, 16)


def expected_bounds(out: Any) -> encoding.Decoded:
    """What `decode` should return, from the vectors' names for it."""
    return encoding.Decoded(
        word(out["base"]), word(out["top"]), word(out["perms"]), word(out["otype"]), bool(out["valid"])
    )


def test_the_vectors_are_all_of_the_four_operations() -> None:
    """Every line of the file belongs to one of the tests below, and none of those tests is empty."""
    with gzip.open(VECTORS, "rt", encoding="ascii") as lines:
        count = Counter(json.loads(line)["op"] for line in lines)
    assert count == {"decode": 1200, "set_bounds": 2400, "set_address": 1200, "representable": 1200}


def test_decode_vectors() -> None:
    """Any metadata, malformed too, decodes to the published bounds, permissions and object type."""
    for number, vector in vectors("decode"):
        decoded = encoding.decode(word(vector["meta"]), word(vector["address"]))
        assert decoded == expected_bounds(vector["out"]), f"line {number}"


@pytest.mark.parametrize("model", [encoding, reference], ids=["core", "reference"])
def test_set_bounds_vectors(model: ModuleType) -> None:
    """Bounds, rounding and tag are the published ones, in the core and in the reference model."""
    for number, vector in vectors("set_bounds"):
        given, out = vector["in"], vector["out"]
        result = model.set_bounds(
            word(given["meta"]), word(given["address"]), bool(given["tag"]), word(vector["length"])
        )
        assert result == (word(out["meta"]), word(out["address"]), out["tag"], vector["exact"]), f"line {number}"
        assert encoding.decode(*result[:2]) == expected_bounds(vector["bounds"]), f"line {number}"


@pytest.mark.parametrize("model", [encoding, reference], ids=["core", "reference"])
def test_set_address_vectors(model: ModuleType) -> None:
    """Metadata and tag are the published ones, in the core and in the reference model."""
    for number, vector in vectors("set_address"):
        given, out = vector["in"], vector["out"]
        result = model.set_address(
            word(given["meta"]), word(given["address"]), bool(given["tag"]), word(vector["address"])
        )
        assert result == (word(out["meta"]), word(out["address"]), out["tag"]), f"line {number}"
        assert encoding.decode(*result[:2]) == expected_bounds(vector["bounds"]), f"line {number}"


@pytest.mark.parametrize("model", [encoding, reference], ids=["core", "reference"])
def test_representable_vectors(model: ModuleType) -> None:
    """Rounded lengths and alignment masks are the published ones, in the core and in the reference model."""
    for number, vector in vectors("representable"):
        length = word(vector["length"])
        assert model.representable_length(length) == word(vector["rounded"]), f"line {number}"
        assert model.representable_mask(length) == word(vector["mask"]), f"line {number}"


def test_reference_decodes_the_vectors() -> None:
    """The reference model of the property tests reads the published capabilities as published."""
    for number, vector in vectors("decode"):
        metadata, out = word(vector["meta"]), expected_bounds(vector["out"])
        fields = reference.fields(metadata)
        assert reference.bounds(metadata, word(vector["address"])) == (out.base, out.top), f"line {number}"
        assert (fields.permissions, fields.object_type) == (out.permissions, out.object_type), f"line {number}"


@pytest.mark.parametrize("address", [0, 1, 0x5500_0000_0000, WORD_END - 1])
def test_null_and_root_span_the_address_space(address: int) -> None:
    """The null capability is all zero, unsealed, allows nothing, and has the bounds of the almighty one."""
    unsealed = int(lib.OBJECT_TYPE_UNSEALED)
    assert NULL == 0
    assert encoding.decode(NULL, address) == (0, WORD_END, 0, unsealed, True)
    assert encoding.decode(ROOT, address) == (0, WORD_END, int(lib.PERMISSIONS_ALL), unsealed, True)


def test_set_bounds_of_an_untagged_value_gives_no_tag() -> None:
    """Bounds are computed for untagged values too, and the result is untagged."""
    metadata, address, tag, exact = encoding.set_bounds(ROOT, 0x1000, False, 64)
    assert (address, tag, exact) == (0x1000, False, True)
    assert encoding.decode(metadata, address)[:2] == (0x1000, 0x1040)


@pytest.mark.parametrize("object_type", [0, 4, int(lib.OBJECT_TYPE_SENTRY), int(lib.OBJECT_TYPE_FIRST_RESERVED)])
def test_a_sealed_capability_loses_its_tag(object_type: int) -> None:
    """A sealed capability can be neither narrowed nor moved, not even to where it is."""
    sealed = ROOT ^ (int(lib.OBJECT_TYPE_UNSEALED) ^ object_type) << 27
    assert encoding.decode(sealed, 0).object_type == object_type
    assert encoding.set_bounds(sealed, 0, True, 16)[2] is False
    assert encoding.set_address(sealed, 0, True, 0)[2] is False


def test_an_empty_range_at_the_end_keeps_the_tag() -> None:
    """Bounds of length 0 may be set at the top itself, and nowhere beyond."""
    metadata, base, tag, _ = encoding.set_bounds(ROOT, 0x1000, True, 64)
    assert encoding.set_bounds(metadata, base + 64, tag, 0)[2] is True
    assert encoding.set_bounds(metadata, base + 65, tag, 0)[2] is False


def test_lengths_that_round_to_the_address_space_are_0() -> None:
    """The representable length is a 64-bit register: 2**64 does not fit and becomes 0."""
    assert encoding.representable_length(WORD_END - 1) == 0
    assert encoding.representable_length(0) == 0


CALLS: dict[str, tuple[Callable[..., object], dict[str, int]]] = {
    "decode": (encoding.decode, {"metadata": 0, "address": 0}),
    "set_bounds": (encoding.set_bounds, {"metadata": 0, "address": 0, "tag": 0, "length": 0}),
    "set_address": (encoding.set_address, {"metadata": 0, "address": 0, "tag": 0, "new_address": 0}),
    "representable_length": (encoding.representable_length, {"length": 0}),
    "representable_mask": (encoding.representable_mask, {"length": 0}),
}
ARGUMENTS = [(call, argument) for call, (_, arguments) in CALLS.items() for argument in arguments]
WORDS = [(call, argument) for call, argument in ARGUMENTS if argument != "tag"]


@pytest.mark.parametrize(("call", "argument"), ARGUMENTS)
@pytest.mark.parametrize("wrong", [1.0, "1", None, b"\1"], ids=repr)
def test_what_is_no_int_is_a_type_error(call: str, argument: str, wrong: object) -> None:
    """An argument that is no int is refused by name."""
    function, arguments = CALLS[call]
    with pytest.raises(TypeError, match=rf"^{argument} must be .* int, not {type(wrong).__name__}"):
        function(**(arguments | {argument: wrong}))


@pytest.mark.parametrize(("call", "argument"), WORDS)
def test_a_bool_is_no_word(call: str, argument: str) -> None:
    """A bool where a word belongs is a tag in the wrong place."""
    function, arguments = CALLS[call]
    with pytest.raises(TypeError, match=f"^{argument} must be an int, not a bool"):
        function(**(arguments | {argument: True}))


@pytest.mark.parametrize(("call", "argument"), WORDS)
@pytest.mark.parametrize("wrong", [-1, WORD_END], ids=hex)
def test_a_word_has_64_bits(call: str, argument: str, wrong: int) -> None:
    """An int outside 0 to 2**64 - 1 is refused by name and value, and the limits themselves are taken."""
    function, arguments = CALLS[call]
    with pytest.raises(ValueError, match=rf"^{argument} must be a 64-bit word, 0 to 2\*\*64 - 1, not {wrong:#x}"):
        function(**(arguments | {argument: wrong}))
    function(**(arguments | {argument: WORD_END - 1}))


@pytest.mark.parametrize("call", ["set_bounds", "set_address"])
@pytest.mark.parametrize("wrong", [-1, 2, 0x1000], ids=hex)
def test_a_tag_is_0_or_1(call: str, wrong: int) -> None:
    """A tag that is neither is refused, since it is probably an address or a length."""
    function, arguments = CALLS[call]
    with pytest.raises(ValueError, match=f"^tag must be 0 or 1, not {wrong:#x}"):
        function(**(arguments | {"tag": wrong}))


class Index:
    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


def test_whatever_stands_for_an_int_is_taken() -> None:
    """Integers of other libraries, such as NumPy's, are ints here."""
    assert encoding.decode(Index(ROOT), Index(0x1000)) == encoding.decode(ROOT, 0x1000)
    assert encoding.set_bounds(Index(ROOT), Index(0x1000), Index(1), Index(64))[2] is True
