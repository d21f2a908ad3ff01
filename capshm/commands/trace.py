"""capshm trace: what happened in a machine, to be looked at over time."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from capshm.commands import outputs
from capshm.commands.audit import FileArgument, read
from capshm.commands.options import Flag, Output
from capshm.errors import CapshmError


def trace(
    file: FileArgument = None,
    *,
    machine: str | None = None,
    output: Output = None,
    force: Flag = False,
) -> None:
    """Write what happened in a machine as a trace: its processes side by side, with arrows from a grant to its end.

    `capshm run --audit here.audit -- script.py`, then `capshm trace here.audit`, and open the file at
    https://ui.perfetto.dev: it is read there in the page, and sent nowhere.

    A track for each process, from its beginning to its end, one slice for each address space that it had. In there what
    it shared, was refused (with the rule) and lost by a fork; and a slice wherever a pass stopped it. The track of the
    broker has the passes, with stopper, scope and counts. Click on anything: the program's line that asked is there.

    An arrow goes from where an object was made to each mapping, or fork, by which another address space can reach its
    capabilities, and on to the passes that took some of them. What the audit does not know it does not show: loads and
    stores, and what is revoked in a process's own memory.

    A damaged file is shown as far as it can be read: the exit status is then 1, and each damage is told.

    Parameters
    ----------
    file
        An audit file; without it, a running machine is asked.
    machine
        Its name; needed where several are running.
    output
        The trace to be written; without it, FILE.pftrace or MACHINE.pftrace here.
    force
        Overwrite a file that is there.
    """
    if importlib.util.find_spec("perfetto") is None:
        raise CapshmError("capshm trace needs the library perfetto: pip install 'capshm[trace]'")
    from rich.console import Console
    from rich.progress import Progress

    from capshm.lab.perfetto import writing as perfetto_trace
    from capshm.observer import choose

    name = choose(machine) if file is None else file.stem
    path = output or Path(f"{name}.pftrace")
    if file is not None and path.exists() and path.samefile(file):
        raise CapshmError(f"{path} is the audit itself; --output names another file for the trace")
    outputs.check(path, "a trace", is_forced=force)
    records, findings = read(file, name)
    if findings and not records:
        raise CapshmError("; ".join(findings))
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("writing the trace", total=len(records))
        summary = perfetto_trace.write(records, path, lambda: progress.advance(task))
    for finding in findings:
        print(f"capshm: {finding}", file=sys.stderr)
    print(
        f"{path}: {summary.processes:,} process{'' if summary.processes == 1 else 'es'}, {summary.events:,} events, "
        f"{summary.arrows:,} arrow{'' if summary.arrows == 1 else 's'}; open it at https://ui.perfetto.dev",
        file=sys.stderr,
    )
    if findings:
        sys.exit(1)
