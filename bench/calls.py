"""Single and bulk calls from Python beside their limits: `python -m bench.calls`.

Prints a JSON object a line: key, value, limit; nanoseconds a capability. The operations take turns in slices of a few
tenths of a millisecond and the fastest slice of each counts, because a slice that was disturbed can only be slower. A
single operation is written as users write it, attribute look-up included; the limit's function is in a local variable.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator
from time import perf_counter_ns

from bench.limits import call
from capshm import Capability, CapabilityArray
from capshm.testing.segment import Segment

COUNT = 4096  # granules, so 64 KiB, and capabilities of a bulk call
SLICE = 1024  # single operations: long enough that luck evens out, short enough to find a quiet moment
BULK_SLICE = 8  # bulk operations: the first of them pays for what the others left in the caches

Operation = Callable[[list[int]], int]
"""Does a slice, at these offsets, and returns its nanoseconds."""


def _loop(offsets: list[int]) -> int:
    begin = perf_counter_ns()
    for _offset in offsets:
        pass
    return perf_counter_ns() - begin


def _limit(nothing: Callable[[int, int, int], int], offsets: list[int]) -> int:
    begin = perf_counter_ns()
    for offset in offsets:
        nothing(1, offset, 2)
    return perf_counter_ns() - begin


def _store(authority: Capability, value: Capability, offsets: list[int]) -> int:
    begin = perf_counter_ns()
    for offset in offsets:
        authority.store_capability(offset, value)
    return perf_counter_ns() - begin


def _load(authority: Capability, offsets: list[int]) -> int:
    begin = perf_counter_ns()
    for offset in offsets:
        authority.load_capability(offset)
    return perf_counter_ns() - begin


def _bulk_store(authority: Capability, values: CapabilityArray) -> int:
    begin = perf_counter_ns()
    for _ in range(BULK_SLICE):
        authority.store_capabilities(0, values)
    return perf_counter_ns() - begin


def _bulk_load(authority: Capability) -> int:
    begin = perf_counter_ns()
    for _ in range(BULK_SLICE):
        authority.load_capabilities(0, COUNT)
    return perf_counter_ns() - begin


def measure(turns: int) -> Iterator[tuple[str, float, float | None]]:
    """Key, value, and limit (None: the harness knows it) of each figure, from `turns` slices of each operation."""
    nothing = call.nothing()
    with Segment(COUNT * 16) as segment:
        authority, value = segment.root, segment.root.with_bounds(64)
        authority.fill_capabilities(0, COUNT, value)
        values = authority.load_capabilities(0, COUNT)
        operations: dict[str, Operation] = {
            "loop": _loop,
            "limit": lambda offsets: _limit(nothing, offsets),
            "python_store": lambda offsets: _store(authority, value, offsets),
            "python_load": lambda offsets: _load(authority, offsets),
            "bulk_store": lambda _: _bulk_store(authority, values),
            "bulk_load": lambda _: _bulk_load(authority),
        }
        least = _least(operations, turns)
        if not (authority.load_capability(0).tag and sum(authority.load_capabilities(0, COUNT).tags) == COUNT):
            raise AssertionError("the capabilities that were stored and loaded are not there")
    for key in ("python_store", "python_load"):
        yield key, (least[key] - least["loop"]) / SLICE, (least["limit"] - least["loop"]) / SLICE
    for key in ("bulk_store", "bulk_load"):
        yield key, least[key] / (BULK_SLICE * COUNT), None


def _least(operations: dict[str, Operation], turns: int) -> dict[str, int]:
    """The fastest slice of each. Each turn is at other offsets; together they are all granules in random order."""
    offsets = [number * 16 for number in range(COUNT)]
    random.Random(1).shuffle(offsets)
    slices = [offsets[begin : begin + SLICE] for begin in range(0, COUNT, SLICE)]
    for operation in operations.values():
        operation(offsets)  # the interpreter adapts its code to what it has seen
    times: dict[str, list[int]] = {name: [] for name in operations}
    for turn in range(turns):
        for name, operation in operations.items():
            times[name].append(operation(slices[turn % len(slices)]))
    return {name: min(found) for name, found in times.items()}


def main() -> None:
    """Measure once and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.calls", description=__doc__)
    parser.add_argument("--prepare", action="store_true", help="compile what is needed, measure nothing")
    parser.add_argument("--quick", action="store_true", help="a tenth of the time")
    parser.add_argument("keys", nargs="*", metavar="KEY", help="what to print; all if none is given")
    options = parser.parse_args()
    if options.prepare:
        call.nothing()
        return
    for key, value, limit in measure(turns=100 if options.quick else 500):
        if not options.keys or key in options.keys:
            print(json.dumps({"key": key, "value": round(value, 3), "limit": limit and round(limit, 3)}))


if __name__ == "__main__":
    main()
