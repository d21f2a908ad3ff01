"""A process stopped between two steps while others do whole operations: some order explains what is left."""

from collections.abc import Callable

import pytest

from capshm import Capability, HolderStopped
from tests.faults.isolation import isolated
from tests.faults.scene import GRANULE, OPERATIONS, STEPS, Operation, Scene, words

STORE = OPERATIONS["store"]
(TOUCHED,) = STORE.touches
PLACE = TOUCHED * GRANULE

LOADS: dict[str, Callable[[Scene], Capability]] = {
    "one": lambda scene: scene.root.load_capability(PLACE),
    "several": lambda scene: scene.root.load_capabilities(PLACE, 2)[0],
}


@pytest.mark.slow
@pytest.mark.parametrize("load", LOADS)
@isolated(core="steps")
def test_a_load_beside_stores(load: str) -> None:
    """A load that one, two or more whole stores come into the midst of has the bytes of one moment, and their tag."""

    def run(scene: Scene) -> None:
        loaded = LOADS[load](scene)
        assert loaded.tag == (words(loaded) != (0, 0)), "bytes of a capability without its tag, or a tag over others"

    loading = Operation("capshm_load", run, STORE.touches, prepare=lambda scene: scene.root.write(PLACE, bytes(16)))
    with Scene() as scene:
        for step in ("LOAD_BEGUN", "LOAD_COPIED"):
            for stores in range(1, 9):
                with scene.run_with_step(loading, step, "stop") as child:
                    assert child.wait_stopped()
                    for _ in range(stores):
                        STORE.run(scene)
                    child.resume()
                    assert child.wait() == 0, f"{stores} stores at {step}"


@pytest.mark.slow
@pytest.mark.parametrize("permissions", ["rw", "rwR"])
@isolated(core="steps")
def test_a_store_beside_a_data_write(permissions: str) -> None:
    """A write of other bytes, or of those that are stored, through the clear map leaves what some order explains.

    Until the store covers the bytes it comes last; once others may have seen the capability the write does.
    """
    with Scene() as scene:
        writer = scene.segment.map(permissions)
        STORE.run(scene)
        stored = scene.root.read(PLACE, GRANULE)
        for written in (b"other than these", stored):
            for step in STEPS:
                scene.restore(STORE.touches)
                with scene.run_with_step(STORE, step, "stop") as child:
                    if child.wait_stopped():
                        writer.write(PLACE, written)
                        child.resume()
                        assert child.wait() == 0
                        _assert_explained(scene, step, written, stored)


def _assert_explained(scene: Scene, step: str, written: bytes, stored: bytes) -> None:
    is_covered = STEPS.index(step) < STEPS.index("DATA_STORED")
    may_be_seen = STEPS.index(step) >= STEPS.index("LINE_UNLOCKED")
    loaded = scene.root.load_capability(PLACE)
    assert scene.root.read(PLACE, GRANULE) == (stored if is_covered else written), step
    assert not loaded.tag or words(loaded) == words(scene.new), step
    assert loaded.tag or not is_covered, step
    assert not (loaded.tag and may_be_seen), step


@pytest.mark.slow
@isolated(core="steps")
def test_a_lock_has_one_holder() -> None:
    """Who finds a lock free, and comes too late for it, waits for the one who was faster, and changes nothing."""

    def be_late(scene: Scene) -> None:
        with pytest.raises(HolderStopped):
            STORE.run(scene)

    late = Operation("capshm_store", be_late, STORE.touches)
    with Scene(lock_timeout=0) as scene, scene.run_with_step(late, "LINE_NAMED", "stop") as second:
        assert second.wait_stopped()
        with scene.run_with_step(STORE, "LINE_LOCKED", "stop") as first:
            assert first.wait_stopped()
            before = scene.memory()
            second.resume()
            assert second.wait() == 0
            assert scene.memory() == before
            first.resume()
            assert first.wait() == 0
        assert words(scene.root.load_capability(PLACE)) == words(scene.new)
