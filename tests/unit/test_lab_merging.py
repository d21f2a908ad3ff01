"""Several results folders made one: nothing is lost, and what cannot be compared is refused."""

from pathlib import Path

import msgspec
import pytest

from capshm.lab.comparison import Case, Comparison, Configuration
from capshm.lab.plan import Plan
from capshm.lab.results import results
from capshm.lab.results.facts import Facts
from capshm.lab.results.filling import Results
from capshm.lab.results.merging import merge
from capshm.lab.results.results import Another, Canary, Failed, Manifest, Measured, Record, Result, ResultsError
from capshm.lab.summary import summarize

CASE = Case("ring", 1 << 20)
CONFIGURATIONS = (Configuration("plain"), Configuration("open", "stop-the-world", "gate", "vmspace"))
PLAN = Plan(comparisons=(Comparison((CASE,), CONFIGURATIONS, "plain"),), repeats=2, seed=5, timeout=60)
FACTS = Facts("0.9", "release", "3.11.7", "A Processor", "6.1", 2, "2026-01-02T03:04:05Z", "one")
LIKE = msgspec.structs.replace(FACTS, time="2026-03-04T05:06:07Z", node="two")


def records(first: int, numbers: tuple[int, ...] = (1, 2), machine: int = 0) -> list[Record]:
    """Of rounds of these numbers; first: a time in nanoseconds that tells them from others."""
    found: list[Record] = []
    for number in numbers:
        found.append(Canary(number, 0.1, machine))
        for place, cell in enumerate(PLAN.cells):
            result = Result(first + 10 * number + place, 1, 1, {"operations": 1}, 7)
            found.append(Measured(number, cell, result, machine))
    return found


def a_folder(folder: Path, held: list[Record], plan: Plan = PLAN, facts: Facts = FACTS) -> Path:
    """With these records."""
    Results(folder, Manifest(plan, facts), records=held).close()
    return folder


def times(found: list[Record]) -> dict[int, list[int]]:
    """Of the cells of each round."""
    numbers = {each.round for each in found if isinstance(each, Measured)}
    return {
        number: [each.result.wall_ns for each in found if isinstance(each, Measured) and each.round == number]
        for number in numbers
    }


def test_the_rounds_of_all_stand_one_after_the_other(tmp_path: Path) -> None:
    """Under new numbers, failures and canaries too; every machine's facts are kept, and overheads use all rounds."""
    failed = Failed(5, PLAN.cells[0], "why", 1)
    one = a_folder(tmp_path / "one", [*records(1000, (1, 4)), Another(1, LIKE), failed, Canary(7, 0.1)])
    plan = msgspec.structs.replace(PLAN, repeats=9, timeout=70)
    two = a_folder(tmp_path / "two", [Another(1, FACTS), *records(2000, machine=1)], plan, LIKE)
    manifest, merged = merge([one, two])
    assert manifest == Manifest(msgspec.structs.replace(PLAN, repeats=5, timeout=70), FACTS)
    assert times(merged) == {1: [1010, 1011], 2: [1040, 1041], 4: [2010, 2011], 5: [2020, 2021]}
    assert [each for each in merged if isinstance(each, Failed)] == [msgspec.structs.replace(failed, round=3)]
    folder = a_folder(tmp_path / "all", merged, manifest.plan)
    found = results.read(folder)
    assert found.machines == {0: FACTS, 1: LIKE, 2: LIKE, 3: FACTS}
    assert {each.machine for each in merged if isinstance(each, Measured) and each.round > 3} == {3}
    assert [line.repeats for line in summarize(manifest.plan, found.records).lines] == [4, 4]


def test_what_was_merged_can_be_merged_again(tmp_path: Path) -> None:
    """A half-written tail is left out."""
    folders = [a_folder(tmp_path / str(number), records(number * 1000)) for number in (1, 2, 3)]
    with (folders[2] / results.RESULTS).open("ab") as file:
        file.write(b'{"type":"meas')
    manifest, merged = merge(folders[:2])
    manifest, merged = merge([a_folder(tmp_path / "all", merged, manifest.plan), folders[2]])
    assert manifest.plan.repeats == 6
    assert len(times(merged)) == 6


@pytest.mark.parametrize(
    ("plan", "facts", "message"),
    [
        (msgspec.structs.replace(PLAN, seed=6), FACTS, "have not done the same work: their seeds are 5 and 6"),
        (
            msgspec.structs.replace(PLAN, comparisons=(Comparison((Case("ring", 1 << 21),), CONFIGURATIONS, "plain"),)),
            FACTS,
            "do not compare the same",
        ),
        (PLAN, msgspec.structs.replace(LIKE, machine="B"), "compare nothing: machine A Processor and B$"),
        (PLAN, msgspec.structs.replace(LIKE, capshm="1.0"), "compare nothing: capshm 0.9 and 1.0$"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path: Path, plan: Plan, facts: Facts, message: str) -> None:
    """With what differs; no interval could hold both."""
    one = a_folder(tmp_path / "one", records(1000))
    other = a_folder(tmp_path / "other", records(2000), plan, facts)
    with pytest.raises(ResultsError, match=message):
        merge([one, other])


def test_nothing_is_counted_twice(tmp_path: Path) -> None:
    """A folder, its copy, and what it has been merged into hold the same cells."""
    one, other = (a_folder(tmp_path / str(first), records(first)) for first in (1000, 2000))
    copy = a_folder(tmp_path / "copy", records(1000, (1,)))
    manifest, merged = merge([one, other])
    both = a_folder(tmp_path / "both", merged, manifest.plan)
    for pair in ([one, copy], [both, other], [one, one]):
        with pytest.raises(ResultsError, match="one is a copy of the other"):
            merge(pair)


def test_one_folder_or_a_damaged_one_is_not_merged(tmp_path: Path) -> None:
    """The message names the line."""
    folders = [a_folder(tmp_path / str(number), records(number * 1000)) for number in (1, 2)]
    with pytest.raises(ResultsError, match="two folders"):
        merge(folders[:1])
    path = folders[1] / results.RESULTS
    path.write_bytes(path.read_bytes().replace(b"wall_ns", b"wall_nz", 1))
    with pytest.raises(ResultsError, match=r"line 2: no record: .* not merged"):
        merge(folders)
