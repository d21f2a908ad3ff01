"""VMOs: memory objects that handles name (vmar:1.0, 1.2, 1.6, 1.10).

A VMO is a memory object as any other, and lives as long as a handle or a mapping names it. Its size is in whole pages,
its stream size in bytes.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from capshm.model import zircon_constants as z
from capshm.model.constants import OBJECT_SIZE_MAX, PAGE
from capshm.model.handles import KernelObject
from capshm.model.objects import Kind, MemoryObject
from capshm.model.pointer import round_up
from capshm.model.rules import ZxRefusal


class Vmo(MemoryObject, KernelObject):
    """A VMO. size: in bytes, whole pages. stream_size: in bytes; options: of its creation.

    owner: the address space that its capabilities are for, unless it is share-cap.
    """

    type: ClassVar[int] = z.OBJ_TYPE_VMO

    def __init__(
        self,
        number: int,
        size: int,
        stream_size: int,
        options: int,
        *,
        owner: int | None = None,
        is_share_cap: bool = False,
    ) -> None:
        MemoryObject.__init__(self, number, Kind.VMO, is_share_cap=is_share_cap)
        KernelObject.__init__(self)
        self.size = size
        self.stream_size = stream_size
        self.options = options
        if self.can_hold_capabilities and not is_share_cap:
            self.owner = owner

    @property
    def can_hold_capabilities(self) -> bool:
        """What was made to: its first handle has RIGHT_CAP."""
        return bool(self.options & (z.VMO_CAP | z.VMO_SHARE_CAP))

    @property
    def is_resizable(self) -> bool:
        """Whether its size may change."""
        return bool(self.options & z.VMO_RESIZABLE)

    @property
    def default_rights(self) -> int:
        """Of its first handle."""
        rights = z.DEFAULT_VMO_RIGHTS
        rights |= z.RIGHT_RESIZE if self.is_resizable else 0
        return rights | (z.RIGHT_CAP if self.can_hold_capabilities else 0)

    @property
    def stream_end(self) -> int:
        """Behind the page that holds the stream size, in bytes: where stream mappings begin to fault."""
        return round_up(self.stream_size)

    def check_range(self, offset: int, length: int, asked: str, *, rule: str = "vmar:VMO/3") -> None:
        """Refuse what passes the end."""
        if offset + length > self.size:
            raise ZxRefusal(
                rule,
                asked=asked,
                allowed=f"{self} has {self.size:#x} bytes",
                needed="a range that lies inside",
            )

    def __str__(self) -> str:
        """As a refusal names it."""
        return KernelObject.__str__(self)


_NEEDS_WRITE = (z.VMO_OP_COMMIT, z.VMO_OP_DECOMMIT, z.VMO_OP_ZERO)
_NEEDS_READ = (z.VMO_OP_DONT_NEED, z.VMO_OP_ALWAYS_NEED, z.VMO_OP_PREFETCH)


def check_operation(operation: int, offset: int, size: int, asked: str) -> int:
    """The right that vmo_op_range needs. Refused: no operation, or a DECOMMIT of parts of pages."""
    if operation not in _NEEDS_WRITE + _NEEDS_READ:
        raise ZxRefusal(
            "vmar:VMO/2",
            asked=asked,
            allowed="that is no operation",
            needed="COMMIT, DECOMMIT, ZERO, DONT_NEED, ALWAYS_NEED or PREFETCH",
        )
    if operation == z.VMO_OP_DECOMMIT and (offset % PAGE or size % PAGE):
        raise ZxRefusal(
            "vmar:VMO/2", asked=asked, allowed="only whole pages are given back", needed="whole pages, or ZERO"
        )
    return z.RIGHT_WRITE if operation in _NEEDS_WRITE else z.RIGHT_READ


class ChildPlan(NamedTuple):
    """What vmo_create_child makes: a copy of [offset, offset + size) of the parent, and its first handle's rights.

    It holds data alone, whatever the parent holds: no capability comes to be in two places without being stored there.
    """

    size: int
    options: int
    rights: int


_CHILD_OPTIONS = z.VMO_CHILD_SNAPSHOT | z.VMO_CHILD_SNAPSHOT_AT_LEAST_ON_WRITE
_CHILD_KNOWN = _CHILD_OPTIONS | z.VMO_CHILD_RESIZABLE | z.VMO_CHILD_NO_WRITE


def plan_child(rights: int, options: int, offset: int, size: int, asked: str) -> ChildPlan:
    """Decide about a snapshot. rights: of the parent's handle."""
    is_known = not options & ~_CHILD_KNOWN and options & _CHILD_OPTIONS in (
        z.VMO_CHILD_SNAPSHOT,
        z.VMO_CHILD_SNAPSHOT_AT_LEAST_ON_WRITE,
    )
    is_resizable = bool(options & z.VMO_CHILD_RESIZABLE)
    is_writable = not options & z.VMO_CHILD_NO_WRITE
    if not is_known or offset % PAGE or (is_resizable and not is_writable):
        raise ZxRefusal(
            "vmar:VMO/2",
            asked=asked,
            allowed="children are snapshots from whole pages on: VMO_CHILD_SNAPSHOT, or ..._AT_LEAST_ON_WRITE, with "
            "VMO_CHILD_RESIZABLE or VMO_CHILD_NO_WRITE",
            needed="such options, and a page's offset",
        )
    if is_writable:  # what can be written is not executed
        rights = rights & ~z.RIGHT_EXECUTE | z.RIGHT_WRITE
    else:
        rights &= ~z.RIGHT_WRITE
    rights = rights | z.RIGHT_RESIZE if is_resizable else rights & ~z.RIGHT_RESIZE
    rights &= ~z.RIGHT_CAP
    return ChildPlan(plan_size(size, asked), z.VMO_RESIZABLE if is_resizable else 0, rights)


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
