"""capshm trace: what it writes is read back, and its arrows are checked against the audit that it was made from."""

import os
import random
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent

import capshm
from capshm import cheribsd as bsd
from capshm.broker import audit
from capshm.commands.trace import trace
from capshm.lab.perfetto import writing as perfetto_trace
from capshm.lab.perfetto.arrows import arrows
from capshm.records import Audit
from tests.faults.isolation import isolated
from tests.faults.processes import Child, Event

RWC = bsd.PROT_READ | bsd.PROT_WRITE | bsd.PROT_CAP
PAGE = 4096


class Shown(NamedTuple):
    """A trace that was read back: tracks by their number, and what happens on them, in the file's order."""

    tracks: dict[int, Any]
    events: list[tuple[int, Any]]

    def of_record(self, number: int) -> list[Any]:
        """The events that stand for a record, with all that a click shows."""
        return [event for _, event in self.events if noted(event).get("record") == number]


def noted(event: Any) -> dict[str, int | str]:
    """What a click on it shows."""
    return {note.name: note.string_value or note.int_value for note in event.debug_annotations}


def read(path: Path) -> Shown:
    """Read a trace, and check what any must have."""
    found = Trace()
    found.ParseFromString(path.read_bytes())
    tracks: dict[int, Any] = {}
    events: list[tuple[int, Any]] = []
    now = 0
    depths: Counter[int] = Counter()
    for packet in found.packet:
        if packet.HasField("track_descriptor"):
            descriptor = packet.track_descriptor
            assert descriptor.uuid not in tracks
            assert not descriptor.parent_uuid or descriptor.parent_uuid in tracks
            tracks[descriptor.uuid] = descriptor
            continue
        event = packet.track_event
        assert event.track_uuid in tracks
        assert packet.timestamp >= now
        now = packet.timestamp
        depths[event.track_uuid] += {TrackEvent.TYPE_SLICE_BEGIN: 1, TrackEvent.TYPE_SLICE_END: -1}.get(event.type, 0)
        assert depths[event.track_uuid] >= 0
        events.append((now, event))
    assert not +depths
    check_arrows([event for _, event in events])
    return Shown(tracks, events)


def check_arrows(events: Iterable[Any]) -> None:
    """Each begins at what made its object known, ends once, and goes through uses, births and passes of that object."""
    steps: dict[int, list[Any]] = defaultdict(list)
    ended: set[int] = set()
    for event in events:
        for number in (*event.flow_ids, *event.terminating_flow_ids):
            assert number not in ended
            steps[number].append(event)
        ended |= set(event.terminating_flow_ids)
    assert ended == steps.keys()
    for first, *others in steps.values():
        memory = noted(first)["object"]
        assert others
        assert not any("refused" in event.name for event in (first, *others))
        for event in others:
            about = noted(event)
            is_use = about.get("object") == memory and "maximum" in about
            is_birth = event.name.startswith("vmspace")
            is_revocation = str(memory) in str(about.get("objects", "")).split(", ")[::2]
            assert is_use or is_birth or is_revocation, event


@contextmanager
def story(folder: Path) -> Iterator[tuple[Path, dict[str, int]]]:
    """The audit of a machine in which a child used what it was given, was refused the rest, and lost it to a pass."""
    path = folder / "story.audit"
    with capshm.Machine(scope="machine", audit=path) as machine:
        place = bsd.mmap(None, PAGE, RWC, bsd.MAP_SHARED | bsd.MAP_ANON)
        bound, common = (bsd.shm_open(bsd.SHM_ANON, os.O_RDWR | flag) for flag in (0, bsd.O_SHARECAP))
        os.ftruncate(bound, PAGE)
        os.ftruncate(common, PAGE)
        bsd.mmap(None, PAGE, RWC, bsd.MAP_SHARED, bound, 0)
        used, revoked = Event(), Event()

        def body() -> None:
            with pytest.raises(capshm.Refused):
                bsd.mmap(None, PAGE, RWC, bsd.MAP_SHARED, bound, 0)
            theirs = bsd.mmap(None, PAGE, RWC, bsd.MAP_SHARED, common, 0)
            theirs.store_capability(0, place.load_capability(0))
            used.set()
            revoked.wait()
            assert not theirs.load_capability(0).tag

        secret = bsd.malloc(64)
        place.store_capability(0, secret)
        with Child(body) as child:
            used.wait()
            bsd.free(secret)
            bsd.malloc_revoke_quarantine_force_flush()
            revoked.set()
            assert child.wait() == 0
        records = machine.audit()
        numbers = {f"{each.event} {each.object} {each.pid == os.getpid()}": each.number for each in records}
        (swept,) = [each for each in records if each.data.get("objects")]
        numbers |= {"pass": swept.number, "pid": os.getpid(), "child": child.pid}
    yield path, numbers


def told(*words: Path | str, **options: Any) -> str:
    """What the verb prints, or the reason why it could not; an exit status other than 0 stands in front."""
    with redirect_stderr(StringIO()) as errors, redirect_stdout(StringIO()) as output:
        status = 0
        try:
            trace(*map(Path, words), **options)
        except SystemExit as end:
            status = int(str(end.code))
        except capshm.CapshmError as error:
            status = 1
            print(error, file=sys.stderr)
    assert output.getvalue() == ""
    return f"{status or ''}{errors.getvalue()}"


@pytest.mark.slow
@isolated()
def test_an_arrow_goes_from_a_grant_to_its_uses_and_to_its_revocation() -> None:
    """A real machine's audit: tracks with parents and names, stops of everybody, and every arrow where it belongs."""
    with TemporaryDirectory() as folder, story(Path(folder)) as (path, numbers):
        command = [sys.executable, "-P", "-m", "capshm", "trace", str(path)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        assert done.stdout == ""
        assert re.fullmatch(r"story.pftrace: 2 processes, \d+ events, 5 arrows; open it at .*\n", done.stderr)
        shown = read(Path(folder, "story.pftrace"))
        records = [Audit(*each) for each in audit.read(str(path))]

    processes = {each.process.pid: each for each in shown.tracks.values() if each.HasField("process")}
    assert processes.keys() == {numbers["pid"], numbers["child"]}
    assert list(processes[numbers["child"]].process.process_labels) == [f"parent {numbers['pid']}"]

    made, stored, passed = numbers["map 1 True"], numbers["shm_open 3 True"], numbers["pass"]
    mapped, came = numbers["map 3 False"], numbers["forked 0 False"]
    found = arrows(records)
    assert [made, passed] in found  # of the parent, which made and mapped it by one call
    assert [made, came, passed] in found  # of the child, which was forked with it
    assert [stored, mapped, passed] in found  # of the child, which was given a descriptor
    assert [numbers["shm_open 2 True"], numbers["map 2 True"]] in found  # of the parent alone: nothing was stored there
    assert [numbers["shm_open 2 True"], numbers["fork drop 2 True"]] in found
    (slice_of_the_broker,) = [each for each in shown.of_record(passed) if each.name == "pass"]
    assert len(slice_of_the_broker.terminating_flow_ids) == 3
    assert noted(slice_of_the_broker)["objects"] == "1, 1, 3, 1"
    assert noted(slice_of_the_broker)["scope"] == "machine"

    stopped = [event.track_uuid for event in shown.of_record(passed) if event.name == "stopped"]
    assert sorted(stopped) == sorted(each.uuid for each in processes.values())
    names = [event.name for _, event in shown.events]
    assert names.count("map refused: cheribsd:E2") == 1
    assert names.count("vmspace 1") == names.count("vmspace 2") == 1
    (cleared,) = [track for track, each in shown.tracks.items() if each.name == "tags cleared"]
    assert [event.counter_value for _, event in shown.events if event.track_uuid == cleared] == [2]
    assert not [each for each in records if not shown.of_record(each.number)]


@pytest.mark.slow
@isolated()
def test_what_trace_says_of_wrong_files() -> None:
    """Nothing is overwritten unasked; a damaged audit is shown as far as it goes, and told; no half a trace is left."""
    with TemporaryDirectory() as name, story(Path(name)) as (path, _), chdir(name):
        first, second = Path("story.pftrace"), Path("again.pftrace")
        assert told(path).startswith("story.pftrace: 2 processes")
        assert told(path).endswith("--force overwrites it, --output names another\n")
        assert told(path, output=second) == told(path, force=True).replace("story", "again")
        assert first.read_bytes() == second.read_bytes()
        for options, reason in (
            ({"output": Path("no", "where")}, "1there is no folder no for a trace"),
            ({"output": Path(name), "force": True}, "is no file that a trace could take the place of"),
            ({"output": path, "force": True}, "is the audit itself"),
        ):
            assert reason in told(path, **options)
        assert "not one of its lines is a record" in told(first, output=Path("third"))
        assert "no machine 'nowhere'" in told(machine="nowhere")
        with capshm.Machine() as machine:
            assert told(machine=machine.name).startswith(f"{machine.name}.pftrace: 1 process, ")
            Path(f"{machine.name}.pftrace").unlink()

        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:3] + lines[4:-1]) + lines[-1][:-9])
        damaged = told(path, force=True)
        assert damaged.startswith("1capshm: ")
        assert "record 5 where 4 was expected" in damaged
        assert "half-written tail" in damaged
        assert len(read(first).events) > len(lines)
        assert sorted(each.name for each in Path().iterdir()) == ["again.pftrace", "story.audit", "story.pftrace"]


def test_any_audit_makes_a_trace_that_can_be_read(tmp_path: Path) -> None:
    """Records in a wild order, with gaps and clocks that jump: slices nest, times never run backwards, arrows hold."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    for turn in range(20):
        records = [each for each in wild(dice, 200) if dice.random() > 0.05]
        summary = perfetto_trace.write(records, tmp_path / f"{turn}.pftrace")
        shown = read(tmp_path / f"{turn}.pftrace")
        assert summary.events == len(shown.events)
        assert summary.arrows == len(arrows(records))


def test_numbers_that_no_broker_writes_are_told(tmp_path: Path) -> None:
    """A file may say anything; what has no place in a trace is an error, and nothing is left of it."""
    record = Audit(1, 1.0, 1, 1, "attach", "", 0, True, "", 0, "", {"parent": 1})
    for wrong in (record._replace(pid=1 << 40), record._replace(number=1 << 70), record._replace(time=1e300)):
        with pytest.raises(capshm.CapshmError, match="there is no trace of these records"):
            perfetto_trace.write([wrong], tmp_path / "trace")
    assert list(tmp_path.iterdir()) == []


def wild(dice: random.Random, count: int) -> Iterator[Audit]:
    """What a broker might record, in no order that makes sense."""
    events = ("attach", "fork", "forked", "end", "fork drop", "fork failed", "map", "shm_open", "knob", "revoke")
    for number in range(1, count + 1):
        event = dice.choice(events)
        memory = dice.randrange(1, 6) if event in ("fork drop", "map", "shm_open") else 0
        data: dict[str, int | str | list[int]] = {}
        if event in ("attach", "forked"):
            data = {"parent": dice.randrange(1, 6)}
        elif event == "fork":
            data = {"child": dice.randrange(1, 6)}
        elif memory and event != "shm_open":
            data = {"maximum": dice.choice(["rw", "rwR", "rwRW"]), "child": dice.randrange(1, 6)}
            if dice.random() < 0.2:
                data["vmspace"] = dice.randrange(1, 6)  # of another process's mapping
        elif event == "revoke" and dice.random() < 0.8:
            stops = [dice.randrange(10**9, 10**10), dice.randrange(10**6)] * dice.randrange(3)
            data = {"stops": stops, "objects": [dice.randrange(1, 6), 1], "cleared": 1}
        pid = dice.randrange(6)
        time = 1 + dice.random() * 9
        yield Audit(number, time, pid, pid, event, "", memory, dice.random() < 0.8, "", 0, "", data)
