"""A recorder that processes write into at once: what it keeps, also of those that die, and how it travels."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from capshm import BoundsViolation, Capability
from capshm.testing import History, HistoryFull, Kind, Operation, Result, Segment, check_history, read_history, steps
from tests.faults.isolation import isolated
from tests.faults.processes import Child, Event


@pytest.fixture
def segment() -> Iterator[Segment]:
    """A page."""
    with Segment(4096) as made:
        yield made


@pytest.fixture
def history() -> Iterator[History]:
    """A small one."""
    with History(1000) as made:
        yield made


def last(history: History) -> Operation:
    """What was recorded last."""
    return history.operations()[-1]


def test_each_operation_is_done_and_recorded(segment: Segment, history: History) -> None:
    """What a wrapper does is what the method does; the record says what, where, through what, and when."""
    root = history.grant(segment.root, descriptor=segment.fd)
    assert (last(history).kind, last(history).place, last(history).length) == (Kind.GRANT, root.base, 4096)
    assert last(history).object == os.fstat(segment.fd).st_ino
    value = history.derive(root, lambda source: source.with_bounds(64))
    assert value == root.with_bounds(64)
    history.store(root, 32, value)
    stored = last(history)
    assert (stored.kind, stored.place, stored.length, stored.result) == (Kind.STORE, root.base + 32, 16, Result.DONE)
    assert (stored.process, stored.pid) == (0, os.getpid())
    assert stored.end is not None
    assert stored.begin <= stored.end
    loaded = history.load(root, 32)
    assert loaded == value
    assert stored.value == last(history).value == (*value._words(), True)
    assert stored.authority == (*root._words(), True)
    history.write(root, 40, b"bytes")
    assert root.read(40, 5) == b"bytes"
    assert (last(history).kind, last(history).place, last(history).length) == (Kind.WRITE, root.base + 40, 5)
    history.raw_write(root, 45, b"raw")
    assert root.read(40, 8) == b"bytesraw"
    history.load(root, 32)
    assert last(history).value == (*root.load_capability(32)._words(), False)
    history.share_drop(segment.fd)
    history.end()
    kinds = [operation.kind for operation in history.operations()]
    assert kinds == [
        Kind.GRANT, Kind.DERIVE, Kind.STORE, Kind.LOAD, Kind.WRITE, Kind.RAW_WRITE, Kind.LOAD, Kind.SHARE_DROP, Kind.END
    ]  # fmt: skip
    assert check_history(history) == []


def test_revocation(segment: Segment, history: History) -> None:
    """What is painted and revoked is gone, and recorded so that the checker would know."""
    root = history.grant(segment.root, descriptor=segment.fd)
    value = history.derive(root, lambda source: (source + 1024).with_bounds(64))
    history.store(root, 32, value)
    history.paint(value)
    history.revoke(segment)
    assert not history.load(root, 32).tag
    assert not value.tag
    history.clear_paint(value)
    assert check_history(history) == []
    assert [one.kind for one in history.operations()][3:] == [Kind.PAINT, Kind.REVOKE, Kind.LOAD, Kind.CLEAR_PAINT]


def test_what_is_refused_is_raised_and_recorded(segment: Segment, history: History) -> None:
    """A fault reaches the caller, and the record names it: nothing was done."""
    with pytest.raises(BoundsViolation):
        history.store(segment.root, 4096, segment.root)
    assert (last(history).result, last(history).error) == (Result.REFUSED, "BoundsViolation")

    def interrupted(source: Capability) -> Capability:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        history.derive(segment.root, interrupted)
    assert (last(history).result, last(history).end) == (Result.UNKNOWN, None)


def test_a_full_history_refuses(segment: Segment) -> None:
    """Blocks are whole, so a history of one operation holds 256; then the operation is not carried out."""
    with History(1) as history:
        for _ in range(256):
            history.write(segment.root, 0, b"done")
        with pytest.raises(HistoryFull, match=f"process {os.getpid()}"):
            history.write(segment.root, 0, b"lost")
        assert segment.root.read(0, 4) == b"done"
        assert len(history.operations()) == 256


@pytest.mark.parametrize("capacity", [0, -1, 1 << 40])
def test_capacities(capacity: int) -> None:
    """A history has room for something, and not for more than can be."""
    with pytest.raises(ValueError, match="holds 1 to"):
        History(capacity)


def test_closed(segment: Segment) -> None:
    """A history that was closed says so; nothing of it stays open."""
    before = sorted(Path("/proc/self/fd").iterdir())
    history = History(1)
    history.close()
    assert sorted(Path("/proc/self/fd").iterdir()) == before
    with pytest.raises(ValueError, match="closed"):
        history.operations()
    with pytest.raises(ValueError, match="closed"):
        history.write(segment.root, 0, b"lost")


def test_travels_as_lines_of_json(segment: Segment, history: History, tmp_path: Path) -> None:
    """What is written is read again, equal in everything; a file that is there is not overwritten."""
    root = history.grant(segment.root, descriptor=segment.fd)
    history.store(root, 0, root)
    history.load(root, 0)
    with pytest.raises(BoundsViolation):
        history.load(root, 4096)
    path = tmp_path / "history.jsonl"
    history.export(path)
    assert read_history(path) == history.operations()
    with pytest.raises(FileExistsError):
        history.export(path)


@pytest.mark.parametrize(
    "damage",
    [
        {"kind": "sotre"},
        {"begin": -1},
        {"process": "0"},
        {"end": 1.5},
        {"value": {"address": 1}},
        {"more": 1},
        "no object",
        {"result": None},
    ],
)
def test_a_damaged_file_is_refused(history: History, tmp_path: Path, damage: object) -> None:
    """The message names file and line."""
    history.end()
    path = tmp_path / "history.jsonl"
    history.export(path)
    first, second = path.read_text(encoding="ascii").splitlines()
    broken = json.loads(second) | damage if isinstance(damage, dict) else damage
    path.write_text(f"{first}\n{json.dumps(broken)}\n", encoding="ascii")
    with pytest.raises(ValueError, match=r"history\.jsonl, line 2: "):
        read_history(path)
    path.write_text(f"{second}\n", encoding="ascii")
    with pytest.raises(ValueError, match=r"history\.jsonl, line 1: not a history"):
        read_history(path)


@pytest.mark.slow
@isolated()
def test_children_record_into_the_same_history() -> None:
    """Processes made by plain os.fork have numbers of their own, and what they do at once is all there."""
    with Segment(4096) as segment, History(1 << 16) as history:
        root = history.grant(segment.root, descriptor=segment.fd)

        def body() -> None:
            for _ in range(1000):
                history.store(root, 0, root)
            with Child(lambda: history.load(root, 0)) as grandchild:
                assert grandchild.wait() == 0
            history.end()

        children = [Child(body) for _ in range(4)]
        assert [child.wait() for child in children] == [0] * 4
        operations = history.operations()
        assert check_history(operations) == []
        parents = {one.child: one.process for one in operations if one.kind is Kind.FORK}
        assert len(parents) == 8
        stores = [one for one in operations if one.kind is Kind.STORE]
        assert {one.process for one in stores} == {child for child, parent in parents.items() if parent == 0}
        assert {one.pid for one in stores} == {child.pid for child in children}
        assert len(stores) == 4000
        assert all(parents[parents[one.process]] == 0 for one in operations if one.kind is Kind.LOAD)


@pytest.mark.slow
@isolated(core="steps")
def test_a_death_leaves_the_operation_maybe_done() -> None:
    """A process that dies inside an operation leaves a begin without an end, and everything before that."""
    with Segment(4096) as segment, History(1 << 12) as history:
        root = history.grant(segment.root, descriptor=segment.fd)

        def body() -> None:
            history.write(root, 0, b"before")
            with steps.armed("TAGS_SET", action="kill"):
                history.store(root, 0, root)

        with Child(body) as child:
            assert child.wait() == -signal.SIGKILL
        written, stored = history.operations()[-2:]
        assert (written.kind, written.result) == (Kind.WRITE, Result.DONE)
        assert (stored.kind, stored.result, stored.end) == (Kind.STORE, Result.UNKNOWN, None)
        assert history.load(root, 0).tag
        assert check_history(history) == []


@pytest.mark.slow
@isolated()
def test_killed_at_random_instructions() -> None:
    """Whatever a process was doing when it was killed, all that is there can be read and has an explanation."""
    with Segment(4096) as segment, History(1 << 20) as history:
        root = history.grant(segment.root, descriptor=segment.fd)

        for _ in range(100):
            runs = Event()

            def body(runs: Event = runs) -> None:
                runs.set()
                while True:
                    history.store(root, 0, root)
                    history.write(root, 0, b"a tag less")

            with Child(body):
                runs.wait()
        operations = history.operations()
        assert sum(one.result is Result.UNKNOWN for one in operations) <= 100
        assert check_history(operations) == []
