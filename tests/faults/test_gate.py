"""Death and stops around the gate: nobody waits for a dead closer, and a straggler is named, not waited for."""

import os
import signal
from collections.abc import Callable

import pytest

from capshm import RevocationIncomplete
from capshm.testing import closed_gate
from capshm.testing.stepping import Stepper
from tests.faults.isolation import isolated
from tests.faults.processes import Child, Event, stop_here, wait_until_parked
from tests.faults.scene import GRANULE, OPERATIONS, Scene, words


def _close_and_stop() -> None:
    with closed_gate():
        stop_here()


@pytest.mark.slow
@isolated()
def test_closer_killed() -> None:
    """When the process that has closed the gate is killed, those who wait go on, and the gate can be closed again."""
    begin = Event()

    def after(action: Callable[[], object]) -> Child:
        def body() -> None:
            begin.wait()
            action()

        return Child(body)

    with (
        Scene() as scene,
        after(lambda: scene.root.load_capability(0)) as loading,
        after(lambda: scene.root.store_capability(0, scene.new)) as storing,
        after(lambda: closed_gate(timeout=60).__enter__()) as closing,
        after(lambda: Child(lambda: None).wait()) as forking,
        Child(_close_and_stop) as closer,
    ):
        assert closer.wait_stopped()
        begin.set()
        waiting = loading, storing, closing, forking
        for child in waiting:
            wait_until_parked(child.pid)
        closer.kill()
        assert [child.wait() for child in waiting] == [0, 0, 0, 0]
        assert words(scene.root.load_capability(0)) == words(scene.new)
        with closed_gate(timeout=0):
            pass


@pytest.mark.slow
@isolated(bound=60)
def test_closer_stopped() -> None:
    """A second closer names the process that keeps the gate closed when its time is over."""
    with Scene() as scene, Child(_close_and_stop) as closer:
        assert closer.wait_stopped()
        with pytest.raises(RevocationIncomplete) as caught, closed_gate(timeout=0.05):
            pytest.fail("two processes have closed the gate")
        assert [pid for pid, _ in caught.value.processes] == [closer.pid]
        closer.resume()
        assert closer.wait() == 0
        scene.assert_usable([0])


@pytest.mark.slow
@isolated(core="steps")
def test_straggler_stopped() -> None:
    """A process stopped inside an operation is named after the timeout, and the gate is open again at once."""
    with Scene() as scene:
        with scene.run_with_step(OPERATIONS["store"], "OPERATION_ENTERED", "stop") as child:
            assert child.wait_stopped()
            with pytest.raises(RevocationIncomplete) as caught, closed_gate(timeout=0.05):
                pytest.fail("the gate closed over a process inside an operation")
            assert [pid for pid, _ in caught.value.processes] == [child.pid]
            scene.assert_usable([0])
            child.resume()
            assert child.wait() == 0
        with closed_gate(timeout=0):
            pass
        assert words(scene.root.load_capability(OPERATIONS["store"].touches[0] * GRANULE)) == words(scene.new)


@pytest.mark.slow
@pytest.mark.parametrize("timeout", [0, 60])
@isolated(core="steps")
def test_straggler_killed(timeout: float) -> None:
    """A process killed inside an operation keeps nobody from closing the gate, who waits as little as may be."""
    with Scene() as scene:
        for step in ("OPERATION_ENTERED", "LINE_LOCKED", "LINE_UNLOCKED"):
            with scene.run_with_step(OPERATIONS["store"], step, "kill") as child:
                assert child.wait() == -signal.SIGKILL
                with closed_gate(timeout=timeout):
                    pass
        scene.assert_usable(OPERATIONS["store"].touches)


@pytest.mark.slow
@isolated()
def test_straggler_killed_while_waited_for() -> None:
    """The same when the death comes while the closer waits."""
    operation = OPERATIONS["store"]
    with Scene() as scene:
        with scene.step_into(operation) as child:
            while not scene.is_locked(operation.touches[0]):
                child.step()
            with Stepper(lambda: closed_gate(timeout=60).__enter__(), at="gate_close") as closer:
                closer.resume()
                child.kill()
                assert closer.wait() == 0
        scene.assert_usable(operation.touches)


@pytest.mark.slow
@isolated()
def test_signal_handlers_run_while_the_gate_is_closed() -> None:
    """A parked operation goes on after a handler that returns, and raises what another one raises."""
    begin, handled, interrupted = Event(), Event(), Event()

    def store() -> None:
        signal.signal(signal.SIGUSR1, lambda *_: handled.set())
        signal.signal(signal.SIGINT, signal.default_int_handler)
        begin.wait()
        with pytest.raises(KeyboardInterrupt):
            scene.root.store_capability(0, scene.old[1])
        interrupted.set()
        scene.root.store_capability(GRANULE, scene.new)

    with Scene() as scene, Child(store) as child, Child(_close_and_stop) as closer:
        assert closer.wait_stopped()
        begin.set()
        wait_until_parked(child.pid)
        os.kill(child.pid, signal.SIGUSR1)
        handled.wait()
        wait_until_parked(child.pid)
        assert not interrupted.is_set()
        os.kill(child.pid, signal.SIGINT)
        interrupted.wait()
        wait_until_parked(child.pid)
        closer.resume()
        assert [closer.wait(), child.wait()] == [0, 0]
        loaded = [words(scene.root.load_capability(i * GRANULE)) for i in range(2)]
        assert loaded == [words(scene.old[0]), words(scene.new)]
