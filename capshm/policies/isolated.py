"""No capability ever crosses an address space: like `cheribsd`, without what is made to share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capshm.policies.cheribsd import CheriBSD

if TYPE_CHECKING:
    from capshm.model.objects import Kind, MemoryObject


class Isolated(CheriBSD):
    """What differs from `cheribsd`; refusals that are only this policy's have its name as their rule."""

    name = "isolated"

    def makes_share_cap(self, *, asked: bool) -> bool:
        """D1: nothing is for everybody."""
        return False

    def refuse_share_cap_creation(self) -> str | None:
        """D1: refused."""
        return "isolated"

    def refuse_anonymous_sharing(self, kind: Kind) -> str | None:
        """G1, H1: only data is shared."""
        return "isolated"

    def keeps_capabilities_at_fork(self, memory: MemoryObject) -> bool:
        """F2, F8: never."""
        return False

    def sees_objects_after_fork(self, memory: MemoryObject) -> bool:
        """F1: the child's own copies, so that nothing that is stored later reaches it."""
        return False
