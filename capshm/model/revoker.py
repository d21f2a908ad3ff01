"""What a revoker does, and with what: the implementations are in `capshm.revokers`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol


class World(Protocol):
    """The machine as a revoker sees it, in one call: some address spaces whose epoch begins or ends."""

    def stopped(self) -> AbstractContextManager[None]:
        """Inside, no thread of the machine touches a capability. What it raises is for the caller of the revoker."""

    def sweep_objects(self) -> None:
        """Sweep the objects that belong to the address spaces, mapped or not. Only while the machine is stopped."""

    def leave_private(self) -> None:
        """Have each process sweep its registers, hoards and private memory before its next operation.

        Only while the machine is stopped.
        """


class Revoker(Protocol):
    """Makes passes (cheribsd:2.4, 2.5).

    A revoker that works while the machine runs has its bits: page entries and load generations (native/page_table.h),
    capability-dirty bits among them.
    """

    @property
    def name(self) -> str:
        """As `Machine(revoker=...)` has it."""

    @property
    def can_revoke(self) -> bool:
        """False: revocation calls fail with ENOSYS, and what is freed is free at once."""

    def open(self, world: World) -> None:
        """An epoch begins: what must be done before the call that opens it returns."""

    def close(self, world: World) -> None:
        """The epoch ends: nothing is left of what was painted when it began. What this raises keeps the epoch open."""
