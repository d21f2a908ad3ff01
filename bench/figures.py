"""What is measured: every figure with its limit and its goal, as data.

A new figure is an entry in FIGURES and a function in one of the programs. A program prints a JSON object a line for
each repeat, in which it may say more:

    {"key": "native_store", "value": 9.1, "limit": 4.7}

A C program is given the number of repeats; a Python program `--quick`, if so, and the keys that are wanted, and before
the first round `--prepare` alone. Where the limit is made of other figures of the same round, the program prints null,
and `limit_from` names them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Program:
    """A program that measures. path: of a C source, compiled with the core, or of a Python module; from the root."""

    path: str


@dataclass(frozen=True, slots=True)
class Goal:
    """How far the ratio, value / limit, must go; or the value, where that is a ratio itself."""

    sense: Literal["<=", ">="]
    bound: float
    of: Literal["ratio", "value"] = "ratio"

    def is_met(self, number: float) -> bool:
        """Whether this ratio (or value) is good enough."""
        return number <= self.bound if self.sense == "<=" else number >= self.bound

    def __str__(self) -> str:
        return f"{'value ' if self.of == 'value' else ''}{'≤' if self.sense == '<=' else '≥'} {self.bound:g}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure.

    key: its name everywhere. what: for people. unit: of value and limit; less is faster in "ns" and "µs", more in
    "GiB/s" and "×".
    limit: what the limit does. seen: the limit on the machine where the goals were set, None where it is no property of
    a machine. conditions: all that the figure depends on and a reader could have chosen otherwise. limit_from: (key,
    "value" or "limit") of earlier figures whose sum is the limit.
    """

    key: str
    what: str
    unit: str
    limit: str
    seen: float | None
    goal: Goal
    conditions: str
    program: Program
    limit_from: tuple[tuple[str, Literal["value", "limit"]], ...] = ()

    def in_unit(self, number: float, other: Figure) -> float:
        """A number of the other figure's in this one's unit: a rate of sweeping as the time for one object."""
        if (self.unit, other.unit) != ("µs", "GiB/s"):
            return number
        return SWEEP_OBJECT / number * 1e6

    def share_of_seen(self, limit: float) -> float | None:
        """How fast this limit is beside the one that was seen; below 0.8 on such a machine the limit is at fault."""
        if self.seen is None:
            return None
        return self.seen / limit if self.unit in ("ns", "µs") else limit / self.seen


def _at_most(bound: float) -> Goal:
    return Goal("<=", bound)


def _at_least(bound: float) -> Goal:
    return Goal(">=", bound)


SWEEP_OBJECT = 64 / 1024
"""GiB of the object that sweeps are measured with."""

_NATIVE = Program("bench/native.c")
_SWEEP = Program("bench/limits/sweep.c")
_CALLS = Program("bench/calls.py")
_MACHINES = Program("bench/machines.py")
_STOP = Program("bench/stop.c")

_NATIVE_OBJECT = (
    "one shared object of 16 KiB, its pages present; random granules, the same for figure and limit; tagged values; "
    "all of the time inside operations; "
)
_NATIVE_CONDITIONS = _NATIVE_OBJECT + "1 process"
_SWEEP_CONDITIONS = "object of 64 MiB, 10 % of its shadow painted at random, tags set again before each pass; "
_SWEEP_LIMIT = "the fastest plain loop over the same layout that loads, decodes and tests each tagged capability"
_CALLS_CONDITIONS = (
    "shared object of 64 KiB, its 4,096 granules in random order; a tagged value; loop subtracted; 1 process"
)
_BULK_CONDITIONS = (
    "4,096 capabilities at a time, a shared object of 64 KiB, all tagged; the call from Python included; 1 process"
)
_MACHINE_CONDITIONS = (
    "policy cheribsd, audit in memory, one thread in each process, one request at a time; figure and limit in turns, "
    "the fastest of each counts"
)


def _sweep(percent: int, seen: float) -> Figure:
    return Figure(
        f"sweep_{percent}",
        f"sweep of an object, {percent} % of its granules tagged",
        "GiB/s",
        _SWEEP_LIMIT,
        seen,
        _at_least(0.8),
        _SWEEP_CONDITIONS + "granules tagged at random, their share as in the key; 1 process",
        _SWEEP,
    )


FIGURES: tuple[Figure, ...] = (
    Figure(
        "native_store",
        "capability store in C through a checked authority",
        "ns",
        "one lock-prefixed read-modify-write",
        4.7,
        _at_most(2.0),
        _NATIVE_CONDITIONS + "; no lock is taken: one thread alone can reach the object",
        _NATIVE,
    ),
    Figure(
        "native_load",
        "capability load in C, same checks",
        "ns",
        "sequence-lock read of 16 bytes and a tag",
        0.7,
        _at_most(4.0),
        _NATIVE_CONDITIONS,
        _NATIVE,
    ),
    Figure(
        "native_store_locked",
        "the same with the lock of the tag line: other processes may reach the object",
        "ns",
        "one lock-prefixed read-modify-write",
        4.7,
        _at_most(4.0),
        _NATIVE_CONDITIONS + " stores, after a fork",
        _NATIVE,
    ),
    Figure(
        "native_store_shared",
        "throughput of two processes whose granules' tag words lie in different cache lines, against one",
        "×",
        "the same of lock-prefixed read-modify-writes in memory of each process's own: two on two whole cores",
        2,
        Goal(">=", 1.8, of="value"),
        _NATIVE_OBJECT + "stores lock their tag lines; 2 processes, each on its half of the object; no pair of cache "
        "lines that one of them writes (data, twins, tag lines, gate slots) is touched by the other; alone and both in "
        "turn, the median of 7 rounds of 1,048,576 stores at most; of both, what they do until the first is done",
        _NATIVE,
    ),
    _sweep(0, 16_000),
    _sweep(1, 180),
    _sweep(10, 22),
    _sweep(50, 12),
    _sweep(100, 12),
    Figure(
        "sweep_two_cores",
        "two workers that sweep half of sweep_10's object each",
        "GiB/s",
        "one worker that sweeps all of it; a ratio of 2 is the most",
        None,
        _at_least(1.7),
        _SWEEP_CONDITIONS + "10 % of granules tagged at random; 2 processes",
        _SWEEP,
    ),
    Figure(
        "sweep_10_clustered",
        "as sweep_10, the tags clustered by page",
        "GiB/s",
        _SWEEP_LIMIT,
        150,
        _at_least(0.8),
        _SWEEP_CONDITIONS + "all granules of 10 % of the pages tagged, no others; 1 process",
        _SWEEP,
    ),
    Figure(
        "python_store",
        "store_capability from Python",
        "ns",
        "one cffi API-mode call with as many arguments",
        70,
        _at_most(3.0),
        _CALLS_CONDITIONS,
        _CALLS,
    ),
    Figure(
        "python_load",
        "load_capability from Python; the object it makes is dropped at once",
        "ns",
        "one cffi API-mode call with as many arguments",
        70,
        _at_most(4.0),
        _CALLS_CONDITIONS,
        _CALLS,
    ),
    Figure(
        "bulk_store",
        "store_capabilities of a CapabilityArray, for each capability",
        "ns",
        "native_store of the same round",
        None,
        _at_most(2.0),
        _BULK_CONDITIONS,
        _CALLS,
        (("native_store", "value"),),
    ),
    Figure(
        "bulk_load",
        "load_capabilities into a new CapabilityArray, for each capability",
        "ns",
        "native_load of the same round",
        None,
        _at_most(2.0),
        _BULK_CONDITIONS,
        _CALLS,
        (("native_load", "value"),),
    ),
    Figure(
        "broker_round_trip",
        "mprotect of one page, asked of the broker and carried out",
        "µs",
        "an echo between two Python processes over SOCK_SEQPACKET with credentials, 64 bytes there and back",
        None,
        _at_most(2.5),
        "private mapping of 4 KiB, never touched, protected by turns as r and rw; 1 emulated process and the broker; "
        + _MACHINE_CONDITIONS,
        _MACHINES,
    ),
    Figure(
        "map_object",
        "mmap and munmap of a shared object with capabilities",
        "µs",
        "two round trips of that echo, each with one descriptor, memfd_create, ftruncate, mmap, munmap and close",
        None,
        _at_most(2.0),
        "object of 1 MiB, anonymous, shared, new each time, never touched; 1 emulated process and the broker; "
        + _MACHINE_CONDITIONS,
        _MACHINES,
    ),
    Figure(
        "fork",
        "os.fork, exit and wait in an attached process",
        "µs",
        "the same in an unattached process that has imported and touched the same",
        None,
        _at_most(1.25),
        "64 MiB of private memory in 16 mappings, all pages touched, every tenth holds a capability; "
        "1 emulated process, one child at a time, and the broker; " + _MACHINE_CONDITIONS,
        _MACHINES,
    ),
    Figure(
        "stop_16",
        "stop of busy processes, from the stopper's native call until none can touch a capability",
        "µs",
        "a flag, membarrier(GLOBAL_EXPEDITED), and a look at each process's own flag",
        3.4,
        _at_most(3.0),
        "16 processes, spinning, about 1 % of their time inside operations of the core and as much inside those of the "
        "limit; an arena of 1 GiB; stopper gate, no broker; figure and limit in turns, 0.2 ms apart, the median counts",
        _STOP,
    ),
    Figure(
        "revoke_pause",
        "longest pause that one stop-the-world revocation makes for another process",
        "µs",
        "those of stop_16 and sweep_10 of the same round together",
        None,
        _at_most(1.5),
        "shared object of 64 MiB, 10 % of its granules tagged and 10 % of its shadow painted, both at random, tags set "
        "again before each pass; 4 emulated processes: one asks, one does nothing but load and tells how long its "
        "longest load has taken, two sleep; stopper gate; the shortest of all passes counts",
        _MACHINES,
        (("stop_16", "limit"), ("sweep_10", "limit")),
    ),
    Figure(
        "malloc_free",
        "a pair of malloc and free from Python, with its share of the revocations that are due",
        "µs",
        "a pair of calls through cffi's API mode to libc's malloc and free",
        None,
        _at_most(4.0),
        "about 16 MiB live, in allocations of 16 to 4,096 bytes at random, of which one at random is replaced by "
        "another at a time, 8,192 times; the machine's own quarantine; loop subtracted; all pairs of a slice together; "
        "1 emulated process and the broker; " + _MACHINE_CONDITIONS,
        _MACHINES,
    ),
    Figure(
        "zircon_protect",
        "vmar_protect over 16 mappings in a child VMAR",
        "µs",
        "a round trip of that echo, and 16 mprotect calls from C",
        None,
        _at_most(2.0),
        "mappings of 4 KiB, each of a VMO of its own, from READ to READ and WRITE and back by the VMAR's handle; "
        "1 emulated process and the broker; " + _MACHINE_CONDITIONS,
        _MACHINES,
    ),
    Figure(
        "attach",
        "from the first import to attached, in a program that the machine has spawned",
        "µs",
        "an interpreter that imports nothing and exits: python -I -S, from its start to its end",
        6000,
        _at_most(4.0),
        "byte code compiled before, files in the page cache; arena of 64 GiB, of which nothing is mapped; 2 emulated "
        "processes, of which one waits, and the broker; " + _MACHINE_CONDITIONS,
        _MACHINES,
    ),
)
