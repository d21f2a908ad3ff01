"""capshm doctor: whether this machine can run capshm."""

from __future__ import annotations

import os
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from capshm.commands.tables import Json, print_json, print_table

_KERNEL = (5, 3)
_DESCRIPTORS = 4096
_WATCHES = 8192
_AREAS = 65_530
_SHARED_MEMORY = Path("/dev/shm")


class Finding(NamedTuple):
    """One thing that was looked at. advice: what to do, if it is not well."""

    what: str
    found: str
    is_well: bool
    advice: str


def doctor(*, json_output: Json = False) -> None:
    """Look at what capshm needs of this machine. It changes nothing, and earlier runs can have left nothing.

    Exit status: 0 if all is well, 1 if something is not; what to do about it stands beside it.

    Parameters
    ----------
    json_output
        Print one JSON document.
    """
    findings = [look() for look in _LOOKS]
    is_well = all(finding.is_well for finding in findings)
    if json_output:
        print_json({"is_well": is_well, "findings": [finding._asdict() for finding in findings]})
    else:
        print_table(
            ["WHAT", "FOUND", "WELL", "WHAT TO DO"],
            [(each.what, each.found, each.is_well, "" if each.is_well else each.advice) for each in findings],
        )
    if not is_well:
        sys.exit(1)


def _number(path: str) -> int:
    """What a file of /proc/sys says; -1 if it cannot be read."""
    try:
        return int(Path(path).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return -1


def _kernel() -> Finding:
    release = os.uname().release
    version = tuple(int(part) for part in re.findall(r"\d+", release)[:2])
    return Finding("Linux", release, version >= _KERNEL, "capshm needs pidfds and membarrier: Linux 5.3 or later")


def _attaching() -> Finding:
    """Attaching is tried in a child: it reserves address space for good."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        from capshm import errors, process

        try:
            process.ensure_attached()
            os.write(writer, b"possible")
        except errors.CapshmError as error:
            os.write(writer, str(error).encode()[:4000])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as pipe:
        found = pipe.read() or "the process that tried has died"
    os.waitpid(child, 0)
    return Finding("attaching", found, found == "possible", "see the table of errors in the README")


def _areas() -> Finding:
    number = _number("/proc/sys/vm/max_map_count")
    return Finding(
        "vm.max_map_count",
        f"{number:,}",
        number < 0 or number >= _AREAS,
        "a mapping takes up to five areas: raise it",
    )


def _overcommit() -> Finding:
    number = _number("/proc/sys/vm/overcommit_memory")
    return Finding(
        "vm.overcommit_memory", str(number), number != 2, "2 counts reserved address space as memory: use 0 or 1"
    )


def _descriptors() -> Finding:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    is_well = hard == resource.RLIM_INFINITY or hard >= _DESCRIPTORS
    found = "unlimited" if hard == resource.RLIM_INFINITY else f"{hard:,}"
    return Finding(
        "descriptors, hard limit",
        found,
        is_well,
        "the broker keeps 3 an object, 20 of one with a name: raise `ulimit -Hn`",
    )


def _watches() -> Finding:
    number = _number("/proc/sys/fs/inotify/max_user_watches")
    return Finding(
        "fs.inotify.max_user_watches", f"{number:,}", number < 0 or number >= _WATCHES, "one an object: raise it"
    )


def _instances() -> Finding:
    number = _number("/proc/sys/fs/inotify/max_user_instances")
    return Finding("fs.inotify.max_user_instances", f"{number:,}", number != 0, "one a machine: raise it")


def _shared_memory() -> Finding:
    try:
        status = os.statvfs(_SHARED_MEMORY)
    except OSError as error:
        return Finding(str(_SHARED_MEMORY), str(error), False, "mount a tmpfs there: objects live in it")
    free = status.f_bavail * status.f_frsize
    return Finding(str(_SHARED_MEMORY), f"{free >> 20:,} MiB free", free > 0, "it is full: objects cannot grow")


_LOOKS: tuple[Callable[[], Finding], ...] = (
    _kernel,
    _attaching,
    _areas,
    _overcommit,
    _descriptors,
    _watches,
    _instances,
    _shared_memory,
)
