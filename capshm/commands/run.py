"""capshm run: a program in a machine of its own."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated, Literal

import cyclopts

from capshm.machine import Machine


def run(
    *command: Annotated[str, cyclopts.Parameter(allow_leading_hyphen=True)],
    policy: str = "cheribsd",
    revoker: str = "stop-the-world",
    isa: Literal["v9", "rvy"] = "v9",
    name: str | None = None,
    audit: Path | None = None,
) -> None:
    """Start a machine, run a program in it, and end both; the exit status is the program's.

    A Python script (`capshm run [options] -- script.py arguments`) is attached before its first line: it needs no
    `Machine`. Any other program is started as it is, and its environment names the machine for `capshm.attach()`.

    Parameters
    ----------
    command
        The program and its arguments, behind `--`.
    policy
        Who may share capabilities: open, cheribsd, isolated, or a plug-in's name.
    revoker
        How what is freed is revoked: stop-the-world, none (it is used again at once), or a plug-in's name.
    isa
        What a tagged store without the permission does: v9 faults, rvy strips.
    name
        Of the machine, for `capshm ps --machine` and its kin.
    audit
        A file to be made for the audit.
    """
    if not command:
        raise cyclopts.CycloptsError(msg="which program? capshm run [options] -- PROGRAM [ARGUMENTS]")
    try:
        machine = Machine(policy, revoker, isa=isa, name=name, audit=audit)
    except ValueError as error:
        raise cyclopts.CycloptsError(msg=str(error)) from None
    with machine:
        program = machine.spawn(_attached(command))
        # An interrupt from the terminal reaches the program by itself; this process has to outlive it.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            status = program.wait()
        finally:
            signal.signal(signal.SIGINT, before)
    sys.exit(status if status >= 0 else 128 - status)


def _attached(command: tuple[str, ...]) -> list[str]:
    if Path(command[0]).suffix == ".py":
        return [sys.executable, "-P", "-m", "capshm._script", *command]
    return list(command)
