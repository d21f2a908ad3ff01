"""Death in the middle of an operation: no torn authority (P1), no lock that stays, and the survivors go on (P3)."""

import os
import random
import select
import signal
from collections.abc import Callable
from functools import partial
from itertools import count

import pytest

from capshm._native import lib
from capshm.testing.stepping import Stepper
from tests.faults.isolation import isolated
from tests.faults.processes import Child, Event, ask_child
from tests.faults.scene import GRANULE, LINE, OPERATIONS, STEPS, Operation, Scene, chosen, words

OLD, UNTAGGED, STORED = range(3)  # in the order in which an operation brings them about


def _phases(scene: Scene, operation: Operation) -> list[int]:
    """What the touched granules hold. Asserts that no granule of their lines holds a tag over anything else.

    The touched ones are read one by one, then all at once, because these are two ways in the core.
    """
    singly = {i: scene.root.load_capability(i * GRANULE) for i in operation.touches}
    together = scene.root.load_capabilities(0, 2 * LINE)
    for i, (loaded, tag) in enumerate(zip(together, together.tags, strict=True)):
        assert tag or i in operation.touches, f"granule {i} lost its tag to an operation on others"
        assert not tag or words(loaded) in operation.allowed(scene, i), f"granule {i}"
        assert i not in singly or loaded == singly[i], f"granule {i}"
    return [
        UNTAGGED if not loaded.tag else OLD if words(loaded) == words(scene.old[i]) else STORED
        for i, loaded in singly.items()
    ]


def _recover(scene: Scene, operation: Operation) -> list[int]:
    """What another process must find after a death: its phases; and then it stores and loads as if nothing had been."""
    phases = _phases(scene, operation)
    scene.assert_usable(operation.touches)
    return phases


def _recover_as_newcomer(scene: Scene, operation: Operation) -> list[int]:
    """The same for a process that starts after the death, and may take over the slot of the dead."""
    return ask_child(lambda: _recover(scene, operation))


def _end(pid: int) -> None:
    """Kill it, and wait until it is dead; it stays there for its parent to reap."""
    descriptor = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    select.select([descriptor], [], [])
    os.close(descriptor)


SURVIVORS: dict[str, Callable[[Scene, Operation], list[int]]] = {
    "neighbour": _recover,
    "newcomer": _recover_as_newcomer,
}


@pytest.mark.slow
@pytest.mark.parametrize(("survivor", "sample"), [("neighbour", 200), ("newcomer", 20)])
@pytest.mark.parametrize("name", OPERATIONS)
@isolated()
def test_killed_at_some_instructions(name: str, survivor: str, sample: int) -> None:
    """After a SIGKILL at any instruction others find the old value, no tag, or the stored value; never a mixture.

    As the deaths come later each granule goes from the first to the last of these, and never back.
    """
    _kill_within(OPERATIONS[name], SURVIVORS[survivor], sample=sample)


@pytest.mark.soak
@pytest.mark.parametrize("survivor", SURVIVORS)
@pytest.mark.parametrize("name", OPERATIONS)
@isolated(bound=3600)
def test_killed_at_every_instruction(name: str, survivor: str) -> None:
    """The same at each single instruction."""
    _kill_within(OPERATIONS[name], SURVIVORS[survivor], sample=None)


def _kill_within(operation: Operation, recover: Callable[[Scene, Operation], list[int]], *, sample: int | None) -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # to halt and go on costs half on the same processor
    with Scene() as scene:
        with scene.step_into(operation) as child:
            path = child.trace()
        scene.restore(operation.touches)
        latest = [OLD] * len(operation.touches)
        for instructions in chosen(len(path), sample):
            with scene.step_into(operation) as child:
                child.advance(path, instructions)
            phases = recover(scene, operation)
            assert all(before <= now for before, now in zip(latest, phases, strict=True)), f"instruction {instructions}"
            latest = phases


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
@isolated()
def test_killed_under_contention(name: str) -> None:
    """A process that stores and loads in the same lines all the while sees nothing torn, and waits for no dead."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    operation = OPERATIONS[name]
    with Scene() as scene:
        end = Event()
        own = [operation.touches[0] - 1, operation.touches[-1] + 1]
        allowed = {i: operation.allowed(scene, i) | {words(scene.old[i])} for i in operation.touches}

        def work() -> None:
            while not end.is_set():
                for i in own:
                    scene.root.store_capability(i * GRANULE, scene.old[i])
                    assert scene.root.load_capability(i * GRANULE).tag, f"granule {i}"
                for i in operation.touches:
                    loaded = scene.root.load_capability(i * GRANULE)
                    assert not loaded.tag or words(loaded) in allowed[i], f"granule {i}"

        with Child(work) as neighbour:
            for _ in range(20):
                with scene.step_into(operation) as child:
                    child.step(chance.randrange(150))
                _recover(scene, operation)
            end.set()
            assert neighbour.wait() == 0


@pytest.mark.slow
@isolated(core="steps")
def test_killed_at_every_step() -> None:
    """The same at every named step of every operation, each time that the operation comes by."""
    passed = dict.fromkeys(STEPS, 0)
    with Scene() as scene:
        for name, operation in OPERATIONS.items():
            for step in STEPS:
                for nth in count(1):
                    with scene.run_with_step(operation, step, "kill", nth=nth) as child:
                        status = child.wait()
                    assert status in (0, -signal.SIGKILL), f"{name} at {step}"
                    _recover(scene, operation)
                    if status == 0:
                        break
                    passed[step] += 1
    assert all(passed.values()), f"no operation came by: {passed}"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["store", "store over cleared"])
@isolated(core="steps")
def test_what_a_store_killed_at_a_step_leaves(name: str) -> None:
    """The old value until TAGS_CLEARED, no tag until TAGS_SET, then the new value; whatever was cleared before."""
    operation = OPERATIONS[name]
    with Scene() as scene:
        for step in STEPS:
            with scene.run_with_step(operation, step, "kill") as child:
                if child.wait() == 0:
                    continue
            if STEPS.index(step) >= STEPS.index("TAGS_SET"):
                phase = STORED
            elif STEPS.index(step) >= STEPS.index("TAGS_CLEARED") or operation.is_old_gone:
                phase = UNTAGGED
            else:
                phase = OLD
            assert _recover(scene, operation) == [phase], step


@pytest.mark.slow
@isolated(core="steps")
def test_the_dead_are_not_waited_for() -> None:
    """The lock of a dead holder is freed for the next who needs it, though he would wait for no living one."""
    operation = OPERATIONS["store"]
    with Scene(lock_timeout=0) as scene:
        with scene.run_with_step(operation, "LINE_LOCKED", "kill") as child:
            assert child.wait() == -signal.SIGKILL
        assert scene.is_locked(operation.touches[0])
        scene.assert_usable(operation.touches)


def _turn_to(dead: int | None = None) -> None:
    """Let short-lived processes claim slots until the next claim meets that of the dead (next_slot in native/gate.c).

    These are all 63 that are in use first, but the slots of the dead process, of the parent, and of one more that
    lives. dead: to be ended before.
    """
    if dead is not None:
        _end(dead)
    for _ in range(60):
        assert Child(lambda: None).wait() == 0


def _claim_a_slot() -> int:
    """As a child of a fork does."""
    lib.capshm_fork_before()
    return int(lib.capshm_fork_in_child())


@pytest.mark.slow
@isolated()
def test_late_recovery_frees_no_living_lock() -> None:
    """Who is about to free a dead process's lock, and is overtaken by others, leaves the lock of a living one alone.

    Three processes: the first dies with the lock of a line. The second has seen its death, and is held up. The third
    takes over the slot of the dead, and with it the number that stands in the lock, and locks the same line.
    """
    operation = OPERATIONS["store"]
    granule = operation.touches[0]
    with Scene() as scene, scene.step_into(operation) as first:
        while not scene.is_locked(granule):
            first.step()
        of_first = scene.lock_word(granule)
        with Stepper(_claim_a_slot, at="sideband_recover_target", prepare=partial(_turn_to, first.pid)) as second:
            first.kill()
            _turn_to()
            with scene.step_into(operation) as third:
                while not scene.is_locked(granule):
                    third.step()
                of_third = scene.lock_word(granule)
                assert of_third & 0xFFFF == of_first & 0xFFFF
                assert of_third != of_first
                second.resume()
                assert second.wait() == 0
                assert scene.is_locked(granule)
        scene.assert_usable(operation.touches)
