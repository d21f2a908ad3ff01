"""The verbs: what they show of a running machine, for people and for programs, and how they answer by exit status."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cyclopts
import pytest

import capshm
from capshm import cheribsd as bsd
from capshm import connection, observer, records
from capshm import zircon as zx
from capshm.commands.audit import Filters
from capshm.commands.explain import explain
from capshm.commands.ps import ps
from tests.faults.isolation import isolated
from tests.faults.processes import Child, Event

RWC = bsd.PROT_READ | bsd.PROT_WRITE | bsd.PROT_CAP
SIZE = 1 << 16


def run(*words: str, machine: str | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command as a user types it, outside any machine; machine: its name goes with --machine."""
    environment = {name: value for name, value in os.environ.items() if name != "CAPSHM_MACHINE"}
    command = [sys.executable, "-P", "-m", "capshm", *words, *(["--machine", machine] if machine else [])]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=cwd)


def read(*words: str, machine: str | None = None) -> dict[str, list[dict[str, object]]]:
    """The document of a verb that succeeds."""
    done = run(*words, "--json", machine=machine)
    assert done.returncode == 0, done.stderr
    document: dict[str, list[dict[str, object]]] = json.loads(done.stdout)
    return document


@contextmanager
def scene(audit: Path | None = None) -> Iterator[tuple[capshm.Machine, Child]]:
    """A machine with an owner-bound and a share-cap object, and a child that was refused the first."""
    with capshm.Machine(audit=audit) as machine:
        bound, common = (bsd.shm_open(bsd.SHM_ANON, os.O_RDWR | flag) for flag in (0, bsd.O_SHARECAP))
        for fd in (bound, common):
            os.ftruncate(fd, SIZE)
            bsd.mmap(None, SIZE, RWC, bsd.MAP_SHARED, fd, 0)
        refused, go = Event(), Event()

        def body() -> None:
            with pytest.raises(capshm.Refused):
                bsd.mmap(None, SIZE, RWC, bsd.MAP_SHARED, bound, 0)
            refused.set()
            go.wait()

        with Child(body) as child:
            refused.wait()
            yield machine, child
            go.set()
            assert child.wait() == 0


@pytest.mark.slow
@isolated()
def test_the_tree_of_a_process() -> None:
    """vm --tree: regions, their handles with rights, both permissions, and a region whose last handle is closed.

    Capability permission is among them: here the root has taken it from the mapping.
    """
    flags = zx.VM_CAN_MAP_READ | zx.VM_CAN_MAP_WRITE | zx.VM_CAN_MAP_CAP
    with capshm.Machine() as machine:
        area = bsd.mmap(None, SIZE, bsd.PROT_READ, bsd.MAP_PRIVATE | bsd.MAP_ANON)
        outer, start = zx.vmar_allocate(zx.vmar_root_self(), flags, 0, SIZE)
        inner, _ = zx.vmar_allocate(outer, zx.VM_CAN_MAP_READ | zx.VM_CAN_MAP_CAP, 0, SIZE)
        options = zx.VM_PERM_READ | zx.VM_PERM_CAP
        page = zx.vmar_map(inner, options, 0, zx.vmo_create(SIZE, zx.VMO_CAP), 0, 4096)
        zx.handle_close(inner)
        zx.vmar_protect(zx.vmar_root_self(), zx.VM_PERM_READ, page, 4096)
        zx.channel_write(zx.channel_create()[0], b"", [zx.handle_duplicate(outer, zx.RIGHT_TRANSFER)])
        pid = str(os.getpid())
        rows = read("vm", "--tree", pid, machine=machine.name)["tree"]
        seen = [(row["depth"], row["kind"], row["current"], row["maximum"], row["sent"]) for row in rows]
        assert seen == [
            (0, "root", "", "rwxRW", 0),
            (1, "reservation", "", "", 0),
            (2, "mapping", "rR", "rR", 0),
            (1, "vmar", "", "rwRW", 1),
            (2, "vmar", "", "rR", 0),
            (3, "mapping", "r", "rR", 0),
        ]
        assert (rows[1]["start"], rows[3]["start"]) == (area.base, start)
        assert rows[3]["handles"] == [[os.getpid(), outer.rights]]
        text = run("vm", "--tree", pid, machine=machine.name).stdout.splitlines()
        assert "1 on the way" in text[4]
        assert "|CAP" in text[4]
        assert text[6].split()[3:5] == ["r----", "r--R-"]
        assert "none: the last one is closed" in text[5]
        assert text[6].split()[:1] == ["mapping"]


@pytest.mark.slow
@isolated()
def test_what_a_machine_shows_of_itself() -> None:
    """ps, vm and caps tell of processes, mappings and objects what the machine's own lists tell."""
    with scene() as (machine, child):
        name = machine.name
        assert name in observer.machines()
        listed = read("ps", machine=name)["processes"]
        assert {(each["pid"], each["parent"]) for each in listed} == {
            (os.getpid(), os.getppid()),
            (child.pid, os.getpid()),
        }
        assert {each["pid"]: each["capability_mappings"] for each in listed} == {os.getpid(): 2, child.pid: 1}
        shown = run("ps", machine=name).stdout.splitlines()
        assert shown[0].split()[3:9] == ["STATE", "QUAR", "RSTATE", "EPOCH", "MAPS", "CAPMAPS"]
        assert [line.split()[3:7] for line in shown[1:]] == [["running", "no", "none", "0"]] * 2
        for pid in (os.getpid(), child.pid):
            assert read("vm", str(pid), machine=name)["mappings"] == [each._asdict() for each in machine.mappings(pid)]
        held = [each["holders"] for each in read("caps", machine=name)["objects"]]
        assert held == [
            {str(os.getpid()): "RWrw", str(child.pid): "rw"},
            {str(os.getpid()): "RWrw", str(child.pid): "RWrw"},
        ]
        copy = bsd.shm_open(bsd.SHM_ANON, os.O_RDWR | bsd.O_SHARECAP)
        os.ftruncate(copy, SIZE)
        bsd.mmap(None, SIZE, RWC, bsd.MAP_PRIVATE, copy, 0)
        assert read("caps", machine=name)["objects"][-1]["holders"] == {str(os.getpid()): "Rr"}
        columns = run("vm", str(child.pid), machine=name).stdout.splitlines()
        assert columns[0].split()[:6] == ["START", "END", "PRT", "MAX", "INH", "TP"]
        assert [line.split()[2] for line in columns[1:]] == ["rw---", "rw-RW"]


@pytest.mark.slow
@isolated()
def test_ps_leaves_out_what_ends_meanwhile() -> None:
    """A process that ends between two requests of ps is no failure of it."""
    with scene() as (machine, _), pytest.MonkeyPatch.context() as patch:
        known = observer.Observer.processes
        gone = records.Process(1, 0, 99, "running", 0, False, "none")
        patch.setattr(observer.Observer, "processes", lambda self: [*known(self), gone])
        ps(machine=machine.name)


@pytest.mark.slow
@isolated()
def test_a_question_to_the_audit_is_answered_by_the_exit_status() -> None:
    """audit check: 0 if nothing matches, 1 if something does, 3 if the file is damaged."""
    file = Path(f"/tmp/capshm-audit-{os.getpid()}.jsonl")
    try:
        with scene(audit=file) as (machine, child):
            found = run("audit", "check", "--rule", "E2", machine=machine.name)
            assert found.returncode == 1
            assert "1 found" in found.stdout
            assert (
                run("audit", "check", "--rule", "E2", "--pid", str(os.getpid()), machine=machine.name).returncode == 0
            )
        for words, status in (
            ([], 0),
            (["--rule", "cheribsd:E2"], 1),
            (["--refused"], 1),
            (["--event", "shm_rename"], 0),
        ):
            assert run("audit", "check", str(file), *words).returncode == status, words
        (refused,) = read("audit", str(file), "--refused")["records"]
        assert (refused["pid"], refused["rule"], refused["file"]) == (child.pid, "cheribsd:E2", __file__)
        for words, hint in (
            (["--rule", "E22"], "'E2'"),
            (["--rule", "ZZ"], "capshm explain"),
            (["--event", "shm_opne"], "'shm_open'"),
        ):
            for verb in (["audit"], ["audit", "check"]):
                mistyped = run(*verb, str(file), *words)
                assert (mistyped.returncode, mistyped.stdout) == (2, ""), words
                assert hint in mistyped.stderr
        rows = run("audit", str(file)).stdout.splitlines()
        assert len(rows) > 3
        assert [row for row in rows if row != row.rstrip()] == []
        file.write_bytes(file.read_bytes()[:-5])
        damaged = run("audit", "check", str(file))
        assert damaged.returncode == 3
        assert "half-written" in damaged.stdout
    finally:
        file.unlink()


def test_a_rule_of_a_plug_in_is_known_where_it_occurs() -> None:
    """The audit knows the rules of its tables and those that its records have; no other, so that no typing mistake
    passes for an answer.
    """
    seen = records.Audit(1, 0.0, 1, 1, "map", "guests", 0, False, "", 0, "", {})
    Filters(rule="guests").check([seen])
    for rule in ("host", "isolated", "cheribsd:F2", "F2", "1.D/3"):
        Filters(rule=rule).check([])
    with pytest.raises(cyclopts.CycloptsError, match="no rule 'guests'"):
        Filters(rule="guests").check([])
    with pytest.raises(cyclopts.CycloptsError, match="no event 'mapp': did you mean 'map'"):
        Filters(event="mapp").check([seen])


@pytest.mark.slow
@isolated()
def test_a_script_runs_attached() -> None:
    """capshm run: a script finds itself in the machine, its exit status is the command's, and nothing is left."""
    script = Path(f"/tmp/capshm-script-{os.getpid()}.py")
    script.write_text(
        "import os, sys, capshm\nprint(capshm.current().policy, capshm.current().machine, sys.argv[1:])\nsys.exit(7)\n"
    )
    try:
        done = run("run", "--policy", "isolated", "--name", "here", "--", str(script), "a", "-b")
        assert (done.returncode, done.stdout) == (7, "isolated here ['a', '-b']\n"), done.stderr
        killed = run("run", "--", "sh", "-c", "kill -9 $$")
        assert killed.returncode == 128 + 9
        assert "here" not in observer.machines()
    finally:
        script.unlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "which program?"),
        (["--"], "which program?"),
        (["--policy", "open"], "which program?"),
        (["--policy", "nosuch", "--", "true"], "policy must be one of cheribsd"),
        (["--revoker", "foo", "--", "true"], "revoker must be one of none"),
        (["--name", "a b", "--", "true"], "a machine's name has"),
        (["--isa", "foo", "--", "true"], 'Invalid value "foo" for'),
    ],
)
def test_a_wrong_command_line_is_told(words: list[str], reason: str) -> None:
    """Whether the parser finds it or the verb: the same box on standard error, and exit status 2."""
    done = run("run", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("╭─ Error")
    assert reason in done.stderr


@pytest.mark.slow
def test_whoever_reads_may_go() -> None:
    """A verb whose output nobody reads any more ends quietly, as a program does that SIGPIPE ends."""
    for words in (["explain", "--json"], ["explain"], ["explain", "E2"]):
        command = [sys.executable, "-P", "-m", "capshm", *words]
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
        os.close(writer)
        assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


@pytest.mark.slow
@isolated()
def test_of_several_machines_the_one_of_the_process_is_found() -> None:
    """vm needs no name for a process that is in one of them, and names all for one that is in none; ps does, too.

    ps shows scripts by their names, and a name that is taken or that nobody has is told in a sentence.
    """
    with tempfile.TemporaryDirectory() as folder, capshm.Machine(name="several-1"):
        script = Path(folder, "waits for input.py")
        script.write_text("import os, sys\nprint(os.getpid(), flush=True)\nsys.stdin.read()\n")
        command = [sys.executable, "-P", "-m", "capshm", "run", "--name", "several-2", "--", str(script), "-b"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout is not None
            pid = other.stdout.readline().strip()
            assert json.loads(run("vm", pid, "--json").stdout)["machine"] == "several-2"
            assert json.loads(run("vm", str(os.getpid()), "--json").stdout)["machine"] == "several-1"
            nobody = run("vm", "1")
            assert nobody.returncode == 1
            assert "process 1 is in none of the " in nobody.stderr
            assert "several-1, several-2" in nobody.stderr  # beside others of the same user
            commands = {each["pid"]: each["command"] for each in read("ps", machine="several-2")["processes"]}
            assert commands[int(pid)] == "'waits for input.py' -b"
            assert str(commands[other.pid]).endswith(f"-m capshm run --name several-2 -- '{script}' -b")
            absent = run("ps", machine="nope").stderr
            assert absent.startswith("capshm: no machine 'nope' of this user is running; there are ")
            taken = run("run", "--name", "several-2", "--", "true")
            assert taken.returncode == 1
            assert (
                taken.stderr == "capshm: no broker for machine 'several-2': another machine of that name is running\n"
            )
            other.communicate("")
            assert other.returncode == 0


@pytest.mark.slow
@isolated()
def test_a_traceback_begins_in_the_script() -> None:
    """What capshm run shows of an uncaught error is what Python would; of a script with a wrong line, too."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "wrong.py")
        for text, shown in (
            ("def fail():\n    raise KeyError('here')\nfail()\n", ["line 3", "line 2", "KeyError: 'here'"]),
            ("a = 1\n  b = 2\n", ["line 2", "IndentationError"]),
        ):
            script.write_text(text)
            done = run("run", "--", str(script))
            plain = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
            assert done.returncode == 1
            assert done.stderr == plain.stderr
            assert [each for each in shown if each not in done.stderr] == []


@pytest.mark.slow
@isolated()
def test_a_script_imports_from_its_own_directory() -> None:
    """capshm run: what lies in the working directory takes no module's place, what lies beside the script can be
    imported.
    """
    with tempfile.TemporaryDirectory() as here, tempfile.TemporaryDirectory() as there:
        Path(here, "pathlib.py").write_text("raise SystemExit('the wrong one')\n")
        Path(there, "beside.py").write_text("value = 5\n")
        script = Path(there, "script.py")
        script.write_text("import pathlib, beside\nprint(beside.value)\n")
        done = run("run", "--", str(script), cwd=Path(here))
        assert (done.returncode, done.stdout) == (0, "5\n"), done.stderr


def test_explain_knows_every_rule() -> None:
    """A rule is found by its full and its short name; a wrong name is told those that begin alike."""
    (rule,) = read("explain", "E2")["rules"]
    assert rule["name"] == "cheribsd:E2"
    assert rule["errno"] == "EACCES"
    assert len(read("explain")["rules"]) > 80
    assert "cheribsd:E2" in run("explain", "cheribsd:E2").stdout
    assert "WHAT IT SAYS" not in (host := run("explain", "host").stdout)
    assert "Not a rule of CheriBSD" in host
    letter = [rule["name"] for rule in read("explain", "E")["rules"]]
    assert letter == [f"cheribsd:E{number}" for number in range(1, 15)]
    assert [rule["name"] for rule in read("explain", "1.D")["rules"]][:2] == ["cheribsd:1.D/1", "cheribsd:1.D/2"]
    wrong = run("explain", "E99")
    assert wrong.returncode == 1
    assert "cheribsd:E1," in wrong.stderr


@pytest.mark.parametrize(
    ("family", "first"),
    [
        ("J", "cheribsd:J1"),
        ("2", "cheribsd:2.1"),
        ("cheribsd:2", "cheribsd:2.1"),
        ("vmar:1.3", "vmar:1.3/1"),
        ("1.3/8", "vmar:1.3/8a"),
        ("CAP", "vmar:CAP/1"),
        ("vmar:REMOTE", "vmar:REMOTE/1"),
        ("vmar", "vmar:1.1/1"),
    ],
)
def test_explain_knows_families(family: str, first: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What begins alike is explained together, Zircon's rules as well as CheriBSD's."""
    explain(family, json_output=True)
    names = [rule["name"] for rule in json.loads(capsys.readouterr().out)["rules"]]
    stem = first.partition(":")[0] + ":" + ("" if family == "vmar" else family.rpartition(":")[2])
    assert names[0] == first
    assert len(names) > 1
    assert all(name.startswith(stem) for name in names)


@pytest.mark.parametrize(
    ("wrong", "near"), [("vmar:1.3/99", "vmar:1.3/1,"), ("cap/9", "vmar:CAP/1,"), ("2.9", "cheribsd:2.1,")]
)
def test_a_wrong_name_is_told_those_that_begin_alike(wrong: str, near: str) -> None:
    """Also of Zircon's rules."""
    with pytest.raises(capshm.CapshmError, match=f"begin alike: {re.escape(near)}"):
        explain(wrong)


@pytest.mark.slow
def test_doctor_finds_this_machine_well() -> None:
    """doctor looks at the kernel and its limits, and ends with 0 where the tests can run at all."""
    findings = read("doctor")["findings"]  # which says so by its exit status
    assert {"Linux", "attaching", "descriptors, hard limit"} <= {str(each["what"]) for each in findings}


def test_sockets_of_others_may_have_any_name() -> None:
    """No UTF-8, line breaks, and what would look like a machine's."""
    ours = connection.address_of("forged").replace(b"\0", b"@")
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
        one.bind(b"\0\xff\xe2\x80\xa8" + os.urandom(4).hex().encode())
        other.bind(b"\0" + os.urandom(4).hex().encode() + b"\nx x x flags x x x " + ours)
        assert "forged" not in observer.machines()


def test_without_a_machine_the_verbs_say_so() -> None:
    """A machine that does not run is named in the error, and the exit status is 1."""
    for words in (["ps"], ["vm", "1"], ["caps"], ["audit"], ["trace"], ["top", "--once"]):
        done = run(*words, machine="nowhere")
        assert (done.returncode, done.stdout) == (1, "")
        assert "'nowhere'" in done.stderr
