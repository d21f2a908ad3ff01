"""capshm caps: who may share capabilities through which memory."""

from __future__ import annotations

import contextlib

from capshm.commands.tables import Json, print_json, print_table
from capshm.commands.vm import owner
from capshm.errors import CapshmError
from capshm.observer import Observer, choose


def caps(*, machine: str | None = None, json_output: Json = False) -> None:
    """List the memory objects of a machine, and who may exchange capabilities through each of them.

    OWNER: the vmspace that an object is bound to; all: any may map it with capability permission; nobody: its owner has
    ended, or it is a VMO for data alone. CAPABILITIES and DATA: the processes that have it mapped, with the most that
    each may do: R loads, W stores capabilities, r and w data. What is stored to a private mapping reaches nobody, so
    that it counts for loading only.

    Parameters
    ----------
    machine
        Its name; needed where several are running.
    json_output
        Print one JSON document.
    """
    name = choose(machine)
    with Observer(name) as observer:
        objects = observer.objects()
        files = {each.id for each in objects if each.kind == "file"}  # which have no tags to load
        holders: dict[int, dict[int, set[str]]] = {each.id: {} for each in objects}
        for process in observer.processes():
            with contextlib.suppress(CapshmError):  # it has ended meanwhile
                for mapping in observer.mappings(process.pid):
                    if mapping.object in holders:
                        rights = set(mapping.maximum)
                        if not mapping.is_shared:
                            rights &= {"r"} if mapping.object in files else {"r", "R"}
                        holders[mapping.object].setdefault(process.pid, set()).update(rights)
    if json_output:
        listed = [
            each._asdict() | {"holders": {pid: "".join(sorted(held)) for pid, held in holders[each.id].items()}}
            for each in objects
        ]
        print_json({"machine": name, "objects": listed})
        return
    rows = []
    for each in objects:
        held = sorted(holders[each.id].items())
        with_capabilities = [f"{pid}:{_some(rights, 'RW')}" for pid, rights in held if rights & {"R", "W"}]
        others = [f"{pid}:{_some(rights, 'rw')}" for pid, rights in held if not rights & {"R", "W"}]
        rows.append((each.id, each.kind, each.name, owner(each), " ".join(with_capabilities), " ".join(others)))
    print_table(["OBJECT", "KIND", "NAME", "OWNER", "CAPABILITIES", "DATA"], rows)


def _some(rights: set[str], letters: str) -> str:
    return "".join(letter for letter in letters if letter in rights)
