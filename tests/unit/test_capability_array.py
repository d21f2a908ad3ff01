"""`capshm.CapabilityArray`: a sequence over a window of registers, and the bulk operations that fill and store it."""

import copy
import gc
import os
import pickle
from collections.abc import Iterator, Sequence
from typing import Any, overload

import pytest

from capshm import Capability, CapabilityArray, Fault, PageViolation, Permissions, PermissionViolation
from capshm.testing import Segment

P = Permissions
GRANULE = 16
LINE = 64  # granules
PAGE = 256


@pytest.fixture
def segment() -> Iterator[Segment]:
    """Two pages."""
    with Segment(2 * PAGE * GRANULE) as made:
        yield made


def distinct(root: Capability, count: int) -> list[Capability]:
    """So many values that all differ."""
    return [root.with_bounds(number + 1) for number in range(count)]


def local(root: Capability) -> Capability:
    """What an authority without STORE_LOCAL may not store."""
    return root.with_permissions(root.permissions.without(P.GLOBAL))


class Derived(Sequence[Capability]):
    """A sequence that makes its values on access and keeps none."""

    def __init__(self, root: Capability, size: int) -> None:
        self.root = root
        self.size = size

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, index: int) -> Capability: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Capability]: ...
    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self.size:
            raise IndexError
        return self.root.with_bounds(index + 1)


# As a sequence

COUNT = 5


@pytest.fixture
def values(root: Capability) -> list[Capability]:
    """What the array holds, as a list to compare with; the third has no tag."""
    made = distinct(root, COUNT)
    made[2] = made[2].without_tag()
    return made


@pytest.fixture
def array(values: list[Capability]) -> CapabilityArray:
    """An array of them."""
    return CapabilityArray.of(values)


def test_it_is_a_sequence(array: CapabilityArray, values: list[Capability], root: Capability) -> None:
    """Length, iteration both ways, membership, search, tags and text are those of a sequence."""
    assert len(array) == COUNT
    assert list(array) == values
    assert list(reversed(array)) == values[::-1]
    assert values[3] in array
    assert root not in array
    assert (array.index(values[3]), array.count(values[3]), array.count(root)) == (3, 1, 0)
    assert array.tags == b"\1\1\0\1\1"
    assert repr(array) == "<CapabilityArray of 5, 4 tagged>"


@pytest.mark.parametrize("index", range(-COUNT, COUNT))
def test_index(array: CapabilityArray, values: list[Capability], index: int) -> None:
    """Indices count from either end."""
    assert array[index] == values[index]


@pytest.mark.parametrize("index", [COUNT, -COUNT - 1, 1 << 64, -(1 << 64)])
def test_index_out_of_range(array: CapabilityArray, index: int) -> None:
    """An index past either end is an IndexError, however far."""
    with pytest.raises(IndexError, match="of an array of 5 capabilities"):
        array[index]


@pytest.mark.parametrize("index", [1.0, "1", None, (1,)], ids=repr)
def test_index_of_a_wrong_type(array: CapabilityArray, index: Any) -> None:
    """An index is an int or a slice."""
    with pytest.raises(TypeError):
        array[index]


BOUNDS = [None, 0, 1, 4, 5, 9, -1, -5, -9]
SLICES = [slice(start, stop, step) for start in BOUNDS for stop in BOUNDS for step in (None, 1, 2, 9, -1, -2)]


def test_slices(array: CapabilityArray, values: list[Capability]) -> None:
    """A slice, with any step, is an array of what a list's slice holds; a slice of a slice as well."""
    for part in SLICES:
        sliced = array[part]
        assert isinstance(sliced, CapabilityArray)
        assert list(sliced) == values[part], part
        assert list(sliced[1:]) == values[part][1:], part
        assert list(sliced[::-1]) == values[part][::-1], part
    with pytest.raises(ValueError, match="zero"):
        array[::0]


def test_equality(array: CapabilityArray, values: list[Capability]) -> None:
    """Arrays are equal when all their elements are, tags included; they are unhashable, because tags change."""
    assert array == CapabilityArray.of(values)
    assert array != array[:-1]
    assert array[1:2] != array[2:3]
    assert array != CapabilityArray.of([value.without_tag() for value in values])
    assert array != values
    with pytest.raises(TypeError):
        hash(array)


def test_none_can_be_made_up() -> None:
    """Arrays come from memory or from capabilities."""
    with pytest.raises(TypeError, match=r"load_capabilities|CapabilityArray\.of"):
        CapabilityArray()


@pytest.mark.parametrize("wrong", [None, 5, "abc", [None], [1], object], ids=repr)
def test_an_array_is_of_capabilities(wrong: Any) -> None:
    """Anything else is a TypeError."""
    with pytest.raises(TypeError):
        CapabilityArray.of(wrong)


def test_empty_ones(root: Capability) -> None:
    """Empty arrays can be made, sliced, compared, stored and loaded, at any place that exists."""
    empty = CapabilityArray.of([])
    loaded = root.load_capabilities(root.length, 0)
    for one in empty, loaded, empty[:], loaded[::-1]:
        assert len(one) == 0
        assert list(one) == []
        assert one.tags == b""
        assert one == empty
        root.store_capabilities(0, one)
        with pytest.raises(IndexError):
            one[0]
    root.fill_capabilities(0, 0, root)
    assert root.read(0, GRANULE) == bytes(GRANULE)


# Making and storing


def test_any_sequence_can_be_stored(root: Capability) -> None:
    """Lists, tuples, arrays, their slices, and sequences that make their values on access store the same."""
    values = distinct(root, 10)
    array = CapabilityArray.of(values)
    for sequence in values, tuple(values), array, array[:], [*array], Derived(root, 10):
        root.fill_capabilities(0, 10, root)
        root.store_capabilities(0, sequence)
        assert list(root.load_capabilities(0, 10)) == values, type(sequence)
    root.store_capabilities(0, array[2:5])
    root.store_capabilities(3 * GRANULE, array[9:4:-2])
    assert list(root.load_capabilities(0, 6)) == [*values[2:5], *values[9:4:-2]]


def test_values_made_on_the_way_are_kept(root: Capability) -> None:
    """Values that nobody else holds are the array's own: none is replaced by one that was made after it."""
    expected = distinct(root, 10)
    assert list(CapabilityArray.of(Derived(root, 10))) == expected
    assert list(CapabilityArray.of([root.with_bounds(number + 1) for number in range(10)])) == expected
    generated = (root.with_bounds(number + 1) for number in range(10))
    assert list(CapabilityArray.of(generated)) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, LINE - 1, LINE, LINE + 1, 2 * PAGE])
@pytest.mark.parametrize("start", [0, 1, LINE - 1])
def test_bulk_operations_are_many_single_ones(root: Capability, start: int, count: int) -> None:
    """Whatever lines and pages they cross, bulk forms store and load what single operations do."""
    count = min(count, 2 * PAGE - start)
    values = distinct(root, count)
    root.store_capabilities(start * GRANULE, values)
    assert [root.load_capability((start + number) * GRANULE) for number in range(count)] == values
    loaded = root.load_capabilities(start * GRANULE, count)
    assert list(loaded) == values
    root.fill_capabilities(start * GRANULE, count, values[0])
    assert set(root.load_capabilities(start * GRANULE, count)) == {values[0]}
    outside = [number for number in range(2 * PAGE) if not start <= number < start + count]
    assert all(root.load_capability(number * GRANULE).tag is False for number in outside)
    assert list(loaded) == values  # what was loaded is not what lies there now


# Lifetime


def test_elements_keep_the_window_alive(root: Capability) -> None:
    """An element or a slice outlives its array: its registers are not used again while it lives."""
    values = distinct(root, 20)
    root.store_capabilities(0, values)
    elements = [root.load_capabilities(0, 20)[number] for number in range(20)]
    parts = [root.load_capabilities(0, 20)[3:7] for _ in range(20)]
    gc.collect()
    others = [root.load_capabilities(20 * GRANULE, 20) for _ in range(50)]
    assert elements == values
    assert all(list(part) == values[3:7] for part in parts)
    assert not any(any(other.tags) for other in others)


def test_what_comes_back_from_a_dead_cycle_is_what_it_was(root: Capability) -> None:
    """A finalizer may bring an array and an element back after the garbage collector has found them dead."""
    values = distinct(root, 20)
    root.store_capabilities(0, values)
    brought_back: list[tuple[CapabilityArray, Capability]] = []

    class Cycle:
        def __init__(self) -> None:
            self.itself = self
            self.array = root.load_capabilities(0, 20)
            self.element = root.load_capabilities(0, 20)[3]

        def __del__(self) -> None:
            brought_back.append((self.array, self.element))

    for _ in range(10):
        Cycle()
    gc.collect()
    others = [root.load_capabilities(20 * GRANULE, 20) for _ in range(50)]
    assert [(list(array), element) for array, element in brought_back] == [(values, values[3])] * 10
    assert not any(any(other.tags) for other in others)


def test_windows_are_used_again(root: Capability) -> None:
    """What is let go is given back: loading for ever takes no more registers than loading once."""
    firsts = {root.load_capabilities(0, 20)._first for _ in range(100)}
    assert len(firsts) == 1
    assert len({root.load_capabilities(0, 20)[0]._register for _ in range(100)}) == 1


def test_a_window_is_new_to_its_array(root: Capability) -> None:
    """Whatever its registers held before, an array holds what was loaded into it."""
    root.fill_capabilities(0, 20, root)
    for count in range(1, 21):
        assert root.load_capabilities(0, count).tags == b"\1" * count
        assert root.load_capabilities(PAGE * GRANULE, count).tags == b"\0" * count
        assert CapabilityArray.of([root.without_tag()] * count).tags == b"\0" * count


def test_no_more_registers(root: Capability) -> None:
    """More capabilities than there are registers is a MemoryError, and what there was stays."""
    with Segment(1 << 30) as large:
        held = large.root.load_capabilities(0, 1 << 20)
        with pytest.raises(MemoryError):
            large.root.load_capabilities(0, 1 << 26)
        assert len(held) == 1 << 20
        assert held[0].tag is False
    assert root.tag


# Copies and pickles


def test_a_pickled_array_arrives_untagged(array: CapabilityArray, values: list[Capability]) -> None:
    """As every capability that leaves its process, the elements arrive without tags, in registers of their own."""
    travelled = pickle.loads(pickle.dumps(array))
    assert list(travelled) == [value.without_tag() for value in values]
    assert list(array) == values


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_a_copied_array_has_its_own_life(array: CapabilityArray, values: list[Capability], duplicate: Any) -> None:
    """A copy equals the array, and letting go of one gives back nothing that the other needs."""
    duplicates = [duplicate(array) for _ in range(3)]
    assert all(one == array for one in duplicates)
    del duplicates
    gc.collect()
    others = [CapabilityArray.of([value.without_tag() for value in values]) for _ in range(4)]
    assert list(array) == values
    assert not any(any(other.tags) for other in others)
    assert len({id(array._window), *(id(other._window) for other in others)}) == 5
    assert len({array._first, *(other._first for other in others)}) == 5


# A fault in the middle (cheribsd:6.3)


def assert_stopped(root: Capability, fault: Fault, values: list[Capability], old: list[Capability], stop: int) -> None:
    """The elements before the fault's address are stored, the others and their tags are as they were."""
    assert fault.address == root.address + stop * GRANULE
    assert list(root.load_capabilities(0, len(values))) == values[:stop] + old[stop:]


@pytest.mark.parametrize("stop", [0, 1, 5, LINE - 1, LINE, LINE + 7, 3 * LINE - 1])
def test_a_value_that_may_not_be_stored(root: Capability, stop: int) -> None:
    """A store stops at the first value that the authority or the page does not take."""
    old = distinct(root, 3 * LINE)
    values = [old[number].without_tag() for number in range(3 * LINE)]
    values[stop] = values[-1] = local(root)
    authority = root.with_permissions(root.permissions.without(P.STORE_LOCAL))
    root.store_capabilities(0, old)
    with pytest.raises(PermissionViolation) as caught:
        authority.store_capabilities(0, values)
    assert_stopped(root, caught.value, values, old, stop)


@pytest.mark.parametrize("stop", [0, 1, 5, LINE - 1, LINE, LINE + 7, 3 * LINE - 1])
@pytest.mark.parametrize("permissions", ["rw", "rwR"])
def test_a_page_that_takes_no_tags(segment: Segment, root: Capability, permissions: str, stop: int) -> None:
    """The same where the page is the reason: untagged values before the first tagged one are stored."""
    old = distinct(root, 3 * LINE)
    values = [old[number].without_tag() for number in range(3 * LINE)]
    values[stop] = values[-1] = root
    page = segment.map(permissions)
    root.store_capabilities(0, old)
    with pytest.raises(Fault) as caught:
        page.store_capabilities(0, values)
    assert caught.value.code == "SEGV_STORETAG"
    assert caught.value.address - page.address == stop * GRANULE
    assert list(root.load_capabilities(0, 3 * LINE)) == values[:stop] + old[stop:]


@pytest.mark.parametrize("before", [0, 1, LINE, LINE + 1])
def test_a_truncated_object(segment: Segment, root: Capability, before: int) -> None:
    """A store or fill that runs past the end of the object has done what lies before; a load gives nothing."""
    start = (PAGE - before) * GRANULE
    values = distinct(root, before + 10)
    os.truncate(segment.fd, PAGE * GRANULE)
    for store in (
        lambda: root.store_capabilities(start, values),
        lambda: root.fill_capabilities(start, len(values), root),
        lambda: root.load_capabilities(start, len(values)),
    ):
        with pytest.raises(PageViolation) as caught:
            store()
        assert caught.value.signal == "SIGBUS"
        assert caught.value.address == root.address + PAGE * GRANULE
    assert list(root.load_capabilities(start, before)) == [root] * before
    os.truncate(segment.fd, 2 * PAGE * GRANULE)
    assert root.load_capabilities(PAGE * GRANULE, 10).tags == bytes(10)


@pytest.mark.parametrize("operation", ["store_capabilities", "fill_capabilities", "load_capabilities"])
def test_a_range_outside_the_bounds_changes_nothing(root: Capability, operation: str) -> None:
    """Bounds are checked for the whole range first: nothing is stored when its end is outside."""
    old = distinct(root, 10)
    start = root.length - 10 * GRANULE
    root.store_capabilities(start, old)
    arguments: dict[str, tuple[object, ...]] = {
        "store_capabilities": ([root] * 11,),
        "fill_capabilities": (11, root),
        "load_capabilities": (11,),
    }
    with pytest.raises(Fault) as caught:
        getattr(root, operation)(start, *arguments[operation])
    assert caught.value.code == "PROT_CHERI_BOUNDS"
    assert caught.value.address == root.address + start
    assert list(root.load_capabilities(start, 10)) == old
