"""The revocation bitmap: a bit for each granule of the arena, set for what is to lose its capabilities (2.3)."""

from __future__ import annotations

import operator

from capshm._native import lib
from capshm._status import fail
from capshm.capability import Capability
from capshm.errors import BoundsViolation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import SupportsIndex


class Shadow:
    """The shadow of the addresses [start, end), or with no end of all. Painting revokes nothing by itself."""

    def __init__(self, start: SupportsIndex = 0, end: SupportsIndex | None = None) -> None:
        self._start = operator.index(start)
        self._end = None if end is None else operator.index(end)

    def paint(self, capability: Capability) -> None:
        """Paint every granule of the capability's bounds; the tag is not looked at.

        BoundsViolation outside this shadow: nothing is painted then.
        """
        self._set(capability, True)

    def clear(self, capability: Capability) -> None:
        """The reverse."""
        self._set(capability, False)

    def is_painted(self, address: SupportsIndex) -> bool:
        """Whether the granule of this address is painted."""
        return bool(lib.capshm_is_painted(operator.index(address) % (1 << 64)))

    def _set(self, capability: Capability, is_painted: bool) -> None:
        if not isinstance(capability, Capability):
            raise TypeError(f"a Capability is needed, not {type(capability).__name__}")
        what = "paint" if is_painted else "clear paint"
        if capability.base < self._start or (self._end is not None and capability.top > self._end):
            raise BoundsViolation(
                f"{what} {capability}: this shadow is that of [{self._start:#x}, {self._end or 1 << 64:#x})",
                code="PROT_CHERI_BOUNDS",
                address=capability.base,
                capability=capability,
            )
        status = lib.capshm_paint(capability._register, is_painted)
        if status:
            fail(status, what, capability)
