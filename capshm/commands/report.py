"""capshm report: results folders as one offline page, and as pictures."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import cyclopts

from capshm.commands.options import Flag
from capshm.commands.tables import Json, print_json
from capshm.errors import CapshmError

if TYPE_CHECKING:
    from collections.abc import Sequence

Folders: TypeAlias = Annotated[list[Path], cyclopts.Parameter(consume_multiple=True, negative=())]


def report(
    folders: Folders,
    /,
    *,
    output: Path | None = None,
    maps: Flag = False,
    force: Flag = False,
    json_output: Json = False,
) -> None:
    """Make a page of what `capshm compare` has measured: report.html, and its pictures in figures/.

    The page opens with answers: what owner binding and revocation cost, how pauses grow, which stopper disturbs least,
    as far as the folders say, each with its interval, and with what carries over to hardware. Below are overheads,
    pauses, growth, maps of tags, and permutation tests, each as a picture and in numbers. It is one file that loads
    nothing from anywhere. What the folders cannot show is named there, with the command that would measure it; so is
    `capshm compare --plan questions`, which measures all of it in about four minutes.

    Exit status: 0 done; 1 a folder holds too little or cannot be read, there is a report already, or it cannot be
    written; 2 a wrong command line.

    Parameters
    ----------
    folders
        Results folders of capshm compare, at least one.
    output
        The folder for the report; without it, the first results folder.
    maps
        First run each cell of these folders once more, on this machine, and look where its segments hold tags
        meanwhile; what is found is kept in the folder (maps.jsonl).
    force
        Replace a report that is there.
    json_output
        Print the answers as one JSON document, too.
    """
    lacking = [name for name in ("matplotlib", "jinja2", "scipy") if importlib.util.find_spec(name) is None]
    if lacking:
        raise CapshmError(
            f"report needs {' and '.join(lacking)}, which this Python has not: pip install 'capshm[report]'"
        )
    from capshm.lab.report import writing  # only here: `capshm --help` stays fast

    target = output or folders[0]
    writing.check(target, is_forced=force)
    if maps:
        _take_maps(folders)
    page, found = writing.write(folders, target, is_forced=force, tell=_tell)
    if json_output:
        print_json({"page": str(page), "answers": [each._asdict() for each in found]})
    else:
        print(page)


def _take_maps(folders: Sequence[Path]) -> None:
    from capshm.lab.plan import Cell
    from capshm.lab.results import maps, results

    for folder in folders:
        plan = results.read(folder).manifest.plan
        for done in maps.take(plan, folder):
            if isinstance(done, Cell):
                _tell(f"looking at {plan.label(done.case)}, {plan.name(done.configuration)}")
            else:
                _tell(f"no map of {plan.label(done.cell.case)}: {done.message}")


def _tell(line: str) -> None:
    print(f"capshm report: {line}", file=sys.stderr, flush=True)
