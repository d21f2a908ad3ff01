"""The plan of a run: which workloads, sizes, policies, revokers, stoppers and scopes, how often, in which order.

A *cell* is one case in one configuration (capshm.lab.comparison) in one round. Each round runs every cell once, in an
order of its own that the seed gives, so that whatever the machine does meanwhile meets all configurations alike, and
each round's cells can be compared with one another.

Without further word there are two comparisons: of all policies, by all cases; and of all revokers, by what frees
memory. Whoever names revokers, stoppers or scopes has one, of all combinations of what is named.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from inspect import signature
from itertools import product, starmap
from pathlib import Path, PurePath
from random import Random

import msgspec

from capshm import revokers
from capshm.errors import CapshmError
from capshm.lab import workloads
from capshm.lab.choice import Choice, PlanError, check_names, merge
from capshm.lab.comparison import AXES, REFERENCES, Case, Comparison, Configuration
from capshm.lab.inputs import image, trace
from capshm.lab.workloads import FROM_FILES, IMAGE, MOST_FORKS, PLAIN, SMALLEST, TRACE
from capshm.machine import Machine, choices

_DEFAULTS: dict[str, str] = {axis: signature(Machine).parameters[axis].default for axis in AXES}
REPEATS, QUICK_REPEATS = 8, 2
_QUICK_SHARE = 4  # --quick divides the default sizes by this
_PATIENCE_SECONDS, _PATIENCE = 600, 20  # that a cell may take: so long, and so many times what it should


class Cell(msgspec.Struct, frozen=True):
    """One run of one case in one configuration."""

    case: Case
    configuration: Configuration
    seed: int


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that decides what is run; the manifest of a results folder holds it.

    timeout: seconds; a cell that takes longer is ended, and has failed.
    """

    comparisons: tuple[Comparison, ...]
    repeats: int
    seed: int
    timeout: int

    @property
    def cases(self) -> list[Case]:
        """Of all comparisons."""
        return list(dict.fromkeys(case for each in self.comparisons for case in each.cases))

    @property
    def cells(self) -> list[Cell]:
        """Of a round: what comparisons have in common is run once."""
        pairs = [(case, own) for each in self.comparisons for case in each.cases for own in each.configurations]
        return [Cell(*pair, self.seed) for pair in dict.fromkeys(pairs)]

    def round(self, number: int) -> list[Cell]:
        """The cells of a round, from 1, in its order."""
        cells = self.cells
        Random(f"{self.seed} {number}").shuffle(cells)
        return cells

    @property
    def seconds(self) -> float:
        """About how long it takes to run."""
        return sum(cell.case.seconds for cell in self.cells) * self.repeats

    def label(self, case: Case) -> str:
        """A case's name in the table. A file has its own, with as many folders as tell it from the others."""
        if not case.files:
            return case.workload
        own = _parts(case.files[0])
        others = [_parts(path) for other in self.cases for path in other.files if path not in case.files]
        shown = 1
        while shown < len(own) and any(other[-shown:] == own[-shown:] for other in others):
            shown += 1
        return f"{case.workload} {'/'.join(own[-shown:])}"

    def name(self, configuration: Configuration) -> str:
        """A configuration in a word, with what distinguishes it in any comparison."""
        return configuration.name({axis for each in self.comparisons for axis in each.axes})


def complete(line: Choice, file: Choice | None = None, *, quick: bool = False) -> Plan:
    """The plan of a command line, and of a plan file for what it leaves open. quick: fewer repeats, smaller sizes.

    PlanError: a name that there is not, a number out of range, or nothing to compare.
    """
    choice = merge(line, file or Choice())
    parts = [merge(line, merge(part, choice)) for part in choice.comparisons or ()] or [choice]
    comparisons = tuple(each for part in parts for each in _comparisons(part, _cases(part, quick)))
    cases = [case for each in comparisons for case in each.cases]
    return Plan(
        comparisons=comparisons,
        repeats=choice.repeats or (QUICK_REPEATS if quick else REPEATS),
        seed=1 if choice.seed is None else choice.seed,
        timeout=choice.timeout or int(_PATIENCE_SECONDS + _PATIENCE * max(case.seconds for case in cases)),
    )


def _comparisons(choice: Choice, cases: tuple[Case, ...]) -> tuple[Comparison, ...]:
    """Of policies, and then of revokers by what frees memory; but of what is named, if more than policies is."""
    known = {axis: choices(axis) for axis in AXES}
    known["policy"].insert(0, PLAIN)
    baseline = choice.baseline or PLAIN
    if not cases:
        raise PlanError("there is nothing to run: name a workload, a trace or an image")
    check_names("baseline", [baseline], [name for names in known.values() for name in names])
    values: dict[str, Sequence[str]] = {axis: (default,) for axis, default in _DEFAULTS.items()}
    values["policy"] = known["policy"][1:]
    named = {axis: names for axis, plural in AXES.items() if (names := getattr(choice, plural)) is not None}
    for axis, names in named.items():
        check_names(axis, names, known[axis])
    own = next(axis for axis in AXES if baseline in known[axis])
    if own not in {"policy", *named}:
        raise PlanError(f"baseline {baseline!r} is a {own}: name the {AXES[own]} that are to be compared with it")
    values |= named
    values[own] = (baseline, *values[own])
    first = _compare(baseline, cases, values)
    for axis in named:
        if not first.values(axis):
            raise PlanError(f"{AXES[axis]} are named, but nothing that is named can revoke, so they change nothing")
    freeing = tuple(case for case in cases if workloads.frees_memory(case.workload))
    if not freeing or not {own, *named} <= {"policy"}:
        return (first,)
    return (first, _compare_revokers(baseline, freeing, values, first.values("policy")))


def _compare_revokers(
    baseline: str, cases: tuple[Case, ...], values: dict[str, Sequence[str]], policies: list[str]
) -> Comparison:
    """All of them, under the policy that a machine has by itself; if that is not among the policies, under the first.

    Beside plain memory, if all is compared with that.
    """
    policy = _DEFAULTS["policy"] if _DEFAULTS["policy"] in policies else policies[0]
    among = (PLAIN, policy) if baseline == PLAIN else (policy,)
    values = values | {"policy": among, "revoker": choices("revoker")}
    return _compare(PLAIN if baseline == PLAIN else REFERENCES["revoker"], cases, values)


def _compare(baseline: str, cases: tuple[Case, ...], values: dict[str, Sequence[str]]) -> Comparison:
    """All combinations, the baseline's and the references' first. PlanError: the baseline is all that there is."""
    ordered = []
    for axis, names in values.items():
        first = [name for name in (baseline, REFERENCES[axis]) if name in names]
        ordered.append(dict.fromkeys([*first, *names]))
    found = Comparison(cases, tuple(dict.fromkeys(starmap(_configure, product(*ordered)))), baseline)
    if not any(found.counterpart(each, baseline) for each in found.configurations):
        raise PlanError(f"there is nothing to compare {baseline} with: name another of its kind")
    return found


def _configure(policy: str, revoker: str, stopper: str, scope: str) -> Configuration:
    """Without what makes no difference."""
    if policy == PLAIN:
        return Configuration(policy)
    if not _can_revoke(revoker):
        return Configuration(policy, revoker)
    return Configuration(policy, revoker, stopper, scope)


@functools.cache
def _can_revoke(revoker: str) -> bool:
    try:
        return revokers.load(revoker).can_revoke
    except Exception as error:  # a plug-in's own, of any kind
        raise PlanError(f"the revoker {revoker!r} cannot be loaded: {type(error).__name__}: {error}") from error


def _cases(choice: Choice, quick: bool) -> tuple[Case, ...]:
    known = (*workloads.NAMES, *FROM_FILES)
    names = known if choice.workloads is None else choice.workloads
    check_names("workload", names, known)
    cases = [
        Case(name, size, processes=processes, density=density)
        for name in names
        if name not in FROM_FILES
        for size, processes, density in _variants(name, choice, quick)
    ]
    images = (image.names() if IMAGE in names else ()) if choice.images is None else choice.images
    if not cases and choice.densities:
        raise PlanError("files of real programs have their own capabilities: densities need a workload")
    if not cases and not images and choice.processes:
        raise PlanError("a trace has its own processes: processes need a workload or an image")
    traces = (trace.names() if TRACE in names else ()) if choice.traces is None else choice.traces
    cases += [Case(TRACE, workloads.default_size(TRACE), trace=_find_trace(name)) for name in traces]
    cases += [
        Case(IMAGE, size, image=path, processes=processes)
        for path, size in map(_find_image, images)
        for processes in choice.processes or (None,)
    ]
    for case in cases:
        _check(case)
    return tuple(dict.fromkeys(cases))


def _variants(name: str, choice: Choice, quick: bool) -> Iterator[tuple[int, int | None, float | None]]:
    """Sizes, numbers of processes and densities of a workload, combined."""
    share = _QUICK_SHARE if quick else 1
    sizes = choice.sizes or (max(SMALLEST, _default_size(name) // share),)
    return product(sizes, choice.processes or (None,), choice.densities or (None,))


def _check(case: Case) -> None:
    """PlanError: its workload cannot be told so many processes, or that density."""
    try:
        workloads.check(case.workload, processes=case.processes, density=case.density)
    except ValueError as error:
        known = (*workloads.NAMES, IMAGE)
        able = ", ".join(other for other in known if _takes(other, case.processes, case.density))
        raise PlanError(f"{error}; {f'name those that can: {able}' if able else 'nor can another'}") from error


def _takes(name: str, processes: int | None, density: float | None) -> bool:
    try:
        workloads.check(name, processes=processes, density=density)
    except ValueError:
        return False
    return True


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
    return _as_text(path)


def _as_text(path: Path) -> str:
    """As a manifest has it."""
    text = str(path.absolute())
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PlanError(f"{text!r} is no UTF-8, and paths in results are: give the file another name") from None
    return text


def _find_image(name: str) -> tuple[str, int]:
    """The path of an image that can be read, and how much memory it is of."""
    try:
        path = image.find(name)
        pages = image.read(path).pages
    except (CapshmError, OSError) as error:
        raise PlanError(str(error)) from error
    return _as_text(path), max(pages * image.PAGE, SMALLEST)


def _parts(path: str) -> tuple[str, ...]:
    return PurePath(path.removesuffix(".trace").removesuffix(".image")).parts
