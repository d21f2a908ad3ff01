"""What a policy decides: the questions, each with the rows that it answers. The answers are in `capshm.policies`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from capshm.model.address_space import Entry
    from capshm.model.objects import Kind, MemoryObject


class Policy(Protocol):
    """Who may share capabilities through memory. A refusing answer is the full name of a rule."""

    @property
    def name(self) -> str:
        """As `Machine(policy=...)` has it."""

    def is_cap_implied(self, kind: Kind, is_shared: bool) -> bool:
        """A1 to A6: whether a mapping without PROT_CAP and PROT_NO_CAP has capability permission."""

    def makes_share_cap(self, *, asked: bool) -> bool:
        """D1, D2: whether a new object is for everybody. asked: it is made by O_SHARECAP, or by what is like it."""

    def refuse_share_cap_creation(self) -> str | None:
        """D1: whether O_SHARECAP is refused for a new object."""

    def refuse_anonymous_sharing(self, kind: Kind) -> str | None:
        """G1, H1: whether shared memory without a descriptor may be mapped with capability permission."""

    def refuse_foreign_capabilities(self, memory: MemoryObject, vmspace: int) -> str | None:
        """E1, E2, E4, E9, F17: whether an address space may map an object with capability permission."""

    def keeps_capabilities_at_fork(self, memory: MemoryObject) -> bool:
        """F2, F8: whether a child keeps the capability permission of a shared mapping."""

    def sees_objects_after_fork(self, memory: MemoryObject) -> bool:
        """F1: whether a child's private mapping goes on seeing the object where nobody has written yet, tags included.

        Otherwise the child gets copies of all its pages.
        """

    def refuse_inherit_share(self, entry: Entry) -> str | None:
        """I1, I2: whether memory that is the process's own, and can hold capabilities, may be shared with children."""
