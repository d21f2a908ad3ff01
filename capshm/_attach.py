"""`attach` and `current`: all that a program needs that a machine has started, and cheap to import."""

from __future__ import annotations

from capshm import client


def attach() -> client.Facts:
    """Attach this process to the machine that has started its program by `spawn`; nothing, if it is attached already.

    CapshmError: there is no such machine; LayoutMismatch: it was built from other sources.
    """
    return client.attach().facts


def current() -> client.Facts:
    """This process's own view of its machine. NotAttached: it is in none."""
    return client.current().facts
