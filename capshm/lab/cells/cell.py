"""One cell of an experiment, in this process: `python -m capshm.lab.cells.cell`.

On standard input a JSON object:

    {"workload": "prefork", "policy": "cheribsd", "size": 4194304, "seed": 7,
     "trace": null, "image": null, "processes": null, "density": null,
     "revoker": "none", "stopper": "gate", "scope": "vmspace"}

The later lines' may be left out; `processes` and `density` (percent of granules that hold a capability) are then the
workload's own, `revoker`, `stopper` and `scope` the machine's own choice. The policy "plain", which is no machine, has
none of the three. With `map_into`, the path of a file, the tags of its segments are looked at meanwhile
(capshm.lab.cells.density), and its times are not to be used.

On standard output a line of JSON. Times are in nanoseconds: `wall_ns` of the measured section alone; `cpu_ns` that all
processes of the cell have used in it, user and system, the broker's too, but nothing of processes that were not waited
for; `setup_ns` from the start of the process to the section (the kernel tells that start in hundredths of a second).
`counts` are the workload's: `operations`, and of its capabilities those that have `crossed` between processes with
their tags, and those `rederived` because they came without; `forks`; `refused`, what the policy refused; `passes`,
revocations that gave a process memory to use again. `checksum` is of what was done: the same in every world.

    {"wall_ns": …, "cpu_ns": …, "setup_ns": …, "pauses_ns": [], "counts": {"operations": …, …}, "checksum": …}

`pauses_ns` is how long the machine was stopped for each pass of the section, in order, the first 4,096 of them: from
the closing of the gate until it was open again. What a pass leaves to each process, its registers and private memory,
is swept by that process after the pause. In `counts` both are together, as hardware would count them: `pages` of 4 KiB
that passes have visited, `tag_words`, each of the tags of 1 KiB, that they have read there, `tags` that they have
found there and in registers, and `cleared`, those that they have taken away.

Exit status 2: the input is wrong; 1: the cell has failed. Standard error says how, and standard output is empty. What a
workload prints goes to standard error.
"""

from __future__ import annotations

import json
import operator
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from capshm import policies
from capshm.errors import CapshmError
from capshm.lab import workloads
from capshm.lab.cells import density
from capshm.lab.cells.crew import CellFailed, Crew
from capshm.lab.cells.world import World, enter
from capshm.lab.workloads import LARGEST, MOST_FORKS, PLAIN, SMALLEST
from capshm.machine import Machine


@dataclass
class Times:
    """Nanoseconds, as in the answer."""

    wall_ns: int = 0
    cpu_ns: int = 0
    setup_ns: int = 0
    pauses_ns: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Setting:
    """What a workload gets. size: bytes. seed: gives all that looks like chance.

    trace, image: path of the file of a real program, for the workload of that name alone.
    processes: how many are to work; density: percent of granules that are to hold a capability. None: as it likes.
    watch: who looks on meanwhile.
    """

    world: World
    crew: Crew
    size: int
    seed: int
    trace: str | None
    image: str | None = None
    processes: int | None = None
    density: float | None = None
    times: Times = field(default_factory=Times)
    watch: AbstractContextManager[None] = field(default_factory=nullcontext)

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Around the work that counts, once; what comes before is set-up."""
        with self.watch:
            yield from self._measure()

    def _measure(self) -> Iterator[None]:
        self.crew.forget_sweeps()
        self.world.take_pauses()
        self.times.setup_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - _started()
        cpu, wall = self._cpu_ns(), time.perf_counter_ns()
        yield
        self.times.wall_ns = time.perf_counter_ns() - wall
        self.times.cpu_ns = self._cpu_ns() - cpu
        self.times.pauses_ns = self.world.take_pauses()
        self.crew.count_sweeps()

    def _cpu_ns(self) -> int:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        waited_for = int((children.ru_utime + children.ru_stime) * 1e9)
        return time.process_time_ns() + waited_for + self.world.cpu_ns()


def _started() -> int:
    """When this process started, in nanoseconds since boot (proc(5), stat, field 22)."""
    ticks = int(Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()[19])
    return ticks * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))


@dataclass(frozen=True)
class Cell:
    """What is to be run. ValueError, TypeError, CapshmError: an argument is wrong, or not in this version."""

    workload: str
    policy: str
    size: int
    seed: int
    trace: str | None = None
    image: str | None = None
    processes: int | None = None
    density: float | None = None
    revoker: str | None = None
    stopper: str | None = None
    scope: str | None = None
    map_into: str | None = None

    def __post_init__(self) -> None:
        workloads.find(self.workload)
        if self.policy != PLAIN and self.policy not in policies.names():
            raise ValueError(f"there is no policy {self.policy!r}; there are {', '.join([PLAIN, *policies.names()])}")
        if not SMALLEST <= operator.index(self.size) <= LARGEST:
            raise ValueError(f"a size is from {SMALLEST} to {LARGEST} bytes, not {self.size}")
        if not 0 <= operator.index(self.seed) < 1 << 64:
            raise ValueError(f"a seed is a number of 64 bits, not {self.seed}")
        for name, path in ((workloads.TRACE, self.trace), (workloads.IMAGE, self.image)):
            if (self.workload == name) != isinstance(path, str):
                raise ValueError(f"the workload {name!r}, and no other, needs the path of its file as {name!r}")
        workloads.check(self.workload, processes=self.processes, density=self.density)
        self._machine()

    def run(self) -> dict[str, object]:
        """The answer, from this process, which must have one thread and be in no machine.

        CellFailed and other errors: the cell has come to no result; none of its processes is left.
        """
        crew = Crew(MOST_FORKS)
        machine = self._machine()
        with enter(machine, crew) as world, crew:
            files = (self.trace, self.image)
            setting = Setting(world, crew, self.size, self.seed, *files, self.processes, self.density)
            if machine is not None and self.map_into is not None:
                setting = replace(setting, watch=density.watched(machine.broker_pid, self.map_into))
            workloads.find(self.workload).run(setting)
        if setting.times.wall_ns == 0:
            raise CellFailed(f"the workload {self.workload!r} has measured nothing: its work belongs in measured()")
        return {**asdict(setting.times), "counts": crew.total(), "checksum": crew.checksum()}

    def _machine(self) -> Machine | None:
        """A new one, not entered; None: plain. ValueError, CapshmError: it refuses a choice."""
        named = {"revoker": self.revoker, "stopper": self.stopper, "scope": self.scope}
        chosen = {argument: name for argument, name in named.items() if name is not None}
        if self.policy != PLAIN:
            return Machine(self.policy, **chosen)  # type: ignore[arg-type] # all three are names
        if chosen:
            raise ValueError(f"{PLAIN!r} is no machine, and has no {' and no '.join(chosen)}")
        return None


def main() -> int:
    """Read, run, print; the exit status."""
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a workload prints is no part of the answer
    try:
        wanted = json.load(sys.stdin)
        if not isinstance(wanted, dict):
            raise TypeError(f"a cell is a JSON object, not {wanted!r:.100}")
        cell = Cell(**wanted)
    except (TypeError, ValueError, CapshmError) as error:
        return _fail(error, 2)
    try:
        answer = cell.run()
    except Exception as error:
        return _fail(error, 1)
    os.write(answers, json.dumps(answer).encode() + b"\n")
    return 0


def _fail(error: Exception, status: int) -> int:
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
