"""What tests of VMARs without processes need: one process's tree, its handles, and calls that decide and carry out."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import pytest

from capshm.model import zircon_constants as z
from capshm.model.address_space import AddressSpace, Entry
from capshm.model.constants import PAGE
from capshm.model.handles import HandleTable, Koids
from capshm.model.regions import EVERYTHING, Vmar
from capshm.model.rules import RULES, ZxRefusal
from capshm.model.vmar_changing import (
    Caller,
    commit_protect,
    commit_removal,
    plan_destroy,
    plan_operation,
    plan_protect,
    plan_unmap,
    rights_to_protect,
)
from capshm.model.vmar_mapping import (
    MapRequest,
    commit_allocate,
    commit_map,
    plan_allocate,
    plan_map,
    rights_to_allocate,
)
from capshm.model.vmar_options import handle_rights
from capshm.model.vmos import Vmo

R = z.VM_PERM_READ
RW = R | z.VM_PERM_WRITE
RX = R | z.VM_PERM_EXECUTE
RWX = RW | z.VM_PERM_EXECUTE
CAN_MAP = z.VM_CAN_MAP_READ | z.VM_CAN_MAP_WRITE | z.VM_CAN_MAP_EXECUTE
CAN_ALL = CAN_MAP | z.VM_CAN_MAP_SPECIFIC
CAN_CAP = CAN_ALL | z.VM_CAN_MAP_CAP
RC = R | z.VM_PERM_CAP
RWC = RW | z.VM_PERM_CAP
ROOT_RIGHTS = z.DEFAULT_VMAR_RIGHTS | handle_rights(EVERYTHING)
VMO_RIGHTS = z.DEFAULT_VMO_RIGHTS | z.RIGHT_EXECUTE
_numbers = count(1)


@contextmanager
def refused(rule: str, status: str) -> Iterator[None]:
    """What is inside is refused by a row, with its status and a message in three parts."""
    with pytest.raises(ZxRefusal) as caught:
        yield
    assert (caught.value.rule, caught.value.status) == (f"vmar:{rule}", z.STATUS[status]), caught.value.message
    assert caught.value.rule in RULES
    assert ". Needed: " in caught.value.message


class Zircon:
    """One process. Calls take and return values of handles; `space.check` holds after each."""

    def __init__(self, errors: str = "kernel") -> None:
        self.space = AddressSpace(1)
        self.table = HandleTable(Koids())
        self.errors = errors
        self.root = self.table.add(self.space.root, ROOT_RIGHTS)

    def vmo(self, pages: int = 1, options: int = 0, rights: int = VMO_RIGHTS) -> int:
        """A handle of a new VMO, executable unless rights say otherwise."""
        vmo = Vmo(next(_numbers), pages * PAGE, pages * PAGE, options, owner=self.space.serial)
        return self.table.add(vmo, rights | vmo.default_rights & z.RIGHT_CAP)

    def allocate(self, parent: int, options: int = CAN_ALL, offset: int = 0, size: int = 16 * PAGE) -> int:
        """vmar_allocate; the child's handle."""
        vmar, _ = self.table.find(parent, Vmar, rights_to_allocate(options), rule="vmar:1.1/1", asked="vmar_allocate")
        child = plan_allocate(vmar, options, offset, size)
        rights = commit_allocate(child)
        self.space.check()
        return self.table.add(child, rights)

    def map(
        self,
        vmar: int,
        options: int = RW,
        offset: int = 0,
        vmo: int | None = None,
        vmo_offset: int = 0,
        length: int = PAGE,
        *,
        has_xom: bool = False,
        barred: str | None = None,
    ) -> int:
        """vmar_map; the address."""
        region = self.table.find(vmar, Vmar, 0, rule="vmar:1.2/1", asked="vmar_map")
        memory = self.table.find(vmo or self.vmo(), Vmo, 0, rule="vmar:1.2/1", asked="vmar_map")
        plan = plan_map(MapRequest(options, offset, vmo_offset, length, has_xom), region, memory, barred=barred)
        commit_map(plan)
        self.space.check()
        return plan.entry.start

    def caller(self, vmar: int, rights: int, rule: str) -> Caller:
        """Who calls."""
        region, has = self.table.find(vmar, Vmar, rights, rule=rule, asked="a call")
        return Caller(region, has, self.errors)

    def protect(self, vmar: int, options: int, address: int, length: int = PAGE) -> None:
        """vmar_protect."""
        caller = self.caller(vmar, rights_to_protect(options), "vmar:1.3/1")
        commit_protect(caller, plan_protect(caller, options, address, length))
        self.space.check()

    def unmap(self, vmar: int, address: int, length: int = PAGE) -> None:
        """vmar_unmap."""
        commit_removal(plan_unmap(self.caller(vmar, 0, "vmar:1.4/1"), address, length))
        self.space.check()

    def destroy(self, vmar: int) -> None:
        """vmar_destroy."""
        commit_removal(plan_destroy(self.caller(vmar, z.RIGHT_OP_CHILDREN, "vmar:1.5/1")))
        self.space.check()

    def operate(self, vmar: int, operation: int, address: int, length: int = PAGE) -> list[Entry]:
        """What vmar_op_range acts on, in its order."""
        return list(plan_operation(self.caller(vmar, 0, "vmar:1.6/1"), operation, address, length))

    def without(self, handle: int, rights: int) -> int:
        """A duplicate that lacks these."""
        found = self.table.get(handle)
        assert found is not None
        return self.table.duplicate(handle, found.rights & ~rights)

    def without_children(self, handle: int) -> int:
        """A duplicate that lacks OP_CHILDREN."""
        return self.without(handle, z.RIGHT_OP_CHILDREN)

    def base(self, vmar: int) -> int:
        """Its first address."""
        return self.region(vmar).start

    def region(self, vmar: int) -> Vmar:
        """The VMAR itself."""
        return self.table.find(vmar, Vmar, 0, rule="vmar:1.7/1", asked="look")[0]

    def permissions(self, address: int, pages: int = 1) -> list[str]:
        """current/maximum of each page; "-" for a gap."""
        found = []
        for page in range(address, address + pages * PAGE, PAGE):
            entries = self.space.within(page, page + PAGE)
            found.append(f"{entries[0].current.letters}/{entries[0].maximum.letters}" if entries else "-")
        return found
