"""One process that hands capabilities over to others through rings in shared memory.

Lock-free queues of browsers, databases and packet processing: the producer writes an object, stores a capability to it
in the next slot of a consumer's ring, and tells by a word how many are there; the consumer follows it, writes into the
object, and gives the slot back. Nothing but memory is between them. The memory is made to be shared, so capabilities
cross unless the policy lets none cross; then every consumer derives again each capability that it is given.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from capshm.lab.cells.rings import MOST, Rings, compare_sums

if TYPE_CHECKING:
    from capshm.lab.cells.cell import Setting

DEFAULT_SIZE = 1 << 20
PROCESSES = range(1, MOST + 1)
CONSUMERS = 2
ROUNDS = 16  # how often each slot is filled


def run(setting: Setting) -> None:
    """Each consumer takes what its ring holds ROUNDS times over."""
    crew, consumers = setting.crew, setting.processes or CONSUMERS
    rings = Rings(setting.world.exchange, crew, setting.size, consumers)
    total = rings.capacity * ROUNDS
    with setting.measured():
        crew.fork(partial(rings.produce, total, setting.seed))
        for ring in range(consumers):
            crew.fork(partial(rings.consume, ring, 0, total))
        crew.wait()
    compare_sums(crew, producers=1)
