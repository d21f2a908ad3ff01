"""Revocation as its calls see it: a clock, its states, and what a call does in each (cheribsd:2.1 to 2.3).

Every address space has a clock. Even: no epoch is open; odd: one is. A freer paints, reads `enqueue`, and may use the
memory again when `is_cleared(dequeue, what it read)`: after a whole epoch that began when the paint was there. Paint
that came while an epoch was open may have come too late for it, so that one does not count.

    state      clock   no LAST_PASS           LAST_PASS                          ASYNC
    NONE       even    opens                  opens, sweeps, closes              opens, and the broker will close
    INITED     odd     nothing                sweeps, closes                     the broker will close
    CLOSING    odd     nothing                sweeps, closes: before the broker  nothing: the broker is about to close

CheriBSD's INITING, and CLOSING as a state of other threads' passes, are met by nobody here: a pass is one step of the
broker's one thread. Where a sweep cannot be carried out, because somebody could not be stopped or the broker has died,
the epoch stays open, and what has lost its tag stays so; the next pass begins again.

Nothing here stops or sweeps; what a call has to do is decided before, and `close` comes after it was done.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Final

from capshm.model.constants import (
    CHERI_REVOKE_ASYNC,
    CHERI_REVOKE_IGNORE_START,
    CHERI_REVOKE_LAST_PASS,
    CHERI_REVOKE_SHADOW_INFO_STRUCT,
    CHERI_REVOKE_SHADOW_NOVMEM,
    CHERI_REVOKE_SHADOW_NOVMEM_ENTIRE,
    CHERI_REVOKE_SHADOW_OTYPE,
    CHERI_REVOKE_TAKE_STATS,
)
from capshm.model.epochs import CLOCK_MASK, Epochs, is_cleared
from capshm.model.pointer import Pointer
from capshm.model.rules import Refusal

GRANULE: Final = 16
ARENA_UNIT: Final = 8 * GRANULE
"""A shadow is handed out by whole bytes: 8 granules each."""

_KNOWN: Final = (
    CHERI_REVOKE_LAST_PASS | CHERI_REVOKE_IGNORE_START | CHERI_REVOKE_ASYNC | CHERI_REVOKE_TAKE_STATS
)  # fmt: skip


class State(enum.Enum):
    """See the table above; the values are the words of `capshm ps`."""

    NONE = "none"
    INITED = "inited"
    CLOSING = "closing"


class Step(enum.Flag):
    """What a call has to do, in this order."""

    NOTHING = 0
    OPEN = enum.auto()
    CLOSE = enum.auto()
    CLOSE_LATER = enum.auto()


@dataclass(slots=True)
class Revocation:
    """The clock of one address space. is_quarantining: what it unmaps is not used again before it was revoked."""

    clock: int = 0
    state: State = State.NONE
    is_quarantining: bool = False

    @property
    def epochs(self) -> Epochs:
        """What is published: at rest both are the clock."""
        return Epochs(self.clock, self.clock & ~1)

    @property
    def is_closed(self) -> bool:
        """Whether no epoch is open."""
        return self.state is State.NONE

    def plan(self, flags: int, start_epoch: int) -> Step:
        """What `cheri_revoke(flags, start_epoch)` has to do. Refused by 2.1 for flags; nothing is changed."""
        if flags & ~_KNOWN or flags & (CHERI_REVOKE_ASYNC | CHERI_REVOKE_LAST_PASS) == (
            CHERI_REVOKE_ASYNC | CHERI_REVOKE_LAST_PASS
        ):
            raise Refusal(
                "cheribsd:2.1",
                asked=f"cheri_revoke({flags:#x})",
                allowed=f"the flags {flags & ~_KNOWN:#x} are unknown"
                if flags & ~_KNOWN
                else "with CHERI_REVOKE_ASYNC somebody else closes the epoch, with CHERI_REVOKE_LAST_PASS this call",
                needed="LAST_PASS or ASYNC, IGNORE_START, TAKE_STATS",
            )
        if not flags & CHERI_REVOKE_IGNORE_START and is_cleared(self.clock, start_epoch):
            return Step.NOTHING
        step = Step.OPEN if self.state is State.NONE else Step.NOTHING
        if flags & CHERI_REVOKE_LAST_PASS:
            return step | Step.CLOSE
        if flags & CHERI_REVOKE_ASYNC and self.state is not State.CLOSING:
            return step | Step.CLOSE_LATER
        return step

    def open(self) -> None:
        """An epoch begins."""
        assert self.state is State.NONE, "one epoch at a time"
        self.clock = (self.clock + 1) & CLOCK_MASK
        self.state = State.INITED

    def close_later(self) -> None:
        """The broker will close the epoch."""
        assert self.state is State.INITED, "of an open epoch"
        self.state = State.CLOSING

    def give_up(self) -> None:
        """The epoch could not be closed: it stays open, and somebody has to ask again."""
        assert self.state is not State.NONE, "of an open epoch"
        self.state = State.INITED

    def close(self) -> None:
        """Everything has been swept."""
        assert self.state is not State.NONE, "of an open epoch"
        self.clock = (self.clock + 1) & CLOCK_MASK
        self.state = State.NONE

    def copy(self) -> Revocation:
        """A child's at its fork: an open epoch is open there, too, and its own to close (F24)."""
        return replace(self, state=State.NONE if self.state is State.NONE else State.INITED)


def check_shadow(selector: int, arena: Pointer | None) -> None:
    """Refuse, by 2.1, a shadow that there is not, or a part of one to who has no right to it."""
    asked = f"cheri_revoke_get_shadow({selector})"
    if selector == CHERI_REVOKE_SHADOW_OTYPE:
        raise Refusal(
            "cheribsd:2.1",
            asked=asked,
            allowed="no revoker looks at object types",
            needed="CHERI_REVOKE_SHADOW_NOVMEM",
            errno="ENOSYS",
        )
    if selector in (CHERI_REVOKE_SHADOW_INFO_STRUCT, CHERI_REVOKE_SHADOW_NOVMEM_ENTIRE):
        return
    if selector != CHERI_REVOKE_SHADOW_NOVMEM or arena is None or not arena.tag:
        raise Refusal(
            "cheribsd:2.1",
            asked=asked,
            allowed="the selector is unknown"
            if selector != CHERI_REVOKE_SHADOW_NOVMEM
            else "the arena is no tagged capability",
            needed="CHERI_REVOKE_SHADOW_NOVMEM with the capability of mmap, NOVMEM_ENTIRE or INFO_STRUCT",
        )
    if not arena.may_change_mappings:
        raise Refusal(
            "cheribsd:2.1",
            asked=asked,
            allowed="the arena lacks SW_VMEM: who may not change mappings may not revoke them",
            needed="the capability that mmap returned",
            errno="EPERM",
        )
    if arena.base % ARENA_UNIT or arena.top % ARENA_UNIT:
        raise Refusal(
            "cheribsd:2.1",
            asked=f"{asked} of [{arena.base:#x}, {arena.top:#x})",
            allowed="a byte of the shadow stands for 128 bytes",
            needed=f"an arena whose base and length are multiples of {ARENA_UNIT}",
        )


def refuse_without_revoker(call: str) -> Refusal:
    """What a machine without a revoker answers to every such call."""
    return Refusal(
        "cheribsd:2.1",
        asked=call,
        allowed="the machine was made with revoker='none'",
        needed="another revoker",
        errno="ENOSYS",
    )
