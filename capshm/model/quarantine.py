"""Reservations in quarantine: what a process that revokes has unmapped, until nothing can lead there (C12, 2.3, 2.4).

Such a reservation stays in the address space with one entry that permits nothing. In each epoch that the process
closes the largest leaves: neighbours count as one with it, and what lies between them, if that is free and not more
than an eighth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from capshm.model.address_space import Entry
from capshm.model.constants import INHERIT_COPY
from capshm.model.rights import Rights

if TYPE_CHECKING:
    from capshm.model.address_space import AddressSpace
    from capshm.model.regions import Reservation

_GAP_SHARE = 8


def quarantine(space: AddressSpace, reservation: Reservation) -> None:
    """Keep a reservation of which nothing is left: its place is not used again."""
    space.reservations[reservation.start] = reservation
    space.replace(
        Entry(
            start=reservation.start,
            end=reservation.end,
            current=Rights(0),
            maximum=Rights(0),
            inherit=INHERIT_COPY,
            object=None,
            offset=0,
            is_shared=False,
            reservation=reservation.start,
            is_quarantined=True,
        )
    )


def choose_leaving(space: AddressSpace) -> tuple[int, int] | None:
    """The range that leaves in this epoch; None if nothing is in quarantine."""
    merged: list[tuple[int, int]] = []
    is_joinable = False
    for reservation in space.reservations.values():
        if not space.is_quarantined(reservation):
            is_joinable = False
            continue
        start, end = reservation.start, reservation.end
        if is_joinable and (start - merged[-1][1]) * _GAP_SHARE <= merged[-1][1] - merged[-1][0]:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
        is_joinable = True
    return max(merged, key=lambda each: each[1] - each[0], default=None)


def release(space: AddressSpace, leaving: tuple[int, int]) -> None:
    """What was in quarantine there is free."""
    for entry in space.overlapping(*leaving):
        if entry.is_quarantined:
            space.remove(entry.start, entry.end)
