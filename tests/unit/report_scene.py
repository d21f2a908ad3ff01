"""A results folder with everything that a report can show, written as `capshm compare` writes it.

The times are made up, so that what the report must say of them is known: cheribsd costs prefork half as much again,
the alias of open nothing; each doubling of the processes makes a pause longer by a factor of two; the gate's pauses are
the shortest.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

from capshm.lab.comparison import Case, Comparison, Configuration
from capshm.lab.plan import Cell, Plan
from capshm.lab.results import maps
from capshm.lab.results.facts import Facts
from capshm.lab.results.filling import Results
from capshm.lab.results.maps import Map
from capshm.lab.results.results import Canary, Manifest, Measured, Record, Result

FACTS = Facts("0.9", "release", "3.11.7", "A <Processor> & Co", "6.1", 2, "2026-01-02T03:04:05Z")
ROUNDS, SEED = 8, 5
PREFORK = Case("prefork", 4 << 20)
TRACE = Case("trace", 65_536, "/somewhere/build.trace")
CROWDS = tuple(Case("churn", 12 << 20, processes=count) for count in (1, 4, 16))
FILLED = tuple(Case("churn", 12 << 20, density=percent) for percent in (1, 10, 100))
PLAIN = Configuration("plain")
OPEN, CHERIBSD, ISOLATED = (
    Configuration(policy, "stop-the-world", "gate", "vmspace") for policy in ("open", "cheribsd", "isolated")
)
NONE = Configuration("cheribsd", "none")
STOPPERS = {"gate": 1, "signal": 3, "sigstop": 2}
"""How long their pauses are, as multiples."""
REVOKING = [
    Configuration("cheribsd", "stop-the-world", stopper, scope)
    for stopper in STOPPERS
    for scope in ("vmspace", "machine")
]
POLICIES = Comparison((PREFORK, TRACE), (PLAIN, OPEN, CHERIBSD, ISOLATED), "plain")
REVOKERS = Comparison((*CROWDS, *FILLED, TRACE), (NONE, *REVOKING), "none")
PLAN = Plan(comparisons=(POLICIES, REVOKERS), repeats=ROUNDS, seed=SEED, timeout=60)
SMALL = Plan(
    comparisons=(
        Comparison((PREFORK,), (PLAIN, OPEN, CHERIBSD), "plain"),
        Comparison(CROWDS[:2], (NONE, REVOKING[0], REVOKING[4]), "none"),
    ),
    repeats=ROUNDS,
    seed=SEED,
    timeout=60,
)
"""Every kind of picture, and few of each."""

_MILLISECONDS = {"plain": 100.0, "open": 120.0, "cheribsd": 180.0, "isolated": 120.0}


def records(plan: Plan = PLAN) -> list[Record]:
    """All rounds of a plan, with a noise of a percent."""
    random = Random(plan.seed)
    found: list[Record] = []
    for number in range(1, plan.repeats + 1):
        found.append(Canary(number, 0.15 + number / 100))
        found += [Measured(number, cell, _result(cell, random)) for cell in plan.round(number)]
    return found


def write(folder: Path, plan: Plan = PLAN, found: list[Record] | None = None) -> Path:
    """A folder of these records, all of the plan's without a word, and maps of prefork."""
    with Results(folder, Manifest(plan, FACTS)) as filling:
        for record in records(plan) if found is None else found:
            filling.append(record)
    maps.write(folder, [_map(Cell(PREFORK, each, SEED)) for each in (OPEN, CHERIBSD)])
    return folder


def _result(cell: Cell, random: Random) -> Result:
    case, configuration = cell.case, cell.configuration
    noise = random.gauss(1, 0.01)
    milliseconds = _MILLISECONDS[configuration.policy] * (case.processes or 1)
    counts = {"operations": 10, "crossed": 1_048_576 * (configuration.policy == "open"), "rederived": 65_536}
    pauses: list[int] = []
    if configuration.scope is not None and case != PREFORK:
        milliseconds *= 1.3 if configuration.scope == "machine" else 1.1
        counts |= {"passes": 12, "pages": 30_000, "tag_words": 120_000, "tags": 50_000, "cleared": 20_000}
        middle = 200e3 * STOPPERS[configuration.stopper or "gate"] * (case.processes or 1)
        middle *= (case.density or 10) ** 0.5
        pauses = [int(middle * noise * random.lognormvariate(0, 0.3)) for _ in range(12)]
    return Result(int(milliseconds * noise * 1e6), int(3e6 * noise), 1, counts, 1 << 63, pauses)


def _map(cell: Cell) -> Map:
    """64 parts that are filled one after the other; under cheribsd they are emptied again."""
    moments = 48
    tags = [
        [1024 if part < moment and (cell.configuration == OPEN or part > 2 * moment - 60) else 40 for part in range(64)]
        for moment in range(0, 2 * moments, 2)
    ]
    return Map(cell, 4 << 20, 1024, [moment * 2_000_000 for moment in range(moments)], tags)
