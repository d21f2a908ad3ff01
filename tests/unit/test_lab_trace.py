"""Replaying a trace: everything that was recorded is done, in each world, and a death ends all of it."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import capshm
from capshm._native import lib
from capshm.cheribsd import quarantine
from capshm.lab.cells.crew import CellFailed, Crew
from capshm.lab.cells.player import COUNTED, Player
from capshm.lab.inputs import trace
from capshm.lab.inputs.trace import EVENT, Process, Trace
from tests.faults.isolation import isolated

ALLOCATE, FREE, RESIZE = lib.REPLAY_ALLOCATE, lib.REPLAY_FREE, lib.REPLAY_RESIZE
EXEC, FORK, WAIT = lib.REPLAY_EXEC, lib.REPLAY_FORK, lib.REPLAY_WAIT
LARGE = 100_000  # a mapping of its own
WORLDS = [("plain", None), ("open", None), ("cheribsd", "none"), ("cheribsd", "stop-the-world"), ("isolated", None)]


def made(*processes: tuple[int, list[tuple[int, int, int]]], live: int = 50) -> Trace:
    """A trace of processes: parent and events."""
    rows = (Process("p", parent, b"".join(EVENT.pack(*event) for event in events)) for parent, events in processes)
    return Trace("made", live, tuple(rows))


# A parent, a child that frees, resizes and replaces what it has inherited, a grandchild that becomes another program.
FAMILY = made(
    (
        -1,
        [
            *[(ALLOCATE, number, 10 * number) for number in range(40)],
            *[(ALLOCATE, 40, LARGE), (FREE, 3, 0), (RESIZE, 40, 3 * LARGE), (FORK, 1, 0), (ALLOCATE, 3, 1000)],
            *[(RESIZE, 5, 4000), (WAIT, 1, 0), (FREE, 5, 0), (FREE, 40, 0)],
        ],
    ),
    (
        0,
        [
            *[(FREE, 40, 0), (FREE, 5, 0), (RESIZE, 7, 71), (RESIZE, 8, 5000), (ALLOCATE, 5, 64), (FORK, 2, 0)],
            *[(FREE, 8, 0), (FREE, 5, 0)],
        ],
    ),
    (1, [(EXEC, 0, 0), *[(ALLOCATE, number, LARGE) for number in range(3)], (FREE, 1, 0), (RESIZE, 2, 1)]),
)


def play(recorded: Trace, *, is_plain: bool) -> dict[str, int]:
    """What all processes have counted."""
    with Crew(len(recorded.processes) - 1) as crew:
        crew.counted = COUNTED
        Player(recorded, crew, is_plain=is_plain).play(0)
    return crew.total() | {"checksum": crew.checksum()}


def operations(recorded: Trace) -> int:
    """How many a replay counts."""
    counts = recorded.counts
    return counts["allocations"] + counts["frees"] + counts["resizes"]


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "revoker"), WORLDS)
@pytest.mark.parametrize("name", trace.names())
def test_a_cell_does_what_the_trace_says(name: str, policy: str, revoker: str | None) -> None:
    """As many operations and forks as were recorded, and the same contents in every world."""
    recorded = trace.read(trace.find(name))
    wanted = {"workload": "trace", "policy": policy, "size": 1 << 16, "seed": 1, "trace": name, "revoker": revoker}
    command = [sys.executable, "-P", "-m", "capshm.lab.cells.cell"]
    done = subprocess.run(command, input=json.dumps(wanted), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    counts = answer["counts"]
    assert (counts["operations"], counts["forks"]) == (operations(recorded), recorded.counts["forks"])
    # The heaps of the others are too small for a pass to be due.
    is_swept = name == "cache" and policy != "plain" and revoker != "none"
    assert [bool(counts[each]) for each in ("passes", "pages", "tag_words", "tags", "cleared")] == 5 * [is_swept]
    assert answer["checksum"] == play_plainly(name)


def play_plainly(name: str) -> int:
    """The checksum of a trace, by the sizes of what was freed, in Python."""
    recorded = trace.read(trace.find(name))
    total = 0

    def follow(number: int, lengths: dict[int, int]) -> None:
        nonlocal total
        for kind, which, size in EVENT.iter_unpack(recorded.processes[number].events):
            if kind in (ALLOCATE, RESIZE):
                lengths[which] = size
            elif kind == FREE:
                total += end(lengths.pop(which))
            elif kind == EXEC:
                total += sum(map(end, lengths.values()))
                lengths.clear()
            elif kind == FORK:
                follow(which, lengths.copy())

    def end(length: int) -> int:
        return length % 256 if length > 16 else 0

    follow(0, {})
    return total


@pytest.mark.slow
@isolated()
def test_a_family_in_both_worlds() -> None:
    """Inherited allocations are freed, resized, given back by exec; contents are the same with and without capshm."""
    plain = play(FAMILY, is_plain=True)
    with capshm.Machine(revoker="none"):
        emulated = play(FAMILY, is_plain=False)
    assert plain == emulated
    assert (plain["operations"], plain["forks"]) == (operations(FAMILY), 2)


@pytest.mark.slow
@isolated()
def test_passes_in_the_middle() -> None:
    """Where a pass is due after each free the replay stops for it, and goes on where it was."""
    os.environ["_RUNTIME_REVOCATION_EVERY_FREE_ENABLE"] = ""
    with capshm.Machine(revoker="none"):
        revoked: list[int] = []
        quarantine.revoke_by(lambda pairs: revoked.extend(pairs.tolist()[::2]))
        counts = play(FAMILY, is_plain=False)
        # Of the parent's frees, and of what it moved; its children's are theirs.
        assert len(revoked) >= 4
    assert counts["operations"] == operations(FAMILY)


@pytest.mark.slow
@isolated()
def test_a_family_whose_every_free_is_revoked() -> None:
    """Real passes in every process, amid the life of the others; what they do is what it is without."""
    plain = play(FAMILY, is_plain=True)
    os.environ["_RUNTIME_REVOCATION_EVERY_FREE_ENABLE"] = ""
    with capshm.Machine(revoker="stop-the-world"):
        emulated = play(FAMILY, is_plain=False)
    # A free asks for a pass, and the next allocation or free has it run: all but the last of each process have one.
    assert emulated["passes"] > 20
    assert emulated["pages"] > 0
    met = ("passes", "pages", "tag_words", "tags", "cleared")
    assert emulated | dict.fromkeys(met, 0) == plain | dict.fromkeys(met, 0)


@pytest.mark.slow
@pytest.mark.parametrize("is_plain", [True, False])
@pytest.mark.parametrize(
    "wrong",
    [(FREE, 1, 0), (RESIZE, 1, 8), (ALLOCATE, 0, 8), (ALLOCATE, 60, 8), (99, 0, 0)],
)
@isolated()
def test_an_event_that_does_not_fit(wrong: list[int], is_plain: bool) -> None:
    """What never lived is not freed, in the plain world least of all: refused, with its place."""
    kind, number, size = wrong
    recorded = made((-1, [(ALLOCATE, 0, 8), (kind, number, size)]))
    with capshm.Machine(revoker="none"), pytest.raises(CellFailed, match="event 1 of process 0"):
        play(recorded, is_plain=is_plain)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("death", "how"),
    [(signal.SIGKILL, "SIGKILL"), (signal.SIGRTMIN + 1, f"signal {signal.SIGRTMIN + 1}")],
)
@isolated()
def test_a_dead_child_ends_the_replay(death: int, how: str) -> None:
    """Its parent says who it was, also while it waits for another, and leaves no other child behind."""
    recorded = made((-1, [(FORK, 1, 0), (FORK, 2, 0), (WAIT, 2, 0)]), (0, []), (0, []))

    class Dying(Player):
        def play(self, number: int) -> None:
            if number == 1:
                os.kill(os.getpid(), death)
            if number == 2:
                signal.pause()
            super().play(number)

    with (
        capshm.Machine(revoker="none"),
        pytest.raises(CellFailed, match=rf"\(process 1 of the trace, p\) was ended by {how}"),
        Crew(2) as crew,
    ):
        Dying(recorded, crew, is_plain=False).play(0)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.slow
def test_a_cell_says_what_is_wrong_with_its_trace() -> None:
    """A damaged file, and a trace whose child fails: status 1, a message, and nothing on standard output."""
    with tempfile.TemporaryDirectory() as folder:
        damaged, failing = Path(folder, "damaged.trace"), Path(folder, "failing.trace")
        damaged.write_bytes(trace.find("pipeline").read_bytes()[:-1])
        trace.write(made((-1, [(FORK, 1, 0)]), (0, [(FREE, 0, 0)]), live=1), failing)
        for path, message in ((damaged, "TraceDamaged"), (failing, "(process 1 of the trace, p) ended with status 1")):
            wanted = {"workload": "trace", "policy": "cheribsd", "size": 1 << 16, "seed": 1, "trace": str(path)}
            command = [sys.executable, "-P", "-m", "capshm.lab.cells.cell"]
            done = subprocess.run(command, input=json.dumps(wanted), capture_output=True, text=True, check=False)
            assert (done.returncode, done.stdout) == (1, "")
            assert message in done.stderr
