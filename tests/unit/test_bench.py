"""`python -m bench`: its arithmetic, its registry, its table and documents, and one real run."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import __main__ as command
from bench import growth, report
from bench.figures import FIGURES, Figure, Goal, Program
from bench.run import BenchError, Sample, Samples, needed, read_lines, resolve
from capshm.lab.readme import markers
from native.variants import ROOT

BEGIN, END = markers("bench")

# Key and goal of every figure, as agreed.
AGREED = {
    "native_store": "≤ 2",
    "native_load": "≤ 4",
    "native_store_locked": "≤ 4",
    "native_store_shared": "value ≥ 1.8",
    "sweep_0": "≥ 0.8",
    "sweep_1": "≥ 0.8",
    "sweep_10": "≥ 0.8",
    "sweep_50": "≥ 0.8",
    "sweep_100": "≥ 0.8",
    "sweep_two_cores": "≥ 1.7",
    "sweep_10_clustered": "≥ 0.8",
    "python_store": "≤ 3",
    "python_load": "≤ 4",
    "bulk_store": "≤ 2",
    "bulk_load": "≤ 2",
    "broker_round_trip": "≤ 2.5",
    "map_object": "≤ 2",
    "fork": "≤ 1.25",
    "stop_16": "≤ 3",
    "revoke_pause": "≤ 1.5",
    "malloc_free": "≤ 4",
    "zircon_protect": "≤ 2",
    "attach": "≤ 4",
}
BY_KEY = {figure.key: figure for figure in FIGURES}


def a_figure(unit: str = "ns", seen: float | None = 5) -> Figure:
    """Of some key, with the goal that the ratio be at most 2."""
    return Figure("jump", "how far it jumps", unit, "a flea", seen, Goal("<=", 2), "on grass", Program("bench/jump.c"))


def a_document(*ratios: float, canary: list[float] | None = None) -> report.Document:
    """Of a run with that one figure, and these ratios to a limit of 10."""
    samples = [Sample(10 * ratio, 10) for ratio in ratios]
    found = Samples({"jump": samples}, [0.15, 0.4, 0.16] if canary is None else canary)
    return report.document([a_figure()], found, len(samples), quick=False)


# The registry


def test_every_agreed_figure_is_declared_with_its_goal() -> None:
    """Keys, in their order, and goals are those that were agreed."""
    assert {figure.key: str(figure.goal) for figure in FIGURES} == AGREED
    assert [figure.key for figure in FIGURES] == list(AGREED)


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.key)
def test_a_figure_says_what_it_depends_on(figure: Figure) -> None:
    """What, limit and conditions are given; the program is in the tree; limits are made of earlier figures."""
    assert figure.what
    assert figure.limit
    assert "process" in figure.conditions
    assert (ROOT / figure.program.path).is_file()
    earlier = [other.key for other in FIGURES[: FIGURES.index(figure)]]
    assert all(key in earlier for key, _ in figure.limit_from)


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.key)
def test_the_size_of_the_object_is_that_of_the_program(figure: Figure) -> None:
    """The first size among the conditions also stands in the source, so that neither changes without the other."""
    size = re.search(r"\d+ [KMG]iB", figure.conditions)
    assert size is not None
    assert size[0] in (ROOT / figure.program.path).read_text(encoding="utf-8")


def test_needed_figures_come_first() -> None:
    """One whose limit is another's value brings that other along, before itself."""
    assert [figure.key for figure in needed([BY_KEY["bulk_load"]])] == ["native_load", "bulk_load"]
    assert needed([BY_KEY["sweep_0"]]) == [BY_KEY["sweep_0"]]


# Arithmetic


@pytest.mark.parametrize(
    ("goal", "ratio", "is_met"),
    [
        (Goal("<=", 2), 1.9, True),
        (Goal("<=", 2), 2, True),
        (Goal("<=", 2), 2.1, False),
        (Goal(">=", 0.8), 0.7, False),
        (Goal(">=", 0.8), 0.8, True),
        (Goal(">=", 0.8), 0.9, True),
    ],
)
def test_goals_have_a_direction(goal: Goal, ratio: float, is_met: bool) -> None:
    """At most or at least, the bound included."""
    assert goal.is_met(ratio) is is_met


def test_the_ratio_is_the_median_of_paired_ratios() -> None:
    """Not the ratio of the medians: a repeat in which all was slow must not be set against another's limit."""
    samples = [Sample(10, 10), Sample(40, 20), Sample(30, 30)]  # ratios 1, 2, 1; ratio of medians 1.5
    found = report.summarize(a_figure(), samples)
    assert found["ratio"] == {"median": 1, "least": 1, "most": 2}
    assert found["value"] == {"median": 30, "least": 10, "most": 40}
    assert found["limit"]["median"] == 20
    assert found["samples"] == [[10, 10], [40, 20], [30, 30]]


@pytest.mark.parametrize(("ratios", "median"), [((3,), 3), ((1, 3), 2), ((9, 1, 3), 3)])
def test_medians(ratios: tuple[float, ...], median: float) -> None:
    """Of one, of an even number, of an odd number in any order."""
    assert report.spread(ratios) == {"median": median, "least": min(ratios), "most": max(ratios)}


def test_the_verdict_is_that_of_the_median() -> None:
    """One bad repeat does not fail a goal, one good one does not meet it."""
    assert a_document(1.9, 1.9, 9)["figures"][0]["is_met"]
    assert not a_document(0.1, 2.1, 2.1)["figures"][0]["is_met"]


def test_a_value_that_is_a_ratio_can_have_the_goal() -> None:
    """Two processes must do 1.8 times the work of one, where 2 is the limit."""
    figure = BY_KEY["native_store_shared"]
    assert report.summarize(figure, [Sample(1.9, 2)])["is_met"]
    assert not report.summarize(figure, [Sample(1.7, 2)])["is_met"]


def test_a_limit_is_compared_with_the_one_that_was_seen() -> None:
    """As speeds: below 1 is slower here, in times and in rates alike."""
    assert a_figure(unit="ns", seen=5).share_of_seen(10) == 0.5
    assert a_figure(unit="µs", seen=5).share_of_seen(10) == 0.5
    assert a_figure(unit="GiB/s", seen=20).share_of_seen(10) == 0.5
    assert a_figure(seen=None).share_of_seen(10) is None


@pytest.mark.parametrize(
    ("value", "text"), [(0.0864, "0.0864"), (1, "1"), (3.5512, "3.55"), (99.4, "99.4"), (123.4, "123"), (3956, "3,956")]
)
def test_numbers_have_three_digits_that_matter(value: float, text: str) -> None:
    """And never an exponent."""
    assert report.number(value) == text


# What programs print


def test_limits_come_from_the_program_or_from_other_figures() -> None:
    """A bulk figure's limit is what the native figure reached in the same round."""
    output = '{"key": "native_load", "value": 9, "limit": 3}\n{"key": "bulk_load", "value": 6, "limit": null}\n'
    lines = {line.key: line for line in read_lines(output)}
    samples = resolve(needed([BY_KEY["bulk_load"]]), lines)
    assert samples == {"native_load": Sample(9, 3), "bulk_load": Sample(6, 9)}


@pytest.mark.parametrize(
    "line",
    [
        "segmentation fault",
        "[]",
        '{"value": 1, "limit": 1}',
        '{"key": "a", "value": "quick", "limit": 1}',
        '{"key": "a", "value": 0, "limit": 1}',
        '{"key": "a", "value": NaN, "limit": 1}',
        '{"key": "a", "value": 1, "limit": Infinity}',
        '{"key": "a", "value": 1, "limit": -1}',
    ],
)
def test_nonsense_is_refused(line: str) -> None:
    """With the line in the message."""
    with pytest.raises(BenchError) as caught:
        list(read_lines(line))
    assert repr(line) in str(caught.value)


def test_what_is_missing_is_named() -> None:
    """A figure that its program forgot, and one that came without a limit."""
    with pytest.raises(BenchError, match=r"bench/jump\.c did not print jump"):
        resolve([a_figure()], {})
    lines = {line.key: line for line in read_lines('{"key": "jump", "value": 1, "limit": null}')}
    with pytest.raises(BenchError, match="no limit for jump"):
        resolve([a_figure()], lines)


# Growth


@pytest.mark.parametrize(("power", "factor"), [(0, 7), (1, 2), (0.5, 3), (2, 0.1)])
def test_the_slope_is_the_exponent(power: float, factor: float) -> None:
    """Of points on a power law, exactly; what one more unit costs is counted between the ends."""
    points = [[size, factor * size**power] for size in (1.0, 4, 16, 64, 256)]
    found = growth.curve("jumps", "jumping", "flea", "on grass", points)
    assert found["slope"] == pytest.approx(power)
    assert found["per_unit"] == pytest.approx((points[-1][1] - factor) / 255)


def test_growth_is_in_the_report() -> None:
    """With its points and its slope in a line each; without curves nothing is said."""
    points = [[1.0, 10], [100.0, 20]]
    found = a_document(1)
    assert "grows" not in report.text(found)
    found["growth"] = [growth.curve("jumps", "jumping", "flea", "on grass", points)]
    assert report.text(found).splitlines()[-4:] == [
        "jumps: jumping",
        "    on grass",
        "    µs by flea: 1: 10, 100: 20",
        "    grows as flea^0.15; one more costs 0.101 µs",
    ]


# Table, document, README


def test_the_table() -> None:
    """Numbers to the right, words to the left; conditions below."""
    lines = report.text(a_document(1.5, 1.25, 11)).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("figure"))
    assert lines[start : start + 2] == [
        "figure  value  limit      seen  of seen  ratio  least – most  goal",
        "jump       15     10  ns     5     0.50    1.5  1.25 – 11     ≤ 2   met",
    ]
    assert lines[-2:] == ["jump:", "    on grass"]


@pytest.mark.parametrize(("canary", "text"), [([0.15], "near"), ([0.4], "far"), ([], "none")])
def test_the_canary_is_beside_the_table(canary: list[float], text: str) -> None:
    """And a machine where it cannot run gets the figures all the same."""
    line = next(line for line in report.text(a_document(1, canary=canary)).splitlines() if line.startswith("canary"))
    assert text in line


def test_too_few_repeats_are_called_so() -> None:
    """Under five repeats a table is a look, no result."""
    assert "for a first look only" in report.text(a_document(1, 1, 1, 1))
    assert "for a first look only" not in report.text(a_document(1, 1, 1, 1, 1))


def test_a_document_survives_json() -> None:
    """What --readme reads is what a run wrote."""
    found = a_document(1, 2, 3)
    assert json.loads(json.dumps(found)) == found


def test_the_readme_changes_between_its_markers_only(tmp_path: Path) -> None:
    """Twice gives the same as once, and a later document replaces the earlier one's table."""
    readme = tmp_path / "README.md"
    readme.write_text(f"# capshm\n\n{BEGIN}\nold\n{END}\n\nend\n", encoding="utf-8")
    report.rewrite_readme(readme, a_document(*[1.5] * 5))
    once = readme.read_text(encoding="utf-8")
    assert once.startswith(f"# capshm\n\n{BEGIN}\n\n| figure |")
    assert once.endswith(f"\n\n{END}\n\nend\n")
    assert "| `jump` | how far it jumps | 15 ns | 10 ns | 1.5 (1.5 – 1.5) | ≤ 2 | met |" in once
    assert "old" not in once
    report.rewrite_readme(readme, a_document(*[1.5] * 5))
    assert readme.read_text(encoding="utf-8").replace("\n", "") == once.replace("\n", "")
    report.rewrite_readme(readme, a_document(*[2.5] * 5))
    assert "not met" in readme.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [readme]


@pytest.mark.parametrize(
    "text",
    [
        "",
        BEGIN,
        END,
        END + BEGIN,
        (BEGIN + END) * 2,
        BEGIN + END + END,
    ],
)
def test_a_readme_without_its_markers_stays_as_it_is(tmp_path: Path, text: str) -> None:
    """ValueError names the markers."""
    readme = tmp_path / "README.md"
    readme.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="<!-- bench -->"):
        report.rewrite_readme(readme, a_document(1, 1, 1, 1, 1))
    assert readme.read_text(encoding="utf-8") == text


def test_a_first_look_does_not_get_into_a_readme(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Through the command: status 1, and the file stays as it is; with enough repeats it is rewritten."""
    readme, document = tmp_path / "README.md", tmp_path / "bench.json"
    readme.write_text(f"{BEGIN}{END}", encoding="utf-8")
    arguments = ["--readme", str(readme), "--json", str(document)]
    document.write_text(json.dumps(a_document(1, 1)), encoding="utf-8")
    assert command.main(arguments) == 1
    assert "fewer than 5 repeats" in capsys.readouterr().err
    assert readme.read_text(encoding="utf-8") == f"{BEGIN}{END}"
    document.write_text(json.dumps(a_document(1, 1, 1, 1, 1)), encoding="utf-8")
    assert command.main(arguments) == 0
    assert "| `jump` |" in readme.read_text(encoding="utf-8")


# The command


def test_list_shows_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    """And measures nothing."""
    assert command.main(["--list"]) == 0
    shown = capsys.readouterr().out
    assert all(key in shown for key in AGREED)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--only", "pyhton_store"], "no figure is named pyhton_store"), (["--repeats", "0"], "at least 1")],
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, as of any command line."""
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_quick_run(tmp_path: Path) -> None:
    """A real one: status 0 whatever the goals say, a table on standard output, a document with every sample."""
    document = tmp_path / "made" / "bench.json"
    arguments = ["--quick", "--only", "python_store", "--json", str(document)]
    done = subprocess.run(
        [sys.executable, "-m", "bench", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "python_store" in done.stdout
    found: report.Document = json.loads(document.read_text(encoding="utf-8"))
    assert set(found) == set(report.Document.__annotations__)
    (figure,) = found["figures"]
    assert set(figure) == set(report.FigureResult.__annotations__)
    assert figure["key"] == "python_store"
    assert found["is_quick"]
    assert found["repeats"] == len(figure["samples"]) == 2
    assert all(0 < limit < value for value, limit in figure["samples"])  # a store does more than an empty call


@pytest.mark.slow
def test_a_document_that_cannot_be_written(tmp_path: Path) -> None:
    """Status 1, but what was measured has been shown."""
    document = tmp_path / "bench.json"
    document.mkdir()
    arguments = ["--quick", "--only", "python_load", "--repeats", "1", "--json", str(document)]
    done = subprocess.run(
        [sys.executable, "-m", "bench", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"bench: [Errno 21] Is a directory: '{document}'" in done.stderr
    assert "python_load" in done.stdout
