"""The table of a comparison: what it says in words, and that it fits."""

import re

import pytest

from capshm.lab import table
from capshm.lab.facts import Facts
from capshm.lab.plan import Case, Cell, Plan
from capshm.lab.results import Canary, Failed, Manifest, Measured, Record, Result
from capshm.lab.statistics import Interval, Overhead
from capshm.lab.summary import summarize

FACTS = Facts("0.9", "release", "3.11.7", "A Processor With A Rather Long Name", "6.1", 2, "2026-01-02T03:04:05Z")
CASES = (Case("prefork", 4 << 20), Case("trace", 65_536, "/somewhere/build.trace"))
PLAN = Plan(cases=CASES, policies=("plain", "open", "cheribsd", "isolated"), baseline="plain", repeats=7, seed=5)
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
                result = Result(int(milliseconds * noise * 1e6), 1, 1, counts)
                found.append(Measured(number, Cell(case, policy, 5), result))
    return found


def text(found: list[Record]) -> str:
    """The table of these records."""
    return table.text(Manifest(PLAN, FACTS), summarize(PLAN, found))


def rows(found: str) -> list[str]:
    """The table itself, each line with single spaces."""
    lines = [" ".join(line.split()) for line in found.splitlines()]
    first = next(number for number, line in enumerate(lines) if line.startswith("workload"))
    last = next(number for number, line in enumerate(lines) if line.startswith("median:"))
    return lines[first : last - 1]


def test_the_table_reads() -> None:
    """A line for each case and policy; overheads over both references; counts; and it fits in 120 columns."""
    found = text(records())
    assert max(map(len, found.splitlines())) <= 120
    assert "7 of 7 rounds, seed 5" in found
    assert "canary 0.190 µs (0.160 – 0.220)" in found
    shown = rows(found)
    assert shown[0] == "workload size policy median over plain over open crossed rederived refused"
    assert shown[2] == "prefork 4 MiB plain 100 ms 0 65,536 1"
    assert shown[3].startswith("open 120 ms +20.0 % [+")
    assert shown[3].endswith("] 1,048,576 65,536 1")
    assert shown[4].startswith("cheribsd 450 ms × 4.5 [4.")
    assert re.fullmatch(r"isolated 120 ms \+20.* none seen, < [\d.]+ % 0 65,536 1", shown[5])
    assert shown[7].startswith("trace build plain 100 ms")
    for word in ("median:", "over X:", "none seen", "crossed:", "rederived:", "refused:"):
        assert word in found


def test_failed_cells_are_listed() -> None:
    """With round, cell and reason, and in their place in the table; a policy without any result says so."""
    found = [each for each in records() if not (isinstance(each, Measured) and each.cell.policy == "isolated")]
    found += [Failed(number, Cell(CASES[0], "isolated", 5), "Traceback:\nCellFailed: why") for number in (1, 2)]
    shown = text(found)
    assert "2 cells failed" in shown
    assert "round 1, prefork of 4 MiB, isolated: CellFailed: why" in shown
    assert "isolated failed" in rows(shown)
    assert max(map(len, shown.splitlines())) <= 120


def test_a_run_that_was_cut_short_has_a_table() -> None:
    """Even one without any cell, and without a canary."""
    assert "0 of 7 rounds" in text([])
    assert "no canary" in text([Canary(1, None)])
    first = [each for each in records() if each.round == 1]
    shown = text(first)
    assert "1 of 7 rounds" in shown
    assert re.fullmatch(r"open 1\d\d ms \+\d\d.\d % \[too few\] 1,048,576 65,536 1", rows(shown)[3])
    assert "none seen, <" not in shown.partition("\n\nmedian:")[0]


@pytest.mark.parametrize(
    ("overhead", "words"),
    [
        (Overhead(1.196, Interval(1.181, 1.21), 0.01, True), "+19.6 % [+18.1, +21.0]"),
        (Overhead(0.9, Interval(0.88, 0.91), 0.01, True), "-10.0 % [-12.0, -9.0]"),
        (Overhead(2.5, Interval(1.95, 2.6), 0.01, True), "+150 % [+95.0, +160]"),
        (Overhead(3.4, Interval(3.31, 3.6), 0.01, True), "× 3.4 [3.31, 3.6]"),
        (Overhead(1.01, Interval(0.99, 1.02), 0.034, False), "none seen, < 3.4 %"),
        (Overhead(1.01, Interval(0.9, 1.02), 0.034, False), "none seen, < 10 %"),
        (Overhead(1.5, None, None, False), "+50.0 % [too few]"),
        (Overhead(35.0, None, None, False), "× 35 [too few]"),
    ],
)
def test_overheads_in_words(overhead: Overhead, words: str) -> None:
    """Seen in per cent, or as a multiple; not seen with what could have been; and without an interval."""
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
