"""capshm ps: the emulated processes of a machine."""

from __future__ import annotations

from pathlib import Path
from shlex import join

from capshm.commands.tables import Json, print_json, print_table
from capshm.errors import BrokerGone, CapshmError
from capshm.observer import Observer, choose
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
        found = observer.processes()
        rows = []
        for process in found:
            try:
                mappings = observer.mappings(process.pid) if process.state == "running" else []
            except BrokerGone:
                raise
            except CapshmError:  # it has ended meanwhile
                continue
            with_capabilities = sum("R" in each.maximum or "W" in each.maximum for each in mappings)
            rows.append((process, (len(mappings), with_capabilities, _command(process.pid))))
    if json_output:
        keys = ("mappings", "capability_mappings", "command")
        listed = [process._asdict() | dict(zip(keys, facts, strict=True)) for process, facts in rows]
        print_json({"machine": name, "processes": listed})
        return
    print_table(
        ["PID", "PPID", "VMSPACE", "STATE", "QUAR", "RSTATE", "EPOCH", "MAPS", "CAPMAPS", "COMMAND"],
        [(*_identity(each), *facts) for each, facts in rows],
    )


def _identity(each: Process) -> tuple[str | int, ...]:
    quarantine = "yes" if each.quarantining else "no"
    return each.pid, each.parent, each.vmspace, each.state, quarantine, each.revocation, each.epoch


def _command(pid: int) -> str:
    """Its program and arguments, in one line; of what `capshm run` has attached, the script and its own."""
    try:
        text = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
    except OSError:  # it has ended meanwhile
        return ""
    program, *words = text.removesuffix("\0").split("\0")
    if "capshm._script" in words[:3]:
        program, *words = words[words.index("capshm._script") + 1 :]
    return " ".join(join([Path(program).name, *words]).split())
