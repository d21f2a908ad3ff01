"""capshm compare: what each policy costs here, against plain shared memory and `open`, and what revocation costs."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Set
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import cyclopts

from capshm.commands.options import Flag
from capshm.commands.tables import Json
from capshm.errors import CapshmError

Words: TypeAlias = Annotated[list[str] | None, cyclopts.Parameter(consume_multiple=True, negative=())]
Numbers: TypeAlias = Annotated[list[int] | None, cyclopts.Parameter(consume_multiple=True, negative=())]
Shares: TypeAlias = Annotated[list[float] | None, cyclopts.Parameter(consume_multiple=True, negative=())]
Paths: TypeAlias = Annotated[list[Path] | None, cyclopts.Parameter(consume_multiple=True, negative=())]
Measure: TypeAlias = Literal["wall", "cpu"]

_GOES_WITH: dict[str, Set[str]] = {
    "--show": {"--readme"},
    "--resume": {"--retry-failed", "--cluster"},
    "--merge": {"--output", "--force"},
}
"""What may be said beside an option that runs no plan of its own; --measure and --json go with all."""
_OPTIONS = {"traces": "--trace", "images": "--image"}
"""What is said once for each of several; all others are called as in a plan."""
_NEEDS = {
    "--readme": "--readme shows results: name their folder by --show",
    "--retry-failed": "--retry-failed goes on with results: name their folder by --resume",
}


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
    cluster: str | None = None,
    output: Path | None = None,
    force: Flag = False,
    resume: Path | None = None,
    retry_failed: Flag = False,
    merge: Paths = None,
    show: Path | None = None,
    readme: Path | None = None,
    json_output: Json = False,
) -> None:
    """Run workloads under policies, and show what each costs: against plain shared memory, and against `open`.

    What frees memory, bufferpool, churn, traces and images, runs with every revoker, too, and shows what revocation
    costs: against `none`. With --revokers, --stoppers or --scopes all runs in every combination of what is named, and
    each is compared with the same that has the policy open, the revoker none, the stopper gate, or the scope vmspace,
    if that takes part.

    Each runs in fresh processes, as often as --repeats says: a round runs every one once, in a random order. Overheads
    are medians of the rounds' ratios with 95 % intervals; where nothing was seen the table says how small a difference
    would have been, 95 times in 100. Results go to a folder as they come, and Ctrl-C keeps what is there:
    manifest.json, results.jsonl, table.txt, and results.sqlite with the tables run, cells, counts, pauses, failures,
    canary and machines.
    --resume goes on with a folder that Ctrl-C, a kill or a power cut has left, --merge makes one folder of several.
    Figures of different machines or versions compare nothing, so all of a folder are of one kind of machine.

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
        A first look, in little more than a minute: two rounds of smaller sizes.
    dry_run
        Show which cells would run, and for about how long; run none.
    cluster
        Run the cells on the workers of a dask cluster, one at a time on each: the address of its scheduler, such as
        tcp://10.0.0.1:8786. Every worker needs this version of capshm, the same kind of machine, and the files
        of traces and images.
    output
        The folder for the results; a new one in results/ without it.
    force
        Replace the results that are in that folder.
    resume
        Go on with the results in this folder: the same plan, on a machine of the same kind with the same version. Only
        cells that have not ended run.
    retry_failed
        With --resume: run cells that have failed again, too, in place of their failures.
    merge
        Make one folder of these: their rounds, which must compare the same from the same seed, one after the other.
        They stay as they are.
    show
        Show the results of this folder again; run nothing.
    readme
        With --show: put the table into this file, between the lines `<!-- compare -->` and `<!-- /compare -->`.
    json_output
        Print one JSON document instead of the table or the plan.
    """
    if importlib.util.find_spec("scipy") is None:
        raise CapshmError("compare needs scipy for its intervals, which is not installed: pip install 'capshm[lab]'")
    from capshm.commands import comparisons  # only here: `capshm --help` stays fast
    from capshm.lab import choice
    from capshm.lab import plan as plans

    said = {
        "workloads": workloads,
        "policies": policies,
        "revokers": revokers,
        "stoppers": stoppers,
        "scopes": scopes,
        "sizes": sizes,
        "processes": processes,
        "densities": densities,
        "traces": trace,
        "images": image,
        "repeats": repeats,
        "seed": seed,
        "baseline": baseline,
        "timeout": timeout,
    }
    options = {_OPTIONS.get(name, f"--{name}"): value for name, value in said.items()} | {
        "--plan": plan,
        "--quick": quick or None,
        "--dry-run": dry_run or None,
        "--cluster": cluster,
        "--output": output,
        "--force": force or None,
        "--resume": resume,
        "--retry-failed": retry_failed or None,
        "--merge": merge,
        "--show": show,
        "--readme": readme,
    }
    complaint = _complaint({name for name, value in options.items() if value is not None})
    if complaint is not None:
        comparisons.complain([complaint])
        sys.exit(comparisons.WRONG_LINE)
    folder = output or Path("results") / time.strftime("%Y-%m-%dT%H.%M.%SZ", time.gmtime())
    if show is not None:
        sys.exit(comparisons.show(show, measure, readme, is_json=json_output))
    if resume is not None:
        sys.exit(comparisons.resume(resume, measure, cluster=cluster, is_retrying=retry_failed, is_json=json_output))
    if merge is not None:
        sys.exit(comparisons.merge(merge, folder, measure, is_forced=force, is_json=json_output))
    try:
        chosen = plans.complete(choice.choose(**said), None if plan is None else choice.read(plan), quick=quick)
    except choice.PlanError as error:
        comparisons.complain([str(error)])
        sys.exit(comparisons.WRONG_LINE)
    if dry_run:
        comparisons.show_plan(chosen, is_json=json_output)
        return
    sys.exit(comparisons.run(chosen, folder, measure, cluster=cluster, is_forced=force, is_json=json_output))


def _complaint(given: Set[str]) -> str | None:
    """What does not go together of the options that are given."""
    modes = [mode for mode in _GOES_WITH if mode in given]
    if not modes:
        return next((told for option, told in _NEEDS.items() if option in given), None)
    mode = modes[0]
    others = ", ".join(sorted(given - _GOES_WITH[mode] - {mode}))
    return f"{mode} does not go with {others}" if others else None
