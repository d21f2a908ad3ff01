"""The stamps of revocation against a plain table of what was stamped (native/stamps.h)."""

import mmap
import random

import pytest

from capshm._native import ffi, lib
from capshm.broker.revocation.shadows import Records
from capshm.errors import CapshmError
from capshm.model.epochs import Epochs

LEAF = 1 << 10
BRANCH = LEAF << 9
SIZES = [1, 2, 63, 64, 65, LEAF - 1, LEAF, LEAF + 1, BRANCH - 1, BRANCH, 3 * BRANCH + 5]
CLOCK = Epochs(0, 0)


def random_range(rng: random.Random) -> tuple[int, int]:
    """Granules; beginnings and ends come close to those of leaves and branches."""
    start = rng.choice([0, LEAF, BRANCH, 2 * BRANCH, 5 * LEAF]) + rng.choice([0, 0, 1, 7, LEAF - 1])
    return start, start + rng.choice(SIZES)


class Stamps:
    """A tree, and beside it what is to be found there: all ranges, the last counts."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 64 << 20)
        content = ffi.from_buffer(self._memory)
        self.native = ffi.new("struct stamps *", {"memory": ffi.cast("char *", content), "next": 1})
        self.root = ffi.new("uint32_t *")
        self.ranges: list[tuple[int, int, int]] = []

    def mark(self, start: int, end: int, number: int) -> None:
        assert lib.stamps_mark(self.native, self.root, start, end, number)
        self.ranges.append((start, end, number))

    def expected(self, granule: int) -> int:
        return max((number for start, end, number in self.ranges if start <= granule < end), default=0)

    def check(self, root: int, rng: random.Random) -> None:
        edges = [edge + step for start, end, _ in self.ranges for edge in (start, end) for step in (-1, 0, 1)]
        for granule in [each for each in edges if each >= 0] + [rng.randrange(8 * BRANCH) for _ in range(50)]:
            assert lib.capshm_stamp_at(self.native.memory, root, granule) == self.expected(granule), granule


@pytest.mark.parametrize("turn", range(5))
def test_stamps_are_those_of_the_last_pass(turn: int) -> None:
    """Each granule has the number of the last range over it; a copy stays as it was; what is dropped is used again."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    stamps = Stamps()
    copy = ffi.new("uint32_t *")
    for number in range(1, 40):
        stamps.mark(*random_range(rng), number)
    stamps.check(stamps.root[0], rng)
    assert lib.stamps_copy(stamps.native, stamps.root[0], copy)
    used = stamps.native.next
    lib.stamps_drop(stamps.native, stamps.root)
    assert stamps.root[0] == 0
    stamps.check(copy[0], rng)
    assert lib.stamps_copy(stamps.native, copy[0], stamps.root)
    assert stamps.native.next == used  # the same blocks
    stamps.check(stamps.root[0], rng)


def test_paint_is_stamped_by_its_runs() -> None:
    """Every painted granule of a shadow has the stamp, and no other, wherever runs begin and end in its words."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    stamps = Stamps()
    count = 200
    words = ffi.new("uint64_t[]", [rng.choice([0, (1 << 64) - 1, rng.getrandbits(64)]) for _ in range(count)])
    assert lib.stamps_mark_painted(stamps.native, stamps.root, words, count, 128, 3)
    for granule in range(64 * count):
        is_painted = words[granule // 64] >> granule % 64 & 1
        assert lib.capshm_stamp_at(stamps.native.memory, stamps.root[0], 128 + granule) == 3 * is_painted


def test_stamps_run_out() -> None:
    """Without a block the answer is False, and a copy that could not be made takes none."""
    stamps = Stamps()
    stamps.mark(0, 1, 1)
    stamps.native.next = lib.STAMP_BLOCKS
    assert not lib.stamps_mark(stamps.native, stamps.root, BRANCH, BRANCH + 1, 2)
    copy = ffi.new("uint32_t *")
    assert not lib.stamps_copy(stamps.native, stamps.root[0], copy)
    assert (copy[0], stamps.native.freed) == (0, 0)
    stamps.check(stamps.root[0], random.Random(0))


def test_no_two_address_spaces_have_the_same_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record is used again with another origin, until there are no more; then that is told."""
    monkeypatch.setattr("capshm.broker.revocation.shadows._GENERATIONS", 3)
    records = Records()
    seen = set()
    for _ in range(3):
        number = records.take(CLOCK)
        seen.add(records.native[number].origin)
        records.give_back(number)
        assert records.native[number].origin == 0
    assert len(seen) == 3
    assert records.take(CLOCK) != number  # its origins have been used up
    monkeypatch.setattr(records, "_generations", [0] * lib.REVOCATION_RECORDS)
    with pytest.raises(CapshmError, match="room for 65535 address spaces at once, and in the place of each for 3"):
        records.take(CLOCK)
    records.close()


def test_a_child_has_its_parents_stamps() -> None:
    """And its own from then on; what belongs to a dead one is used again."""
    records = Records()
    parent = records.take(CLOCK)
    records.stamp(parent, None, (0x5500_0000_0000, 0x5500_0000_1000), records.begin_machine_pass())
    child = records.take(CLOCK, parent)
    stranger = records.take(CLOCK)
    records.stamp(parent, None, (0x5500_0000_1000, 0x5500_0000_2000), records.begin_machine_pass())

    def stamps_of(number: int) -> list[int]:
        memory = ffi.cast("char *", records.native)
        return [
            lib.capshm_stamp_at(memory, records.native[number].left_stamps, each) for each in (0, 255, 256, 511, 512)
        ]

    assert stamps_of(parent) == [1, 1, 2, 2, 0]
    assert stamps_of(child) == [1, 1, 0, 0, 0]
    assert stamps_of(stranger) == [0] * 5
    records.give_back(child)
    assert records.native[child].left_stamps == 0
    records.close()
