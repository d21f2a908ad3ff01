"""capshm record: what a real program asks of its allocator, and where it forks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import cyclopts

from capshm.commands import outputs
from capshm.commands.options import Flag, Output


def record(
    program: str,
    /,
    *arguments: Annotated[str, cyclopts.Parameter(allow_leading_hyphen=True)],
    output: Output = None,
    force: Flag = False,
) -> None:
    """Run a program as it is, and record its allocations and forks in a trace for `capshm compare --trace`.

    `capshm record [options] -- PROGRAM [ARGUMENTS]`. The program needs no source and no change: a library is loaded
    before its allocator, into it and all programs that it starts. Recorded are malloc, calloc, realloc, free and the
    aligned kinds, of all threads; forks, programs that take a process over, and waits for children. The trace has
    sizes and an order: no contents, no addresses, no arguments, no paths.

    Not seen: static and setuid programs, those that bring an allocator of their own, children that become another
    user's or go on after the program has ended, and what a program starts with an empty environment. A program that
    forbids itself system calls (seccomp) may end when its record grows.

    SIGTERM and SIGHUP are passed on to the program, so `timeout 60 capshm record` records a minute of what ends by no
    other means. The exit status is the program's, 128 and the signal's number if one ended it; 1 if nothing could be
    recorded.

    Parameters
    ----------
    program
        Its name, or its path.
    arguments
        The program's own.
    output
        The trace to be written; PROGRAM.trace here if not given.
    force
        Overwrite a file that is there.
    """
    from rich.console import Console
    from rich.progress import Progress

    from capshm.lab.inputs import journals, recording, trace

    path = output or Path(f"{Path(program).name}.trace")
    outputs.check(path, "a trace", is_forced=force)
    status, found = recording.run([program, *arguments])
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("reading what was recorded", total=sum(journal.length for journal in found))
        recorded = journals.merge(found, Path(program).name, lambda records: progress.advance(task, records))
    trace.write(recorded, path)
    counts, number = recorded.counts, len(recorded.processes)
    print(
        f"{path}: {number:,} process{'es' if number > 1 else ''}, {counts['allocations']:,} allocations, "
        f"{counts['resizes']:,} resizes, {counts['frees']:,} frees; {path.stat().st_size:,} bytes",
        file=sys.stderr,
    )
    if not counts["allocations"]:
        print("no allocation was seen: it made none, or brings an allocator of its own", file=sys.stderr)
    sys.exit(status if status >= 0 else 128 - status)
