"""This process as the core sees it: attached, and how it forks.

The core keeps its state in private memory that a fork copies, and in memory that the kernel wipes in the child; the
hooks below give the child a slot of its own. A child that came without them (a raw clone in C) is refused everywhere
with `NotAttached`. The reasons are in native/process.h.

A process is attached to a machine (capshm.client), or, for `testing.Segment` and capabilities without memory, to a gate
of its own. This is the one place where the order of a fork stands:

    before     `request_lock` is taken; the member of a machine asks the broker, which plans the child; then the core
               keeps the other threads out and the passes waiting
    parent     the core lets everybody go on; the member drops what was for the child; signals come again, and the lock
               is released
    child      the core makes new locks and a slot; the member takes up its own connection and changes what the child
               does not inherit as it is; signals come again, and the lock is new

Where the first step fails the core's steps are left out, so that the child is unattached and every call tells it so.
The same holds for the child of a signal handler that forks amid a fork of its thread.

A handler may raise at any instruction of Python's. So what must be undone is done by hooks that have none: the core's
own functions and the lock's. What a hook in Python was kept from doing is made good by the next fork.
"""

from __future__ import annotations

import os
from _thread import RLock

from capshm._native import ffi, lib
from capshm.errors import CapshmError, NotAttached
from capshm.model.constants import ARENA_SIZE, ARENA_START

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Member(Protocol):
        """A machine's member, as a fork sees it."""

        def before_fork(self) -> bool:
            """False: the child can have no part in the machine. Never raises, whatever comes."""

        def after_fork_in_parent(self) -> None:
            """Also after a fork that failed."""

        def after_fork_in_child(self, *, is_attached: bool) -> None:
            """is_attached: the core has a slot for the child."""


_member: Member | None = None
_segments = 0
_arena_size = 0  # once there is one
_is_prepared = False  # between the hooks of a fork; the lock keeps forks of other threads out

request_lock = RLock()
"""Held from a request to the broker until its answer is carried out, and during a fork."""


class Turn:
    """A context in which a thread has the lock, and what other processes ask of this one waits (native/remote.h)."""

    __slots__ = ()

    def __enter__(self) -> None:
        request_lock.acquire()
        lib.capshm_remote_hold()

    def __exit__(self, *_: object) -> None:
        lib.capshm_remote_release()
        request_lock.release()


def ensure_attached() -> None:
    """Make this process the first of a gate of its own, unless it is attached already.

    CapshmError if the kernel refuses: the message names what to change. Nothing is kept then.
    """
    if not lib.capshm_is_attached():
        _attach(ARENA_SIZE, -1)


def ensure_alone() -> None:
    """The same for memory that no broker knows of; CapshmError in a process of a machine."""
    if _member is not None:
        raise CapshmError(f"process {os.getpid()} is in a machine, whose broker places all memory: no Segment here")
    ensure_attached()


def count_segment(difference: int) -> None:
    """Note that a segment without broker came or went."""
    global _segments
    _segments += difference


def join(member: Member, arena_size: int, gate: int) -> None:
    """Attach this process to the gate of a machine. CapshmError: it has segments without broker, or no room."""
    global _member
    if lib.capshm_is_attached():
        if _member is not None or _segments:
            raise CapshmError(
                f"process {os.getpid()} has memory that no broker knows of; close every testing.Segment first"
            )
        leave()
    _attach(arena_size, gate)
    _member = member


def leave() -> None:
    """Give up all mappings, slots, and the tags of all registers; the process may attach again."""
    global _member
    _member = None
    if lib.capshm_is_attached():
        lib.capshm_detach()


def _attach(arena_size: int, gate: int) -> None:
    global _arena_size
    if arena_size != (_arena_size or arena_size):
        raise CapshmError(
            f"process {os.getpid()} has an arena of {_arena_size >> 20} MiB since its first machine or segment, and "
            f"arena_size asks for {arena_size >> 20} MiB: the size cannot change within a process"
        )
    status = lib.capshm_attach(ARENA_START, arena_size, gate)
    if status == lib.STATUS_NOT_ATTACHED:
        raise NotAttached(f"process {os.getpid()} was forked by code that ran no hooks: it is not attached")
    if status == lib.STATUS_UNSUPPORTED:
        raise CapshmError(
            f"process {os.getpid()} may not call membarrier and pidfd_open: {os.strerror(ffi.errno)}; "
            "they need Linux 5.3 or later, and a seccomp filter that permits them"
        )
    if status:
        raise CapshmError(
            f"process {os.getpid()} cannot reserve its arena (arena_size) of {arena_size >> 20} MiB at "
            f"{ARENA_START:#x}: {os.strerror(ffi.errno)}; "
            "an address-space limit (ulimit -v) below that is the usual reason"
        )
    _arena_size = arena_size


def _before_fork() -> None:
    global _is_prepared
    if lib.capshm_fork_depth() > 1:
        return
    _is_prepared = False
    if _member is None or _member.before_fork():
        lib.capshm_fork_before()
        _is_prepared = True


def _after_fork_in_parent() -> None:
    if _member is not None and lib.capshm_fork_depth() == 0:
        _member.after_fork_in_parent()


def _after_fork_in_child() -> None:
    global _is_prepared
    status = lib.capshm_fork_in_child()  # whatever was prepared: it counts forks, too
    if not _is_prepared:
        status = lib.STATUS_NOT_ATTACHED
    _is_prepared = False
    if _member is not None:
        _member.after_fork_in_child(is_attached=not status)
    elif status:
        raise CapshmError(f"process {os.getpid()}, forked by {os.getppid()}, found no free slot: it is not attached")


# At import, so that no fork falls between attaching and registering, and so that `before` hooks of modules that were
# imported later, which may wait for locks, run before these keep the other threads out. They run in the opposite order.
os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
os.register_at_fork(before=lib.capshm_fork_begin, after_in_parent=lib.capshm_fork_in_parent)
os.register_at_fork(after_in_parent=_after_fork_in_parent)
os.register_at_fork(
    after_in_parent=lib.capshm_fork_restore_signals,
    after_in_child=lib.capshm_fork_restore_signals,
)
os.register_at_fork(
    before=lib.capshm_remote_hold,
    after_in_parent=lib.capshm_remote_release,
    after_in_child=lib.capshm_remote_release,
)
os.register_at_fork(
    before=request_lock.acquire,
    after_in_parent=request_lock.release,
    after_in_child=request_lock._at_fork_reinit,  # type: ignore[attr-defined]
)
