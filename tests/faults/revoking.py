"""A revocation of one process, made of the core's own parts, for tests of what waits in quarantine."""

import os

import capshm
from capshm import client, records
from capshm._native import ffi, lib
from capshm.capability import make
from capshm.testing import Shadow, closed_gate, sweep_registers


def revoke(pairs: memoryview) -> None:
    """Take the tags of all capabilities, in registers and memory of this process alone, whose base lies there."""
    numbers = pairs.tolist()
    freed = [_over(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]
    places = [(each.start, each.end - each.start) for each in records.mappings(client.current().ask, os.getpid())]
    shadow = Shadow()
    for each in freed:
        shadow.paint(each)
    with closed_gate(new_epoch=False):
        sweep_registers()
        for start, length in places:
            assert not lib.capshm_sweep_memory(start, length, lib.SWEEP_AUTOMATIC, ffi.new("struct sweep_counts *"))
    for each in freed:
        shadow.clear(each)


def _over(start: int, length: int) -> capshm.Capability:
    return make(start, lib.METADATA_ROOT, tag=True).with_exact_bounds(length).without_tag()
