"""Opening and creating shared memory: shm_open2 and memfd_create, in the order of checks of section 1.D."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from capshm.model.constants import SHM_ALLOW_SEALING, SHM_GROW_ON_WRITE, SHM_LARGEPAGE
from capshm.model.objects import Kind, MemoryObject, ObjectTable, check_path
from capshm.model.rules import Refusal

if TYPE_CHECKING:
    from capshm.model.knobs import Knobs
    from capshm.model.policy import Policy

_SHM_FLAGS = SHM_ALLOW_SEALING | SHM_GROW_ON_WRITE | SHM_LARGEPAGE


class OpenRequest(NamedTuple):
    """What is asked, in no system's bits: the face translates O_SHARECAP, whose bit is another flag of the host.

    path: None for SHM_ANON and memfds. access: os.O_RDONLY, os.O_RDWR, or whatever else was asked. unknown_flags: the
    bits that are none of the others. vmspace, uid: of the caller; has_room: whether it can take a descriptor.
    """

    path: str | None
    vmspace: int
    access: int = os.O_RDWR
    is_create: bool = True
    is_exclusive: bool = False
    is_truncate: bool = False
    is_share_cap: bool = False
    unknown_flags: int = 0
    mode: int = 0o600
    shm_flags: int = 0
    uid: int = 0
    kind: Kind = Kind.SHM
    has_room: bool = True

    def __str__(self) -> str:
        """As a refusal names it."""
        access = {os.O_RDONLY: "O_RDONLY", os.O_RDWR: "O_RDWR"}.get(self.access, f"access mode {self.access:#x}")
        flags = {
            "O_CREAT": self.is_create,
            "O_EXCL": self.is_exclusive,
            "O_TRUNC": self.is_truncate,
            "O_SHARECAP": self.is_share_cap,
            f"{self.unknown_flags:#x}": bool(self.unknown_flags),
        }
        call = "memfd_create" if self.kind is Kind.MEMFD else "shm_open"
        name = "SHM_ANON" if self.path is None else repr(self.path)
        return f"{call}({name}, {'|'.join([access, *(flag for flag, is_set in flags.items() if is_set)])})"


class OpenPlan(NamedTuple):
    """What is opened. object: one that exists, or a prepared one. is_truncated: O_TRUNC has an effect."""

    object: MemoryObject
    is_new: bool
    is_truncated: bool
    is_writable: bool


def plan_open(table: ObjectTable, policy: Policy, knobs: Knobs, request: OpenRequest) -> OpenPlan:
    """Decide whether and what to open. Refused by 1.D/1 to 1.D/10, D4, K1 and policy; a refusal changes nothing."""
    _check_flags(request)
    there = None
    if request.path is not None:
        check_path(request.path, str(request))
        there = table.names.get(request.path)
    _check_room(request)
    if there is None:
        _check_creation(policy, knobs, request)
        there, is_new = _new_object(table, policy, request), True
    else:
        _check_existing(there, request)
        is_new = False
    is_writable = request.access == os.O_RDWR
    return OpenPlan(there, is_new, request.is_truncate and is_writable and not is_new, is_writable)


def commit_open(table: ObjectTable, plan: OpenPlan) -> MemoryObject:
    """Enter a new object into the table; its memory exists. Cannot fail."""
    return table.add(plan.object) if plan.is_new else plan.object


def _check_flags(request: OpenRequest) -> None:
    """Steps 1 to 3."""
    if request.shm_flags & ~_SHM_FLAGS:
        raise Refusal(
            "cheribsd:1.D/1",
            asked=f"{request} with shmflags {request.shm_flags:#x}",
            allowed=f"the bits {request.shm_flags & ~_SHM_FLAGS:#x} have no meaning",
            needed="SHM_ALLOW_SEALING, SHM_GROW_ON_WRITE and SHM_LARGEPAGE only",
        )
    if request.access not in (os.O_RDONLY, os.O_RDWR):
        raise Refusal(
            "cheribsd:1.D/2",
            asked=str(request),
            allowed="shared memory is opened for reading, or for both",
            needed="O_RDONLY or O_RDWR",
        )
    if request.unknown_flags:
        raise Refusal(
            "cheribsd:1.D/3",
            asked=str(request),
            allowed=f"the bits {request.unknown_flags:#x} mean nothing for shared memory",
            needed="O_CREAT, O_EXCL, O_TRUNC, O_CLOEXEC and O_SHARECAP only",
        )


def _check_room(request: OpenRequest) -> None:
    """Steps 7 and 8."""
    if not request.has_room:
        raise Refusal(
            "cheribsd:1.D/7",
            asked=str(request),
            allowed="the process has no descriptor left",
            needed="a descriptor closed, or a higher limit (ulimit -n)",
        )
    if request.path is None and request.access == os.O_RDONLY:
        raise Refusal(
            "cheribsd:1.D/8",
            asked=str(request),
            allowed="what is new and has no name could never be written",
            needed="O_RDWR",
        )


def _check_creation(policy: Policy, knobs: Knobs, request: OpenRequest) -> None:
    """Step 9, and who may create an object for everybody (D1, K1)."""
    if request.path is not None and not request.is_create:
        raise Refusal(
            "cheribsd:1.D/9", asked=str(request), allowed="no object has this name", needed="O_CREAT, or another name"
        )
    if not request.is_share_cap:
        return
    rule = policy.refuse_share_cap_creation()
    if rule is not None:
        raise Refusal(
            rule,
            asked=str(request),
            allowed=f"under policy {policy.name!r} no object is made to share capabilities",
            needed="no O_SHARECAP, or another policy",
        )
    knobs.check(str(request))


def _check_existing(there: MemoryObject, request: OpenRequest) -> None:
    """Step 10. D5 as it is meant: O_SHARECAP is no obstacle where the object is share-cap."""
    if there.shm_flags & SHM_ALLOW_SEALING and not request.shm_flags & SHM_ALLOW_SEALING:
        raise Refusal(
            "cheribsd:1.D/10",
            asked=str(request),
            allowed=f"{there} may be sealed, and the request wants it unsealable",
            needed="SHM_ALLOW_SEALING",
            errno="EPERM",
        )
    if request.is_create and request.is_exclusive:
        raise Refusal(
            "cheribsd:1.D/10",
            asked=str(request),
            allowed=f"the name belongs to {there}",
            needed="a name that is free, or no O_EXCL",
            errno="EEXIST",
        )
    if request.is_share_cap and not there.is_share_cap:
        raise Refusal(
            "cheribsd:D4",
            asked=str(request),
            allowed=f"{there} was not created to share capabilities",
            needed="no O_SHARECAP, or an object that was created with it",
        )
    if request.shm_flags != there.shm_flags:
        raise Refusal(
            "cheribsd:1.D/10",
            asked=f"{request} with shmflags {request.shm_flags:#x}",
            allowed=f"{there} was created with {there.shm_flags:#x}",
            needed="the same shmflags",
            errno="EINVAL",
        )
    if not is_permitted(there, request.uid, is_writing=request.access == os.O_RDWR):
        raise Refusal(
            "cheribsd:1.D/10",
            asked=f"{request} by user {request.uid}",
            allowed=f"{there} has mode {there.mode:#o} and belongs to user {there.uid}",
            needed="a mode that lets this user in",
            errno="EACCES",
        )


def is_permitted(memory: MemoryObject, uid: int, *, is_writing: bool) -> bool:
    """Whether the mode bits let a user in; groups are not modelled, and root may all."""
    needed = 0o6 if is_writing else 0o4
    bits = memory.mode >> 6 if uid == memory.uid else memory.mode
    return uid == 0 or bits & needed == needed


def _new_object(table: ObjectTable, policy: Policy, request: OpenRequest) -> MemoryObject:
    """Rows D1, D2 and D7. It is not in the table yet."""
    memory = table.prepare(
        request.kind, owner=request.vmspace, is_share_cap=policy.makes_share_cap(asked=request.is_share_cap)
    )
    memory.name = request.path
    memory.is_large_page = bool(request.shm_flags & SHM_LARGEPAGE)
    memory.shm_flags, memory.mode, memory.uid = request.shm_flags, request.mode, request.uid
    return memory
