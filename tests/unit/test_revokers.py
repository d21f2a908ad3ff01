"""`capshm.revokers` and `capshm.model.quarantine`: who is found by name, and what leaves quarantine when."""

from pathlib import Path

import pytest

from capshm import revokers
from capshm.model.quarantine import choose_leaving, quarantine, release
from tests.unit.model_scene import ANON, PAGE, RW, Process


def test_revokers_are_found_by_name() -> None:
    """The two that come with capshm, and the answer to any other name."""
    assert set(revokers.names()) >= {"none", "stop-the-world"}
    assert [revokers.load(name).can_revoke for name in ("none", "stop-the-world")] == [False, True]
    with pytest.raises(ValueError, match="there are none, stop-the-world"):
        revokers.load("unheard-of")


def test_revokers_of_other_packages_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package registers revokers under names of its own; one that cannot do all is refused."""
    (tmp_path / "sweepers.py").write_text(
        "from capshm.revokers.stop_the_world import StopTheWorld\n"
        "class Late(StopTheWorld):\n    name = 'late'\n"
        "class Idle:\n    name = 'idle'\n"
    )
    registered = tmp_path / "sweepers-1.dist-info"
    registered.mkdir()
    (registered / "METADATA").write_text("Metadata-Version: 2.1\nName: sweepers\nVersion: 1\n")
    (registered / "entry_points.txt").write_text(f"[{revokers.GROUP}]\nlate = sweepers:Late\nidle = sweepers:Idle\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert revokers.load("late").name == "late"
    with pytest.raises(TypeError, match=r"sweepers:Idle is no revoker: it lacks can_revoke, close, open"):
        revokers.load("idle")


def put(process: Process, *pages: int) -> list[tuple[int, int]]:
    """Map and unmap reservations of so many pages, one behind the other, into quarantine; where they are."""
    found = []
    for count in pages:
        process.mmap(length=count * PAGE, prot=RW, flags=ANON)
        reservation = process.plan.reservation
        process.space.remove(reservation.start, reservation.end)
        quarantine(process.space, reservation)
        found.append((reservation.start, reservation.end))
    process.space.check()
    return found


def test_2_4_the_largest_leaves_first() -> None:
    """2.4: one at a time, and nothing when nothing is there."""
    process = Process()
    assert choose_leaving(process.space) is None
    small, large = put(process, 1, 4)
    assert choose_leaving(process.space) == large
    release(process.space, large)
    process.space.check()
    assert choose_leaving(process.space) == small
    release(process.space, small)
    assert choose_leaving(process.space) is None
    assert not process.space.entries


def test_2_4_neighbours_leave_together() -> None:
    """2.4: with a gap of an eighth at most; what lives between two keeps them apart."""
    process = Process()
    first, second = put(process, 8, 1)
    assert choose_leaving(process.space) == (first[0], second[1])
    process.mmap(length=PAGE, prot=RW, flags=ANON)
    third, fourth = put(process, 32, 1)
    assert choose_leaving(process.space) == (third[0], fourth[1])
    release(process.space, (third[0], fourth[1]))
    assert choose_leaving(process.space) == (first[0], second[1])
