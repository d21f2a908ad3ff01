"""Turns what the core answers into what Python raises: one table, used by every wrapper."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NoReturn

from capshm import errors
from capshm._native import lib

if TYPE_CHECKING:
    from capshm.capability import Capability

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


def fail(status: int, operation: str, capability: Capability | None = None) -> NoReturn:
    """Raise the error that stands for `status`; the details are in the thread's fault record.

    operation: what was asked, for the message. capability: the authority, kept in a fault.
    """
    record = lib.capshm_fault()
    who = f"process {os.getpid()}: {operation}"
    if status in _FAULTS:
        kind, code, reason = _FAULTS[status]
        through = "" if capability is None else f" through {capability}"
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
    if status == lib.STATUS_GATE_CLOSED:
        raise errors.CapshmError(f"{who}: this thread has closed the gate, and would wait for itself")
    if status == lib.STATUS_NO_MEMORY:
        raise MemoryError(f"{who}: no register, slot or memory is left")
    raise AssertionError(f"{who}: the core answered {status}")
