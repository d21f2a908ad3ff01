"""Trees of VMARs under any calls, through any handles: the properties of vmar.md 3.Y that need no process.

The sixth, that model and Linux agree about every page, is looked at after each call of tests/conformance/zircon.
"""

import random
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as with_seed
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from capshm.model import zircon_constants as z
from capshm.model.address_space import Entry
from capshm.model.constants import PAGE
from capshm.model.regions import Vmar
from capshm.model.rights import Rights
from capshm.model.rules import ZxRefusal
from tests.unit.vmar_scene import CAN_ALL, CAN_CAP, RC, RWC, Zircon

pytestmark = pytest.mark.slow

PAGES = 32  # of the VMAR that all of it happens in
WORDS = st.integers(0, 255)  # chooses among handles, or pages, modulo how many there are
PLACES = st.integers(0, PAGES)
COUNTS = st.sampled_from([1, 1, 2, 3, 4, 8, 0])
PERMS = st.sampled_from([0, 1, 1, 3, 3, 3, 5, 7, 2, RC, RWC, RWC])
FLAGS = st.sampled_from([CAN_CAP, CAN_CAP, CAN_ALL, CAN_CAP & ~z.VM_CAN_MAP_WRITE, z.VM_CAN_MAP_READ, 0])
DROPPED = st.sampled_from([0, 0, z.RIGHT_OP_CHILDREN, z.RIGHT_WRITE, z.RIGHT_EXECUTE, z.RIGHT_CAP, z.RIGHT_DUPLICATE])
OPERATIONS = st.sampled_from([1, 2, 3, 10, 12, 13, 14])

Pages = dict[int, tuple[int, Rights]]
"""By address: the number of the VMAR whose mapping it is, and what is permitted there now."""


class Trees(RuleBasedStateMachine):
    """One process, its VMARs and all handles that it ever had to them."""

    @initialize(errors=st.sampled_from(["kernel", "rfc"]))
    def begin(self, errors: str) -> None:
        """A VMAR in which all of it happens, one in it, one in that; and mappings in all three."""
        zircon = self.zircon = Zircon(errors)
        outer = zircon.allocate(zircon.root, CAN_CAP, size=PAGES * PAGE)
        middle = zircon.allocate(outer, CAN_CAP | z.VM_SPECIFIC, 8 * PAGE, 16 * PAGE)
        inner = zircon.allocate(middle, CAN_CAP | z.VM_SPECIFIC, 4 * PAGE, 8 * PAGE)
        self.vmars = [outer, middle, inner]
        self.base = zircon.base(outer)
        self.vmo = zircon.vmo(PAGES, z.VMO_CAP)
        for vmar, place, count in ((outer, 2, 6), (middle, 0, 4), (inner, 0, 6)):
            zircon.map(vmar, RWC | z.VM_SPECIFIC, place * PAGE, self.vmo, length=count * PAGE)

    def handle(self, word: int) -> int:
        """One that there is, or the root's; now and then one that was closed."""
        handles = [self.zircon.root, *self.vmars]
        if word % 16:
            handles = [handle for handle in handles if self.zircon.table.get(handle) is not None]
        return handles[word % len(handles)]

    def page(self, word: int) -> int:
        """The address of a page that is mapped; now and then of any."""
        mapped = sorted(self.pages()) if word % 8 else []
        return mapped[word % len(mapped)] if mapped else self.base + word % PAGES * PAGE

    def pages(self) -> Pages:
        """All that is mapped."""
        return {
            page: (entry.vmar if entry.vmar is not None else -1, entry.current)
            for entry in self.zircon.space.entries.values()
            for page in range(entry.start, entry.end, PAGE)
        }

    def attempt(self, handle: int, call: Callable[[], object], *, may_map: bool = False) -> bool:
        """Make a call through a handle, and see that it did only what it may. Whether it was not refused."""
        before, tree = self.pages(), self.tree()
        found = self.zircon.table.get(handle)
        own = found.object.number if found is not None and isinstance(found.object, Vmar) else -1
        unnamed = {vmar.number for vmar in self.zircon.space.root.vmars() if not vmar.handles}
        try:
            call()
        except ZxRefusal:
            assert (self.pages(), self.tree()) == (before, tree), "3: a refusal changes nothing"
            return False
        self.check_tree()
        for page, (vmar, current) in self.pages().items():
            old = before.get(page)
            if vmar != own:
                assert old is not None, "1: nothing is mapped in a sub-VMAR through an ancestor"
                assert old[0] == vmar
                assert current in old[1], "1: through an ancestor nothing is raised"
            if vmar in unnamed:
                assert old is not None, "7: what no handle names only shrinks"
                assert current in old[1]
            assert may_map or old is not None
        return True

    def tree(self) -> list[tuple[int, object]]:
        """The walk, as values."""
        return [
            (depth, each if isinstance(each, Entry) else (each.start, each.end))
            for depth, each in self.zircon.space.root.walk()
        ]

    def check_tree(self) -> None:
        """What is always so."""
        space = self.zircon.space
        space.check()  # 2: current within maximum within flags; 5: children apart, and in their parents
        walked = [each for _, each in space.root.walk() if isinstance(each, Entry)]
        assert walked == list(space.entries.values()), "5: the walk meets every mapping once, by address"

    @rule(who=WORDS, flags=FLAGS, place=PLACES, count=COUNTS, is_specific=st.booleans())
    def allocate(self, who: int, flags: int, place: int, count: int, is_specific: bool) -> None:
        """A VMAR somewhere, or at a place."""
        handle = self.handle(who)
        options = flags | z.VM_SPECIFIC if is_specific else flags
        if handle == self.zircon.root:
            return
        made: list[int] = []

        def call() -> None:
            made.append(self.zircon.allocate(handle, options, place * PAGE if is_specific else 0, count * PAGE))

        if self.attempt(handle, call):
            self.vmars += made

    @rule(who=WORDS, perms=PERMS, place=PLACES, count=COUNTS, how=st.sampled_from([0, z.VM_SPECIFIC, 1 << 5]))
    def map(self, who: int, perms: int, place: int, count: int, how: int) -> None:
        """A part of the VMO, somewhere, at a place, or over what is there."""
        handle = self.handle(who)
        offset = place * PAGE if how else 0
        if handle == self.zircon.root:
            return
        self.attempt(
            handle,
            lambda: self.zircon.map(handle, perms | how, offset, self.vmo, place * PAGE, count * PAGE),
            may_map=True,
        )

    @rule(who=WORDS, perms=PERMS, where=WORDS, count=COUNTS)
    def protect(self, who: int, perms: int, where: int, count: int) -> None:
        """Any pages, through any handle."""
        handle, address = self.handle(who), self.page(where)
        self.attempt(handle, lambda: self.zircon.protect(handle, perms, address, count * PAGE))

    @rule(who=WORDS, where=WORDS, count=COUNTS)
    def unmap(self, who: int, where: int, count: int) -> None:
        """Any pages, through any handle."""
        handle, address = self.handle(who), self.page(where)
        self.attempt(handle, lambda: self.zircon.unmap(handle, address, count * PAGE))

    @rule(who=WORDS)
    def destroy(self, who: int) -> None:
        """Any but the one that all of it happens in."""
        handle = self.handle(who)
        if self.zircon.table.get(handle) is not None and self.zircon.base(handle) == self.base:
            return
        self.attempt(handle, lambda: self.zircon.destroy(handle))

    @rule(who=WORDS, operation=OPERATIONS, where=WORDS, count=COUNTS)
    def operate(self, who: int, operation: int, where: int, count: int) -> None:
        """No operation changes the tree."""
        handle, address = self.handle(who), self.page(where)
        before = self.tree()
        self.attempt(handle, lambda: self.zircon.operate(handle, operation, address, count * PAGE))
        assert self.tree() == before

    @rule(who=WORDS, dropped=DROPPED, is_replaced=st.booleans())
    def duplicate(self, who: int, dropped: int, is_replaced: bool) -> None:
        """4: rights never grow, and what a handle lacks it cannot give."""
        handle = self.handle(who)
        old = self.zircon.table.get(handle)
        if old is None or (handle == self.zircon.root and is_replaced):
            return
        call = self.zircon.table.replace if is_replaced else self.zircon.table.duplicate
        try:
            value = call(handle, old.rights & ~dropped)
        except ZxRefusal:
            assert not old.rights & z.RIGHT_DUPLICATE
            return
        new = self.zircon.table.get(value)
        assert new is not None
        assert new.rights & ~old.rights == 0
        self.vmars.append(value)

    @rule(who=WORDS)
    def close(self, who: int) -> None:
        """Closing changes nothing in the tree."""
        handle = self.handle(who)
        before = self.tree()
        if handle != self.zircon.root:
            self.zircon.table.close(handle)
        assert self.tree() == before


@pytest.mark.parametrize("depth", [10, 60])
def test_trees_of_vmars(depth: int) -> None:
    """Short runs, that fail shortly, and long ones."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chosen = settings(
        max_examples=100,
        stateful_step_count=depth,
        deadline=None,
        database=None,
        print_blob=True,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(with_seed(seed)(Trees), settings=chosen)
