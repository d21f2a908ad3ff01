"""The epoch clock as a freer sees it: what is published, and when it has gone far enough (cheribsd:2.2)."""

from __future__ import annotations

from typing import Final, NamedTuple

CLOCK_BITS: Final = 61
CLOCK_MASK: Final = (1 << CLOCK_BITS) - 1


class Epochs(NamedTuple):
    """The published pair. enqueue: what a freer records after it has painted; dequeue: what has been finished."""

    enqueue: int
    dequeue: int


def is_cleared(now: int, then: int) -> bool:
    """Whether what was recorded at `then` has been revoked at `now`: clocks that may have wrapped between the two."""
    needed = then + (then & 1) + 2
    return (now - needed) & CLOCK_MASK < 1 << (CLOCK_BITS - 1)
