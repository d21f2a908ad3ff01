"""Stress: many processes at once, some of them killed, and afterwards the proof that nothing impossible was seen.

What processes do to shared pointers is right if their history can be explained: each pointer that was loaded had been
stored there, no right grew, and what was revoked was not seen again. Here processes fight for four granules, victims
are killed amid theirs, and a revocation comes between; all is recorded, then judged. A checker that finds nothing
proves nothing, so in the end it gets the same history with one load forged.

The seed, an argument, decides what each process does; when they meet, and where a victim dies, the machine decides.

    seed                                                 9
    fighters that came to their end                      4
    victims that were killed                             16
    operations recorded                                  ...
    and of these, cut short by a death                   ...
    pointers loaded                                      ...
    violations                                           0
    violations, had one load brought all of the memory   ['tag from nowhere']
"""

import os
import random
import signal
import sys

from capshm import Capability
from capshm.testing import History, Kind, Result, Segment, check_history
from course import show, tell

FIGHTERS, VICTIMS, ROUNDS = 4, 16, 300
PLACES = (0, 16, 1024, 1040)  # offsets in bytes: two granules in each of two words of tags

seed = int(sys.argv[1]) if len(sys.argv) > 1 else 9
tell("seed", seed)


def new_value(start: int) -> Capability:
    """A pointer to 64 bytes of the memory, to be stored."""
    return history.derive(memory, lambda memory: (memory + start).with_bounds(64))


def fight(number: int, rounds: int) -> None:
    """Store, load and overwrite, at random."""
    dice = random.Random(f"{seed}, {number}")
    for _ in range(rounds):
        place, action = dice.choice(PLACES), dice.randrange(10)
        if action < 4:
            history.store(memory, place, dice.choice(values))
        elif action < 9:
            history.load(memory, place)
        else:
            history.write(memory, place + dice.randrange(16), dice.randbytes(8))


def fork_to_fight(number: int, *, is_victim: bool = False) -> int:
    """A process that does so; it runs when this returns. A victim waits in the end until it is killed."""
    if (child := os.fork()) == 0:
        os.write(told, b"!")
        fight(number, ROUNDS)
        if is_victim:
            signal.pause()
        history.end()
        os._exit(0)
    os.read(runs, 1)
    return child


with Segment(4096, lock_timeout=60) as segment, History() as history:
    memory = history.grant(segment.root, descriptor=segment.fd)
    values = [new_value(2048 + 64 * number) for number in range(8)]
    runs, told = os.pipe()
    fighters = [fork_to_fight(number) for number in range(FIGHTERS)]
    ends = []
    for number in range(VICTIMS):
        victim = fork_to_fight(FIGHTERS + number, is_victim=True)
        fight(FIGHTERS + VICTIMS + number, 30)
        os.kill(victim, signal.SIGKILL)
        ends.append(os.waitpid(victim, 0)[1])
        if number == VICTIMS // 2:
            for value in values[:4]:
                history.paint(value)
            history.revoke(segment, timeout=60)
    show("fighters that came to their end", [os.waitpid(each, 0)[1] for each in fighters].count(0), FIGHTERS)
    show("victims that were killed", ends.count(signal.SIGKILL), VICTIMS)
    operations = history.operations()

loads = [one for one in operations if one.kind is Kind.LOAD and one.value is not None and one.value.tag]
tell("operations recorded", len(operations))
tell("and of these, cut short by a death", sum(one.result is Result.UNKNOWN for one in operations))
tell("pointers loaded", len(loads))
show("violations", len(check_history(operations)), 0)
forged = [one._replace(value=one.authority) if one is loads[0] else one for one in operations]
rules = [violation.rule for violation in check_history(forged)]
show("violations, had one load brought all of the memory", rules, ["tag from nowhere"])
