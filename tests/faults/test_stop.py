"""A process stopped in the middle of an operation: others learn who it is, change nothing, and go on after it."""

from collections.abc import Callable

import pytest

from capshm import HolderStopped
from capshm.testing.stepping import Stepper
from tests.faults.isolation import isolated
from tests.faults.processes import Child
from tests.faults.scene import GRANULE, GRANULES, LINE, OPERATIONS, STEPS, Operation, Scene, chosen, words

LOCK_TIMEOUT = 0.02


def _assert_waits_for(scene: Scene, operation: Operation, holder: int) -> None:
    """What others see of a line whose lock is held by that stopped process."""
    granule = next(i for i in operation.touches if scene.is_locked(i))
    other = _other(granule)
    before = scene.memory()

    def attempt(refused: Callable[[], object]) -> None:
        with pytest.raises(HolderStopped) as caught:
            refused()
        assert caught.value.pid == holder
        assert scene.memory() == before

    attempt(lambda: scene.root.store_capability(granule * GRANULE, scene.new))
    attempt(lambda: scene.root.store_capability(other * GRANULE, scene.new))
    attempt(lambda: scene.root.load_capability(granule * GRANULE))
    attempt(lambda: scene.root.write(other * GRANULE, b"data"))
    if scene.is_locked_as_a_whole(granule):
        attempt(lambda: scene.root.load_capability(other * GRANULE))
    else:
        _assert_loads(scene, other)


def _other(granule: int) -> int:
    """A granule of the same line that no operation touches."""
    return granule // LINE * LINE + 20


def _assert_loads(scene: Scene, granule: int) -> None:
    loaded = scene.root.load_capability(granule * GRANULE)
    assert loaded.tag, f"granule {granule}"
    assert words(loaded) == words(scene.old[granule]), f"granule {granule}"


def _assert_goes_on(scene: Scene, operation: Operation, child: Stepper | Child) -> bool:
    """What must hold while the child is stopped inside the operation, and after it goes on. True: it held a lock."""
    is_locked = any(scene.is_locked(i) for i in operation.touches)
    if is_locked:
        _assert_waits_for(scene, operation, child.pid)
    for other in range(20, GRANULES, LINE):
        if not scene.is_locked(other):
            scene.root.store_capability(other * GRANULE, scene.old[other])  # does not wait
            _assert_loads(scene, other)
    child.resume()
    assert child.wait() == 0
    for i in operation.touches:
        loaded = scene.root.load_capability(i * GRANULE)
        assert not loaded.tag or words(loaded) in operation.allowed(scene, i), f"granule {i}"
        assert not operation.stored or words(loaded) == words(operation.stored(scene, i)), f"granule {i}"
    scene.assert_usable(operation.touches)
    return is_locked


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
@isolated()
def test_stopped_at_an_instruction(name: str) -> None:
    """While the holder of a lock is stopped others get HolderStopped and change nothing; loads elsewhere go on."""
    operation = OPERATIONS[name]
    with Scene(lock_timeout=LOCK_TIMEOUT) as scene:
        with scene.step_into(operation) as child:
            path = child.trace()
        scene.restore(operation.touches)
        for instructions in chosen(len(path), sample=16):
            with scene.step_into(operation) as child:
                child.advance(path, instructions)
                child.stop()
                _assert_goes_on(scene, operation, child)


@pytest.mark.slow
@isolated(core="steps")
def test_stopped_at_every_step() -> None:
    """The same at every named step; from LINE_LOCKED to TAGS_SET the lock is held, at the others it is not."""
    locked = set(STEPS[STEPS.index("LINE_LOCKED") : STEPS.index("LINE_UNLOCKED")])
    with Scene(lock_timeout=LOCK_TIMEOUT) as scene:
        for name in ("store", "fill", "write", "load overwritten", "copy"):
            for step in STEPS:
                with scene.run_with_step(OPERATIONS[name], step, "stop") as child:
                    if child.wait_stopped():
                        assert _assert_goes_on(scene, OPERATIONS[name], child) == (step in locked), f"{name} at {step}"
                scene.restore(OPERATIONS[name].touches)
