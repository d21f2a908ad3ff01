"""Recording real programs: every allocation, fork and end, exactly, whatever happens to the program."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from capshm._native import lib
from capshm.errors import CapshmError
from capshm.lab.inputs import journals, recording, trace
from capshm.lab.inputs.trace import EVENT, Trace

ALLOCATE, FREE, RESIZE = lib.REPLAY_ALLOCATE, lib.REPLAY_FREE, lib.REPLAY_RESIZE
EXEC, FORK, WAIT = lib.REPLAY_EXEC, lib.REPLAY_FORK, lib.REPLAY_WAIT
# What `recorded calls` does, number by number.
CALLS = [
    *[(ALLOCATE, 0, 10), (RESIZE, 0, 5000), (FREE, 0, 0)],
    *[(ALLOCATE, 0, 21), (ALLOCATE, 1, 33), (FREE, 0, 0), (FREE, 1, 0)],
    *[event for size in (100, 64, 65, 66, 67, 68) for event in ((ALLOCATE, 1, size), (FREE, 1, 0))],
]


@pytest.fixture(autouse=True)
def signals_of_a_terminal() -> Iterator[None]:
    """None of them is ignored, even if whoever runs the tests does so: nohup, or a shell in the background."""
    usual: dict[signal.Signals, signal._HANDLER] = {
        signal.SIGINT: signal.default_int_handler,
        **dict.fromkeys((signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP), signal.SIG_DFL),
    }
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of recorded.c."""
    return _compile(tmp_path_factory.mktemp("recorded") / "recorded")


def _compile(program: Path, *flags: str) -> Path:
    source = Path(__file__).with_name("recorded.c")
    subprocess.run(["cc", "-O0", "-w", "-pthread", *flags, "-o", program, source], check=True)
    return program


def record(*command: str | Path) -> tuple[int, Trace]:
    """What `capshm record` makes of it; the trace has been checked: nothing is freed twice, or made twice."""
    status, found = recording.run([str(word) for word in command])
    made = journals.merge(found, "program")
    _check(made, 0, set())
    return status, made


def events(made: Trace, process: int) -> list[tuple[int, int, int]]:
    """Of one process: kind, number, size."""
    return [(kind, number, size) for kind, number, size in EVENT.iter_unpack(made.processes[process].events)]


def _check(made: Trace, process: int, live: set[int]) -> None:
    """Follow a process and its children through all that lives."""
    for kind, number, _ in events(made, process):
        if kind == ALLOCATE:
            assert number not in live
            assert number < made.live
            live.add(number)
        elif kind == FREE:
            live.remove(number)
        elif kind == RESIZE:
            assert number in live
        elif kind == EXEC:
            live.clear()
        elif kind == FORK:
            assert made.processes[number].parent == process
            _check(made, number, set(live))


def test_every_call_is_there_once(recorded: Path) -> None:
    """All ways to allocate, and none that failed."""
    status, made = record(recorded, "calls")
    assert status == 0
    assert events(made, 0) == CALLS


@pytest.mark.parametrize("how", ["fork", "clone"])
def test_a_child_frees_what_it_has_inherited(recorded: Path, how: str) -> None:
    """Also one that was made past fork(3); it has a journal of its own, and the parent's is as if it had none."""
    _, made = record(recorded, how)
    parent, child = events(made, 0), events(made, 1)
    assert [process.parent for process in made.processes] == [-1, 0]
    assert parent[:10] == [(ALLOCATE, number, 100 + number) for number in range(10)]
    assert parent[10:] == [
        *[(FORK, 1, 0), *((FREE, number, 0) for number in (9, 8, 7, 6, 5))],
        *[(ALLOCATE, number, 8) for number in (5, 6, 7)],
        (WAIT, 1, 0),
    ]
    assert child == [
        *[(FREE, number, 0) for number in range(5)],
        *[(ALLOCATE, number, 7) for number in (4, 3, 2)],
    ]


def test_threads_keep_the_order_of_each_address(recorded: Path) -> None:
    """Four threads hand the same addresses to each other: no free comes before its allocation, none is lost."""
    _, made = record(recorded, "threads")
    counts = made.counts
    own = [(kind, size) for kind, _, size in events(made, 0)]
    assert own.count((ALLOCATE, 24)) == own.count((RESIZE, 48)) == 4 * 5000
    assert counts["frees"] >= 4 * 5000


def test_a_journal_grows(recorded: Path) -> None:
    """Past its first window, and the second."""
    _, made = record(recorded, "many")
    assert events(made, 0) == [(ALLOCATE, number, 1) for number in range(30000)]


def test_what_was_recorded_survives_sigkill(recorded: Path) -> None:
    """All of it, when a program kills itself."""
    status, made = record(recorded, "suicide")
    assert status == -signal.SIGKILL
    assert events(made, 0) == CALLS


def test_sigkill_in_the_middle_of_anything(recorded: Path, tmp_path: Path) -> None:
    """Four threads that allocate are killed: what they have told of is there."""
    told = tmp_path / "told"
    os.mkfifo(told)
    # The pipe stays open for reading until the end: SIGPIPE might else come before SIGKILL.
    script = f"{recorded} killed >{told} & exec 3<{told}; read -r -n 100 <&3; kill -9 $!; wait $!"
    status, made = record("bash", "-c", script)
    assert status == 128 + signal.SIGKILL
    (killed,) = (number for number, process in enumerate(made.processes) if process.name == "recorded")
    assert made.processes[killed].counts["allocations"] >= 100 // 4 * 1000
    assert (WAIT, killed, 0) in events(made, 0)


def test_exec_ends_a_history_and_begins_another(recorded: Path) -> None:
    """In the same process, whose allocations are gone."""
    _, made = record(recorded, "exec")
    assert len(made.processes) == 1
    assert events(made, 0) == [(ALLOCATE, 0, 5), (EXEC, 0, 0), *CALLS]


def test_a_spawned_program_is_a_child(recorded: Path) -> None:
    """posix_spawn makes no copy: the child is seen when it is another program, and where the parent was then."""
    _, made = record(recorded, "spawn")
    assert events(made, 0)[:1] + events(made, 0)[-3:] == [(ALLOCATE, 0, 5), (FORK, 1, 0), (WAIT, 1, 0), (FREE, 0, 0)]
    assert events(made, 1) == [(EXEC, 0, 0), *CALLS]


def test_a_pipeline_of_the_shell() -> None:
    """A child for each program, and one that only exits."""
    status, made = record("sh", "-c", "ls / | sort | uniq -c >/dev/null; (exit 3); exit 4")
    assert status == 4
    names = [process.name for process in made.processes]
    assert (names[0], sorted(names)) == ("sh", ["ls", "sh", "sh", "sort", "uniq"])  # those of a pipeline start at once
    assert made.counts["forks"] == made.counts["waits"] == 4
    assert made.counts["execs"] == 3


def test_a_journal_that_cannot_grow_is_told(recorded: Path, tmp_path: Path) -> None:
    """The program does not notice; the recording fails, and names the reason."""
    ended = tmp_path / "ended"
    with pytest.raises(journals.RecordingEndedEarly, match="File too large"):
        record("bash", "-c", f"ulimit -f 300; {recorded} many && touch {ended}")
    assert ended.exists()


@pytest.mark.parametrize("blocks", [0, 1])
def test_a_journal_that_cannot_begin_is_told(recorded: Path, tmp_path: Path, blocks: int) -> None:
    """Where not a byte may be written, neither; and no SIGXFSZ tells the program."""
    ended = tmp_path / "ended"
    with pytest.raises(journals.RecordingEndedEarly, match=r"process [0-9]+ is missing: .* File too large"):
        record("bash", "-c", f"ulimit -f {blocks}; {recorded} many && mkdir {ended}")
    assert ended.exists()


def test_a_process_without_descriptors_is_told(recorded: Path) -> None:
    """A child that cannot open its journal is missing, and not left out."""
    with pytest.raises(journals.RecordingEndedEarly, match=r"process [0-9]+ is missing: .* Too many open files"):
        record(recorded, "no descriptor")


@pytest.mark.parametrize("error", sorted(errno.errorcode))
def test_every_reason_is_told(tmp_path: Path, error: int) -> None:
    """Whatever number it has, and beside journals that are whole."""
    journals.prepare(tmp_path)
    assert journals.collect(tmp_path) == []
    (tmp_path / "whole").rename(tmp_path / f"broken.1234.{error}")
    with pytest.raises(journals.RecordingEndedEarly, match="process 1234 is missing") as caught:
        journals.collect(tmp_path)
    assert os.strerror(error) in str(caught.value)


def test_memory_that_no_child_can_find_empty(recorded: Path, tmp_path: Path) -> None:
    """A kernel without MADV_WIPEONFORK: told; the program runs on, and its calls do not fill its address space."""
    ended = tmp_path / "ended"
    with pytest.raises(journals.RecordingEndedEarly, match=r"is missing: .* Invalid argument"):
        record("sh", "-c", f"'{recorded}' 'old kernel' && touch {ended}")
    assert ended.exists()


def test_a_cancelled_thread_does_not_die_with_the_journal(recorded: Path) -> None:
    """malloc is no cancellation point, recorded or not; the others go on."""
    status, made = record(recorded, "cancelled")
    assert status == 0
    sizes = [size for kind, _, size in events(made, 0) if kind == ALLOCATE]
    assert (sizes.count(1), sizes.count(2)) == (8192, 8192)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_who_ends_the_recording_ends_the_program(recorded: Path, tmp_path: Path, number: signal.Signals) -> None:
    """Its trace is written, and no folder stays."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-P", "-m", "capshm", "record", "-o", "a.trace", "--", str(recorded), "waiting"]
    environment = os.environ | {"TMPDIR": str(temporary)}
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, env=environment) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.read(1) == b"k"
            running.send_signal(number)
            assert running.stdout.read() == b""  # the program has ended
            assert running.wait() == 128 + number
        except BaseException:
            running.terminate()
            raise
    assert list(temporary.iterdir()) == []
    assert trace.read(tmp_path / "a.trace").counts["allocations"] == 1


def test_signals_of_the_terminal_are_the_programs(recorded: Path) -> None:
    """They do not end us, and the program does not inherit that."""
    script = "kill -INT $PPID; kill -QUIT $PPID; kill -INT $$"
    status, _ = record("sh", "-c", script)
    assert status == -signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_before_the_program_has_started() -> None:
    """It gets that when it has."""
    with recording._signals_passed_on() as begin:
        os.kill(os.getpid(), signal.SIGTERM)
        with subprocess.Popen(["sleep", "infinity"]) as program:
            begin(program)
            assert program.wait() == -signal.SIGTERM
        with pytest.raises(SystemExit):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_an_install_path_that_ld_preload_cannot_hold(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link leads there; where that has no better path, the path is to blame and not the program."""
    folder = tmp_path / "a space:and a colon"
    folder.mkdir()
    library = Path(shutil.copy(recording._recorder(), folder))
    monkeypatch.setattr(recording, "_recorder", lambda: library)
    assert events(record(recorded, "calls")[1], 0) == CALLS
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with pytest.raises(CapshmError, match=r"LD_PRELOAD cannot hold .*a colon"):
        record(recorded, "calls")
    assert list(folder.iterdir()) == [library]


@pytest.mark.slow
def test_a_full_disk_is_told(recorded: Path, tmp_path: Path) -> None:
    """Of the journals, of the first window already, and of the trace; the program runs to its end each time."""
    small, command = tmp_path / "small", f"{sys.executable} -P -m capshm record"
    small.mkdir()
    mount = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    tmpfs = f"mount -t tmpfs -o size=600k none {small}"
    if subprocess.run([*mount, tmpfs], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a file system of their own")
    for script, left in (
        (f"TMPDIR={small} {command} -o {tmp_path}/a.trace -- {recorded} many", ""),
        (f"TMPDIR={small} {command} -o {tmp_path}/a.trace -- sh -c '(exit 3); (exit 4); {recorded} calls'", ""),
        (f"head -c 1M /dev/zero >{small}/zero; {command} -o {small}/a.trace -- {recorded} calls", "zero\n"),
    ):
        shown = f"{tmpfs} && {script} || (ls -A {small} && exit 1)"
        done = subprocess.run([*mount, shown], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "No space left on device" in done.stderr
        assert done.stdout == left
        assert not (tmp_path / "a.trace").exists()


def test_a_static_program_is_told(tmp_path: Path) -> None:
    """There is no loader that could put the recorder in; the program has run all the same."""
    program = _compile(tmp_path / "recorded", "-static")
    with pytest.raises(recording.NothingRecorded, match=r"ended with status 0, and nothing .* statically linked"):
        record(program, "calls")


def test_a_setuid_program_is_told(tmp_path: Path) -> None:
    """The message names the bit. Where the file belongs to who runs it the loader does not care, and records."""
    program = tmp_path / "true"
    shutil.copy("/bin/true", program)
    program.chmod(0o4755)
    assert "setuid" in recording._why(program)


@pytest.mark.slow
def test_the_command(recorded: Path, tmp_path: Path) -> None:
    """It has the program's exit status, overwrites nothing unless told to, and says what is wrong."""

    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "capshm", "record", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    done = run("--", "sh", "-c", "echo out; exit 7", "--force")
    assert (done.returncode, done.stdout) == (7, "out\n")
    assert "sh.trace: 1 process," in done.stderr
    made = trace.read(tmp_path / "sh.trace")
    assert made.program == "sh"
    assert [path.name for path in tmp_path.iterdir()] == ["sh.trace"]

    again = run("sh", "-c", "touch again")
    assert again.returncode == 1
    assert "--force" in again.stderr
    assert not (tmp_path / "again").exists()
    assert run("--force", "--output", "sh.trace", recorded, "suicide").returncode == 128 + signal.SIGKILL
    assert trace.read(tmp_path / "sh.trace").counts["allocations"] == 9

    for words, status, message in (
        (["no-such-program"], 1, "no program 'no-such-program'"),
        (["--output", "no/such/folder", "true"], 1, "no folder no/such"),
        (["--output", "/proc/true.trace", "sh", "-c", "touch ran"], 1, "no file can be written into /proc"),
        ([], 2, "PROGRAM"),
    ):
        failed = run(*words)
        assert failed.returncode == status
        assert message in failed.stderr + failed.stdout
    assert not (tmp_path / "ran").exists()
