"""A segment with a known capability in every granule, and operations that do not survive, or stop, in the middle."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from capshm import Capability
from capshm._native import ffi
from capshm.testing import Segment, steps
from capshm.testing.stepping import Stepper
from tests.faults.processes import Child

GRANULE = 16
LINE = 64  # granules
GRANULES = 4 * LINE  # of a page

STEPS = tuple(step for step in steps.names() if not step.startswith("REMOTE_"))
"""Of operations; those of requests of other processes are tests/faults/test_remote_death.py's."""

Words = tuple[int, int]  # address and metadata


def words(capability: Capability) -> Words:
    """The 16 bytes of a capability."""
    return capability._words()


def lock_words(segment: Segment) -> list[int]:
    """The lock word of each tag line (native/sideband.h)."""
    mapping = segment._mappings[0]
    return list(ffi.cast("uint64_t *", mapping.lines)[0 : mapping.length // LINE // GRANULE * 2])[1::2]


def assert_unlocked(segment: Segment) -> None:
    """No lock is held anywhere."""
    assert not [line for line, word in enumerate(lock_words(segment)) if word & 0xFFFF]


def chosen(number: int, sample: int | None) -> list[int]:
    """All instructions below the number, or a random sample of so many, in order."""
    seed = random.randrange(1 << 32)
    print(f"{number} instructions, sample {sample}, seed {seed}")
    return sorted(random.Random(seed).sample(range(number), min(sample or number, number)))


class Scene:
    """A page of granules, each of which holds a capability of its own: `old`; and `new`, which operations store."""

    def __init__(self, *, lock_timeout: float = 60) -> None:
        self.segment = Segment(GRANULES * GRANULE, lock_timeout=lock_timeout)
        self.root = self.segment.root
        self.old = [(self.root + i * GRANULE).with_bounds(1) for i in range(GRANULES)]
        self.new = (self.root + 8).with_bounds(40)
        self.data_only = self.segment.map("rw")  # a write there clears tags through the clear map
        self.restore(range(GRANULES))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.segment.close()

    def restore(self, granules: Iterable[int]) -> None:
        for i in granules:
            self.root.store_capability(i * GRANULE, self.old[i])

    def lock_word(self, granule: int) -> int:
        """Of the granule's tag line."""
        return lock_words(self.segment)[granule // LINE]

    def is_locked(self, granule: int) -> bool:
        """Whether somebody holds the lock of the granule's tag line."""
        return bool(self.lock_word(granule) & 0xFFFF)

    def is_locked_as_a_whole(self, granule: int) -> bool:
        """... and stores several granules there, so that loads of all others wait, too."""
        return bool(self.lock_word(granule) & 1 << 22)

    def memory(self) -> bytes:
        """Everything that is shared, as it lies there: data, clear map, tag lines and twins."""
        segment, mapping = self.segment, self.segment._mappings[0]
        places = [
            (mapping.address, segment.length),
            (mapping.clear, segment._clear_length),
            (mapping.lines, segment._lines_length + segment.length),
        ]
        return b"".join(bytes(ffi.buffer(ffi.cast("char *", place), extent)) for place, extent in places)

    def assert_usable(self, granules: Iterable[int]) -> None:
        """Capabilities can be stored to these granules, and to the lines around, and come back; no lock is left."""
        for i in {*granules, 0, 2 * LINE - 1}:
            self.root.store_capability(i * GRANULE, self.old[i])
            loaded = self.root.load_capability(i * GRANULE)
            assert loaded.tag, f"granule {i}"
            assert words(loaded) == words(self.old[i]), f"granule {i}"
        assert_unlocked(self.segment)

    def step_into(self, operation: "Operation") -> Stepper:
        """A child that is about to do the operation's first instruction."""
        operation.prepare(self)
        return Stepper(lambda: operation.run(self), at=operation.function)

    def run_with_step(self, operation: "Operation", step: str, action: str, *, nth: int = 1) -> Child:
        """A child that does the operation, and `action` at the n-th passage of the step; for CAPSHM_CORE=steps."""
        operation.prepare(self)

        def body() -> None:
            steps.arm(step, nth=nth, action=action)
            operation.run(self)

        return Child(body)


@dataclass(frozen=True)
class Operation:
    """Something that a process does to a scene and may not survive.

    function: of the core, that does it. touches: the granules that it is about. stored: the value that may stand in
    each of them then, tagged; None: no new one. prepare: is done to the scene before. is_old_gone: that took the old
    tags.
    """

    function: str
    run: Callable[[Scene], object]
    touches: range
    stored: Callable[[Scene, int], Capability] | None = None
    prepare: Callable[[Scene], object] = lambda scene: None
    is_old_gone: bool = False

    def allowed(self, scene: Scene, granule: int) -> set[Words]:
        """What may stand in the granule with a tag while the operation is under way, or after it died."""
        if granule not in self.touches:
            return {words(scene.old[granule])}
        old = set() if self.is_old_gone else {words(scene.old[granule])}
        return old if self.stored is None else old | {words(self.stored(scene, granule))}


def _overwrite(scene: Scene) -> None:
    """Write past the library, as another program would."""
    scene.root.view(_ONE[0] * GRANULE, 8, writable=True)[:] = random.randbytes(8)


_ONE = range(5, 6)
_THREE = range(LINE - 2, LINE + 1)  # two granules of one line and one of the next
_SOURCE = 80  # granules further up
_PART = _THREE[0] * GRANULE + 5, bytes(2 * GRANULE + 1)  # bytes in each of them

OPERATIONS = {
    "store": Operation(
        "capshm_store",
        lambda scene: scene.root.store_capability(_ONE[0] * GRANULE, scene.new),
        _ONE,
        lambda scene, _: scene.new,
    ),
    "store untagged": Operation(
        "capshm_store", lambda scene: scene.root.store_capability(_ONE[0] * GRANULE, scene.new.without_tag()), _ONE
    ),
    "store over cleared": Operation(
        "capshm_store",
        lambda scene: scene.root.store_capability(_ONE[0] * GRANULE, scene.new),
        _ONE,
        lambda scene, _: scene.new,
        prepare=lambda scene: scene.data_only.write(_ONE[0] * GRANULE, b"cleared"),
        is_old_gone=True,
    ),
    "load": Operation("capshm_load", lambda scene: scene.root.load_capability(_ONE[0] * GRANULE), _ONE),
    "load overwritten": Operation(
        "capshm_load",
        lambda scene: scene.root.load_capability(_ONE[0] * GRANULE),
        _ONE,
        prepare=_overwrite,
        is_old_gone=True,
    ),
    "write": Operation("capshm_write", lambda scene: scene.root.write(*_PART), _THREE),
    "write without capability permission": Operation(
        "capshm_write", lambda scene: scene.data_only.write(*_PART), _THREE
    ),
    "copy": Operation(
        "capshm_copy",
        lambda scene: (scene.root + (_THREE[0] + _SOURCE) * GRANULE).copy_to(
            scene.root + _THREE[0] * GRANULE, len(_THREE) * GRANULE
        ),
        _THREE,
        lambda scene, granule: scene.old[granule + _SOURCE],
    ),
    "fill": Operation(
        "capshm_fill",
        lambda scene: scene.root.fill_capabilities(_THREE[0] * GRANULE, len(_THREE), scene.new),
        _THREE,
        lambda scene, _: scene.new,
    ),
}
