"""Pieces of the broker by themselves: messages, the audit file, segments and their ends."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from capshm import _launch
from capshm._native import lib
from capshm.broker import audit, messages, segments
from capshm.broker.inotify import Watches


@pytest.mark.parametrize(
    ("packet", "number"),
    [
        (b"", 0),
        (b"\xff\xfe", 0),
        (b"[]", 0),
        (b"null", 0),
        (b"[" * 60000, 0),
        (b'{"do":"leave"}', 0),
        (b'{"do":"anything","n":9}', 9),
        (b'{"do":7,"n":9}', 9),
        (b'{"n":9}', 9),
        (b'{"do":"leave","n":true}', 0),
        (b'{"do":"leave","n":-1}', 0),
        (b'{"do":"leave","n":1e3}', 0),
        (b'{"do":"leave","n":9,"more":1}', 9),
        (b'{"do":"leave","n":9}x', 9),
        (b'{"do":"shm_unlink","path":"\\udc80","n":9}', 9),
        (b'{"do":"shm_unlink","path":"\xff","n":9}', 9),
        (b'{"do":"unmap","n":9,"length":1}', 9),
        (b'{"do":"unmap","n":9,"address":-1,"length":1}', 9),
        (b'{"do":"unmap","n":9,"address":1.0,"length":1}', 9),
        (b'{"do":"unmap","n":9,"address":[1,2],"length":1}', 9),
        (b'{"do":"unmap","n":9,"address":[1,2,3,4,1,false],"length":1}', 9),
        (b'{"do":"unmap","n":9,"address":[1,2,18446744073709551617,4,true,false],"length":1}', 9),
        (b'{"do":"unmap","n":9,"address":1,"length":-1}', 9),
        (b'{"do":"unmap","n":9,"address":1,"length":99999999999999999999999999}', 9),
        (b'{"do":"leave","n":9,"at":["x"]}', 9),
        (b'{"do":"knob","n":9,"process":3}', 9),
    ],
)
def test_what_is_no_request(packet: bytes, number: int) -> None:
    """Every other packet is refused, with the request's number where that can be read."""
    with pytest.raises(messages.Malformed) as caught:
        messages.decode(packet)
    assert caught.value.number == number
    assert str(caught.value)


def test_a_request_is_read() -> None:
    """The top of a capability over the whole address space is one more than a word."""
    request = messages.decode(b'{"do":"unmap","n":3,"address":[5,0,18446744073709551616,3,true,false],"length":1}')
    assert request == messages.Unmap(n=3, address=(5, 0, 1 << 64, 3, True, False), length=1)


def _names(folder: str) -> list[str]:
    return [each.name for each in Path(folder).iterdir()]


def _fill(log: audit.AuditLog, count: int) -> None:
    for number in range(count):
        log.append(pid=number, vmspace=1, event="map", is_allowed=True, message="é" * 10)


def test_audit_pages(tmp_path: Path) -> None:
    """Reading in pages finds every record once, from whatever number on; the file is JSON Lines and has no gap."""
    path = tmp_path / "audit"
    log = audit.AuditLog(str(path))
    _fill(log, 12345)
    found: list[bytes] = []
    start = 1
    while start:
        lines, start = log.page(start)
        found += lines
    assert [json.loads(line)["number"] for line in found] == list(range(1, 12346))
    assert json.loads(log.page(1001)[0][0])["number"] == 1001
    assert json.loads(log.page(12345)[0][0])["pid"] == 12344
    assert log.page(12346) == ([], 0)
    log.close()
    assert audit.check(str(path)) == (12345, [])
    with pytest.raises(FileExistsError):
        audit.AuditLog(str(path))


def test_audit_damage_is_found(tmp_path: Path) -> None:
    """A gap, a broken line and a half-written tail are each found, and where."""
    path = tmp_path / "audit"
    log = audit.AuditLog(str(path))
    _fill(log, 10)
    log.close()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3] + lines[4:6] + [b"{nonsense}\n"] + lines[7:9]) + lines[9][:20])
    count, findings = audit.check(str(path))
    assert count == 7
    assert [finding.what.split(":")[0] for finding in findings] == [
        "record 5 where 4 was expected",
        "no record",
        "a half-written tail of 20 bytes",
    ]


def test_what_is_no_audit_is_told_once(tmp_path: Path) -> None:
    """A file of another kind is one finding, however many lines it has; an empty one is an audit of nothing."""
    path = tmp_path / "notes"
    path.write_text("one\ntwo\nthree", encoding="utf-8")
    assert audit.check(str(path)) == (0, [audit.Finding(0, "this is no audit: not one of its lines is a record")])
    path.write_bytes(b"")
    assert audit.check(str(path)) == (0, [])


def test_every_recorded_event_has_a_known_name() -> None:
    """What the broker's sources record beside requests is among the events that a user may ask for."""
    sources = "".join(path.read_text() for path in Path(audit.__file__).parent.glob("*.py"))
    told = re.findall(r'event="([^"]+)"|\.record\(\s*\w+,\s*"([^"]+)"(?: if [\w.]+ else "([^"]+)")?', sources)
    names = {name for found in told for name in found if name}
    assert {"fork drop", "fork failed", "forked", "end", "stranger"} <= names <= messages.EVENTS
    assert {"map", "shm_open", "attach"} <= messages.EVENTS


def test_audit_on_a_full_disk() -> None:
    """A record that does not fit is not kept in part; the next one has its number."""
    log = audit.AuditLog(None)
    _fill(log, 2)
    full = os.open("/dev/full", os.O_RDWR)
    kept, log._fd = log._fd, full
    with pytest.raises(OSError):  # noqa: PT011 - ENOSPC, or EINVAL from shortening a device
        _fill(log, 1)
    log._fd = kept
    os.close(full)
    _fill(log, 1)
    assert [json.loads(line)["number"] for line in log.page(1)[0]] == [1, 2, 3]
    log.close()


def test_segments_have_no_name_and_end() -> None:
    """A segment is in no directory, knows itself by any descriptor, and ends with its last one."""
    before = set(_names("/dev/shm"))
    memory = segments.Segments()
    fd = segments.new_segment()
    memory.adopt(1, fd)
    assert set(_names("/dev/shm")) == before
    assert os.fstat(fd).st_size == 0
    assert os.fstat(fd).st_mode & 0o777 == 0o400
    other = os.dup(fd)
    assert memory.number_of(other) == 1
    sideband = memory.sideband(1)
    assert os.fstat(sideband.tags).st_size == lib.ORIGINS_OFFSET + lib.OBJECT_SIZE_MAX // lib.ORIGIN_UNIT
    assert os.fstat(sideband.tags).st_blocks == 0
    for sealed in (sideband.tags, sideband.clear):
        assert os.fstat(sealed).st_mode & 0o777 == 0o400
        for size in (0, 1 << 60):
            with pytest.raises(PermissionError):
                os.ftruncate(sealed, size)
    os.close(fd)
    assert memory.ended() == []
    os.close(other)
    assert memory.ended() == [1]
    assert memory.ended() == []
    memory.close()


def test_named_segments_end_after_release() -> None:
    """What has a name is held by the broker, and can be opened with offsets of its own."""
    memory = segments.Segments()
    fd = segments.new_segment()
    memory.adopt(1, fd, has_name=True)
    os.close(fd)
    kept = memory.kept(1)
    assert kept is not None
    first, second = kept.open(is_writable=True), kept.open(is_writable=False)
    os.write(first, b"data")
    assert os.read(second, 4) == b"data"
    with pytest.raises(OSError):  # noqa: PT011 - EBADF
        os.write(second, b"x")
    os.close(first)
    os.close(second)
    assert memory.ended() == []
    memory.release(1)
    assert memory.ended() == [1]
    memory.close()


def test_survivors_that_do_not_end_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """What dies is waited for; what cannot be killed, or does not die, is given up after the bound."""
    monkeypatch.setattr(_launch, "_END_BOUND", 0.1)
    kill = signal.pidfd_send_signal
    programs = [subprocess.Popen(["sleep", "1000"]) for _ in range(3)]
    mortal, forbidden, deaf = (program.pid for program in programs)

    def send(fd: int, number: int) -> None:
        link = Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="ascii")
        pid = int(link.partition("Pid:")[2].split()[0])
        if pid == forbidden:
            raise PermissionError
        if pid == mortal:
            kill(fd, number)

    monkeypatch.setattr(signal, "pidfd_send_signal", send)
    try:
        assert _launch.end_survivors("no machine", lambda: {mortal, forbidden, deaf}) == [mortal]
    finally:
        for program in programs:
            program.kill()
            program.wait()


def test_sizes_look_at_memory_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the descriptors of a process only shared memory is asked for its size: a file's server may not answer."""
    looked: list[str] = []
    stat = Path.stat

    def note(path: Path) -> os.stat_result:
        looked.append(str(path.readlink()))
        return stat(path)

    memory = segments.Segments()
    first, second = segments.new_segment(), segments.new_memfd("here", size=3)
    os.ftruncate(first, 5)
    memory.adopt(1, first)
    memory.adopt(2, second)
    with Path(__file__).open(encoding="utf-8"):
        monkeypatch.setattr(Path, "stat", note)
        assert memory.sizes([os.getpid()]) == {1: 5, 2: 3}
        monkeypatch.undo()
    assert looked
    assert all(link.startswith(("/memfd:", "/dev/shm/")) for link in looked)
    os.close(first)
    os.close(second)
    memory.close()


def test_watches_survive_an_overflow() -> None:
    """More ends than the kernel's queue holds: all of them are found."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text(encoding="ascii"))
    if limit > 20000:
        pytest.skip(f"fs.inotify.max_queued_events is {limit}: too many for a test")
    segments.raise_descriptor_limit()
    watches = Watches()
    living = os.memfd_create("living")
    watches.add(living)
    found: set[int] = set()
    added: set[int] = set()
    for _ in range(limit + 100):
        fd = os.memfd_create("x")
        added.add(watches.add(fd))
        os.close(fd)
    found |= set(watches.ended())
    assert found == added
    os.close(living)
    assert len(watches.ended()) == 1
    watches.close()
