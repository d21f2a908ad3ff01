"""The questions that the project asks, answered with intervals, as far as the folders can.

Which of the figures carry over to hardware is said beside them: counts do, of capabilities that crossed, pages, tag
words, tags and passes, because the same program makes them wherever it runs. Nanoseconds and ratios of times do not:
they are of this emulation on this machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

from capshm.lab.comparison import Case, Comparison, Configuration
from capshm.lab.report import growth
from capshm.lab.report.growth import OUTCOMES, VARIABLES
from capshm.lab.report.runs import Run, distinguish
from capshm.lab.statistics import Median, Overhead
from capshm.lab.summary import Line, Span
from capshm.lab.table import overhead, significant

_TOO_FEW = "Of too few rounds for an interval, nothing is said."
_USELESS = 1.0
"""A difference of which it says little that none so large was seen."""

Row: TypeAlias = tuple[str, ...]


class Answer(NamedTuple):
    """To one question. said: in a sentence or two; empty if nothing was measured. columns, rows: each figure of it.

    command: what would measure it.
    """

    question: str
    said: list[str]
    columns: Row
    rows: Sequence[Row]
    command: str


def answers(runs: Sequence[Run]) -> list[Answer]:
    """To all questions, in their order."""
    return [_owner_binding(runs), _revocation(runs), _growth(runs), _stoppers(runs)]


def _owner_binding(runs: Sequence[Run]) -> Answer:
    counts = {"crossed": "crossed", "rederived": "derived again", "refused": "refused"}
    found = [
        (run, line)
        for run in runs
        for line in _lines(run, "open")
        if line.case.workload == "prefork" and line.configuration.policy == "cheribsd"
    ]
    return Answer(
        "What does owner binding cost a prefork server?",
        [f"{run.described(line.case)}: {_words([line.over['open']], 'under open')}" for run, line in found],
        ("case", "time over open", *_carrying(counts)),
        [(run.described(line.case), overhead(line.over["open"]), *_counts(line, counts)) for run, line in found],
        "capshm compare --workloads prefork --policies open cheribsd",
    )


def _revocation(runs: Sequence[Run]) -> Answer:
    counts = {"passes": "passes", "pages": "pages", "tag_words": "tag words", "tags": "tags", "cleared": "cleared"}
    reaches = {"vmspace": "of one address space", "machine": "machine-wide"}
    found = [
        (run, line)
        for run in runs
        for line in _lines(run, "none")
        if line.case.workload in ("trace", "image") and line.configuration.scope in reaches
    ]
    said = []
    for scope, reach in reaches.items():
        overs = [line.over["none"] for _, line in found if line.configuration.scope == scope]
        if overs:
            said.append(f"Revocation {reach}: {_words(overs, 'without revocation')}")
    return Answer(
        "What do machine-wide revocation and that of one address space cost, on real traces and a real memory image?",
        said,
        ("case", "reach", "stopper", "time over no revocation", *_carrying(counts)),
        [
            (
                run.described(line.case),
                reaches[line.configuration.scope or ""],
                line.configuration.stopper or "",
                overhead(line.over["none"]),
                *_counts(line, counts),
            )
            for run, line in found
        ],
        "capshm compare --workloads trace image --policies cheribsd --revokers none stop-the-world "
        "--scopes vmspace machine",
    )


def _growth(runs: Sequence[Run]) -> Answer:
    pause = OUTCOMES[0]
    said, rows = [], []
    for variable in VARIABLES[:2]:
        slopes = []
        for run, comparison in _comparisons(runs):
            for cases in run.families(comparison, variable.field):
                curves = growth.measure(run, comparison, cases, variable, pause.of)
                names = distinguish([curve.configuration for curve in curves], comparison.configurations)
                for curve in curves:
                    low, high = min(curve.points), max(curve.points)
                    slopes += [curve.slope] if curve.slope else []
                    rows.append(
                        (
                            run.described_without(cases[0], variable.field),
                            names[curve.configuration],
                            f"{variable.say(low)} to {variable.say(high)} {variable.words}",
                            growth.spread(curve.points[low]),
                            growth.spread(curve.points[high]),
                            growth.steepness(curve.slope),
                        )
                    )
        if judged := [slope for slope in slopes if slope.interval is not None]:
            least, most = (choose(judged, key=lambda slope: slope.value) for choose in (min, max))
            factors = _from_to(growth.steepness(least), growth.steepness(most))
            said.append(f"Twice as many {variable.words} make a pause {factors} as long.")
        elif slopes:
            said.append(f"By {variable.words}: {_TOO_FEW[0].lower()}{_TOO_FEW[1:]}")
    return Answer(
        "How does a pause grow with processes and with density?",
        said,
        ("case", "configuration", "from, to", "median pause from", "to", "growth for twice as much"),
        rows,
        "capshm compare --workloads bufferpool --policies cheribsd --revokers none stop-the-world --processes 1 4 16",
    )


def _stoppers(runs: Sequence[Run]) -> Answer:
    rows = []
    total = 0
    ahead: dict[str, int] = {}
    for run, comparison in _comparisons(runs):
        for case, rivals in _rivals(run, comparison):
            first, *others = sorted(rivals, key=lambda each: rivals[each].value)
            total += 1
            if all(growth.is_below(rivals[first], rivals[each]) for each in others):
                ahead[first.stopper or ""] = ahead.get(first.stopper or "", 0) + 1
            names = distinguish(comparison.configurations)
            overs = {line.configuration: line.over["gate"] for line in _lines(run, "gate") if line.case == case}
            for each, pause in rivals.items():
                rows.append(
                    (
                        run.described(case),
                        names[each],
                        growth.spread(pause),
                        overhead(overs[each]) if each in overs else "",
                    )
                )
    said = [
        f"{stopper} has the shortest pauses in {count} of {total} comparisons: its interval lies below the others'."
        for stopper, count in sorted(ahead.items(), key=lambda item: -item[1])
    ]
    if open_ones := total - sum(ahead.values()):
        said.append(f"In {open_ones} of {total} comparisons intervals overlap, so that no stopper is ahead.")
    return Answer(
        "Which of the three stoppers disturbs least?",
        said,
        ("case", "configuration", "median pause", "time over gate"),
        rows,
        "capshm compare --workloads churn --policies cheribsd --revokers none stop-the-world "
        "--stoppers gate signal sigstop",
    )


def _rivals(run: Run, comparison: Comparison) -> Iterator[tuple[Case, dict[Configuration, Median]]]:
    """Configurations that differ in the stopper alone, at least two that have stood, with their median pauses."""
    for case in comparison.cases:
        groups: dict[tuple[str | None, ...], dict[Configuration, Median]] = {}
        for each in comparison.configurations:
            if (pause := run.median_pause(case, each)) is not None:
                groups.setdefault((each.policy, each.revoker, each.scope), {})[each] = pause
        yield from ((case, group) for group in groups.values() if len(group) > 1)


def _comparisons(runs: Sequence[Run]) -> Iterator[tuple[Run, Comparison]]:
    return ((run, comparison) for run in runs for comparison in run.plan.comparisons)


def _lines(run: Run, reference: str) -> Iterator[Line]:
    """Those that are compared with it; what was run in several comparisons once."""
    found = {(line.case, line.configuration): line for line in run.summary.lines if reference in line.over}
    return iter(found.values())


def _words(found: Sequence[Overhead], reference: str) -> str:
    """What ratios of several cases say."""
    seen = sorted((each for each in found if each.is_seen), key=lambda each: each.ratio)
    judged = [each.smallest for each in found if not each.is_seen and each.smallest is not None]
    parts = []
    if seen:
        parts.append(f"{_from_to(overhead(seen[0]), overhead(seen[-1]))} as long as {reference}.")
    if judged:
        where = f" in {len(judged)} of {len(found)} cases" if len(found) > 1 else ""
        parts.append(f"No difference was seen{where}; one of {significant(100 * max(judged))} % would have been.")
        if max(judged) > _USELESS:
            parts.append("The machine was too busy to tell less: repeat it on a quiet one, or with more rounds.")
    if len(seen) + len(judged) < len(found):
        parts.append(_TOO_FEW)
    return " ".join(parts)


def _from_to(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"


def _carrying(counts: dict[str, str]) -> Iterator[str]:
    """The headings of what carries over to hardware."""
    return (f"{words} ✓" for words in counts.values())


def _counts(line: Line, counts: dict[str, str]) -> Iterator[str]:
    return (_span(line.counts[name]) if name in line.counts else "–" for name in counts)


def _span(found: Span) -> str:
    return " to ".join(f"{each:,.0f}" for each in dict.fromkeys(found))
