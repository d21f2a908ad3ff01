"""The plan of a comparison: files, command lines, and the order of cells."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from capshm._native import lib
from capshm.lab import trace, workloads
from capshm.lab.plan import Case, Cell, Choice, Plan, PlanError, choose, complete, read


def a_file(folder: Path, text: str) -> Path:
    """A plan file."""
    path = folder / "plan.toml"
    path.write_text(text, encoding="utf-8")
    return path


def a_plan(repeats: int = 5, seed: int = 3) -> Plan:
    """Of two cases and three policies."""
    cases = (Case("prefork", 1 << 20), Case("ring", 1 << 20))
    return Plan(
        cases=cases, policies=("plain", "open", "isolated"), baseline="plain", repeats=repeats, seed=seed, timeout=60
    )


# What is run


def test_without_a_word_everything_is_run() -> None:
    """All workloads at their own sizes, under all policies, beside the baseline; `open` is next to it."""
    plan = complete(Choice(workloads=workloads.NAMES))
    assert [case.workload for case in plan.cases] == list(workloads.NAMES)
    assert [case.size for case in plan.cases] == [workloads.default_size(name) for name in workloads.NAMES]
    assert plan.policies[:2] == ("plain", "open")
    assert {"cheribsd", "isolated"} < set(plan.policies)
    assert plan.references == ("plain", "open")


def test_a_file_says_everything(tmp_path: Path) -> None:
    """All names that a file may have."""
    path = a_file(
        tmp_path,
        'workloads = ["ring"]\nsizes = [65_536, 131_072]\npolicies = ["cheribsd", "cheribsd", "open"]\n'
        'baseline = "open"\nrepeats = 4\nseed = 9\ntimeout = 30\ntraces = []\n',
    )
    plan = complete(Choice(), read(path))
    assert plan == Plan(
        cases=(Case("ring", 65_536), Case("ring", 131_072)),
        policies=("open", "cheribsd"),
        baseline="open",
        repeats=4,
        seed=9,
        timeout=30,
    )
    assert plan.references == ("open",)


def test_the_command_line_goes_first(tmp_path: Path) -> None:
    """What it says replaces what the file says; the rest is the file's."""
    file = read(a_file(tmp_path, 'workloads = ["ring"]\nrepeats = 4\nseed = 9\n'))
    plan = complete(choose(repeats=2, workloads=["prefork"], seed=None), file)
    assert (plan.repeats, plan.seed, plan.cases[0].workload) == (2, 9, "prefork")


def test_quick_is_less() -> None:
    """Fewer repeats and smaller sizes, but what was asked for is done."""
    choice = Choice(workloads=("ring",))
    whole, quick = complete(choice), complete(choice, quick=True)
    assert quick.repeats < whole.repeats
    assert quick.cases[0].size < whole.cases[0].size
    assert quick.seconds < whole.seconds
    asked = Choice(workloads=("ring",), sizes=(1 << 20,), repeats=9)
    assert complete(asked, quick=True) == complete(asked)


def test_a_missing_trace_is_named() -> None:
    """Neither a file nor a bundled one."""
    with pytest.raises(PlanError, match="'no-such-thing'"):
        complete(Choice(workloads=("ring",), traces=("no-such-thing",)))


def test_what_is_no_trace_is_refused(tmp_path: Path) -> None:
    """Before anything is run: a file of something else, and a program with more forks than a cell may have."""
    junk = tmp_path / "junk.trace"
    junk.write_bytes(b"junk")
    with pytest.raises(PlanError, match=r"junk\.trace: byte 0: this is no trace"):
        complete(Choice(workloads=(), traces=(str(junk),)))
    forks = workloads.MOST_FORKS + 1
    events = b"".join(trace.EVENT.pack(lib.REPLAY_FORK, child, 0) for child in range(1, forks + 1))
    children = [trace.Process("child", 0, b"") for _ in range(forks)]
    trace.write(trace.Trace("forks", 0, (trace.Process("parent", -1, events), *children)), junk)
    with pytest.raises(PlanError, match=r"forks 4,097 processes, and a cell may fork 4,096"):
        complete(Choice(workloads=(), traces=(str(junk),)))


def test_traces_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """By as many folders as it takes; others go by their files' names."""
    paths = []
    for name in ("one/build", "two/build", "other"):
        paths.append(tmp_path / f"{name}.trace")
        paths[-1].parent.mkdir(exist_ok=True)
        trace.write(trace.Trace("nothing", 0, (trace.Process("nothing", -1, b""),)), paths[-1])
    plan = complete(Choice(workloads=("ring",), traces=tuple(map(str, paths))))
    assert [plan.label(case) for case in plan.cases] == ["ring", "trace one/build", "trace two/build", "trace other"]


def test_patience_grows_with_size() -> None:
    """A cell may take ten minutes and more; what is said goes first."""
    small, large = (complete(Choice(workloads=("ring",), sizes=(size,))).timeout for size in (1 << 16, 1 << 32))
    assert 600 < small < large
    assert complete(Choice(workloads=("ring",), timeout=5)).timeout == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('polices = ["open"]', "'polices' is unknown; did you mean 'policies'"),
        ("zzz = 1", "there are: workloads, sizes"),
        ("repeats = 0", "repeats"),
        ("repeats = 2.5", "repeats"),
        ('repeats = "3"', "repeats"),
        ("seed = -1", "seed"),
        ("sizes = [65_535]", "sizes"),
        ("sizes = [4_294_967_297]", "sizes"),
        ("timeout = 0", "timeout"),
        ("sizes = 65536", "sizes"),
        ("workloads = [1]", "workloads"),
        ("workloads = [", "no plan"),
        ("a = " + "[" * 5000, "no plan"),
        ("repeats = " + "9" * 5000, "no plan"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    """With the file, what is wrong, and the nearest name that there is; nothing is taken for something else."""
    path = a_file(tmp_path, text)
    with pytest.raises(PlanError, match=message) as raised:
        read(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_what_is_no_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    """A missing file, and one that is no text."""
    path = tmp_path / "plan.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PlanError, match="no plan"):
        read(path)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice(workloads=("prefrok",)), "'prefrok' is unknown; did you mean 'prefork'"),
        (Choice(policies=("opne",)), "did you mean 'open'"),
        (Choice(baseline="plian"), "did you mean 'plain'"),
        (Choice(policies=("plain",)), "nothing to compare plain with"),
        (Choice(policies=()), "nothing to compare plain with"),
        (Choice(workloads=()), "nothing to run"),
    ],
)
def test_what_there_is_not_is_refused(choice: Choice, message: str) -> None:
    """Unknown names with the nearest known one, and plans that compare nothing."""
    with pytest.raises(PlanError, match=message):
        complete(choice)


# The order of cells


def test_a_round_runs_every_cell_once() -> None:
    """All cases under all policies, with the plan's seed."""
    plan = a_plan()
    expected = Counter((case, policy, 3) for case in plan.cases for policy in plan.policies)
    for number in range(1, 6):
        assert Counter((cell.case, cell.policy, cell.seed) for cell in plan.round(number)) == expected


def test_rounds_have_orders_of_their_own() -> None:
    """So that nothing always follows the same; the seed gives them."""
    orders = [tuple(a_plan().round(number)) for number in range(1, 6)]
    assert len(set(orders)) == 5
    assert orders == [tuple(a_plan().round(number)) for number in range(1, 6)]
    assert list(orders[0]) != [Cell(cell.case, cell.policy, 3) for cell in a_plan(seed=4).round(1)]


# The command


@pytest.mark.slow
def test_a_dry_run_shows_cells_and_time(tmp_path: Path) -> None:
    """And runs nothing: no folder is made."""
    command = [sys.executable, "-m", "capshm", "compare", "--dry-run", "--workloads", "ring", "--sizes", "65536"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "ring of 64 KiB: plain, open, cheribsd, isolated" in done.stdout
    assert "4 cells a round, 9 rounds" in done.stdout
    assert "about" in done.stdout
    document = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    assert document["plan"]["cases"] == [{"workload": "ring", "size": 65_536, "trace": None}]
    assert document["seconds"] > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--sizes", "1", "--dry-run"], "sizes"),
        (["--readme", "README.md"], "--show"),
        (["--sizes", "many"], "--sizes"),
        (["--repeats", "0"], "repeats"),
        (["--workloads", "rnig"], "did you mean 'ring'"),
        (["--unknown"], "--unknown"),
        (["--plan", "nowhere.toml"], "nowhere.toml"),
    ],
)
def test_wrong_command_lines_are_refused(tmp_path: Path, arguments: list[str], named: str) -> None:
    """Status 2, with what is wrong on standard error, before anything is done."""
    command = [sys.executable, "-m", "capshm", "compare", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert named in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_without_the_extra_the_command_says_what_to_install(tmp_path: Path) -> None:
    """In an interpreter that has no scipy; other commands work there."""
    program = (
        "import sys\n"
        "from importlib.util import find_spec\n"
        "import importlib.util\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'scipy' else find_spec(name, *rest)\n"
        "from capshm.commands import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run([*command, "compare", "--dry-run"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "capshm[lab]" in done.stderr
    other = subprocess.run([*command, "explain", "E9"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "E9" in other.stdout
