"""Orders as they go to another process than the one that asked: native/remote.h has the layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, cast

from capshm._native import ffi, lib
from capshm.broker.messages import Answer, Value
from capshm.model.rules import ZxRefusal
from capshm.pages import page_permissions

Order: TypeAlias = Sequence[Value]
"""As in zircon_messages."""

_KINDS = {"map": lib.REMOTE_MAP, "protect": lib.REMOTE_PROTECT, "unmap": lib.REMOTE_UNMAP}
_HEAD = int(ffi.offsetof("struct remote_orders", "orders"))
LIMIT = int(lib.REMOTE_ORDERS)


def taken(body: Answer) -> list[Order]:
    """The orders of an answer; none are left in it for the caller."""
    orders = cast("list[Order]", body.get("orders", []))
    if orders:
        body["orders"] = []
    return orders


def check_count(asked: str, count: int) -> None:
    """ZxRefusal: so many do not fit."""
    if count > LIMIT:
        raise ZxRefusal(
            "vmar:host",
            asked=asked,
            allowed=f"{count} ranges would change, and a call on another process changes {LIMIT} at most",
            needed="several calls",
            status="NO_RESOURCES",
        )


def start_of(order: Order) -> int:
    """The address where it begins."""
    return cast(int, order[1])


def packed(number: int, orders: Sequence[Order]) -> bytes:
    """The packet. number: comes back with the report."""
    made = ffi.new("struct remote_orders *")
    made.mark, made.count, made.number = lib.REMOTE_MARK, len(orders), number
    for each, order in zip(made.orders, orders, strict=False):
        each.kind, each.start, each.length = _KINDS[cast(str, order[0])], order[1], order[2]
        if order[0] != "unmap":
            each.permissions = page_permissions(cast(str, order[3]))
        if order[0] == "map":
            maximum = cast(str, order[6])
            each.offset, each.object, each.is_kept_at_fork = order[4], order[5], order[7]
            each.data, each.tags, each.clear = order[8:]
            each.is_tags_writable, each.is_clear_writable = "W" in maximum, "w" in maximum
        elif order[0] == "protect":
            each.permissions_before = page_permissions(cast(str, order[4]))
    return bytes(ffi.buffer(made, _HEAD + len(orders) * ffi.sizeof("struct remote_order")))


NOTHING = packed(0, [])
