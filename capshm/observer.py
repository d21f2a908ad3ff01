"""Looking at a machine from outside, as `capshm ps` and its kin do: nothing is attached, and nothing changes.

Any process of the machine's user may look; it has no part in the machine. The broker answers one request after another,
so those of the machine's processes come after one that is being answered here; nobody waits for whoever looks.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from shlex import join
from types import TracebackType
from typing import NamedTuple, Self, SupportsIndex

from capshm import connection, records
from capshm.errors import BrokerGone, CapshmError

_LISTENS = "00010000"  # the flags of a listening socket in /proc/net/unix


def machines() -> list[str]:
    """The names of this user's machines that are running now."""
    prefix = connection.address_of("").decode().replace("\0", "@")
    names = []
    # Names are any bytes of anybody's, line breaks too.
    for line in Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace").split("\n")[1:]:
        fields = line.split()
        if len(fields) == 8 and fields[7].startswith(prefix) and fields[3] == _LISTENS:
            names.append(fields[7].removeprefix(prefix))
    return sorted(names)


def choose(name: str | None) -> str:
    """The machine to look at: this one, or that of the environment, or the only one there is.

    CapshmError: there is none, or more than one; the message names them.
    """
    name = name or os.environ.get(connection.MACHINE_VARIABLE)
    if name:
        return name
    running = machines()
    if len(running) == 1:
        return running[0]
    if not running:
        raise CapshmError("no machine of this user is running")
    raise CapshmError(f"{len(running)} machines are running; say which with --machine: {', '.join(running)}")


def choose_for(pid: int, name: str | None) -> str:
    """The machine to look at for a process: as `choose`, and where several are running the one that it is in.

    CapshmError: there is no machine, or it is in none of them.
    """
    running = machines()
    if name or os.environ.get(connection.MACHINE_VARIABLE) or len(running) < 2:
        return choose(name)
    for machine in running:
        with contextlib.suppress(CapshmError), Observer(machine) as observer:  # it may have ended meanwhile
            if any(each.pid == pid for each in observer.processes()):
                return machine
    raise CapshmError(f"process {pid} is in none of the {len(running)} machines that are running: {', '.join(running)}")


class Seen(NamedTuple):
    """A process as whoever looks sees it. capability_mappings: through which capabilities may be loaded or stored, now
    or later. command: its program and arguments.
    """

    process: records.Process
    mappings: int
    capability_mappings: int
    command: str


class Observer:
    """A look at one machine. CapshmError: there is none of that name; BrokerGone: it has ended meanwhile."""

    def __init__(self, machine: str) -> None:
        running = machines()
        if machine not in running:
            others = f"; there are {', '.join(running)}" if running else ", and no other"
            raise CapshmError(f"no machine {machine!r} of this user is running{others}")
        self.machine = machine
        self._connection = connection.Connection(connection.connect(machine))

    def close(self) -> None:
        """Stop looking."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def processes(self) -> list[records.Process]:
        """All emulated processes."""
        return records.processes(self._connection.ask)

    def overview(self) -> list[Seen]:
        """All emulated processes, but for those that end meanwhile, with how much they have mapped."""
        found = []
        for process in self.processes():
            try:
                mappings = self.mappings(process.pid) if process.state == "running" else []
            except BrokerGone:
                raise
            except CapshmError:  # it has ended meanwhile
                continue
            with_capabilities = sum("R" in each.maximum or "W" in each.maximum for each in mappings)
            found.append(Seen(process, len(mappings), with_capabilities, _command(process.pid)))
        return found

    def objects(self) -> list[records.Object]:
        """All memory objects that still exist, mapped or not."""
        return records.objects(self._connection.ask)

    def mappings(self, pid: SupportsIndex) -> list[records.Mapping]:
        """The mappings of an emulated process, by address. CapshmError: there is none with that pid."""
        return records.mappings(self._connection.ask, pid)

    def tree(self, pid: SupportsIndex) -> list[records.Region]:
        """The regions and mappings of an emulated process. CapshmError: there is none with that pid."""
        return records.tree(self._connection.ask, pid)

    def audit(self, start: int = 1) -> list[records.Audit]:
        """The events so far, in order, from this number on."""
        return records.audit(self._connection.ask, start)

    def last_event(self) -> int:
        """The number of the last event so far."""
        return records.last_event(self._connection.ask)


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
