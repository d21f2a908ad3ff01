"""The command `capshm`: one verb a module, whose docstring is its help."""

from __future__ import annotations

import os
import signal
import sys

import cyclopts
from rich.console import Console

from capshm import CapshmError, __version__
from capshm.commands import (
    audit,
    caps,
    compare,
    config,
    doctor,
    explain,
    ps,
    record,
    report,
    run,
    snapshot,
    top,
    trace,
    vm,
)

app = cyclopts.App(
    name="capshm",
    help="CHERI capabilities between real Linux processes: who may share them through memory, and what it costs.",
    version=__version__,
)
for verb in (
    compare.compare,
    report.report,
    run.run,
    record.record,
    snapshot.snapshot,
    ps.ps,
    top.top,
    vm.vm,
    caps.caps,
    audit.app,
    trace.trace,
    explain.explain,
    doctor.doctor,
    config.config,
):
    app.command(verb)


def main() -> None:
    """Run the verb that the command line names. Exit status: 0 done, 1 capshm could not, 2 a wrong command line.

    Whoever has read enough of it (`| head`) may go: the status is then that of a program that SIGPIPE has ended.
    """
    try:
        try:
            app(exit_on_error=False, print_error=False)
        finally:
            sys.stdout.flush()
    except cyclopts.CycloptsError as error:  # of the line itself, or raised by a verb that has looked closer
        Console(stderr=True).print(cyclopts.CycloptsPanel(error))
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left to be flushed
        sys.exit(128 + signal.SIGPIPE)
    except (CapshmError, OSError) as error:
        print(f"capshm: {error}", file=sys.stderr)
        sys.exit(1)
