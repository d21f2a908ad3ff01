"""The options of allocate, map and protect as numbers and as rights (vmar:1.13)."""

from __future__ import annotations

from typing import Final

from capshm.model import zircon_constants as z
from capshm.model.rights import Rights

PERMS: Final = z.VM_PERM_READ | z.VM_PERM_WRITE | z.VM_PERM_EXECUTE | z.VM_PERM_CAP
CAN_MAP: Final = z.VM_CAN_MAP_READ | z.VM_CAN_MAP_WRITE | z.VM_CAN_MAP_EXECUTE | z.VM_CAN_MAP_CAP
PLACING: Final = z.VM_SPECIFIC | z.VM_OFFSET_IS_UPPER_LIMIT | 0xFF << z.VM_ALIGN_BASE
_CAN_MAP_SHIFT: Final = 7
_KNOWN: Final = sum(z.OPTION_NAMES)
_ALIGNMENTS: Final = (0, *range(10, 33))

_RIGHTS: Final = {
    z.VM_PERM_READ: Rights.READ,
    z.VM_PERM_WRITE: Rights.WRITE,
    z.VM_PERM_EXECUTE: Rights.EXECUTE,
    z.VM_PERM_CAP: Rights.CAP,
}
_HANDLE_RIGHTS: Final = {
    Rights.READ: z.RIGHT_READ,
    Rights.WRITE: z.RIGHT_WRITE,
    Rights.EXECUTE: z.RIGHT_EXECUTE,
    Rights.CAP: z.RIGHT_CAP,
}


def permissions(options: int) -> Rights:
    """What the PERM options ask for."""
    asked = Rights(0)
    for option, right in _RIGHTS.items():
        if options & option:
            asked |= right
    return asked.settled()


def rights_options(rights: Rights) -> int:
    """The PERM options that stand for them."""
    return sum(option for option, right in _RIGHTS.items() if right & rights)


def flags_of(options: int) -> Rights:
    """What the CAN_MAP options ask for."""
    return permissions((options & CAN_MAP) >> _CAN_MAP_SHIFT)


def handle_rights(rights: Rights) -> int:
    """The rights of a handle that these permissions need."""
    return sum(number for right, number in _HANDLE_RIGHTS.items() if right & rights)


def rights_of_handle(handle: int) -> Rights:
    """The permissions that a handle's rights give."""
    found = Rights(0)
    for right, number in _HANDLE_RIGHTS.items():
        if handle & number:
            found |= right
    return found


def alignment(options: int) -> int:
    """In bytes; 1 if none is asked for."""
    power = options >> z.VM_ALIGN_BASE
    return 1 << power


def is_undefined(options: int) -> bool:
    """Whether a bit means nothing, or the alignment does not exist."""
    return bool(options & ~(_KNOWN | 0xFF << z.VM_ALIGN_BASE)) or options >> z.VM_ALIGN_BASE not in _ALIGNMENTS


def with_readable(options: int, *, has_xom: bool) -> int:
    """With PERM_READ, where PERM_READ_IF_XOM_UNSUPPORTED asks for it. has_xom: pages can be executed and not read."""
    if options & z.VM_PERM_READ_IF_XOM_UNSUPPORTED and not has_xom:
        return options | z.VM_PERM_READ
    return options


def needs_read(options: int, *, has_xom: bool) -> bool:
    """Whether WRITE, EXECUTE or CAP is asked for without READ, which no machine has."""
    if options & z.VM_PERM_READ:
        return False
    is_execute_only = has_xom and options & PERMS == z.VM_PERM_EXECUTE
    return bool(options & PERMS) and not (is_execute_only and options & z.VM_PERM_READ_IF_XOM_UNSUPPORTED)


def text(options: int) -> str:
    """PERM_READ|SPECIFIC, ALIGN 64 KiB."""
    names = [name for bit, name in z.OPTION_NAMES.items() if options & bit]
    unknown = options & ~(_KNOWN | 0xFF << z.VM_ALIGN_BASE)
    if unknown:
        names.append(f"{unknown:#x}")
    if options >> z.VM_ALIGN_BASE:
        names.append(f"ALIGN 2**{options >> z.VM_ALIGN_BASE}")
    return "|".join(names) or "no options"
