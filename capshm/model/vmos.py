"""VMOs: memory objects that handles name (vmar.md 1.0, 1.2, 1.6, 1.10).

A VMO is a memory object as any other, and lives as long as a handle or a mapping names it. Its size is in whole pages,
its stream size in bytes.
"""

from __future__ import annotations

from typing import ClassVar

from capshm.model import zircon_constants as z
from capshm.model.constants import OBJECT_SIZE_MAX, PAGE
from capshm.model.handles import KernelObject
from capshm.model.objects import Kind, MemoryObject
from capshm.model.pointer import round_up
from capshm.model.rules import ZxRefusal


class Vmo(MemoryObject, KernelObject):
    """A VMO. size: in bytes, whole pages. stream_size: in bytes; options: of its creation."""

    type: ClassVar[int] = z.OBJ_TYPE_VMO

    def __init__(self, number: int, size: int, stream_size: int, options: int) -> None:
        MemoryObject.__init__(self, number, Kind.VMO)
        KernelObject.__init__(self)
        self.size = size
        self.stream_size = stream_size
        self.options = options

    @property
    def can_hold_capabilities(self) -> bool:
        """Not in this version: no right to them can be asked for."""
        return False

    @property
    def is_resizable(self) -> bool:
        """Whether its size may change."""
        return bool(self.options & z.VMO_RESIZABLE)

    @property
    def default_rights(self) -> int:
        """Of its first handle."""
        return z.DEFAULT_VMO_RIGHTS | (z.RIGHT_RESIZE if self.is_resizable else 0)

    def check_range(self, offset: int, length: int, asked: str) -> None:
        """Refuse what passes the end."""
        if offset + length > self.size:
            raise ZxRefusal(
                "vmar:VMO/3",
                asked=asked,
                allowed=f"{self} has {self.size:#x} bytes",
                needed="a range that lies inside",
            )

    def __str__(self) -> str:
        """As a refusal names it."""
        return KernelObject.__str__(self)


def plan_size(size: int, asked: str) -> int:
    """The size in whole pages. Refused: larger than an object of this machine can be."""
    if size > OBJECT_SIZE_MAX - PAGE:
        raise ZxRefusal(
            "vmar:VMO/3",
            asked=asked,
            allowed=f"objects of this machine have less than {OBJECT_SIZE_MAX:#x} bytes",
            needed="a smaller size",
        )
    return round_up(size)
