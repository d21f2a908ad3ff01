"""The plan of a comparison: files, command lines, and the order of cells."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from capshm._native import lib
from capshm.commands.compare import compare
from capshm.commands.comparisons import show_plan
from capshm.lab import workloads
from capshm.lab.choice import Choice, PlanError, choose, read
from capshm.lab.comparison import AXES, Case, Comparison, Configuration
from capshm.lab.inputs import image, trace
from capshm.lab.plan import Cell, Plan, complete
from capshm.lab.workloads import ring
from capshm.machine import Machine, choices


def a_file(folder: Path, text: str) -> Path:
    """A plan file."""
    path = folder / "plan.toml"
    path.write_text(text, encoding="utf-8")
    return path


def machine(policy: str) -> Configuration:
    """With all else as a machine has it by itself."""
    return Configuration(policy, "stop-the-world", "gate", "vmspace")


PLAIN = Configuration("plain")


def a_plan(repeats: int = 5, seed: int = 3) -> Plan:
    """Of two cases and three policies, and of two revokers with one of the cases."""
    cases = (Case("prefork", 1 << 20), Case("churn", 1 << 20))
    policies = Comparison(cases, (PLAIN, machine("open"), machine("isolated")), "plain")
    revokers = Comparison(cases[1:], (PLAIN, Configuration("open", "none"), machine("open")), "plain")
    return Plan(comparisons=(policies, revokers), repeats=repeats, seed=seed, timeout=60)


# What is run


def test_without_a_word_everything_is_run() -> None:
    """All workloads at their own sizes, under all policies, beside the baseline; `open` is next to it.

    What frees memory is run with all revokers, too.
    """
    plan = complete(Choice(workloads=workloads.NAMES))
    policies, revokers = plan.comparisons
    assert [case.workload for case in policies.cases] == list(workloads.NAMES)
    assert [case.size for case in policies.cases] == [workloads.default_size(name) for name in workloads.NAMES]
    assert policies.configurations[:2] == (PLAIN, machine("open"))
    assert {machine("cheribsd"), machine("isolated")} < set(policies.configurations)
    assert policies.references == ["plain", "open"]
    assert [case.workload for case in revokers.cases] == ["bufferpool", "churn"]
    assert revokers.configurations == (PLAIN, Configuration("cheribsd", "none"), machine("cheribsd"))
    assert revokers.references == ["plain", "none"]


def test_a_file_says_everything(tmp_path: Path) -> None:
    """All names that a file may have."""
    path = a_file(
        tmp_path,
        'workloads = ["ring"]\nsizes = [65_536, 131_072]\npolicies = ["cheribsd", "cheribsd", "open"]\n'
        'revokers = ["stop-the-world", "none"]\nstoppers = ["sigstop"]\nscopes = ["vmspace"]\n'
        'baseline = "open"\nrepeats = 4\nseed = 9\ntimeout = 30\n'
        "traces = []\nprocesses = []\ndensities = []\n",
    )
    plan = complete(Choice(), read(path))
    configurations = [
        (Configuration(policy, "none"), Configuration(policy, "stop-the-world", "sigstop", "vmspace"))
        for policy in ("open", "cheribsd")
    ]
    compared = Comparison(
        (Case("ring", 65_536), Case("ring", 131_072)), (*configurations[0], *configurations[1]), "open"
    )
    assert plan == Plan(comparisons=(compared,), repeats=4, seed=9, timeout=30)
    assert compared.references == ["open", "none"]


def test_axes_are_combined() -> None:
    """Whatever is named; a revoker that never revokes needs no stopper and no scope, and plain memory has none."""
    stoppers = choices("stopper")
    (found,) = complete(Choice(workloads=("ring",), policies=("cheribsd",), stoppers=tuple(stoppers))).comparisons
    assert found.axes == ["stopper"]
    assert found.references == ["plain", "gate"]
    assert found.values("stopper") == stoppers
    assert len(found.configurations) == 1 + len(stoppers)
    named = Choice(
        workloads=("ring",),
        policies=("cheribsd", "isolated"),
        revokers=("none", "stop-the-world"),
        stoppers=("gate", "sigstop"),
    )
    (found,) = complete(named).comparisons
    assert len(found.configurations) == 1 + 2 * (1 + 2)
    assert len(set(map(found.name, found.configurations))) == 7
    assert found.title == "policies, revokers, stoppers; scope vmspace"
    for case in (
        named,
        Choice(workloads=("churn",), scopes=("vmspace",)),
        Choice(workloads=("churn",), revokers=("none",)),
    ):
        assert len(complete(case).comparisons) == 1


def test_each_is_compared_with_what_differs_in_one_thing() -> None:
    """With the baseline, and along each axis with what stands for it; where that is missing or itself, with nothing."""
    named = Choice(
        workloads=("ring",),
        policies=("open", "isolated"),
        revokers=("none", "stop-the-world"),
        stoppers=("gate", "sigstop"),
    )
    (found,) = complete(named).comparisons
    stopped = Configuration("isolated", "stop-the-world", "sigstop", "vmspace")
    never = Configuration("isolated", "none")
    assert {name: found.counterpart(stopped, name) for name in found.references} == {
        "plain": PLAIN,
        "open": Configuration("open", "stop-the-world", "sigstop", "vmspace"),
        "none": never,
        "gate": machine("isolated"),
    }
    assert {name: found.counterpart(never, name) for name in found.references} == {
        "plain": PLAIN,
        "open": Configuration("open", "none"),
        "none": None,
        "gate": None,
    }
    assert [found.counterpart(PLAIN, name) for name in found.references] == [None] * 4


@pytest.mark.parametrize("baseline", ["none", "stop-the-world"])
def test_a_baseline_may_be_a_revoker(baseline: str) -> None:
    """Then each policy is compared with itself under that revoker."""
    choice = Choice(workloads=("ring",), policies=("cheribsd",), revokers=("none", "stop-the-world"), baseline=baseline)
    (found,) = complete(choice).comparisons
    assert found.configurations[0].revoker == baseline
    other = found.configurations[1]
    assert found.counterpart(other, baseline) == found.configurations[0]
    assert found.counterpart(found.configurations[0], baseline) is None


def test_a_baseline_may_be_a_policy() -> None:
    """Policies are compared with it, revokers with none."""
    policies, revokers = complete(Choice(workloads=("churn",), baseline="cheribsd")).comparisons
    assert policies.references == ["cheribsd", "open"]
    assert policies.counterpart(machine("isolated"), "cheribsd") == machine("cheribsd")
    assert revokers.configurations == (Configuration("cheribsd", "none"), machine("cheribsd"))
    assert revokers.references == ["none"]


def test_the_command_line_goes_first(tmp_path: Path) -> None:
    """What it says replaces what the file says; the rest is the file's."""
    file = read(a_file(tmp_path, 'workloads = ["ring"]\nrepeats = 4\nseed = 9\n'))
    plan = complete(choose(repeats=2, workloads=["prefork"], seed=None), file)
    assert (plan.repeats, plan.seed, plan.cases[0].workload) == (2, 9, "prefork")


def test_sizes_processes_and_densities_are_combined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with each; traces have their own of all three."""
    monkeypatch.setattr(ring, "PROCESSES", range(1, 9), raising=False)
    monkeypatch.setattr(ring, "TAKES_DENSITY", True, raising=False)
    named = choose(
        workloads=["ring"], sizes=[65_536, 131_072], processes=[1, 8], densities=[0.5, 100], traces=["pipeline"]
    )
    cases = complete(named).cases
    assert [(case.size, case.processes, case.density) for case in cases[:-1]] == [
        (size, processes, density) for size in (65_536, 131_072) for processes in (1, 8) for density in (0.5, 100.0)
    ]
    assert (cases[-1].processes, cases[-1].density) == (None, None)
    assert len(complete(choose(workloads=["ring"], densities=[1, 1.0])).cases) == 1


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"processes": [4]}, "'prefork' has its own processes; name those that can: ring$"),
        ({"densities": [10]}, "'prefork' has its own density; nor can another"),
        ({"workloads": ["ring"], "processes": [4, 9]}, "'ring' takes 2 to 8 processes, not 9; nor can another"),
        ({"workloads": ["trace"], "processes": [4]}, "a trace has its own .* processes need a workload"),
        ({"workloads": ["ring"], "processes": [0]}, "processes"),
        ({"workloads": ["ring"], "processes": [5000]}, "processes"),
        ({"workloads": ["ring"], "densities": [0]}, "densities"),
        ({"workloads": ["ring"], "densities": [100.1]}, "densities"),
    ],
)
def test_a_workload_is_told_only_what_it_takes(
    monkeypatch: pytest.MonkeyPatch, named: dict[str, object], message: str
) -> None:
    """Otherwise nothing is run, and the workloads that could be told are named."""
    for name in (*workloads.BUILT_IN, workloads.IMAGE):
        for attribute in ("PROCESSES", "TAKES_DENSITY"):
            monkeypatch.delattr(workloads.find(name), attribute, raising=False)
    monkeypatch.setattr(ring, "PROCESSES", range(2, 9), raising=False)
    with pytest.raises(PlanError, match=message):
        complete(choose(**named))


def test_a_file_may_hold_several_comparisons(tmp_path: Path) -> None:
    """Each is as what it says and what stands above; they share rounds, and cells that are the same run once."""
    text = """
        workloads = ["prefork"]
        repeats = 3
        [[comparisons]]
        policies = ["open"]
        [[comparisons]]
        policies = ["open", "cheribsd"]
        [[comparisons]]
        workloads = ["churn"]
        revokers = ["none", "stop-the-world"]
        policies = ["cheribsd"]
        baseline = "none"
    """
    plan = complete(choose(seed=9), read(a_file(tmp_path, text)))
    assert [[case.workload for case in each.cases] for each in plan.comparisons] == [
        ["prefork"],
        ["prefork"],
        ["churn"],
    ]
    assert [each.baseline for each in plan.comparisons] == ["plain", "plain", "none"]
    assert (plan.repeats, plan.seed, len(plan.cells)) == (3, 9, 5)
    for wrong in ("[[comparisons]]\nrepeats = 2", "[[comparisons]]\n[[comparisons.comparisons]]\nseed = 1"):
        with pytest.raises(PlanError, match="of the whole plan"):
            read(a_file(tmp_path, wrong))


def test_the_bundled_plan_asks_all_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name, unless a file has that name; within about ten minutes."""
    monkeypatch.chdir(tmp_path)
    plan = complete(Choice(), read(Path("questions")))
    assert {case.workload for case in plan.cases} >= {"prefork", "trace", "image", "bufferpool", "churn"}
    assert {axis for each in plan.comparisons for axis in each.axes} == set(AXES)
    assert {case.processes for case in plan.cases} > {None, 1, 8}
    assert {case.density for case in plan.cases} == {None, 1, 10, 100}
    assert plan.repeats >= 8
    assert plan.seconds < 600
    (tmp_path / "questions").write_text('workloads = ["ring"]', encoding="utf-8")
    assert [case.workload for case in complete(Choice(), read(Path("questions"))).cases] == ["ring"]


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


def test_a_path_that_no_manifest_can_hold_is_refused(tmp_path: Path) -> None:
    """Of a trace or an image: one that is no UTF-8."""
    named = {"traces": trace.find("pipeline"), "images": image.find("perl")}
    for files, found in named.items():
        path = tmp_path / f"\udcff{found.suffix}"
        path.write_bytes(found.read_bytes())
        with pytest.raises(PlanError, match="is no UTF-8"):
            complete(choose(**{"workloads": ("churn",), files: (str(path),)}))


def test_traces_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """By as many folders as it takes; others go by their files' names."""
    paths = []
    for name in ("one/build", "two/build", "other"):
        paths.append(tmp_path / f"{name}.trace")
        paths[-1].parent.mkdir(exist_ok=True)
        trace.write(trace.Trace("nothing", 0, (trace.Process("nothing", -1, b""),)), paths[-1])
    plan = complete(Choice(workloads=("ring",), traces=tuple(map(str, paths))))
    assert [plan.label(case) for case in plan.cases] == ["ring", "trace one/build", "trace two/build", "trace other"]


def test_images(tmp_path: Path) -> None:
    """By their names or paths, as large as they are, and with as many processes as they are told; else all."""
    path = tmp_path / "small.image"
    image.write(image.Image("small", 0, (), b"", b""), path)
    cases = complete(Choice(workloads=(), images=("perl", str(path)), processes=(1, 4))).cases
    perl = image.read(image.find("perl")).pages * image.PAGE
    found = [(case.workload, case.size, case.processes) for case in cases]
    assert found == [("image", size, processes) for size in (perl, 65_536) for processes in (1, 4)]
    plan = complete(Choice(workloads=("image",)))
    assert [plan.label(case) for case in plan.cases] == ["image perl"]
    assert len(plan.comparisons) == 2
    assert "image" in {case.workload for case in complete(Choice()).cases}


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"images": ["nowhere"]}, "there is no image 'nowhere': give the path of a file, or one of perl"),
        ({"images": [__file__]}, "byte 0: this is no image"),
        ({"workloads": ["image"], "densities": [10]}, "have their own capabilities: densities need a workload"),
        ({"workloads": ["image"], "processes": [65]}, "'image' takes 1 to 64 processes, not 65"),
    ],
)
def test_images_that_cannot_be(named: dict[str, object], message: str) -> None:
    """Nothing is run."""
    with pytest.raises(PlanError, match=message):
        complete(choose(**{"workloads": [], **named}))


def test_patience_grows_with_size() -> None:
    """A cell may take ten minutes and more; what is said goes first."""
    small, large = (complete(Choice(workloads=("ring",), sizes=(size,))).timeout for size in (1 << 16, 1 << 32))
    assert 600 < small < large
    assert complete(Choice(workloads=("ring",), timeout=5)).timeout == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('polices = ["open"]', "'polices' is unknown; there are: .*; did you mean 'policies'"),
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
        (Choice(workloads=("prefrok",)), "'prefrok' is unknown; there are: prefork, ring, .*; did you mean 'prefork'"),
        (Choice(policies=("opne",)), "did you mean 'open'"),
        (Choice(baseline="plian"), "did you mean 'plain'"),
        (Choice(revokers=("stop-the-word",)), "there are: none, stop-the-world; did you mean 'stop-the-world'"),
        (Choice(revokers=("plain",)), "revoker 'plain' is unknown"),
        (Choice(stoppers=("zzz",)), "stopper 'zzz' is unknown; there are: gate, "),
        (Choice(scopes=("everything",)), "scope 'everything' is unknown; there are: vmspace"),
        (Choice(baseline="gate"), "baseline 'gate' is a stopper: name the stoppers that are to be compared with it"),
        (Choice(baseline="gate", stoppers=("gate",)), "nothing to compare gate with"),
        (Choice(baseline="none", policies=("open",)), "baseline 'none' is a revoker: name the revokers"),
        (Choice(revokers=("none",), stoppers=("gate", "sigstop")), "stoppers are named, but nothing .* can revoke"),
        (Choice(revokers=("none",), scopes=("vmspace",)), "scopes are named, but nothing .* can revoke"),
        (Choice(revokers=()), "nothing to compare plain with"),
        (Choice(policies=("plain",)), "nothing to compare plain with"),
        (Choice(policies=()), "nothing to compare plain with"),
        (Choice(workloads=()), "nothing to run"),
    ],
)
def test_what_there_is_not_is_refused(choice: Choice, message: str) -> None:
    """Unknown names with the nearest known one, and plans that compare nothing."""
    with pytest.raises(PlanError, match=message):
        complete(choice)


@pytest.mark.parametrize("axis", AXES)
def test_what_may_be_named_is_what_a_machine_takes(axis: str) -> None:
    """All of it, and by itself one of them."""
    for name in choices(axis):
        Machine(**{axis: name})  # type: ignore[arg-type]
    named = {plural: tuple(choices(other)) for other, plural in AXES.items() if other == axis}
    (found,) = complete(choose(workloads=["ring"], **named)).comparisons
    assert set(found.values(axis)) == set(choices(axis))
    assert set(complete(Choice(workloads=("ring",))).comparisons[0].values(axis)) <= set(choices(axis))


# The order of cells


def test_a_round_runs_every_cell_once() -> None:
    """All cases in all configurations, with the plan's seed; what two comparisons have in common is run once."""
    plan = a_plan()
    expected = Counter(
        (case.workload, name)
        for case, names in zip(
            plan.cases, (["plain", "open", "isolated"], ["plain", "open", "isolated", "none"]), strict=True
        )
        for name in names
    )
    for number in range(1, 6):
        found = plan.round(number)
        assert (
            Counter(
                (cell.case.workload, "none" if cell.configuration.revoker == "none" else cell.configuration.policy)
                for cell in found
            )
            == expected
        )
        assert {cell.seed for cell in found} == {3}


def test_rounds_have_orders_of_their_own() -> None:
    """So that nothing always follows the same; the seed gives them."""
    orders = [tuple(a_plan().round(number)) for number in range(1, 6)]
    assert len(set(orders)) == 5
    assert orders == [tuple(a_plan().round(number)) for number in range(1, 6)]
    assert list(orders[0]) != [Cell(cell.case, cell.configuration, 3) for cell in a_plan(seed=4).round(1)]


# The command


def test_a_dry_run_says_once_what_a_workload_is(capsys: pytest.CaptureFixture[str]) -> None:
    """However many of its cases run, in however many comparisons."""
    show_plan(a_plan(), is_json=False)
    shown = capsys.readouterr().out
    assert shown.count("churn of 1 MiB: ") == 2
    assert shown.count(workloads.describe("churn")[0]) == 1


@pytest.mark.slow
def test_a_dry_run_shows_cells_and_time(tmp_path: Path) -> None:
    """And runs nothing: no folder is made."""
    command = [sys.executable, "-m", "capshm", "compare", "--dry-run", "--workloads", "ring", "--sizes", "65536"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "ring of 64 KiB: plain, open, cheribsd, isolated" in done.stdout
    assert "4 cells a round, 8 rounds" in done.stdout
    assert "about" in done.stdout
    document = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    (comparison,) = document["plan"]["comparisons"]
    (case,) = comparison["cases"]
    assert (case["workload"], case["size"], case["trace"], case["processes"]) == ("ring", 65_536, None, None)
    assert {"policy": "plain", "revoker": None, "stopper": None, "scope": None} in comparison["configurations"]
    assert document["seconds"] > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--sizes", "1", "--dry-run"], "sizes"),
        (["--workloads", "loader", "--processes", "4"], "has its own processes"),
        (["--readme", "README.md"], "--show"),
        (["--sizes", "many"], "--sizes"),
        (["--repeats", "0"], "repeats"),
        (["--workloads", "rnig"], "did you mean 'ring'"),
        (["--revokers", "stop-the-word"], "there are: none, stop-the-world; did you mean 'stop-the-world'"),
        (["--stoppers", "zzz"], "there are: gate, "),
        (["--scopes", "zzz"], "there are: vmspace"),
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


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"show": "run", "repeats": 3, "quick": True}, "--show does not go with --quick, --repeats"),
        ({"resume": "run", "workloads": ["ring"]}, "--resume does not go with --workloads"),
        ({"merge": ["run", "other"], "show": "run"}, "--show does not go with --merge"),
        ({"merge": ["run", "other"], "cluster": "tcp://a:1"}, "--merge does not go with --cluster"),
        ({"retry_failed": True}, "--retry-failed goes on with results: name their folder by --resume"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    capsys: pytest.CaptureFixture[str], given: dict[str, Any], message: str
) -> None:
    """Status 2, naming those that are too many; nothing is ignored."""
    with pytest.raises(SystemExit) as raised:
        compare(**given)
    assert raised.value.code == 2
    assert message in capsys.readouterr().err


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
