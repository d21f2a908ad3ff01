"""The command `capshm`: one verb a module, whose docstring is its help."""

from __future__ import annotations

import sys

import cyclopts

from capshm import CapshmError, __version__
from capshm.commands import audit, caps, compare, doctor, explain, ps, record, run, vm

app = cyclopts.App(
    name="capshm",
    help="CHERI capabilities between real Linux processes: who may share them through memory, and what it costs.",
    version=__version__,
)
for verb in (
    compare.compare,
    run.run,
    record.record,
    ps.ps,
    vm.vm,
    caps.caps,
    audit.app,
    explain.explain,
    doctor.doctor,
):
    app.command(verb)


def main() -> None:
    """Run the verb that the command line names. Exit status: 0 done, 1 capshm could not, 2 a wrong command line."""
    try:
        app(exit_on_error=False, print_error=True)
    except cyclopts.CycloptsError:
        sys.exit(2)
    except (CapshmError, OSError) as error:
        print(f"capshm: {error}", file=sys.stderr)
        sys.exit(1)
