"""`capshm.model.revocation` and `epochs`: sections 2.1 and 2.2, the clock, the states, and what each call does."""

import pytest

from capshm.model import constants as c
from capshm.model.epochs import CLOCK_BITS, Epochs, is_cleared
from capshm.model.pointer import Pointer, permissions_for
from capshm.model.revocation import Revocation, State, Step, check_shadow
from tests.unit.model_scene import refused

LAST, IGNORE, ASYNC = c.CHERI_REVOKE_LAST_PASS, c.CHERI_REVOKE_IGNORE_START, c.CHERI_REVOKE_ASYNC


@pytest.mark.parametrize(("then", "needed"), [(0, 2), (1, 4), (2, 4), (7, 10), (8, 10)])
def test_2_2_a_whole_epoch_must_pass(then: int, needed: int) -> None:
    """2.2: painted while closed at E, E+2 is enough; painted while open at E+1, E+4 is needed."""
    assert [now for now in range(then, needed + 3) if is_cleared(now, then)] == list(range(needed, needed + 3))


def test_2_2_the_clock_wraps() -> None:
    """2.2: comparisons are those of serial numbers."""
    top = 1 << CLOCK_BITS
    assert is_cleared(0, top - 2)
    assert not is_cleared(top - 2, top - 2)
    assert not is_cleared(top - 2, 0)
    clock = Revocation(clock=top - 2)
    clock.open()
    clock.close()
    assert clock.clock == 0


def test_2_2_published_pair() -> None:
    """2.2: at rest both are the clock; while an epoch is open enqueue is one more; on closing both are two more."""
    clock = Revocation(clock=6)
    assert clock.epochs == Epochs(6, 6)
    clock.open()
    assert clock.epochs == Epochs(7, 6)
    clock.close()
    assert clock.epochs == Epochs(8, 8)


STEPS = [
    (State.NONE, 0, Step.OPEN),
    (State.NONE, LAST, Step.OPEN | Step.CLOSE),
    (State.NONE, ASYNC, Step.OPEN | Step.CLOSE_LATER),
    (State.INITED, 0, Step.NOTHING),
    (State.INITED, LAST, Step.CLOSE),
    (State.INITED, ASYNC, Step.CLOSE_LATER),
    (State.CLOSING, 0, Step.NOTHING),
    (State.CLOSING, LAST, Step.CLOSE),
    (State.CLOSING, ASYNC, Step.NOTHING),
]


def in_state(state: State) -> Revocation:
    """A clock that has come there."""
    clock = Revocation()
    if state is not State.NONE:
        clock.open()
    if state is State.CLOSING:
        clock.close_later()
    return clock


@pytest.mark.parametrize(("state", "flags", "step"), STEPS)
def test_2_2_what_a_call_does(state: State, flags: int, step: Step) -> None:
    """2.2: the table of states and calls; deciding changes nothing."""
    clock = in_state(state)
    before = clock.copy()
    assert clock.plan(flags, 0) == step
    assert clock.plan(flags | c.CHERI_REVOKE_TAKE_STATS, 0) == step
    assert (clock.clock, clock.state) == (before.clock, state)


def test_2_2_start_epoch() -> None:
    """2.2: a start epoch that is cleared already leaves nothing to do, unless it is ignored."""
    clock = Revocation(clock=4)
    assert clock.plan(LAST, 2) == Step.NOTHING
    assert clock.plan(LAST | IGNORE, 2) == Step.OPEN | Step.CLOSE
    assert clock.plan(LAST, 3) == Step.OPEN | Step.CLOSE
    assert clock.plan(LAST, 4) == Step.OPEN | Step.CLOSE


@pytest.mark.parametrize("flags", [ASYNC | LAST, 0x2, 0x8, 0x10, 0x40, 0x80, -1, 1 << 40])
def test_2_1_flags(flags: int) -> None:
    """2.1: ASYNC with LAST_PASS, flags that are gone, and unknown ones are refused in every state."""
    for state in State:
        with refused("2.1", "EINVAL"):
            in_state(state).plan(flags, 0)


@pytest.mark.parametrize("state", [State.INITED, State.CLOSING])
def test_2_2_an_epoch_that_is_given_up_stays_open(state: State) -> None:
    """2.2: after a pass that could not be carried out the next one closes the same epoch."""
    clock = in_state(state)
    clock.give_up()
    assert (clock.state, clock.clock) == (State.INITED, 1)
    clock.close()
    assert (clock.state, clock.clock) == (State.NONE, 2)


def test_f24_a_child_has_the_open_epoch() -> None:
    """F24, F11: the child goes on from the parent's clock, open if that is; a queued pass stays the parent's."""
    parent = in_state(State.CLOSING)
    parent.is_quarantining = True
    child = parent.copy()
    assert (child.state, child.clock, child.is_quarantining) == (State.INITED, 1, True)
    child.close()
    assert parent.state is State.CLOSING


ARENA = Pointer(128, 128, 512, permissions_for(c.PROT_READ | c.PROT_WRITE), True, False)


@pytest.mark.parametrize(
    ("arena", "name"),
    [
        (None, "EINVAL"),
        (ARENA._replace(tag=False), "EINVAL"),
        (ARENA._replace(base=16), "EINVAL"),
        (ARENA._replace(top=400), "EINVAL"),
        (ARENA._replace(permissions=0), "EPERM"),
    ],
)
def test_2_1_arena_of_a_shadow(arena: Pointer | None, name: str) -> None:
    """2.1: who may have which part of the shadow."""
    with refused("2.1", name):
        check_shadow(c.CHERI_REVOKE_SHADOW_NOVMEM, arena)
    check_shadow(c.CHERI_REVOKE_SHADOW_NOVMEM, ARENA)


def test_2_1_selectors() -> None:
    """2.1: all of it, and the published pair, are everybody's; nobody looks at object types; others are unknown."""
    check_shadow(c.CHERI_REVOKE_SHADOW_NOVMEM_ENTIRE, None)
    check_shadow(c.CHERI_REVOKE_SHADOW_INFO_STRUCT, None)
    with refused("2.1", "ENOSYS"):
        check_shadow(c.CHERI_REVOKE_SHADOW_OTYPE, ARENA)
    for selector in (2, 8, -1):
        with refused("2.1", "EINVAL"):
            check_shadow(selector, ARENA)
