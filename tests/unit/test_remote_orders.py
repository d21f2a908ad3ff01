"""Orders for another process, as they travel; and the timers of the broker's loop."""

import os

import pytest

from capshm._native import ffi, lib
from capshm.broker.loop import Loop
from capshm.broker.messages import Answer
from capshm.broker.zircon.remote_orders import LIMIT, NOTHING, Order, check_count, packed, start_of, taken
from capshm.model.rules import ZxRefusal


def test_layout() -> None:
    """Each order is what the core carries out; the packet is as long as it must be."""
    orders: list[Order] = [
        ["map", 0x5000, 0x2000, "rwRW", 0x1000, 7, "rwR", True, 0, 2, -1],
        ["protect", 0x8000, 0x1000, "r", "rw"],
        ["unmap", 0x9000, 0x3000],
    ]
    packet = packed(9, orders)
    made = ffi.cast("struct remote_orders *", ffi.from_buffer(packet))
    assert packet[0] == lib.REMOTE_MARK != ord("{")
    assert (made.number, made.count) == (9, 3)
    assert [(each.kind, each.start, each.length) for each in made.orders[0:3]] == [
        (lib.REMOTE_MAP, 0x5000, 0x2000),
        (lib.REMOTE_PROTECT, 0x8000, 0x1000),
        (lib.REMOTE_UNMAP, 0x9000, 0x3000),
    ]
    mapped, protected = made.orders[0], made.orders[1]
    all_four = lib.PAGE_READ | lib.PAGE_WRITE | lib.PAGE_LOAD_CAP | lib.PAGE_STORE_CAP
    assert (mapped.permissions, mapped.offset, mapped.object) == (all_four, 0x1000, 7)
    assert (mapped.data, mapped.tags, mapped.clear) == (0, 2, -1)
    assert (mapped.is_kept_at_fork, mapped.is_tags_writable, mapped.is_clear_writable) == (True, False, True)
    assert (protected.permissions, protected.permissions_before) == (lib.PAGE_READ, lib.PAGE_READ | lib.PAGE_WRITE)
    assert len(packet) == ffi.offsetof("struct remote_orders", "orders") + 3 * ffi.sizeof("struct remote_order")
    assert len(NOTHING) == ffi.offsetof("struct remote_orders", "orders")
    assert start_of(orders[1]) == 0x8000


def test_too_many() -> None:
    """What does not fit into a packet is refused before anything is changed."""
    check_count("vmar_unmap", LIMIT)
    with pytest.raises(ZxRefusal, match=f"{LIMIT + 1} ranges would change"):
        check_count("vmar_unmap", LIMIT + 1)


def test_orders_are_not_for_the_caller() -> None:
    """They are taken out of the answer; one without any stays as it is."""
    body: Answer = {"address": 1, "orders": [["unmap", 0, 1]]}
    assert taken(body) == [["unmap", 0, 1]]
    assert body == {"address": 1, "orders": []}
    assert taken({"handle": 3}) == []


def test_timers() -> None:
    """They are called in the order of their times, beside what descriptors bring; one that raises stops none."""
    called: list[object] = []
    loop = Loop(lambda fd, error: called.append((fd, str(error))))
    read, write = os.pipe()

    def fail() -> None:
        raise ValueError("no")

    loop.after(3600.0, lambda: called.append("never"))
    loop.after(0.0, lambda: called.append("first"))
    loop.after(0.0, fail)
    loop.after(0.0, lambda: called.append("second"))
    loop.after(0.0, loop.stop)
    loop.add(read, lambda: called.append(os.read(read, 1)))
    os.write(write, b"x")
    loop.run(lambda: None)
    assert called == [b"x", "first", (-1, "no"), "second"]
    os.close(read)
    os.close(write)
