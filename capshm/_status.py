"""Turns what the core answers into what Python raises: one table, used by every wrapper."""

from __future__ import annotations

import os
from _thread import _local

from capshm import errors
from capshm._native import ffi, lib
from capshm.permissions import Permissions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import NoReturn

    from capshm.capability import Capability

_NONE = Permissions(0)

# status: error, code, what is wrong
_FAULTS: dict[int, tuple[type[errors.Fault], str, str]] = {
    lib.STATUS_TAG_VIOLATION: (errors.TagViolation, "PROT_CHERI_TAG", "the authority has no tag"),
    lib.STATUS_SEAL_VIOLATION: (errors.SealViolation, "PROT_CHERI_SEALED", "the authority is sealed"),
    lib.STATUS_PERMISSION_VIOLATION: (
        errors.PermissionViolation,
        "PROT_CHERI_PERM",
        "the authority lacks the permission",
    ),
    lib.STATUS_STORE_LOCAL_VIOLATION: (
        errors.PermissionViolation,
        "PROT_CHERI_STORELOCAL",
        "the value is tagged and not GLOBAL, and the authority lacks STORE_LOCAL",
    ),
    lib.STATUS_BOUNDS_VIOLATION: (errors.BoundsViolation, "PROT_CHERI_BOUNDS", "not inside the authority's bounds"),
    lib.STATUS_ALIGNMENT_VIOLATION: (
        errors.AlignmentViolation,
        "PROT_CHERI_UNALIGNED_BASE",
        "a capability lies at a multiple of 16",
    ),
    lib.STATUS_STORE_TAG_VIOLATION: (
        errors.StoreTagViolation,
        "SEGV_STORETAG",
        "the value is tagged and the page does not permit that capabilities are stored",
    ),
    lib.STATUS_PAGE_NOT_MAPPED: (errors.PageViolation, "SEGV_MAPERR", "nothing is mapped there"),
    lib.STATUS_PAGE_NOT_PERMITTED: (errors.PageViolation, "SEGV_ACCERR", "the page does not permit the access"),
    lib.STATUS_PAGE_BEYOND_OBJECT: (
        errors.PageViolation,
        "BUS_ADRERR",
        "past the end of the object, or no memory is left for its page",
    ),
}


_raised = _local()


def _keep(kind: type[BaseException], error: BaseException, traceback: TracebackType) -> bool:
    _raised.error = error
    return True


@ffi.def_extern(name="capshm_interruption", onerror=_keep)  # type: ignore[untyped-decorator]
def _run_signal_handlers() -> bool:
    """Whether the operation of a thread that waits at the closed gate is given up.

    Python runs handlers on entry to a function. What one raises is kept for `fail`; otherwise the wait goes on.
    """
    return False


lib.capshm_set_interruption(lib.capshm_interruption)


def fail(status: int, operation: str, capability: Capability | None = None, needed: Permissions = _NONE) -> NoReturn:
    """Raise the error that stands for `status`; the details are in the thread's fault record.

    operation: what was asked, for the message. capability: the authority, kept in a fault. needed: its permissions that
    the operation asks for, in this order; the core does not say which of them it missed.
    """
    if status == lib.STATUS_INTERRUPTED:
        raise _raised.__dict__.pop("error")
    record = lib.capshm_fault()
    who = f"process {os.getpid()}: {operation}"
    if status in _FAULTS:
        kind, code, reason = _FAULTS[status]
        through = "" if capability is None else f" through {capability}"
        if status == lib.STATUS_PERMISSION_VIOLATION and capability is not None:
            reason += "".join([f" {permission.name}" for permission in needed.without(capability.permissions)][:1])
        message = f"{who} at {record.address:#x}{through}: {reason}"
        if status == lib.STATUS_PAGE_BEYOND_OBJECT:
            raise errors.PageViolation(
                message, code=code, address=record.address, signal="SIGBUS", capability=capability
            )
        raise kind(message, code=code, address=record.address, capability=capability)
    if status == lib.STATUS_HOLDER_STOPPED:
        raise errors.HolderStopped(
            f"{who}: process {record.pid} has kept the tag line at {record.address:#x} locked for the whole lock "
            "timeout; nothing was changed",
            pid=record.pid,
        )
    if status == lib.STATUS_NOT_ATTACHED:
        raise errors.NotAttached(
            f"{who}: this process is not attached: it has left its machine, or was forked by code that ran no hooks"
        )
    if status == lib.STATUS_BROKER_GONE:
        raise errors.BrokerGone(
            f"{who}: the broker has ended in the middle of a revocation: nobody knows which capabilities are still good"
        )
    if status == lib.STATUS_GATE_CLOSED:
        raise errors.CapshmError(f"{who}: this thread has closed the gate, and would wait for itself")
    if status == lib.STATUS_NO_MEMORY:
        raise MemoryError(f"{who}: no register, slot, descriptor or memory is left")
    raise AssertionError(f"{who}: the core answered {status}")
