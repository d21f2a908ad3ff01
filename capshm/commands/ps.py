"""capshm ps: the emulated processes of a machine."""

from __future__ import annotations

from capshm.commands.tables import Json, print_json, print_table
from capshm.observer import Observer, Seen, choose
from capshm.records import Process


def ps(*, machine: str | None = None, json_output: Json = False) -> None:
    """List the emulated processes of a running machine.

    PID and PPID are those of Linux. VMSPACE is the identity that owns memory objects: never given twice, and another
    one after exec. QUAR: whether what it unmaps waits for revocation. RSTATE: none; inited, while an epoch is open;
    closing, while the broker is about to close it. EPOCH: its clock, odd while an epoch is open. MAPS counts mappings,
    CAPMAPS those through which capabilities may be loaded or stored now or later.

    Parameters
    ----------
    machine
        Its name; needed where several are running.
    json_output
        Print one JSON document.
    """
    name = choose(machine)
    with Observer(name) as observer:
        found = observer.overview()
    if json_output:
        print_json({"machine": name, "processes": [describe(each) for each in found]})
        return
    print_table(
        ["PID", "PPID", "VMSPACE", "STATE", "QUAR", "RSTATE", "EPOCH", "MAPS", "CAPMAPS", "COMMAND"],
        [(*_identity(each.process), each.mappings, each.capability_mappings, each.command) for each in found],
    )


def describe(each: Seen) -> dict[str, str | int]:
    """A process in a document for programs."""
    facts = {"mappings": each.mappings, "capability_mappings": each.capability_mappings, "command": each.command}
    return each.process._asdict() | facts


def _identity(each: Process) -> tuple[str | int, ...]:
    quarantine = "yes" if each.quarantining else "no"
    return each.pid, each.parent, each.vmspace, each.state, quarantine, each.revocation, each.epoch
