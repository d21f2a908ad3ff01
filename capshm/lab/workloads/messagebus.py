"""A message bus: topics in memory objects of their own, whose messages are capabilities to payloads in other objects.

Middleware of robots and trading, D-Bus's successors: a publisher writes a payload, and stores a capability to it in the
slots of all that have subscribed to its topic; each subscriber takes messages from one topic after the other, follows
them, and gives them back. So there are many objects that capabilities lead into and many that hold them, all mapped by
everybody, and every message leads out of the object that it is found in. The objects are made to be shared; where a
policy lets no capabilities cross, each subscriber derives every message again, from its authority over the payloads.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from capshm.lab.cells.rings import MOST, Rings, compare_sums

if TYPE_CHECKING:
    from capshm.lab.cells.cell import Setting
    from capshm.lab.cells.world import Area

DEFAULT_SIZE = 1 << 20
PROCESSES = range(1, MOST + 1)
TOPICS = 4  # and publishers
SUBSCRIBERS = 3
ROUNDS = 8  # how often each slot is filled


def run(setting: Setting) -> None:
    """Each subscriber takes all messages of all topics, in turns of as many as a ring holds."""
    crew, subscribers = setting.crew, setting.processes or SUBSCRIBERS

    def make(length: int) -> Area:
        descriptor, area = setting.world.create(length)
        os.close(descriptor)
        return area

    topics = [Rings(make, crew, setting.size // TOPICS, subscribers, are_apart=True) for _ in range(TOPICS)]

    def subscribe(subscriber: int) -> None:
        for turn in range(ROUNDS):
            for topic in topics:
                topic.consume(subscriber, turn * topic.capacity, (turn + 1) * topic.capacity)

    with setting.measured():
        for number, topic in enumerate(topics):
            crew.fork(partial(topic.produce, topic.capacity * ROUNDS, setting.seed + MOST * number))
        for subscriber in range(subscribers):
            crew.fork(partial(subscribe, subscriber))
        crew.wait()
    compare_sums(crew, producers=TOPICS)
