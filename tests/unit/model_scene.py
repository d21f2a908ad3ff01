"""What tests of the model need: an address space, objects, and short forms of calls."""

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from capshm.model import constants as c
from capshm.model.address_space import AddressSpace, Entry
from capshm.model.inheritance import ForkPlan, commit_inherit, plan_fork, plan_inherit
from capshm.model.knobs import Knobs
from capshm.model.mapping import MapPlan, MapRequest, commit_map, commit_unmap, plan_map, plan_unmap
from capshm.model.objects import Descriptor, Kind, MemoryObject, ObjectTable
from capshm.model.opening import OpenPlan, OpenRequest, commit_open, plan_open
from capshm.model.pointer import Address, Pointer
from capshm.model.protection import commit_protect, plan_protect
from capshm.model.rules import RULES, Refusal
from capshm.permissions import Permissions
from capshm.policies import Policy
from capshm.policies.cheribsd import CheriBSD

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = c.PAGE
RW = c.PROT_READ | c.PROT_WRITE
RWC = RW | c.PROT_CAP
RWN = RW | c.PROT_NO_CAP
ANON = c.MAP_ANON | c.MAP_PRIVATE
ANON_SHARED = c.MAP_ANON | c.MAP_SHARED
ANYWHERE = Permissions.LOAD | Permissions.STORE


@contextmanager
def refused(rule: str, errno: str) -> "Iterator[pytest.ExceptionInfo[Refusal]]":
    """What is inside is refused by a row, with its errno and a message in three parts."""
    with pytest.raises(Refusal) as caught:
        yield caught
    full = rule if rule in RULES else f"cheribsd:{rule}"
    assert (caught.value.rule, caught.value.errno) == (full, c.ERRNO[errno])
    assert ". Needed: " in caught.value.message


class Process:
    """One address space on a machine, and calls on it that decide and carry out at once."""

    def __init__(self, policy: Policy | None = None, objects: ObjectTable | None = None, serial: int = 1) -> None:
        self.policy: Policy = policy or CheriBSD()
        self.objects = objects if objects is not None else ObjectTable()
        self.space = AddressSpace(serial)
        self.knobs = Knobs()
        self.plan: MapPlan

    def another(self, serial: int = 2) -> "Process":
        """An unrelated process of the same machine."""
        return Process(self.policy, self.objects, serial)

    def open(self, path: str | None = None, **request: object) -> OpenPlan:
        """shm_open, and what it made."""
        asked = OpenRequest(path, self.space.serial)._replace(**request)  # type: ignore[arg-type]
        plan = plan_open(self.objects, self.policy, self.knobs, asked)
        commit_open(self.objects, plan)
        return plan

    def shm(self, *, is_share_cap: bool = False, path: str | None = None) -> MemoryObject:
        """A shared memory object of this process."""
        return self.open(path, is_share_cap=is_share_cap).object

    def mmap(
        self,
        address: Address = None,
        length: int = PAGE,
        prot: int = RW,
        flags: int = ANON,
        memory: MemoryObject | None = None,
        *,
        is_writable: bool = True,
        offset: int = 0,
    ) -> Pointer:
        """The pointer that mmap returns."""
        descriptor = Descriptor(memory, is_writable, 1 << 30) if memory is not None else None
        request = MapRequest(address, length, prot, flags, descriptor, offset)
        plan = self.plan = plan_map(self.space, self.policy, self.knobs, request)
        made = None
        if plan.object_needed is not None:
            made = self.objects.prepare(plan.object_needed, owner=self.space.serial, is_share_cap=plan.is_share_cap)
            self.objects.add(made)
        commit_map(self.space, plan, made)
        self.space.check()
        start = plan.entry.start
        return Pointer(start, start, start + plan.length, plan.permissions, True, False)

    def share(self, memory: MemoryObject, prot: int = RWC, **arguments: bool) -> Pointer:
        """Map an object, shared."""
        return self.mmap(None, PAGE, prot, c.MAP_SHARED, memory, **arguments)

    def munmap(self, address: Address, length: int = PAGE) -> None:
        """Unmap."""
        commit_unmap(self.space, plan_unmap(self.space, address, length))
        self.space.check()

    def mprotect(self, address: Address, prot: int, length: int = PAGE) -> None:
        """Protect."""
        commit_protect(self.space, plan_protect(self.space, address, length, prot))
        self.space.check()

    def minherit(self, address: Address, inherit: int, length: int = PAGE) -> None:
        """Set the inheritance; memory that is to be shared gets its objects."""
        plan = plan_inherit(self.space, self.policy, address, length, inherit)
        made = [
            self.objects.add(
                self.objects.prepare(Kind.ANONYMOUS, owner=self.space.serial, is_share_cap=new.is_share_cap)
            )
            for new in plan.needs_object
        ]
        commit_inherit(self.space, plan, made)
        self.space.check()

    def fork(self, serial: int = 2) -> tuple["Process", ForkPlan]:
        """The child, and the plan that made it."""
        plan = plan_fork(self.space, self.policy, self.knobs, serial)
        plan.space.check()
        child = Process(self.policy, self.objects, serial)
        child.space = plan.space
        return child, plan

    def at(self, pointer: Pointer | int) -> Entry:
        """The entry at a pointer."""
        address = pointer.address if isinstance(pointer, Pointer) else pointer
        (entry,) = self.space.overlapping(address, address + 1)
        return entry

    def letters(self, pointer: Pointer | int) -> str:
        """Current and maximum permission there: "rwRW/rwRW"; "" where nothing is mapped."""
        address = pointer.address if isinstance(pointer, Pointer) else pointer
        return "".join(
            f"{entry.current.letters}/{entry.maximum.letters}" for entry in self.space.overlapping(address, address + 1)
        )


def moved(pointer: Pointer, offset: int) -> Pointer:
    """The pointer with another address."""
    return pointer._replace(address=pointer.address + offset)


def without_vmem(pointer: Pointer) -> Pointer:
    """As malloc hands it out."""
    return pointer._replace(permissions=pointer.permissions & ~Permissions.SW_VMEM.raw)


def untagged(pointer: Pointer) -> Pointer:
    """As it is after it was copied as bytes."""
    return pointer._replace(tag=False)
