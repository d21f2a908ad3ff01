"""The plan of a comparison: which workloads, policies and sizes, how often, in which order.

A *case* is what policies are compared on: a workload at one size, or a recorded program. A *cell* is one case under one
policy in one round. Each round runs every cell once, in an order of its own that the seed gives, so that whatever the
machine does meanwhile meets all policies alike, and each round's cells can be compared with one another.

A plan file is TOML with the names of `Choice`; what is left out has its default, and the command line goes first:

    workloads = ["prefork", "ring"]        # without it: all
    sizes = [1_048_576, 4_194_304]         # bytes; without it: each workload's own
    traces = ["build.trace"]               # files, or names of bundled ones; without it, all bundled ones if the
                                           # workload "trace" is among the workloads
    policies = ["open", "cheribsd"]        # without it: all that are installed
    baseline = "plain"
    repeats = 9
    seed = 1
    timeout = 600                          # seconds that a cell may take; without it: by its size, 600 and more
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from random import Random
from typing import Annotated

import msgspec

from capshm import policies
from capshm.errors import CapshmError
from capshm.lab import trace, workloads
from capshm.lab.workloads import LARGEST, MOST_FORKS, PLAIN, SMALLEST, TRACE

REFERENCE = "open"
"""The policy over which there are overheads, too, where it takes part: CheriBSD before the pull request."""

REPEATS, QUICK_REPEATS = 9, 3
_QUICK_SHARE = 4  # --quick divides the default sizes by this
_BESIDE_SECONDS, _MEASURED_SECONDS = 0.6, 0.25  # of a cell of the default size, on two cores of a shared machine
_PATIENCE_SECONDS, _PATIENCE = 600, 20  # that a cell may take: so long, and so many times what it should


class PlanError(CapshmError):
    """A plan that cannot be run: what is wrong, and what would be right. Nothing has been run."""


class Choice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a plan file or a command line says; None: nothing."""

    workloads: tuple[str, ...] | None = None
    sizes: tuple[Annotated[int, msgspec.Meta(ge=SMALLEST, le=LARGEST)], ...] | None = None
    traces: tuple[str, ...] | None = None
    policies: tuple[str, ...] | None = None
    baseline: str | None = None
    repeats: Annotated[int, msgspec.Meta(ge=1, le=10_000)] | None = None
    seed: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)] | None = None
    timeout: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None


class Case(msgspec.Struct, frozen=True):
    """What policies are compared on. size: bytes. trace: path of the file, for the workload "trace" only."""

    workload: str
    size: int
    trace: str | None = None

    @property
    def seconds(self) -> float:
        """About how long a cell of it takes."""
        share = self.size / workloads.default_size(self.workload)
        return _BESIDE_SECONDS + _MEASURED_SECONDS * share


class Cell(msgspec.Struct, frozen=True):
    """One run of one case under one policy."""

    case: Case
    policy: str
    seed: int


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that decides what is run; the manifest of a results folder holds it.

    policies: the baseline stands first. timeout: seconds; a cell that takes longer is ended, and has failed.
    """

    cases: tuple[Case, ...]
    policies: tuple[str, ...]
    baseline: str
    repeats: int
    seed: int
    timeout: int

    def round(self, number: int) -> list[Cell]:
        """The cells of a round, from 1, in its order."""
        cells = [Cell(case, policy, self.seed) for case in self.cases for policy in self.policies]
        Random(f"{self.seed} {number}").shuffle(cells)
        return cells

    @property
    def references(self) -> tuple[str, ...]:
        """What each policy is compared with."""
        return tuple(dict.fromkeys([self.baseline, *(name for name in self.policies if name == REFERENCE)]))

    @property
    def seconds(self) -> float:
        """About how long it takes to run."""
        return sum(case.seconds for case in self.cases) * len(self.policies) * self.repeats

    def label(self, case: Case) -> str:
        """A case's name in the table. A trace has its file's, with as many folders as tell it from the others."""
        if case.trace is None:
            return case.workload
        own = _parts(case.trace)
        others = [_parts(other.trace) for other in self.cases if other.trace not in (None, case.trace)]
        shown = 1
        while shown < len(own) and any(other[-shown:] == own[-shown:] for other in others):
            shown += 1
        return f"{case.workload} {'/'.join(own[-shown:])}"


def read(path: Path) -> Choice:
    """A plan file. PlanError: it cannot be read, is no TOML, or says what no plan can."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (
        OSError,
        ValueError,
        RecursionError,
    ) as error:  # TOML's errors, and numbers of too many digits, are the second
        raise PlanError(f"{path} is no plan: {error}") from error
    _check_names(f"{path}: key", document, Choice.__struct_fields__)
    return _convert(f"{path}: ", document)


def choose(**given: object) -> Choice:
    """What a command line says; None is nothing. PlanError: a number out of range."""
    return _convert("", {name: value for name, value in given.items() if value is not None})


def complete(line: Choice, file: Choice | None = None, *, quick: bool = False) -> Plan:
    """The plan of a command line, and of a plan file for what it leaves open. quick: fewer repeats, smaller sizes.

    PlanError: a name that there is not, a number out of range, or nothing to compare.
    """
    choice = _merge(line, file or Choice())
    baseline = choice.baseline or PLAIN
    wanted = policies.names() if choice.policies is None else choice.policies
    _check_names("policy", [baseline, *wanted], [PLAIN, *policies.names()])
    chosen = tuple(dict.fromkeys([baseline, *(name for name in wanted if name == REFERENCE), *wanted]))
    if len(chosen) < 2:
        raise PlanError(f"there is nothing to compare {baseline} with: name another policy")
    cases = _cases(choice, quick)
    if not cases:
        raise PlanError("there is nothing to run: name a workload or a trace")
    return Plan(
        cases=cases,
        policies=chosen,
        baseline=baseline,
        repeats=choice.repeats or (QUICK_REPEATS if quick else REPEATS),
        seed=1 if choice.seed is None else choice.seed,
        timeout=choice.timeout or int(_PATIENCE_SECONDS + _PATIENCE * max(case.seconds for case in cases)),
    )


def _cases(choice: Choice, quick: bool) -> tuple[Case, ...]:
    known = (*workloads.NAMES, TRACE)
    names = known if choice.workloads is None else choice.workloads
    _check_names("workload", names, known)
    share = _QUICK_SHARE if quick else 1
    cases = [
        Case(name, size)
        for name in names
        if name != TRACE
        for size in choice.sizes or (max(SMALLEST, _default_size(name) // share),)
    ]
    traces = (trace.names() if TRACE in names else ()) if choice.traces is None else choice.traces
    found = [_find_trace(name) for name in traces]
    cases += [Case(TRACE, workloads.default_size(TRACE), path) for path in found]
    return tuple(dict.fromkeys(cases))


def _default_size(name: str) -> int:
    try:
        return workloads.default_size(name)
    except ValueError as error:
        raise PlanError(f"{error}; name the workloads that are wanted to leave it out") from error


def _find_trace(name: str) -> str:
    """The path of a trace that can be replayed."""
    try:
        path = trace.find(name)
        forks = trace.read(path).counts["forks"]
    except (CapshmError, OSError) as error:
        raise PlanError(str(error)) from error
    if forks > MOST_FORKS:
        raise PlanError(f"{path} forks {forks:,} processes, and a cell may fork {MOST_FORKS:,}")
    return str(path.absolute())


def _parts(path: str) -> tuple[str, ...]:
    return PurePath(path.removesuffix(".trace")).parts


def _merge(line: Choice, file: Choice) -> Choice:
    given = {name: value for name, value in msgspec.structs.asdict(line).items() if value is not None}
    return msgspec.structs.replace(file, **given)


def _convert(where: str, document: dict[str, object]) -> Choice:
    try:
        return msgspec.convert(document, Choice, strict=True)
    except msgspec.ValidationError as error:
        raise PlanError(f"{where}{error}") from error


def _check_names(what: str, names: Iterable[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise PlanError(f"{what} {name!r} is unknown{_nearest(name, known)}")


def _nearest(name: str, known: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {nearest[0]!r}?" if nearest else f"; there are: {', '.join(known)}"
