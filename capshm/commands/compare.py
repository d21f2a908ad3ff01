"""capshm compare: what may cross between two processes, and what it costs."""

from __future__ import annotations

import json
import os
import socket
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, TypeVar

import cyclopts

from capshm.capability import GRANULE, Capability
from capshm.errors import CapshmError
from capshm.testing import Segment, Shadow, closed_gate
from capshm.testing.children import fork_to_run

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Row:
    """One way to share memory with a forked child: what arrived there, and ns a granule for each side."""

    mapping: str
    meaning: str
    tag_arrives: bool
    tags_left_by_overwrite: int
    store: float | None
    load: float


def compare(
    *,
    size: Annotated[int, cyclopts.Parameter(validator=cyclopts.validators.Number(gte=4096, lte=1 << 30))] = 1 << 20,
    repeats: Annotated[int, cyclopts.Parameter(validator=cyclopts.validators.Number(gte=1, lte=1000))] = 15,
    json_output: Annotated[bool, cyclopts.Parameter(name="--json", negative=())] = False,
) -> None:
    """Share a segment with a forked child in three ways, and show what crosses and what it costs.

    A parent fills real shared memory with capabilities. A child, made by fork, reads them through its own mapping: with
    capability permission (rwRW), with permission to load capabilities only (rR), and with data permission only (rw).
    Then half of the memory is overwritten past the library, and last the memory is revoked while both are running.
    Times are medians over the repeats, in nanoseconds a granule of 16 bytes, 4,096 granules a call.

    Parameters
    ----------
    size
        Bytes of the segment.
    repeats
        How often each operation is timed.
    json_output
        Print one JSON document instead of the table.
    """
    rows = [
        _share("rwRW", "capabilities and data", size, repeats),
        _share("rR", "capabilities may be loaded", size, repeats),
        _share("rw", "data only", size, repeats),
    ]
    revoked = _revoke(size)
    if json_output:
        print(json.dumps({"size": size, "repeats": repeats, "mappings": [asdict(row) for row in rows], **revoked}))
        return
    print(f"A segment of {size:,} bytes, shared with a child made by fork; ns a granule, median of {repeats}.\n")
    print(f"{'the child maps it':34} {'tag arrives':>11} {'tags after a raw overwrite':>27} {'store':>7} {'load':>7}")
    for row in rows:
        store = "faults" if row.store is None else f"{row.store:.1f}"
        print(
            f"{row.mapping + ': ' + row.meaning:34} {'yes' if row.tag_arrives else 'no':>11} "
            f"{row.tags_left_by_overwrite:>27,} {store:>7} {row.load:>7.1f}"
        )
    print(
        "\nBaseline: rwRW, where the child may do what the parent may; the other rows show what a lesser mapping takes "
        "away.\nr, w: data may be read, written; R, W: capabilities may be loaded, stored with their tags.\n"
        "tag arrives: a capability that the parent stored is valid where the child loads it. tags after a raw\n"
        "overwrite: what is left of a full segment whose first half was overwritten by pwrite. store, load: ns."
    )
    print(
        f"\nRevocation: the world was stopped for {revoked['pause_us']:.0f} us; {revoked['found']:,} capabilities were "
        f"looked at, {revoked['cleared']:,} revoked,\n"
        f"and the child's own copy in a variable was {'still good' if revoked['child_tag'] else 'revoked too'}."
    )


def _in_child(work: Callable[[], Answer]) -> Answer:
    """Run `work` in a forked child and return what it returns, which must be plain data; tuples come back as lists."""
    reader, writer = os.pipe()

    def answer_parent() -> None:
        os.write(writer, json.dumps(work()).encode())

    pid = fork_to_run(answer_parent)
    os.close(writer)
    with os.fdopen(reader, "rb") as answers:
        text = answers.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        raise CapshmError(f"the child {pid} of the comparison ended with status {status}; what it said stands above")
    answer: Answer = json.loads(text)
    return answer


def _time(operation: Callable[[], object], granules: int, repeats: int) -> float:
    """Median ns a granule."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter_ns()
        operation()
        times.append((time.perf_counter_ns() - begin) / granules)
    return statistics.median(times)


def _share(permissions: str, meaning: str, size: int, repeats: int) -> Row:
    with Segment(size) as segment:
        granules = min(segment.length // GRANULE, 4096)
        value = segment.root.with_bounds(64)
        segment.root.fill_capabilities(0, segment.length // GRANULE, value)
        mapped = segment.map(permissions)

        def child() -> tuple[bool, float | None, float]:
            tag = mapped.load_capability(0).tag
            values = segment.root.load_capabilities(0, granules)
            store = None
            if "W" in permissions:
                store = _time(lambda: mapped.store_capabilities(0, values), granules, repeats)
            return tag, store, _time(lambda: mapped.load_capabilities(0, granules), granules, repeats)

        tag, store, load = _in_child(child)
        os.pwrite(segment.fd, bytes(segment.length // 2), 0)
        left = sum(segment.root.load_capabilities(0, segment.length // GRANULE).tags)
        return Row(permissions, meaning, tag, left, store, load)


def _revoke(size: int) -> dict[str, float]:
    """Revoke what a running child holds in memory and in a variable."""
    with Segment(size) as segment:
        freed = segment.root.with_bounds(64)
        segment.root.fill_capabilities(GRANULE, segment.length // GRANULE - 1, freed)
        ours, theirs = socket.socketpair()
        pid = fork_to_run(lambda: _hold(segment.root.load_capability(GRANULE), theirs))
        theirs.close()
        with ours:
            ours.recv(1)  # the child has its copy, or has died
            Shadow().paint(freed)
            begin = time.perf_counter_ns()
            with closed_gate():
                counts = segment.sweep()
            pause = time.perf_counter_ns() - begin
            ours.send(b"!")
            tag = ours.recv(1)
            Shadow().clear(freed)  # not before: the child sweeps its registers when it comes by
        os.waitpid(pid, 0)
    if not tag:
        raise CapshmError(f"the child {pid} of the comparison died before it could say what its variable holds")
    return {"pause_us": pause / 1000, "found": counts.found, "cleared": counts.cleared, "child_tag": tag[0]}


def _hold(copy: Capability, parent: socket.socket) -> None:
    parent.send(b"!")
    parent.recv(1)
    parent.send(bytes([copy.tag]))
