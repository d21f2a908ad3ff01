"""CheriBSD before pull request #2225: whoever has the memory has the capabilities in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capshm.model.objects import Kind

if TYPE_CHECKING:
    from capshm.model.address_space import Entry
    from capshm.model.objects import MemoryObject


class Open:
    """Every object is share-cap, and shared memory implies capability permission."""

    name = "open"

    def is_cap_implied(self, kind: Kind, is_shared: bool) -> bool:
        """A1 to A6: for all memory that can hold capabilities; not for shared files (A3)."""
        return not (is_shared and kind is Kind.FILE)

    def makes_share_cap(self, *, asked: bool) -> bool:
        """D1, D2: nobody owns anything."""
        return True

    def refuse_share_cap_creation(self) -> str | None:
        """D1: allowed, and makes no difference."""
        return None

    def refuse_anonymous_sharing(self, kind: Kind) -> str | None:
        """G1, H1: allowed."""
        return None

    def refuse_foreign_capabilities(self, memory: MemoryObject, vmspace: int) -> str | None:
        """E2, E4, E5: allowed."""
        return None

    def keeps_capabilities_at_fork(self, memory: MemoryObject) -> bool:
        """F2, F8: kept."""
        return True

    def sees_objects_after_fork(self, memory: MemoryObject) -> bool:
        """F1: pages are copied when they are written, and are the object's until then."""
        return True

    def refuse_inherit_share(self, entry: Entry) -> str | None:
        """I1, I2: allowed."""
        return None
