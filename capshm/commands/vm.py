"""capshm vm: the mappings of an emulated process."""

from __future__ import annotations

from capshm.commands.options import Flag
from capshm.commands.tables import Json, print_json, print_table
from capshm.model.handles import rights_text
from capshm.observer import Observer, choose_for
from capshm.records import Mapping, Object, Region


def vm(
    pid: int,
    *,
    machine: str | None = None,
    tree: Flag = False,
    json_output: Json = False,
) -> None:
    """List the mappings of an emulated process, as `procstat vm` does.

    PRT: what is permitted now, MAX: at most. r, w, x: data may be read, written, executed; R, W: capabilities may be
    loaded, stored. INH: what a child of fork gets. TP: pv private memory, sw shared memory of this machine, vn a file.
    OWNER: the vmspace that may map the object with capability permission; all: any of them; nobody: its owner has
    ended, or it is a VMO for data alone.

    Parameters
    ----------
    pid
        Of the process.
    machine
        Its name; without it, the one that the process is in.
    tree
        Show the regions as a tree: what may be mapped in each VMAR at most, and who has handles to it with which
        rights; and the mappings, with what they permit now and at most.
    json_output
        Print one JSON document.
    """
    name = choose_for(pid, machine)
    with Observer(name) as observer:
        if tree:
            _show_tree(name, pid, observer.tree(pid), json_output=json_output)
            return
        mappings = observer.mappings(pid)
        objects = {each.id: each for each in observer.objects()}
    if json_output:
        print_json({"machine": name, "pid": pid, "mappings": [each._asdict() for each in mappings]})
        return
    print_table(
        ["START", "END", "PRT", "MAX", "INH", "TP", "OBJECT", "OFFSET", "OWNER", "RESERVATION"],
        [_row(each, objects.get(each.object)) for each in mappings],
    )


def _show_tree(machine: str, pid: int, regions: list[Region], *, json_output: bool) -> None:
    if json_output:
        print_json({"machine": machine, "pid": pid, "tree": [each._asdict() for each in regions]})
        return
    print_table(["REGION", "START", "END", "PRT", "MAX", "OBJECT", "HANDLES"], [_tree_row(each) for each in regions])


def _tree_row(region: Region) -> tuple[str | int | None, ...]:
    is_mapping = region.kind == "mapping"
    return (
        "  " * region.depth + region.kind,
        f"{region.start:#x}",
        f"{region.end:#x}",
        _letters(region.current) if is_mapping else None,
        None if region.kind == "reservation" else _letters(region.maximum),
        region.object or None,
        _handles(region) if region.kind in ("root", "vmar") else None,
    )


def _handles(region: Region) -> str:
    """Whose, with which rights; a VMAR without any can only be lowered, unmapped and destroyed from above."""
    held = [f"{pid}: {rights_text(rights)}" for pid, rights in region.handles]
    sent = [f"{region.sent} on the way"] if region.sent else []
    return "; ".join(held + sent) or "none: the last one is closed"


def _row(mapping: Mapping, memory: Object | None) -> tuple[str | int | None, ...]:
    kind = "pv" if mapping.object == 0 else "vn" if memory is None or memory.kind == "file" else "sw"
    return (
        f"{mapping.start:#x}",
        f"{mapping.end:#x}",
        _letters(mapping.current),
        _letters(mapping.maximum),
        mapping.inherit,
        kind,
        mapping.object or None,
        f"{mapping.offset:#x}" if mapping.object else None,
        None if memory is None else owner(memory),
        f"{mapping.reservation:#x}",
    )


def _letters(rights: str) -> str:
    """All five places, so that a column is read downwards."""
    return "".join(letter if letter in rights else "-" for letter in "rwxRW")


def owner(memory: Object) -> str:
    """Who may share capabilities through the object: all, a vmspace, or nobody."""
    if memory.is_share_cap:
        return "all"
    return "nobody" if memory.owner is None else str(memory.owner)
