"""CheriBSD with pull request #2225: capabilities stay with the owner of an object unless it was made to share them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capshm.model.address_space import Entry
    from capshm.model.objects import Kind, MemoryObject


class CheriBSD:
    """The rows as they are written."""

    name = "cheribsd"

    def is_cap_implied(self, kind: Kind, is_shared: bool) -> bool:
        """A1, A2: private memory holds capabilities; A3 to A6: shared memory does if PROT_CAP says so."""
        return not is_shared

    def makes_share_cap(self, *, asked: bool) -> bool:
        """D1, D2: what was created with O_SHARECAP is for everybody, the rest is its creator's."""
        return asked

    def refuse_share_cap_creation(self) -> str | None:
        """D1: allowed."""
        return None

    def refuse_anonymous_sharing(self, kind: Kind) -> str | None:
        """G1, H1: allowed; such an object is for everybody."""
        return None

    def refuse_foreign_capabilities(self, memory: MemoryObject, vmspace: int) -> str | None:
        """E1, E9: the owner may, and everybody where the object is share-cap; E2, F17: nobody else ever."""
        return "cheribsd:E2" if memory.is_foreign_to(vmspace) else None

    def keeps_capabilities_at_fork(self, memory: MemoryObject) -> bool:
        """F2: the child is no owner; F8: it needs not be one."""
        return memory.is_share_cap

    def sees_objects_after_fork(self, memory: MemoryObject) -> bool:
        """F1: pages are copied when they are written, and are the object's until then."""
        return True

    def refuse_inherit_share(self, entry: Entry) -> str | None:
        """I1, I2: what is the process's own stays so."""
        return "cheribsd:I1" if entry.object is None else "cheribsd:I2"
