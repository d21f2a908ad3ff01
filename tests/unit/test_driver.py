"""The laboratory's native loops beside the same in Python, in both worlds, on memory without a broker."""

import mmap
import random
from collections.abc import Callable, Iterator
from itertools import count as count_up
from math import gcd
from typing import TYPE_CHECKING, TypeAlias

import pytest

from capshm import Capability, StoreTagViolation, TagViolation, _status
from capshm._native import ffi, lib
from capshm.lab.cells.world import CapabilityArea, PlainArea
from capshm.testing import Segment
from tests.faults.isolation import isolated
from tests.faults.processes import Child

if TYPE_CHECKING:
    from capshm._native import CData

WORD = 1 << 64
COUNT = 64  # items of a graph, and slots of a ring
OBJECT = 64  # bytes
GRAPH = COUNT * lib.DRIVER_ITEM_SIZE
RING = lib.DRIVER_RING_HEADER + COUNT * lib.DRIVER_RING_ITEM_SIZE
SLOTS, ANSWERS, REQUESTS, RESPONSES = 0, COUNT * 16, COUNT * 32, COUNT * 96


def mixed(number: int) -> int:
    """SplitMix64's look at a number."""
    number = (number + 0x9E3779B97F4A7C15) % WORD
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 % WORD
    number = (number ^ number >> 27) * 0x94D049BB133111EB % WORD
    return number ^ number >> 31


def chance(seed: int, such: int) -> int:
    """A number that the seed gives."""
    return mixed((mixed(seed) + such) % WORD)


def keys(seed: int) -> list[int]:
    """Of all requests."""
    return [chance(seed, item) for item in range(COUNT)]


def order(share: int, seed: int) -> Iterator[int]:
    """The places of a share in the order in which they are served."""
    step = next(step for step in count_up(chance(seed, 0) % share) if gcd(step, share) == 1)
    start = chance(seed, 1) % share
    return ((start + i * step) % share for i in range(share))


class Counts:
    """What a program has counted; memory that forked processes share."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, ffi.sizeof("struct driver_counts"))
        self.native = ffi.cast("struct driver_counts *", ffi.from_buffer(self._memory))

    def __iter__(self) -> Iterator[int]:
        """Operations, crossed, rederived, refused."""
        return iter([getattr(self.native, name) for name in ("operations", "crossed", "rederived", "refused")])

    @property
    def checksum(self) -> int:
        return int(self.native.checksum)


def done(status: int) -> None:
    """Raise what a loop answers, unless it is done."""
    if status:
        _status.fail(status, "run a loop of the driver")


def collect(area: CapabilityArea | PlainArea, counts: Counts) -> int:
    """The sum of all answers."""
    answer = ffi.new("uint64_t *")
    done(lib.driver_collect(area.driver, COUNT, counts.native, answer))
    return int(answer[0])


@pytest.fixture
def segment() -> Iterator[Segment]:
    """Memory with tags."""
    with Segment(max(GRAPH, 2 * RING)) as made:
        yield made


@pytest.fixture
def plain() -> tuple[PlainArea, mmap.mmap]:
    """Memory without, and its bytes."""
    memory = mmap.mmap(-1, GRAPH)
    return PlainArea(memory, memory, GRAPH), memory


@pytest.fixture
def seed() -> int:
    """Another one in each run."""
    number = random.getrandbits(64)
    print(f"seed {number}")
    return number


def word(memory: mmap.mmap, offset: int) -> int:
    """Eight bytes of it as a number."""
    return int.from_bytes(memory[offset : offset + 8], "little")


def test_plain_graph_is_the_reference(plain: tuple[PlainArea, mmap.mmap], seed: int) -> None:
    """Every byte of a graph that was filled and served in two shares is what the loops in Python leave."""
    area, memory = plain
    counts = Counts()
    done(lib.driver_fill(area.driver, COUNT, seed, counts.native))
    shares = [(0, 23), (23, COUNT - 23)]
    for first, share in shares:
        done(lib.driver_serve(area.driver, COUNT, first, share, seed, counts.native))
    expected = bytearray(GRAPH)

    def put(offset: int, *words: int) -> None:
        expected[offset : offset + 8 * len(words)] = b"".join(each.to_bytes(8, "little") for each in words)

    for item, key in enumerate(keys(seed)):
        response = RESPONSES + item * OBJECT
        put(SLOTS + item * 16, OBJECT, REQUESTS + item * OBJECT)
        put(ANSWERS + item * 16, OBJECT, response)
        put(REQUESTS + item * OBJECT, OBJECT, response, key)
        put(response, mixed(key))
    assert memory[:] == bytes(expected)
    assert list(counts) == [COUNT, 0, 0, 0]
    assert counts.checksum == collect(area, counts) == sum(map(mixed, keys(seed))) % WORD


@pytest.mark.parametrize("share", [1, 2, 60, COUNT])
def test_a_share_is_served(plain: tuple[PlainArea, mmap.mmap], seed: int, share: int) -> None:
    """All of the share is served, and nothing outside it."""
    area, memory = plain
    counts = Counts()
    done(lib.driver_fill(area.driver, COUNT, seed, counts.native))
    first = COUNT - share
    done(lib.driver_serve(area.driver, COUNT, first, share, seed, counts.native))
    served = [item for item in range(COUNT) if word(memory, RESPONSES + item * OBJECT)]
    assert served == list(range(first, COUNT))
    assert sorted(order(share, seed)) == list(range(share))


def test_refused_loop_has_done_what_came_before(segment: Segment, seed: int) -> None:
    """A request without authority ends the loop with its fault; the reference says which requests came before it."""
    area, counts = CapabilityArea(segment.root, GRAPH), Counts()
    done(lib.driver_fill(area.driver, COUNT, seed, counts.native))
    places = list(order(COUNT, seed))
    bad = places[COUNT // 3]
    segment.root.write(SLOTS + bad * 16, bytes(16))  # null: nothing can be derived for it
    with pytest.raises(TagViolation):
        done(lib.driver_serve(area.driver, COUNT, 0, COUNT, seed, counts.native))
    answered = [item for item in range(COUNT) if segment.root.load_capability(ANSWERS + item * 16).tag]
    assert answered == sorted(places[: COUNT // 3])
    assert counts.native.operations == COUNT // 3
    assert counts.native.rederived == 1


def test_emulated_graph_is_the_reference(segment: Segment, seed: int) -> None:
    """The same words, and tagged capabilities of exact bounds, where the plain world has numbers."""
    root, counts = segment.root, Counts()
    area = CapabilityArea(root, GRAPH)
    done(lib.driver_fill(area.driver, COUNT, seed, counts.native))
    done(lib.driver_serve(area.driver, COUNT, 0, COUNT, seed, counts.native))

    def leads_to(slot: int, offset: int) -> bool:
        found = root.load_capability(slot)
        return found == (root + offset).with_exact_bounds(OBJECT) and found.tag

    for item, key in enumerate(keys(seed)):
        request, response = REQUESTS + item * OBJECT, RESPONSES + item * OBJECT
        assert leads_to(SLOTS + item * 16, request)
        assert leads_to(request, response)
        assert leads_to(ANSWERS + item * 16, response)
        assert root.read(request + 16, 8) == key.to_bytes(8, "little")
        assert root.read(response, 8) == mixed(key).to_bytes(8, "little")
    assert list(counts) == [COUNT, 2 * COUNT, 0, 0]
    assert counts.checksum == collect(area, counts) == sum(map(mixed, keys(seed))) % WORD
    assert list(counts) == [COUNT, 3 * COUNT, 0, 0]


def test_memory_without_capabilities_is_data(segment: Segment, seed: int) -> None:
    """The first store is refused and counted; from then on the program stores no tag, and derives what it loads."""
    mapped, counts = segment.map("rw"), Counts()
    with pytest.raises(StoreTagViolation):
        mapped.store_capability(0, mapped)
    area = CapabilityArea(mapped, GRAPH)
    done(lib.driver_fill(area.driver, COUNT, seed, counts.native))
    assert area.driver.is_data_only
    done(lib.driver_serve(area.driver, COUNT, 0, COUNT, seed, counts.native))
    assert collect(area, counts) == counts.checksum == sum(map(mixed, keys(seed))) % WORD
    assert list(counts) == [COUNT, 0, 3 * COUNT, 1]
    assert not any(segment.root.load_capabilities(0, GRAPH // 16).tags)


def test_what_is_private_has_not_crossed(segment: Segment, seed: int) -> None:
    """Loads of tags from memory that nobody shares count as nothing, and are in no checksum."""
    area, counts = CapabilityArea(segment.root, GRAPH, is_shared=False), Counts()
    done(lib.driver_fill(area.driver, COUNT, seed, counts.native))
    done(lib.driver_serve(area.driver, COUNT, 0, COUNT, seed, counts.native))
    assert list(counts) == [COUNT, 0, 0, 0]
    assert counts.checksum == 0


def handed_over(ring: int, total: int, seed: int) -> int:
    """The sum of the words that go through a ring."""
    return sum(chance((seed + ring) % WORD, number) for number in range(total)) % WORD


Area: TypeAlias = CapabilityArea | PlainArea


def rings_in(slots: Area, objects: Area, *, count: int = 2, capacity: int = COUNT) -> "CData":
    """Rings whose objects are in another area; or behind them, if it is the same."""
    rings = ffi.new("struct driver_rings *")
    rings.slots, rings.objects, rings.count, rings.capacity = slots.driver, objects.driver, count, capacity
    rings.first_object = count * (lib.DRIVER_RING_HEADER + capacity * 16) if slots is objects else 0
    return rings


def exchange(rings: "CData", total: int, seed: int) -> list[Counts]:
    """Hand so many capabilities over through each of two rings; what the producer and the consumers have counted.

    They take them in two goes.
    """
    counts = [Counts() for _ in range(3)]

    def consume(ring: int) -> None:
        for first, end in ((0, total // 3), (total // 3, total)):
            done(lib.driver_consume(rings, ring, first, end, counts[1 + ring].native))

    with Child(lambda: consume(0)) as one, Child(lambda: consume(1)) as other:
        done(lib.driver_produce(rings, total, seed, counts[0].native))
        assert one.wait() == other.wait() == 0
    return counts


@pytest.mark.slow
@pytest.mark.parametrize("total", [1, 32, COUNT, 1000])
@pytest.mark.parametrize("world", ["plain", "capabilities", "data", "capabilities elsewhere", "data elsewhere"])
@isolated()
def test_rings_hand_over_everything_once(world: str, total: int) -> None:
    """Two consumers take what was produced for each of them, also when the rings go round many times.

    Objects may be in another area: what comes from there untagged is derived from the authority over that.
    """
    seed = random.getrandbits(64)
    print(f"seed {seed}")
    world, _, elsewhere = world.partition(" ")
    if world == "plain":
        memory = mmap.mmap(-1, 2 * RING)
        area = PlainArea(memory, memory, 2 * RING)
        counts = exchange(rings_in(area, area), total, seed)
    else:
        with Segment(4 * RING) as segment:
            authority = segment.root if world == "capabilities" else segment.map("rw")
            halves = [authority.with_bounds(2 * RING), (authority + 2 * RING).with_bounds(2 * RING)]
            slots, other = (CapabilityArea(half, 2 * RING) for half in halves)
            counts = exchange(rings_in(slots, other if elsewhere else slots), total, seed)
    sums = [handed_over(ring, total, seed) for ring in range(2)]
    assert [each.checksum for each in counts] == [sum(sums) % WORD, *sums]
    assert list(counts[0]) == [0, 0, 0, int(world == "data")]
    taken = {"plain": [total, 0, 0, 0], "capabilities": [total, total, 0, 0], "data": [total, 0, total, 0]}[world]
    assert [list(each) for each in counts[1:]] == [taken, taken]


def test_impossible_rings_are_refused(plain: tuple[PlainArea, mmap.mmap]) -> None:
    """More rings than one process may have, and rings that hold no batch: nothing is written."""
    area, memory = plain
    many, small = rings_in(area, area, count=lib.DRIVER_RINGS + 1), rings_in(area, area, count=1, capacity=31)
    assert lib.driver_produce(many, 1, 0, Counts().native) == lib.STATUS_INVALID
    assert lib.driver_produce(small, 1, 0, Counts().native) == lib.STATUS_INVALID
    assert lib.driver_consume(small, 0, 0, 1, Counts().native) == lib.STATUS_INVALID
    assert not any(memory[:])


@pytest.mark.parametrize("pointers", [1, 26, lib.DRIVER_PAGE_POINTERS])
def test_pages_hold_so_many_pointers(segment: Segment, seed: int, pointers: int) -> None:
    """Evenly, each to the head of its page, where its number and key are; writing changes the key, and no place."""
    page, root, counts = lib.DRIVER_PAGE_SIZE, segment.root, Counts()
    area = CapabilityArea(root, GRAPH)

    def tagged(number: int) -> list[int]:
        return [place for place in range(page // 16) if root.load_capability(number * page + 16 * place).tag]

    done(lib.driver_heap_fill(area.driver, 2, pointers, seed, counts.native))
    places = [1 + which * 255 // pointers for which in range(pointers)]
    for number in range(2):
        assert tagged(number) == places
        head = (root + number * page).with_exact_bounds(16)
        assert all(root.load_capability(number * page + 16 * place) == head for place in places)
        assert root.read(number * page, 16) == b"".join(
            word.to_bytes(8, "little") for word in (number, chance(seed, number))
        )
    done(lib.driver_heap_touch(area.driver, 2, 1, pointers, seed, counts.native))
    first = chance(seed, 1) % 2
    assert counts.checksum == chance(seed, first)
    assert root.read(first * page + 8, 8) == mixed(chance(seed, first)).to_bytes(8, "little")
    assert [tagged(number) for number in range(2)] == [places, places]


@pytest.mark.parametrize("loop", ["fill", "serve", "collect"])
def test_driver_has_no_other_way_to_memory(segment: Segment, loop: str) -> None:
    """With an authority that has no tag every loop is refused, and memory is as it was."""
    area, counts = CapabilityArea(segment.root, GRAPH), Counts()
    done(lib.driver_fill(area.driver, COUNT, 1, counts.native))
    before = segment.root.read(0, GRAPH)
    untagged: Capability = segment.root.without_tag()
    area = CapabilityArea(untagged, GRAPH)
    calls: dict[str, Callable[[], object]] = {
        "fill": lambda: done(lib.driver_fill(area.driver, COUNT, 2, counts.native)),
        "serve": lambda: done(lib.driver_serve(area.driver, COUNT, 0, COUNT, 2, counts.native)),
        "collect": lambda: collect(area, counts),
    }
    with pytest.raises(TagViolation):
        calls[loop]()
    assert segment.root.read(0, GRAPH) == before
