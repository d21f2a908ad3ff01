"""capshm compare: what each policy costs here, against plain shared memory and `open`, and what revocation costs."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import cyclopts

from capshm.commands.tables import Json
from capshm.errors import CapshmError

if TYPE_CHECKING:
    from capshm.lab.plan import Plan
    from capshm.lab.results import Manifest, Record
    from capshm.lab.summary import Summary

Words: TypeAlias = Annotated[list[str] | None, cyclopts.Parameter(consume_multiple=True, negative=())]
Numbers: TypeAlias = Annotated[list[int] | None, cyclopts.Parameter(consume_multiple=True, negative=())]
Shares: TypeAlias = Annotated[list[float] | None, cyclopts.Parameter(consume_multiple=True, negative=())]
Measure: TypeAlias = Literal["wall", "cpu"]
Flag: TypeAlias = Annotated[bool, cyclopts.Parameter(negative=(), show_default=False)]

_FAILED, _WRONG_LINE, _CELLS_FAILED, _INTERRUPTED = 1, 2, 3, 130


def compare(
    *,
    workloads: Words = None,
    policies: Words = None,
    revokers: Words = None,
    stoppers: Words = None,
    scopes: Words = None,
    sizes: Numbers = None,
    processes: Numbers = None,
    densities: Shares = None,
    trace: Annotated[list[str] | None, cyclopts.Parameter(negative=())] = None,
    image: Annotated[list[str] | None, cyclopts.Parameter(negative=())] = None,
    plan: Path | None = None,
    repeats: int | None = None,
    seed: int | None = None,
    baseline: str | None = None,
    timeout: int | None = None,
    measure: Measure = "wall",
    quick: Flag = False,
    dry_run: Flag = False,
    output: Path | None = None,
    force: Flag = False,
    show: Path | None = None,
    readme: Path | None = None,
    json_output: Json = False,
) -> None:
    """Run workloads under policies, and show what each costs: against plain shared memory, and against `open`.

    What frees memory, churn, traces and images, runs with every revoker, too, and shows what revocation costs: against
    `none`. With --revokers, --stoppers or --scopes all runs in every combination of what is named, and each is compared
    with the same that has the policy open, the revoker none, the stopper gate, or the scope vmspace, if that takes
    part.

    Each runs in fresh processes, as often as --repeats says: a round runs every one once, in a random order. Overheads
    are medians of the rounds' ratios with 95 % intervals; where nothing was seen the table says how small a difference
    would have been, 95 times in 100. Results go to a folder as they come, and Ctrl-C keeps what is there:
    manifest.json, results.jsonl, results.sqlite (tables run, cells, counts, failures, canary) and table.txt.

    Exit status: 0 all cells have finished; 3 some have failed, or have not done the same work in all worlds, and the
    table says which; 1 capshm could not, or the results are damaged; 2 a wrong command line or plan; 130 Ctrl-C.

    Parameters
    ----------
    workloads
        Their names; all without it. What is installed as a plug-in (entry point group capshm.workloads) is among them.
    policies
        Their names; all that are installed without it (entry point group capshm.policies).
    revokers
        Their names: none, stop-the-world, and what is installed as a plug-in (entry point group capshm.revokers).
    stoppers
        How a revocation stops processes: those that Machine takes, gate among them.
    scopes
        How far a revocation reaches: those that Machine takes, vmspace among them.
    sizes
        Bytes, for all workloads, from 65,536 to 4,294,967,296; each workload's own without it.
    processes
        How many processes work in a cell, for workloads that can be told; each workload's own number without it.
    densities
        Percent of granules that hold a capability, above 0 and up to 100, for workloads that can be told; each
        workload's own without it.
    trace
        Also replay this recorded program: a file, or the name of a bundled one. May be given more than once.
    image
        Also work in memory with the pointers of a real program, as `capshm snapshot` has found them: a file, or the
        name of a bundled one. May be given more than once.
    plan
        A TOML file with workloads, policies, revokers, stoppers, scopes, sizes, processes, densities, traces, images,
        repeats, seed, baseline, timeout; the command line goes first.
    repeats
        Rounds; 8, with --quick 2. Intervals need 6, and each round more makes smaller differences visible.
    seed
        Of the workloads and the order of cells: the same seed, the same work.
    baseline
        What all is compared with: plain, which is shared memory without capshm; or a policy, revoker, stopper or
        scope.
    timeout
        Seconds that a cell may take before it is ended and has failed; ten minutes without it, more for large sizes.
    measure
        What is compared: wall time, or cpu, which is the time that all processes of a cell were running.
    quick
        A first look, in less than a minute: two rounds of smaller sizes.
    dry_run
        Show which cells would run, and for about how long; run none.
    output
        The folder for the results; a new one in results/ without it.
    force
        Replace the results that are in that folder.
    show
        Show the results of this folder again; run nothing.
    readme
        With --show: put the table into this file, between the lines `<!-- compare -->` and `<!-- /compare -->`.
    json_output
        Print one JSON document instead of the table or the plan.
    """
    if importlib.util.find_spec("scipy") is None:
        raise CapshmError("compare needs scipy for its intervals, which is not installed: pip install 'capshm[lab]'")
    from capshm.lab import choice  # only here: `capshm --help` stays fast
    from capshm.lab import plan as plans

    if show is not None:
        sys.exit(_show(show, measure, readme, is_json=json_output))
    if readme is not None:
        _complain(["--readme shows results: name their folder by --show"])
        sys.exit(_WRONG_LINE)
    try:
        line = choice.choose(
            workloads=workloads,
            policies=policies,
            revokers=revokers,
            stoppers=stoppers,
            scopes=scopes,
            sizes=sizes,
            processes=processes,
            densities=densities,
            traces=trace,
            images=image,
            repeats=repeats,
            seed=seed,
            baseline=baseline,
            timeout=timeout,
        )
        chosen = plans.complete(line, None if plan is None else choice.read(plan), quick=quick)
    except choice.PlanError as error:
        _complain([str(error)])
        sys.exit(_WRONG_LINE)
    if dry_run:
        _print_plan(chosen, is_json=json_output)
        return
    folder = output or Path("results") / time.strftime("%Y-%m-%dT%H.%M.%SZ", time.gmtime())
    sys.exit(_run(chosen, folder, measure, is_forced=force, is_json=json_output))


def _run(plan: Plan, folder: Path, measure: Measure, *, is_forced: bool, is_json: bool) -> int:
    """Run it, keep what there is, and print it, however the run ends. The exit status."""
    from capshm.lab import database, facts, results, run
    from capshm.lab.progress import Watch

    manifest = results.Manifest(plan, facts.gather())
    status = 0
    with results.Results(folder, manifest, is_forced=is_forced) as filling:
        try:
            with Watch(plan) as watch:
                run.run(plan, filling, watch)
        except KeyboardInterrupt:
            _complain(["interrupted; this is what has finished"])
            status = _INTERRUPTED
        except results.ResultsError as error:
            _complain([str(error)])
            status = _FAILED
    records = results.read(folder).records
    summary, text = _summarize(manifest, records, measure)
    try:
        results.write_table(folder, text)
        database.build(folder, manifest, records)
    except results.ResultsError as error:
        _complain([str(error)])
        status = status or _FAILED
    _print(manifest, summary, text, is_json=is_json)  # last: whoever reads it finds the folder whole
    print(f"results: {folder}", file=sys.stderr)
    return status or _status(summary)


def _show(folder: Path, measure: Measure, readme: Path | None, *, is_json: bool) -> int:
    """Print an existing folder's table, and put it into a README. The exit status."""
    from capshm.lab import results, table

    found = results.read(folder)
    summary, text = _summarize(found.manifest, found.records, measure)
    _print(found.manifest, summary, text, is_json=is_json)
    if readme is not None:
        try:
            table.rewrite_readme(readme, text, summary)
        except (OSError, ValueError) as error:
            raise CapshmError(str(error)) from error
    if found.tail:
        _complain([f"{folder / results.RESULTS} ends in a half-written line of {found.tail} bytes, which is left out"])
    _complain(found.damages)
    return _FAILED if found.damages else _status(summary)


def _summarize(manifest: Manifest, records: Iterable[Record], measure: Measure) -> tuple[Summary, str]:
    """The summary, and its table."""
    from capshm.lab import summary, table

    found = summary.summarize(manifest.plan, records, measure)
    return found, table.text(manifest, found)


def _print(manifest: Manifest, summary: Summary, text: str, *, is_json: bool) -> None:
    """Print the table, or the JSON document."""
    import msgspec

    document = {"manifest": manifest} | msgspec.structs.asdict(summary)
    print(msgspec.json.encode(document).decode() if is_json else text, flush=True)


def _print_plan(plan: Plan, *, is_json: bool) -> None:
    import msgspec

    from capshm.lab import table, workloads

    if is_json:
        print(msgspec.json.encode({"plan": plan, "seconds": plan.seconds}).decode())
        return
    print(f"{len(plan.cells)} cells a round, {plan.repeats} rounds, seed {plan.seed}:\n")
    for comparison in plan.comparisons:
        print(comparison.title)
        for case in comparison.cases:
            print(f"  {table.described(plan, case)}: {', '.join(map(comparison.name, comparison.configurations))}")
            print(f"      {workloads.describe(case.workload)[0]}")
        print()
    print(f"about {table.duration(plan.seconds * 1e9)} on two slow processors")


def _status(summary: Summary) -> int:
    return 0 if summary.is_whole else _CELLS_FAILED


def _complain(lines: Iterable[str]) -> None:
    for line in lines:
        print(f"capshm compare: {line}", file=sys.stderr)
