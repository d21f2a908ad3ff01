"""One process that hands capabilities over to others through rings in shared memory.

Lock-free queues of browsers, databases and packet processing: the producer writes an object, stores a capability to it
in the next slot of a consumer's ring, and tells by a word how many are there; the consumer follows it, writes into the
object, and gives the slot back. Nothing but memory is between them. The memory is made to be shared, so capabilities
cross unless the policy lets none cross; then every consumer derives again each capability that it is given.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from capshm._native import lib
from capshm.client import check
from capshm.lab.crew import CellFailed

if TYPE_CHECKING:
    from capshm.lab.cell import Setting

DEFAULT_SIZE = 1 << 20
CONSUMERS = 2
ROUNDS = 16  # how often each slot is filled


def run(setting: Setting) -> None:
    """Each of CONSUMERS takes what its ring holds ROUNDS times over."""
    crew = setting.crew
    multiple = lib.LINE_DATA_SIZE // lib.GRANULE_SIZE  # so that each part of a ring begins at a tag line of its own
    capacity = (setting.size // CONSUMERS - lib.DRIVER_RING_HEADER) // lib.DRIVER_RING_ITEM_SIZE // multiple * multiple
    total = capacity * ROUNDS
    area = setting.world.exchange(setting.size)

    def produce() -> None:
        check(
            lib.driver_produce(area.driver, CONSUMERS, capacity, total, setting.seed, crew.counts),
            "hand capabilities over",
        )

    def consume(ring: int) -> None:
        check(lib.driver_consume(area.driver, ring, capacity, total, crew.counts), "take capabilities")

    with setting.measured():
        crew.fork(produce)
        for ring in range(CONSUMERS):
            crew.fork(partial(consume, ring))
        crew.wait()
    handed_over, taken = crew.checksum(first=1, end=2), crew.checksum(first=2)
    if handed_over != taken:
        raise CellFailed(f"what was taken adds up to {taken:#x}, what was handed over to {handed_over:#x}")
