"""What a capability allows its holder to do: `Permissions`.

The numbers are those of the compiled core (native/encoding.h), which has them from CHERI ISAv9.
"""

from __future__ import annotations

import enum
import operator

from capshm._native import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import SupportsIndex


class Permissions(enum.Flag):
    """A set of capability permissions; immutable.

    Combine with `|` and `&`; take away with `without`. `Permissions(0)` allows nothing. The members are in the order
    of the raw bits: 0 to 11 have their meaning from hardware, 15 to 18 from software, and 12 to 14 do not exist.
    """

    GLOBAL = lib.PERMISSION_GLOBAL
    EXECUTE = lib.PERMISSION_EXECUTE
    LOAD = lib.PERMISSION_LOAD
    STORE = lib.PERMISSION_STORE
    LOAD_CAP = lib.PERMISSION_LOAD_CAP
    STORE_CAP = lib.PERMISSION_STORE_CAP
    STORE_LOCAL = lib.PERMISSION_STORE_LOCAL
    SEAL = lib.PERMISSION_SEAL
    CINVOKE = lib.PERMISSION_CINVOKE
    UNSEAL = lib.PERMISSION_UNSEAL
    SYSTEM_REGISTERS = lib.PERMISSION_SYSTEM_REGISTERS
    SET_CID = lib.PERMISSION_SET_CID
    SW0 = lib.PERMISSION_SW0
    SW1 = lib.PERMISSION_SW1
    SW2 = lib.PERMISSION_SW2
    SW3 = lib.PERMISSION_SW3

    SW_VMEM = lib.PERMISSION_SW_VMEM
    """CheriBSD's name for SW1: the holder may change the mappings of the memory."""

    @classmethod
    def from_raw(cls, raw: SupportsIndex) -> Permissions:
        """The permissions of a raw number, as `capshm.encoding.decode` returns it.

        TypeError if `raw` is not an int; ValueError, naming the bits, if it has any that are no permission.
        """
        number = operator.index(raw)
        if number < 0:
            raise ValueError(f"raw permissions must not be negative, not {number}")
        unknown = number & ~_ALL
        if unknown:
            bits = ", ".join(str(bit) for bit in range(unknown.bit_length()) if unknown >> bit & 1)
            raise ValueError(f"raw permissions {number:#x} have bits that are no permission: {bits}")
        return cls(number)

    @property
    def raw(self) -> int:
        """The permissions as a number, software ones from bit 15: the operand of the ISA's and-permissions."""
        return int(self.value)

    @property
    def letters(self) -> str:
        """The rights to memory in procstat's letters and order, `rwxRW`; those that are not held are left out."""
        return "".join(letter for letter, permission in _LETTERS if permission in self)

    def without(self, other: Permissions) -> Permissions:
        """These permissions less those of `other`."""
        return self & ~other

    def contains(self, other: Permissions) -> bool:
        """Whether all permissions of `other` are among these; so `Permissions(0)` is always contained."""
        return other in self


_ALL = int(lib.PERMISSIONS_ALL)

_LETTERS = (
    ("r", Permissions.LOAD),
    ("w", Permissions.STORE),
    ("x", Permissions.EXECUTE),
    ("R", Permissions.LOAD_CAP),
    ("W", Permissions.STORE_CAP),
)
