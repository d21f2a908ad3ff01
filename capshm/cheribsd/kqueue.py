"""A kernel queue that keeps capabilities for its user: a hoard that revocation reaches (cheribsd:2.4, point 3)."""

from __future__ import annotations

import errno
import operator
import os
from typing import TYPE_CHECKING

from capshm import client, errors
from capshm.capability import Capability

if TYPE_CHECKING:
    from typing import SupportsIndex


class KQueue:
    """User events, each with a capability as its data. What is registered here lies in the register file, as values in
    variables do, and is swept with it. A child of fork does not get the queue: there its calls are Refused with EBADF.
    """

    def __init__(self) -> None:
        self._vmspace = client.current().facts.vmspace
        self._events: dict[int, Capability] = {}

    def register(self, ident: SupportsIndex, capability: Capability) -> None:
        """Add a user event, or give the one of that number another value."""
        number = operator.index(ident)
        if not isinstance(capability, Capability):
            raise TypeError(f"a Capability is needed, not {type(capability).__name__}")
        self._check()
        self._events[number] = capability + 0  # a copy, as the kernel's is: a register of its own

    def collect(self) -> list[tuple[int, Capability]]:
        """All events with their data, by the order of registering; they stay registered."""
        self._check()
        return [(number, value + 0) for number, value in self._events.items()]

    def _check(self) -> None:
        if client.current().facts.vmspace != self._vmspace:
            raise errors.Refused(
                f"process {os.getpid()}: a kqueue belongs to the process that made it, and fork does not pass it on",
                errno=errno.EBADF,
                rule="cheribsd:MAN",
            )


def kqueue() -> KQueue:
    """A new queue without events."""
    return KQueue()
