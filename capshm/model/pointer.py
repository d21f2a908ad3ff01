"""The pointer that a call was given, what it authorises, and what the pointer that mmap returns will authorise."""

from __future__ import annotations

import functools
from typing import Final, NamedTuple

from capshm.model.constants import PAGE, PROT_EXEC, PROT_MAX_SHIFT, PROT_READ, PROT_WRITE
from capshm.model.rules import Refusal
from capshm.permissions import Permissions


class Pointer(NamedTuple):
    """A capability as an argument. permissions: the raw number, as in `Permissions.raw`."""

    address: int
    base: int
    top: int
    permissions: int
    tag: bool
    is_sealed: bool

    @property
    def is_null_derived(self) -> bool:
        """A mere number: what a program has without ever having had a capability."""
        return (self.tag, self.is_sealed, self.permissions, self.base, self.top) == (False, False, 0, 0, 1 << 64)

    @property
    def may_change_mappings(self) -> bool:
        """Whether it has SW_VMEM, which malloc and the linker take from the pointers that they hand out (C17)."""
        return bool(self.permissions & SW_VMEM)


Address = Pointer | int | None
"""What a call can be given as address: a capability, a number, or nothing."""

SW_VMEM: Final = Permissions.SW_VMEM.raw
_ALWAYS: Final = Permissions.GLOBAL | Permissions.SW_VMEM
_BY_PROT: Final = {
    PROT_READ: Permissions.LOAD | Permissions.LOAD_CAP,
    PROT_WRITE: Permissions.STORE | Permissions.STORE_CAP | Permissions.STORE_LOCAL,
    PROT_EXEC: Permissions.EXECUTE,
}


def round_down(number: int, unit: int = PAGE) -> int:
    """To a multiple of `unit`."""
    return number - number % unit


def round_up(number: int, unit: int = PAGE) -> int:
    """To a multiple of `unit`."""
    return -(-number // unit) * unit


@functools.lru_cache(maxsize=256)  # by the few protections that programs use
def permissions_for(prot: int) -> int:
    """Row A19: what the returned capability permits, from PROT_MAX if it was given, else from what is asked now.

    The permissions to load and store capabilities stay in it also where the page will lack them: that is judged at the
    page (6.3).
    """
    deciding = prot >> PROT_MAX_SHIFT or prot
    permissions = _ALWAYS
    for bit, granted in _BY_PROT.items():
        if deciding & bit:
            permissions |= granted
    return permissions.raw


def permissions_asked(prot: int) -> int:
    """What a pointer must permit for mmap to put this protection under it (C10)."""
    return permissions_for(prot & (PROT_READ | PROT_WRITE | PROT_EXEC)) & ~_ALWAYS.raw


def pages_of(address: Address, length: int, *, call: str, rule: str) -> tuple[int, int]:
    """The whole pages that a call is about, if the pointer covers all of them and may change mappings.

    rule: the call's row for a pointer that does not: B7, C15, H5 or I13.
    """
    if not isinstance(address, Pointer):
        place = "NULL" if address is None else f"the number {address:#x}"
        raise Refusal(
            rule,
            asked=f"{call} of {length} bytes at {place}",
            allowed="a number authorises nothing",
            needed="the capability of mmap",
        )
    start = round_down(address.address)
    end = max(start, round_up(address.address + max(length, 0)))
    is_covered = address.base <= start and end <= address.top
    if is_covered and address.tag and not address.is_sealed and address.may_change_mappings:
        return start, end
    bounds = f"[{address.base:#x}, {address.top:#x})"
    problems = {
        "the pointer has no tag": not address.tag,
        "the pointer is sealed": address.is_sealed,
        f"the pointer's bounds {bounds} do not cover the pages [{start:#x}, {end:#x})": not is_covered,
        "the pointer lacks SW_VMEM": not address.may_change_mappings,
    }
    raise Refusal(
        rule,
        asked=f"{call} of {length} bytes at {address.address:#x}",
        allowed=next(problem for problem, is_so in problems.items() if is_so),
        needed="a tagged, unsealed capability with SW_VMEM over all of these pages, as mmap returned it",
    )
