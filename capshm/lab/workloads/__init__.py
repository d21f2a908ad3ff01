"""The workloads: what is run under each policy, one file each.

A workload is a module with a docstring that says what it stands for, `DEFAULT_SIZE` in bytes, and `run(setting)`, which
sets up, does its work within `setting.measured()`, and leaves no process behind. One that frees what it has allocated,
so that revocation has to do with it, says `FREES_MEMORY = True`. One that can be told how many processes work says how
many these may be, `PROCESSES = range(1, 65)`; one that can be told which share of its granules holds capabilities says
`TAKES_DENSITY = True`. Others are found by their names in the entry point group "capshm.workloads".

Importing this imports no workload.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Final, Protocol, cast

if TYPE_CHECKING:
    from capshm.lab.cells.cell import Setting

GROUP = "capshm.workloads"
TRACE = "trace"
"""The workload that replays a recorded program."""
IMAGE = "image"
"""The workload that works in memory with a real program's pointers."""
FROM_FILES = (TRACE, IMAGE)
"""Those that need a file, so that they are not among NAMES; the file is given by an argument of the same name."""
PLAIN = "plain"
"""In the place of a policy: plain shared memory, in no machine of capshm."""
SMALLEST, LARGEST = 64 << 10, 4 << 30
"""Bytes: of a cell's size."""
MOST_FORKS = 4096
"""Of one cell."""
DENSEST = 100
"""Percent of granules that hold a capability."""

BUILT_IN = (
    *("prefork", "ring", "zygote", "descriptors", "loader"),
    *("messagebus", "forkstorm", "bufferpool", "churn"),
)

NAMES: Final = (*BUILT_IN, *sorted(entry_points(group=GROUP).names - {*BUILT_IN, *FROM_FILES}))
"""All that run without further input, in the order of the table."""


class Workload(Protocol):
    """What such a module is."""

    __doc__: str | None
    DEFAULT_SIZE: int

    def run(self, setting: Setting) -> None:
        """Do the work of one cell."""


def find(name: str) -> Workload:
    """The workload of a name. ValueError, naming those that there are, if there is none; or if it is no workload."""
    if name in (*BUILT_IN, *FROM_FILES):
        return cast(Workload, import_module(f"{__name__}.{name}"))
    if name not in NAMES:
        raise ValueError(f"there is no workload {name!r}; there are {', '.join(NAMES)}")
    found = next(iter(entry_points(group=GROUP, name=name)))
    try:
        workload = found.load()
    except Exception as error:  # a plug-in's own, of any kind
        raise ValueError(f"the workload {name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    size = getattr(workload, "DEFAULT_SIZE", None)
    if not callable(getattr(workload, "run", None)) or not isinstance(size, int) or not SMALLEST <= size <= LARGEST:
        raise ValueError(
            f"the workload {name!r} ({found.value}) is none: it needs run(setting), and DEFAULT_SIZE in bytes, "
            f"{SMALLEST} to {LARGEST}"
        )
    return cast(Workload, workload)


def describe(name: str) -> tuple[str, str]:
    """A workload in a line, and the paragraph on what it stands for."""
    first, _, rest = (find(name).__doc__ or "").strip().partition("\n\n")
    return first, rest.partition("\n\n")[0]


def default_size(name: str) -> int:
    """Bytes that make a measured section of some tenths of a second on two slow processors."""
    return find(name).DEFAULT_SIZE


def frees_memory(name: str) -> bool:
    """Whether a revoker makes a difference to it."""
    return bool(getattr(find(name), "FREES_MEMORY", False))


def check(name: str, *, processes: int | None, density: float | None) -> None:
    """ValueError, saying what it takes: a workload cannot be told so many processes, or that density, in percent.

    None is what each has by itself.
    """
    workload = find(name)
    known = getattr(workload, "PROCESSES", range(0))
    if processes is not None and processes not in known:
        takes = f"takes {known[0]} to {known[-1]} processes, not {processes:,}" if known else "has its own processes"
        raise ValueError(f"the workload {name!r} {takes}")
    if density is None:
        return
    if not getattr(workload, "TAKES_DENSITY", False):
        raise ValueError(f"the workload {name!r} has its own density")
    if not 0 < density <= DENSEST:
        raise ValueError(f"a density is a number of percent above 0, up to {DENSEST}, not {density}")
