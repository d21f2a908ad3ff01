"""This process as the core sees it: attached, and how it forks.

The core keeps its state in private memory that a fork copies, and in memory that the kernel wipes in the child; the
hooks below give the child a slot of its own. A child that came without them (a raw clone in C) is refused everywhere
with `NotAttached`. The reasons are in native/process.h.
"""

from __future__ import annotations

import os

from capshm._native import ffi, lib
from capshm.errors import CapshmError, NotAttached

ARENA_BASE = 0x5500_0000_0000
"""First address of the arena, the same in every process, so that a capability's address is the real virtual address."""

ARENA_SIZE = 64 << 30
"""Bytes of the arena."""


def ensure_attached() -> None:
    """Make this process the first of a gate of its own, unless it is attached already.

    CapshmError if the kernel refuses: the message names what to change. Nothing is kept then.
    """
    if lib.capshm_is_attached():
        return
    status = lib.capshm_attach(ARENA_BASE, ARENA_SIZE, -1)
    if status == lib.STATUS_NOT_ATTACHED:
        raise NotAttached(f"process {os.getpid()} was forked by code that ran no hooks: it is not attached")
    if status == lib.STATUS_UNSUPPORTED:
        raise CapshmError(
            f"process {os.getpid()} may not call membarrier and pidfd_open: {os.strerror(ffi.errno)}; "
            "they need Linux 5.3 or later, and a seccomp filter that permits them"
        )
    if status:
        raise CapshmError(
            f"process {os.getpid()} cannot reserve its arena of {ARENA_SIZE >> 30} GiB at {ARENA_BASE:#x}: "
            f"{os.strerror(ffi.errno)}; "
            "an address-space limit (ulimit -v) below that is the usual reason"
        )


def _attach_child() -> None:
    status = lib.capshm_fork_in_child()
    if status:
        raise CapshmError(f"process {os.getpid()}, forked by {os.getppid()}, found no free slot: it is not attached")


# At import, so that no fork falls between attaching and registering, and so that `before` hooks of modules that were
# imported later, which may wait for locks, run before this one keeps the other threads out.
os.register_at_fork(
    before=lib.capshm_fork_before,
    after_in_parent=lib.capshm_fork_in_parent,
    after_in_child=_attach_child,
)
