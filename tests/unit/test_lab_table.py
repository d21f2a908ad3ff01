"""The table of a comparison: what it says in words, and that it fits."""

import itertools
import re
from pathlib import Path

import msgspec
import pytest

from capshm.lab import table, workloads
from capshm.lab.choice import Choice
from capshm.lab.comparison import Case, Comparison, Configuration
from capshm.lab.plan import Cell, Plan, complete
from capshm.lab.readme import markers
from capshm.lab.results.facts import Facts
from capshm.lab.results.results import Canary, Failed, Manifest, Measured, Record, Result
from capshm.lab.statistics import Interval, Overhead
from capshm.lab.summary import summarize
from capshm.lab.workloads import PLAIN
from native.variants import ROOT

BEGIN, END = markers("compare")

BUILT_IN_POLICIES = ("open", "cheribsd", "isolated")
FACTS = Facts("0.9", "release", "3.11.7", "A Processor With A Rather Long Name", "6.1", 2, "2026-01-02T03:04:05Z")
CASES = (Case("prefork", 4 << 20), Case("trace", 65_536, "/somewhere/build.trace"))
MACHINES = {
    "plain": Configuration(PLAIN),
    **{policy: Configuration(policy, "stop-the-world", "gate", "vmspace") for policy in BUILT_IN_POLICIES},
}
POLICIES = Comparison(CASES, tuple(MACHINES.values()), "plain")
PLAN = Plan(comparisons=(POLICIES,), repeats=7, seed=5, timeout=60)
MILLISECONDS = {"plain": 100, "open": 120, "cheribsd": 450, "isolated": 120.1}


def records() -> list[Record]:
    """Seven rounds, in which isolated costs what open does, but for noise."""
    found: list[Record] = []
    for number in range(1, 8):
        found.append(Canary(number, 0.15 + number / 100))
        for case in CASES:
            for policy, milliseconds in MILLISECONDS.items():
                noise = 1 + 0.004 * (number * (len(policy) - 3) % 7 - 3)
                counts = {
                    "operations": 10,
                    "crossed": 1_048_576 * (policy == "open"),
                    "rederived": 65_536,
                    "refused": 1,
                }
                result = Result(int(milliseconds * noise * 1e6), int(3e6 * noise), 1, counts, 1 << 63)
                found.append(Measured(number, Cell(case, MACHINES[policy], 5), result))
    return found


def first_round() -> list[Record]:
    """Those of it alone."""
    return [each for each in records() if isinstance(each, Measured | Canary) and each.round == 1]


def text(found: list[Record]) -> str:
    """The table of these records."""
    return table.text(Manifest(PLAN, FACTS), summarize(PLAN, found))


def tables(found: str) -> list[list[str]]:
    """Each table, its lines with single spaces."""
    lines = [" ".join(line.split()) for line in found.splitlines()]
    begins = [number for number, line in enumerate(lines) if line.startswith("workload ")]
    ends = [number - 2 for number in begins[1:]]  # a title and an empty line stand before each
    ends.append(next(number for number, line in enumerate(lines) if line.startswith("median:")))
    return [lines[begin : end - 1] for begin, end in zip(begins, ends, strict=True)]


def rows(found: str) -> list[str]:
    """The first table."""
    return tables(found)[0]


def test_the_table_reads() -> None:
    """A line for each case and policy; overheads over both references; counts; and it fits."""
    found = text(records())
    assert max(map(len, found.splitlines())) <= table.WIDTH
    assert "7 of 7 rounds, seed 5" in found
    assert "canary 0.190 µs (0.160 – 0.220)" in found
    shown = rows(found)
    assert shown[0] == "workload size policy median over plain over open crossed rederived refused"
    assert shown[2] == "prefork 4 MiB plain 100 ms 0 65,536 1"
    assert shown[3].startswith("open 120 ms × 1.200 [1.")
    assert shown[3].endswith("] 1,048,576 65,536 1")
    assert shown[4].startswith("cheribsd 450 ms × 4.5 [4.")
    assert re.fullmatch(r"isolated 120 ms × 1\.2.* none seen, < [\d.]+ % 0 65,536 1", shown[5])
    assert shown[7].startswith("trace build plain 100 ms")
    for word in ("median:", "over X:", "none seen", "crossed:", "rederived:", "refused:"):
        assert word in found


def test_processes_and_densities_have_columns_where_they_are_told() -> None:
    """Of cases that say nothing the columns are empty; failures name them, too."""
    cases = (Case("ring", 1 << 20), Case("ring", 1 << 20, processes=16), Case("ring", 1 << 20, density=0.5))
    plan = Plan(comparisons=(Comparison(cases, tuple(MACHINES.values()), "plain"),), repeats=1, seed=5, timeout=60)
    failed = [Failed(1, Cell(case, MACHINES["plain"], 5), "why") for case in cases[1:]]
    found = table.text(Manifest(plan, FACTS), summarize(plan, failed))
    shown = rows(found)
    assert shown[0] == "workload size processes density policy median over plain over open"
    assert [shown[place] for place in (2, 7, 12)] == [
        "ring 1 MiB plain not run",
        "ring 1 MiB 16 plain failed",
        "ring 1 MiB 0.5 % plain failed",
    ]
    assert "round 1, ring of 1 MiB, 16 processes, plain: why" in found
    assert "round 1, ring of 1 MiB, 0.5 %, plain: why" in found


def test_failed_cells_are_listed() -> None:
    """With round, cell and reason, and in their place in the table; a policy without any result says so."""
    found = [
        each for each in records() if not (isinstance(each, Measured) and each.cell.configuration.policy == "isolated")
    ]
    found += [
        Failed(number, Cell(CASES[0], MACHINES["isolated"], 5), "Traceback:\nCellFailed: why") for number in (1, 2)
    ]
    shown = text(found)
    assert "2 cells failed" in shown
    assert "round 1, prefork of 4 MiB, isolated: CellFailed: why" in shown
    assert "isolated failed" in rows(shown)
    assert max(map(len, shown.splitlines())) <= table.WIDTH


def a_change(found: list[Record], policy: str, **changes: object) -> list[Record]:
    """The same records, but for the first round of prefork under a policy."""
    place, record = next(
        (place, each)
        for place, each in enumerate(found)
        if isinstance(each, Measured) and (each.cell.case, each.cell.configuration) == (CASES[0], MACHINES[policy])
    )
    changed = msgspec.structs.replace(record, result=msgspec.structs.replace(record.result, **changes))
    return [*found[:place], changed, *found[place + 1 :]]


@pytest.mark.parametrize("changes", [{"checksum": 7}, {"counts": {"operations": 7}}])
def test_cases_whose_cells_differ_in_their_work_fail(changes: dict[str, object]) -> None:
    """One round of one policy is enough; the table says what they have come to, and compares nothing."""
    found = summarize(PLAN, a_change(records(), "open", **changes))
    assert not found.is_whole
    assert [each.case for each in found.different] == [CASES[0]]
    assert all(line.wall is None for line in found.lines if line.case == CASES[0])
    assert all(line.over for line in found.lines if line.case == CASES[1] and line.configuration.policy != "plain")
    shown = table.text(Manifest(PLAN, FACTS), found)
    assert "have not done the same work" in shown
    assert (
        "prefork of 4 MiB: plain, open, cheribsd, isolated: checksum 0x8000000000000000, 10 operations; open:" in shown
    )
    assert "plain failed" in rows(shown)[2]
    assert max(map(len, shown.splitlines())) <= 2 * table.WIDTH


def test_counts_that_differ_are_shown_from_least_to_most() -> None:
    """Of what no checksum is about."""
    counts = {"operations": 10, "crossed": 5, "rederived": 65_536, "refused": 1}
    assert "5 – 1,048,576 65,536 1" in rows(text(a_change(records(), "open", counts=counts)))[3]


def test_processor_time_can_be_compared() -> None:
    """Then median and overheads are of that, and the legend says so."""
    shown = table.text(Manifest(PLAN, FACTS), summarize(PLAN, records(), "cpu"))
    assert "prefork 4 MiB plain 3 ms" in rows(shown)[2]
    assert "none seen, <" in rows(shown)[3]
    assert "processor time of all processes" in shown


def test_a_run_that_was_cut_short_has_a_table() -> None:
    """Even one without any cell, and without a canary."""
    assert "0 of 7 rounds" in text([])
    assert "no canary" in text([Canary(1, None)])
    first = first_round()
    shown = text(first)
    assert "1 of 7 rounds" in shown
    assert re.fullmatch(r"open 1\d\d ms × 1\.\d\d\d \[too few\] 1,048,576 65,536 1", rows(shown)[3])
    assert "none seen, <" not in shown.partition("\n\nmedian:")[0]


@pytest.mark.parametrize(
    ("overhead", "words"),
    [
        (Overhead(1.196, Interval(1.181, 1.21), 0.01, True), "× 1.196 [1.181, 1.210]"),
        (Overhead(0.9, Interval(0.88, 0.91), 0.01, True), "× 0.900 [0.880, 0.910]"),
        (Overhead(2.5, Interval(1.95, 2.6), 0.01, True), "× 2.5 [1.950, 2.6]"),
        (Overhead(3.4, Interval(3.31, 3.6), 0.01, True), "× 3.4 [3.31, 3.6]"),
        (Overhead(1.01, Interval(0.99, 1.02), 0.034, False), "none seen, < 3.4 %"),
        (Overhead(1.01, Interval(0.9, 1.02), 0.034, False), "none seen, < 3.4 %"),
        (Overhead(1.5, None, None, False), "× 1.500 [too few]"),
        (Overhead(35.0, None, None, False), "× 35 [too few]"),
    ],
)
def test_overheads_in_words(overhead: Overhead, words: str) -> None:
    """Seen as a multiple; not seen with what could have been; and without an interval."""
    assert table.overhead(overhead) == words


def test_sizes_and_times_in_words() -> None:
    """In the unit that suits."""
    assert [table.size(length) for length in (1000, 65_536, 3 << 20, 5 << 30)] == [
        "1,000 B",
        "64 KiB",
        "3 MiB",
        "5 GiB",
    ]
    assert [table.duration(each) for each in (12, 1500, 2.5e6, 123.4e6, 1.5e9)] == [
        "12 ns",
        "1.5 µs",
        "2.5 ms",
        "123 ms",
        "1.5 s",
    ]


def test_a_readme_gets_the_table(tmp_path: Path) -> None:
    """Between its two lines, and nothing else is changed; a file without them, or with two, stays as it is."""
    path, manifest, found = tmp_path / "README.md", Manifest(PLAN, FACTS), summarize(PLAN, records())
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    for _ in range(2):
        table.rewrite_readme(path, table.text(manifest, found), found)
        shown = path.read_text(encoding="utf-8")
        assert shown.startswith(f"before\n{BEGIN}\n\n```\ncapshm 0.9")
        assert shown.endswith(f"so nothing crosses in them.\n```\n\n{END}\nafter\n")
    for wrong in ("nothing", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{END}" * 2):
        path.write_text(wrong, encoding="utf-8")
        with pytest.raises(ValueError, match="must hold one line"):
            table.rewrite_readme(path, table.text(manifest, found), found)
        assert path.read_text(encoding="utf-8") == wrong


def test_a_readme_gets_no_run_that_says_little(tmp_path: Path) -> None:
    """With too few rounds, or with a failed cell."""
    first = first_round()
    failed = [*records(), Failed(1, Cell(CASES[0], MACHINES["open"], 5), "")]
    for found in (summarize(PLAN, first), summarize(PLAN, failed)):
        with pytest.raises(ValueError, match="is none"):
            table.rewrite_readme(tmp_path / "README.md", "a table", found)


def test_the_readme_has_every_workload_in_every_configuration() -> None:
    """All that come with capshm, each line with its time; none has failed, and each overhead says something."""
    _, _, rest = (ROOT / "README.md").read_text(encoding="utf-8").partition(BEGIN)
    shown = rest.partition(END)[0]
    plan = complete(Choice(workloads=(*workloads.BUILT_IN, *workloads.FROM_FILES), policies=BUILT_IN_POLICIES))
    assert "failed" not in shown
    for comparison, found in zip(plan.comparisons, tables(shown), strict=True):
        assert comparison.title in shown.splitlines()
        labels = [plan.label(case) for case in comparison.cases]
        groups = [
            list(lines) for is_empty, lines in itertools.groupby(found[1:], lambda line: not line) if not is_empty
        ]
        assert [next(label for label in labels if group[0].startswith(f"{label} ")) for group in groups] == labels
        for group in groups:
            for line, configuration in zip(group, comparison.configurations, strict=True):
                name = comparison.name(configuration).replace("/", " ")
                assert re.search(rf"(^|[ ]){name} [\d.,]+ (µs|ms|s)( |$)", line), line
                assert "too few" not in line


REVOKERS = [
    Configuration("cheribsd", "none"),
    Configuration("cheribsd", "stop-the-world", "gate", "vmspace"),
    Configuration("cheribsd", "stop-the-world", "sigstop", "vmspace"),
]


def test_a_table_for_each_comparison() -> None:
    """With its title, a column for each axis that varies, and what was run for both of them in both."""
    revokers = Comparison(CASES[:1], (MACHINES["plain"], *REVOKERS), "plain")
    plan = Plan(comparisons=(POLICIES, revokers), repeats=7, seed=5, timeout=60)
    found = records()
    for number in range(1, 8):
        for place, configuration in enumerate(REVOKERS):
            if place != 1:  # that is among the policies already
                result = Result(
                    (300 + 300 * place) * 10**6 + number, 1, 1, {"operations": 10, "passes": place}, 1 << 63
                )
                found.append(Measured(number, Cell(CASES[0], configuration, 5), result))
    shown = table.text(Manifest(plan, FACTS), summarize(plan, found))
    assert "policies; revoker stop-the-world, stopper gate, scope vmspace" in shown.splitlines()
    assert "revokers, stoppers; policy cheribsd, scope vmspace" in shown.splitlines()
    policies, revoked = tables(shown)
    assert policies == rows(text(records()))
    assert revoked[0] == "workload size policy revoker stopper median over plain over none over gate passes"
    assert revoked[2] == "prefork 4 MiB plain 100 ms"
    assert re.fullmatch(r"cheribsd none 300 ms × 3(\.\d+)? \[.*\] 0", revoked[3])
    assert re.fullmatch(r"cheribsd stop-the-world gate 450 ms × 4\.5.* × 1\.5.* \[.*\]", revoked[4])
    assert re.fullmatch(r"cheribsd stop-the-world sigstop 900 ms × 9.* × 3 .* × 2.* \[.*\] 2", revoked[5])


def test_failures_name_what_distinguishes_configurations() -> None:
    """The policy, and what varies beside it."""
    plan = Plan(comparisons=(Comparison(CASES[:1], tuple(REVOKERS), "none"),), repeats=1, seed=5, timeout=60)
    failed = [Failed(1, Cell(CASES[0], configuration, 5), "why") for configuration in REVOKERS]
    shown = table.text(Manifest(plan, FACTS), summarize(plan, failed))
    for name in ("cheribsd/none", "cheribsd/stop-the-world/gate", "cheribsd/stop-the-world/sigstop"):
        assert f"round 1, prefork of 4 MiB, {name}: why" in shown
