"""The loop of a replay (native/replay.h) where it stops in the middle of an event."""

from functools import partial

import pytest

import capshm
from capshm import _registers, client
from capshm import cheribsd as bsd
from capshm._native import ffi, lib
from capshm.cheribsd.malloc import provide
from tests.faults.isolation import isolated
from tests.unit.heap_scene import LARGE, reuse_at_once


@pytest.mark.slow
@isolated()
def test_an_exec_goes_on_where_it_stopped() -> None:
    """It stops for each mapping that it gives back, and does not look again at what is free already."""
    reuse_at_once()
    count = 20
    with capshm.Machine():
        events = ffi.new("struct replay_event[]", [(lib.REPLAY_ALLOCATE, number, LARGE) for number in range(count)])
        exec_ = ffi.new("struct replay_event[]", [(lib.REPLAY_EXEC, 0, 0)])
        slots = ffi.new("struct replay_slot[]", count)
        table, window = bsd.malloc(16 * count), _registers.Window(lib.REPLAY_REGISTERS)
        replay = ffi.new("struct replay *", {"slots": slots, "slot_count": count})
        replay.table, replay.registers = table._register, window.first
        into = window.first + lib.REPLAY_NEW

        def run(events: object, count: int) -> list[int]:
            """The place in an exec at each stop."""
            places = []
            replay.events, replay.count, replay.position = events, count, 0
            while status := lib.replay_run(replay):
                places.append(replay.first_left)
                replay.is_taken = client.current().undisturbed(partial(provide, status, "replay", LARGE, into))
            return places

        run(events, count)
        for _ in range(2):  # one that is over leaves nothing to the next
            assert run(exec_, 1) == list(range(count))
            assert not any(slot.is_live for slot in slots)
            run(events, count)
