"""The format of traces: what is written is read again, and what is damaged, cut short or too new is told from it."""

import json
import random
import resource
import struct
import tempfile
import zlib
from pathlib import Path

import pytest

from capshm._native import lib
from capshm.errors import CapshmError
from capshm.lab.inputs import trace
from capshm.lab.inputs.trace import EVENT, Process, Trace, TraceDamaged, TraceTooNew
from tests.faults.isolation import isolated

HEAD = struct.Struct("<7sBIQI")


def process(*events: tuple[int, int, int], parent: int = -1, name: str = "program") -> Process:
    """A process of a trace."""
    return Process(name, parent, b"".join(EVENT.pack(*event) for event in events))


SMALL = Trace(
    "small",
    2,
    (
        process(
            *[(lib.REPLAY_ALLOCATE, 0, 24), (lib.REPLAY_FORK, 1, 0), (lib.REPLAY_WAIT, 1, 0)],
            *[(lib.REPLAY_ALLOCATE, 1, 1 << 40), (lib.REPLAY_RESIZE, 0, 48)],
        ),
        process((lib.REPLAY_EXEC, 0, 0), (lib.REPLAY_ALLOCATE, 0, 5), (lib.REPLAY_FREE, 0, 0), parent=0, name="é"),
    ),
)


def written(described: object, rows: bytes, *, version: int = 1) -> bytes:
    """A file made by hand, whole as to its lengths and its checksum."""
    description = json.dumps(described).encode()
    events = zlib.compress(b"".join(rows[place :: EVENT.size] for place in range(EVENT.size)))
    checksum = zlib.crc32(description + events)
    return HEAD.pack(b"capshmT", version, len(description), len(events), checksum) + description + events


def test_what_was_written_is_read(tmp_path: Path) -> None:
    """All of it, and nothing else is left in the folder."""
    path = tmp_path / "a.trace"
    trace.write(SMALL, path)
    assert trace.read(path) == SMALL
    assert list(tmp_path.iterdir()) == [path]
    assert SMALL.counts == {"allocations": 3, "frees": 1, "resizes": 1, "execs": 1, "forks": 1, "waits": 1}


def test_a_trace_without_events(tmp_path: Path) -> None:
    """A program may allocate nothing."""
    trace.write(Trace("true", 0, (process(),)), tmp_path / "a.trace")
    assert trace.read(tmp_path / "a.trace").counts["allocations"] == 0


def test_a_file_cut_short_anywhere_says_where(tmp_path: Path) -> None:
    """Every prefix is told from the whole, and so is a longer file."""
    path = tmp_path / "a.trace"
    trace.write(SMALL, path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(TraceDamaged, match=str(path)) as caught:
            trace.read(path)
        assert caught.value.offset == (length if length else 0)
    path.write_bytes(whole + b"!")
    with pytest.raises(TraceDamaged) as caught:
        trace.read(path)
    assert caught.value.offset == len(whole)


def test_a_changed_byte_anywhere_is_found(tmp_path: Path) -> None:
    """By the magic, the lengths or the checksum, whatever byte it is."""
    path = tmp_path / "a.trace"
    trace.write(SMALL, path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 0x55
        path.write_bytes(changed)
        with pytest.raises((TraceDamaged, TraceTooNew)):
            trace.read(path)


def test_a_newer_version_says_so(tmp_path: Path) -> None:
    """It is not damaged; whatever follows may have another form."""
    path = tmp_path / "a.trace"
    path.write_bytes(b"capshmT\x02 of whatever form")
    with pytest.raises(TraceTooNew, match="version 2; this capshm reads up to 1"):
        trace.read(path)


def described(*processes: tuple[int, object], live: int = 1) -> dict[str, object]:
    """A description of processes: parent and number of events."""
    rows = [{"name": "p", "parent": parent, "events": events} for parent, events in processes]
    return {"program": "p", "live": live, "processes": rows}


FORK, WAIT = EVENT.pack(lib.REPLAY_FORK, 1, 0), EVENT.pack(lib.REPLAY_WAIT, 1, 0)
ALLOCATE = EVENT.pack(lib.REPLAY_ALLOCATE, 0, 8)


@pytest.mark.parametrize(
    ("description", "rows", "message"),
    [
        ([], b"", "does not fit"),
        ({"program": "p"}, b"", "does not fit"),
        (described((-1, 2)), ALLOCATE, "there are not just"),
        (described((-1, 0)), ALLOCATE, "there are not just"),
        (described((-1, -1), (0, 2)), ALLOCATE, "no number from 0"),
        (described((-1, 1), live=2), ALLOCATE, "cannot live"),
        (described((-1, "1")), ALLOCATE, "does not fit"),
        (described(live=0), b"", "no process"),
        (described((0, 1)), ALLOCATE, "process 0 has no parent before it"),
        (described((-1, 1), (0, 0)), ALLOCATE, "process 1 is never forked"),
        (described((-1, 1), (-1, 0)), ALLOCATE, "process 1 has no parent before it"),
        (described((-1, 2), (0, 0)), FORK + FORK, "forks process 1, which"),
        (described((-1, 1), (0, 1)), FORK + FORK, "forks process 1, which"),
        (described((-1, 1), (1, 0)), FORK, "process 1 has no parent before it"),
        (described((-1, 2), (0, 0)), WAIT + FORK, "waits for process 1, which"),
        (described((-1, 1)), WAIT, "waits for process 1, which"),
        (described((-1, 1)), EVENT.pack(99, 0, 0), "unknown kind"),
    ],
)
def test_a_file_that_contradicts_itself(tmp_path: Path, description: object, rows: bytes, message: str) -> None:
    """Whole as a file, and no history of a program: refused before anything is replayed."""
    path = tmp_path / "a.trace"
    path.write_bytes(written(description, rows))
    with pytest.raises(TraceDamaged, match=message):
        trace.read(path)


def test_a_small_file_that_unpacks_to_much(tmp_path: Path) -> None:
    """Memory is taken for as many events as the description has, and for MOST_EVENTS at most; also by a checksum."""
    path = tmp_path / "a.trace"
    unpacked = 1 << 30
    stream = zlib.compressobj(9)
    block = bytes(1 << 20)
    events = b"".join(stream.compress(block) for _ in range(unpacked // len(block))) + stream.flush()
    for told, message in ((1, "not just 1 events"), (unpacked // EVENT.size, "67,108,864 events, and a trace has")):
        description = json.dumps(described((-1, told))).encode()
        checksum = zlib.crc32(description + events)
        path.write_bytes(HEAD.pack(b"capshmT", 1, len(description), len(events), checksum) + description + events)
        assert path.stat().st_size < 2 << 20
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(TraceDamaged, match=message):
            trace.read(path)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < unpacked >> 14  # KiB: a sixteenth


def test_what_no_reader_takes_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More events, or more processes; what was there stays."""
    path = tmp_path / "a.trace"
    trace.write(SMALL, path)
    count = sum(SMALL.counts.values())
    for name, most in (("MOST_EVENTS", count), ("MOST_DESCRIPTION", path.stat().st_size)):
        with monkeypatch.context() as patch:
            patch.setattr(trace, name, most)
            trace.write(SMALL, path)
            patch.setattr(trace, name, 7)
            with pytest.raises(CapshmError, match="7 at most"):
                trace.write(SMALL, path)
            with pytest.raises(TraceDamaged, match="7 at most"):
                trace.read(path)
    assert trace.read(path) == SMALL
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_without_end(tmp_path: Path) -> None:
    """Of one that is too long no more is read than the longest trace has."""
    path = tmp_path / "a.trace"
    with path.open("wb") as file:
        file.write(HEAD.pack(b"capshmT", 1, 10, 10, 0))
        file.truncate(1 << 40)
    with pytest.raises(TraceDamaged, match="behind its head, and should have 20"):
        trace.read(path)


def test_random_files_are_refused(tmp_path: Path) -> None:
    """Whatever stands behind a good head, there is one kind of error."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    path = tmp_path / "a.trace"
    for _ in range(200):
        body = chance.randbytes(chance.randrange(200))
        cut = chance.randrange(len(body) + 1)
        path.write_bytes(HEAD.pack(b"capshmT", 1, cut, len(body) - cut, zlib.crc32(body)) + body)
        with pytest.raises(TraceDamaged):
            trace.read(path)


@isolated()
def test_a_failed_write_leaves_what_was_there() -> None:
    """No room shows when the file is written; the old one stays, and no half of the new one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.trace")
        trace.write(SMALL, path)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
        with pytest.raises(OSError, match="File too large"):
            trace.write(Trace("other", 0, SMALL.processes), path)
        assert trace.read(path) == SMALL
        assert list(Path(folder).iterdir()) == [path]


def test_traces_that_come_along_are_found_by_name() -> None:
    """They can be read, are small, and have forks; a wrong name is told the right ones."""
    assert trace.names() == ["cache", "pipeline", "workers"]
    for name in trace.names():
        path = trace.find(name)
        assert path.stat().st_size < 200_000
        assert trace.read(path).counts["forks"] >= 2
    with pytest.raises(CapshmError, match="cache, pipeline, workers"):
        trace.find("no-such-trace")
