"""Kill -9 of who asks for a revocation, of the broker, and of somebody else, at each step of a pass.

The machine's revoker is one of the test's own: that of capshm, which kills somebody at a step of it.
"""

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from capshm import BrokerGone, Machine
from capshm.broker.revocation.stoppers import NAMES
from tests.faults.isolation import isolated
from tests.faults.processes import Child, Event, stop_here
from tests.faults.victims import Freed, anonymous, clean_machine, finish

STEPS = ["opened", "closing", "stopped", "swept", "left", "running"]
"""The epoch is open; it is to be closed; all are stopped; objects are swept; processes know; all may go on."""

PLUGIN = """
import contextlib
import os
import signal
from pathlib import Path

from capshm.revokers.stop_the_world import StopTheWorld


class Killing(StopTheWorld):
    name = "killing"

    def open(self, world):
        super().open(world)
        self._come_to("opened")

    def close(self, world):
        self._come_to("closing")
        with world.stopped():
            self._come_to("stopped")
            world.sweep_objects()
            self._come_to("swept")
            world.leave_private()
            self._come_to("left")
        self._come_to("running")

    def _come_to(self, step):
        armed, pid = Path(os.environ["KILLING"]).read_text().split()
        if step == armed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid) or os.getpid(), signal.SIGKILL)
"""

pytestmark = pytest.mark.slow


class Killing:
    """Who is killed at which step."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.disarm()

    def arm(self, step: str, pid: int) -> None:
        """pid: 0 is the broker."""
        self._path.write_text(f"{step} {pid}", encoding="ascii")

    def disarm(self) -> None:
        """Nobody is."""
        self.arm("never", 1)


@contextmanager
def killing() -> Iterator[Killing]:
    """The revoker, installed as a package of others would be, for machines that are made here."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "killing.py").write_text(PLUGIN, encoding="utf-8")
        about = folder / "killing-1.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: killing\nVersion: 1\n", encoding="utf-8")
        entry = "[capshm.revokers]\nkilling = killing:Killing\n"
        (about / "entry_points.txt").write_text(entry, encoding="utf-8")
        sys.path.insert(0, name)
        os.environ["PYTHONPATH"] = os.pathsep.join([name, *filter(None, [os.environ.get("PYTHONPATH")])])
        os.environ["KILLING"] = str(folder / "killing.txt")
        yield Killing(folder / "killing.txt")


def ask(machine: Machine, asking: Event) -> None:
    """Have a freed value, and revoke when it is time."""
    Freed()
    asking.wait()
    machine.revoke()


def wait_and_look() -> None:
    """Have a freed value that others revoke, and find no tag of it."""
    freed = Freed()
    stop_here()
    freed.check()


@pytest.mark.parametrize("stopper", NAMES)
@isolated()
def test_a_process_is_killed_at_each_step(stopper: str) -> None:
    """P2, P3: who asks, or somebody else: the pass goes on for the others, and so does the machine."""
    with killing() as killer, clean_machine("cheribsd", "killing", stopper=stopper, stop_timeout=100.0) as machine:
        for step in STEPS:
            for is_asker in (True, False):
                asking = Event()
                with Child(wait_and_look) as other, Child(partial(ask, machine, asking)) as asker:
                    with Child(wait_and_look) as bystander:
                        assert other.wait_stopped()
                        assert bystander.wait_stopped()
                        victim = asker if is_asker else bystander
                        killer.arm(step, victim.pid)
                        asking.set()
                        assert asker.wait() == (-signal.SIGKILL if is_asker else 0), step
                        machine.processes()  # answered after the pass
                        killer.disarm()
                        machine.revoke()
                        if is_asker:
                            finish(bystander)
                        else:
                            assert bystander.wait() == -signal.SIGKILL
                    finish(other)
                asking.close()


@pytest.mark.parametrize("step", STEPS)
@isolated()
def test_the_broker_is_killed_at_each_step(step: str) -> None:
    """P3, P4, P5: for every stopper all calls and operations end with BrokerGone, or go on; nobody hangs or stays."""
    with killing() as killer:
        for stopper in NAMES:
            with clean_machine("cheribsd", "killing", stopper=stopper, stop_timeout=100.0) as machine:
                memory, asking = anonymous(), Event()
                with Child(partial(ask, machine, asking)) as asker:
                    killer.arm(step, 0)
                    asking.set()
                    assert asker.wait() == 1
                with pytest.raises(BrokerGone):
                    machine.revoke()
                if step in ("stopped", "swept", "left"):
                    with pytest.raises(BrokerGone):
                        memory.load_capability(0)
                else:
                    memory.load_capability(0)
                asking.close()
            killer.disarm()
