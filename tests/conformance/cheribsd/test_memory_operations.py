"""cheribsd:5.3, 6.3: memory operations through a capability: which check comes first, and what becomes of tags.

Not expressible here, because no operation of the API stands for it: the atomic swap.
"""

import os
from collections.abc import Callable

import pytest

from capshm import (
    AlignmentViolation,
    BoundsViolation,
    Capability,
    Fault,
    PageViolation,
    Permissions,
    PermissionViolation,
    SealViolation,
    StoreTagViolation,
    TagViolation,
)
from capshm._native import lib
from capshm.capability import make
from capshm.model.constants import ARENA_SIZE, ARENA_START
from capshm.testing import Segment
from tests.conformance.cheribsd.support import ONLY_RVY, ONLY_V9

P = Permissions
GRANULE = 16
LINE = 1024
PAGE = 4096


@pytest.fixture
def unmapped(root: Capability) -> Capability:
    """The same rights to a place where nothing is mapped, at the end of the arena."""
    place = make(ARENA_START + ARENA_SIZE - root.length, int(lib.METADATA_ROOT), tag=True)
    return place.with_bounds(root.length).with_permissions(root.permissions)


def local(root: Capability) -> Capability:
    """A tagged value without GLOBAL."""
    return root.with_permissions(root.permissions.without(P.GLOBAL))


def without(authority: Capability, permission: Permissions) -> Capability:
    """The authority, less these permissions."""
    return authority.with_permissions(authority.permissions.without(permission))


def fill(authority: Capability, granules: range) -> list[Capability]:
    """Store a different tagged value in each granule and return the values."""
    values = [authority.with_bounds(64 + number) for number in granules]
    authority.store_capabilities(granules.start * GRANULE, values)
    return values


def tagged(authority: Capability, count: int) -> set[int]:
    """The numbers of the tagged ones among the first granules."""
    return {number for number, tag in enumerate(authority.load_capabilities(0, count).tags) if tag}


# The order of checks

STEPS: dict[str, tuple[type[Fault], str]] = {
    "tag": (TagViolation, "PROT_CHERI_TAG"),
    "seal": (SealViolation, "PROT_CHERI_SEALED"),
    "load": (PermissionViolation, "PROT_CHERI_PERM"),
    "store": (PermissionViolation, "PROT_CHERI_PERM"),
    "store capability": (PermissionViolation, "PROT_CHERI_PERM"),
    "store local": (PermissionViolation, "PROT_CHERI_STORELOCAL"),
    "bounds": (BoundsViolation, "PROT_CHERI_BOUNDS"),
    "alignment": (AlignmentViolation, "PROT_CHERI_UNALIGNED_BASE"),
    "not mapped": (PageViolation, "SEGV_MAPERR"),
    "read-only": (PageViolation, "SEGV_ACCERR"),
    "no capabilities": (StoreTagViolation, "SEGV_STORETAG"),
}
"""What may be wrong with an access, with the fault that says so."""

PAGES = {"read-only": "r", "no capabilities": "rwR"}
TAKEN = {"load": P.LOAD, "store": P.STORE, "store capability": P.STORE_CAP, "store local": P.STORE_LOCAL}

LOAD_DATA = ["tag", "seal", "load", "bounds", "not mapped"]
STORE_DATA = ["tag", "seal", "store", "bounds", "not mapped"]
LOAD = ["tag", "seal", "load", "bounds", "alignment", "not mapped"]
STORE = ["tag", "seal", "store", "store capability", "store local", "bounds", "alignment", "not mapped"]
STORE_RVY = [step for step in STEPS if step in STORE and step not in ("store capability", "store local")]


def read_only(steps: list[str]) -> list[str]:
    """The same order with a page that is mapped, and not writable."""
    return [*steps[:-1], "read-only"]


Access = Callable[[Capability, int, Capability], object]
ACCESSES: dict[str, tuple[Access, list[list[str]]]] = {
    "read": (lambda authority, offset, _: authority.read(offset, GRANULE), [LOAD_DATA]),
    "view": (lambda authority, offset, _: authority.view(offset, GRANULE), [LOAD_DATA]),
    "writable view": (
        lambda authority, offset, _: authority.view(offset, GRANULE, writable=True),
        [LOAD_DATA, STORE_DATA, read_only(STORE_DATA)],
    ),
    "write": (
        lambda authority, offset, _: authority.write(offset, bytes(GRANULE)),
        [STORE_DATA, read_only(STORE_DATA)],
    ),
    "load": (lambda authority, offset, _: authority.load_capability(offset), [LOAD]),
    "load many": (lambda authority, offset, _: authority.load_capabilities(offset, 1), [LOAD]),
    "store": (lambda authority, offset, value: authority.store_capability(offset, value), []),
    "store many": (lambda authority, offset, value: authority.store_capabilities(offset, [value]), []),
    "fill": (lambda authority, offset, value: authority.fill_capabilities(offset, 1, value), []),
}
STORES = ["store", "store many", "fill"]


def wrong_access(segment: Segment, unmapped: Capability, wrong: list[str], *, move: int = 0) -> Capability:
    """A capability with all of these defects, at this place; `bounds` and `alignment` are defects of the place."""
    if wrong[-1] == "not mapped":
        authority = unmapped + move
    else:
        authority = segment.map(PAGES.get(wrong[-1], "rwRW")) + move
    for step in wrong:
        if step in TAKEN:
            authority = without(authority, TAKEN[step])
    if "seal" in wrong:
        authority = authority.seal_entry()
    return authority.without_tag() if "tag" in wrong else authority


def wrong_place(segment: Segment, wrong: list[str]) -> int:
    """An offset with these defects."""
    return segment.length - 8 if "bounds" in wrong else 8 if "alignment" in wrong else 0


def assert_order(segment: Segment, unmapped: Capability, access: Access, order: list[str]) -> None:
    """Of the steps in this order the first that is wrong decides, whatever is wrong behind it."""
    for number, step in enumerate(order):
        wrong = order[number:]
        authority, offset = wrong_access(segment, unmapped, wrong), wrong_place(segment, wrong)
        with pytest.raises(Fault) as caught:
            access(authority, offset, local(segment.root))
        fault = caught.value
        assert (type(fault), fault.code) == STEPS[step], wrong
        assert fault.address == authority.address + offset
        assert fault.capability == authority


@pytest.mark.parametrize(
    ("name", "order"), [(name, order) for name, (_, orders) in ACCESSES.items() for order in orders], ids=str
)
def test_order_of_checks(segment: Segment, unmapped: Capability, name: str, order: list[str]) -> None:
    """Loads and data accesses check tag, seal, permission, bounds, alignment and page, in this order."""
    assert_order(segment, unmapped, ACCESSES[name][0], order)


@pytest.mark.parametrize("name", STORES)
@pytest.mark.parametrize("page", ["not mapped", "read-only", "no capabilities"])
def test_order_of_checks_of_a_tagged_store(
    segment: Segment, unmapped: Capability, isa: str, name: str, page: str
) -> None:
    """Between permission and bounds v9 asks whether the tagged value may be stored; rvy never faults about that."""
    steps = STORE if isa == "v9" else STORE_RVY
    assert_order(segment, unmapped, ACCESSES[name][0], [*steps[:-1], page])


@pytest.mark.parametrize(
    ("is_source", "order"),
    [(True, LOAD_DATA[:-1]), (False, STORE_DATA), (False, read_only(STORE_DATA))],
    ids=["source", "destination", "read-only destination"],
)
def test_order_of_checks_of_a_copy(segment: Segment, unmapped: Capability, is_source: bool, order: list[str]) -> None:
    """A copy checks the source's authority, then the destination's, then pages; the fault names what was refused."""
    for number, step in enumerate(order):
        wrong = order[number:]
        refused = wrong_access(segment, unmapped, wrong, move=wrong_place(segment, wrong))
        source, destination = (refused, unmapped.without_tag()) if is_source else (segment.root, refused)
        with pytest.raises(Fault) as caught:
            source.copy_to(destination, GRANULE)
        assert (type(caught.value), caught.value.code) == STEPS[step], wrong
        assert caught.value.address == refused.address
        assert caught.value.capability == refused


@pytest.mark.parametrize("step", ["tag", "seal", "load", "store", "bounds"])
def test_an_access_to_nothing_is_checked(segment: Segment, unmapped: Capability, step: str) -> None:
    """Data accesses and copies of no bytes at all need the same rights and place as any other."""
    root = segment.root
    refused = wrong_access(segment, unmapped, [step], move=root.length + 1 if step == "bounds" else 0)
    accesses: list[Callable[[], object]] = []
    if step != "store":
        accesses += [lambda: refused.read(0, 0), lambda: refused.view(0, 0), lambda: refused.copy_to(root, 0)]
    if step != "load":
        accesses += [lambda: refused.write(0, b""), lambda: root.copy_to(refused, 0)]
    for access in accesses:
        with pytest.raises(Fault) as caught:
            access()
        assert (type(caught.value), caught.value.code) == STEPS[step]


def test_a_page_that_is_read_only_faults_before_one_that_takes_no_tags(segment: Segment) -> None:
    """A page that is neither writable nor takes capabilities gives the ordinary page fault."""
    with pytest.raises(PageViolation):
        segment.map("rR").store_capability(0, segment.root)


@pytest.mark.parametrize("name", ACCESSES)
def test_a_refused_access_changes_nothing(segment: Segment, unmapped: Capability, name: str) -> None:
    """After a fault the memory is as it was, tags included."""
    root = segment.root
    values = fill(root, range(2))
    before = root.read(0, 2 * GRANULE)
    access, orders = ACCESSES[name]
    for wrong in {step for order in orders or [STORE_RVY] for step in order[:-1]}:
        with pytest.raises(Fault):
            access(wrong_access(segment, unmapped, [wrong]), wrong_place(segment, [wrong]), values[0])
    assert root.read(0, 2 * GRANULE) == before
    assert list(root.load_capabilities(0, 2)) == values


# Loads


def load_one_by_one(authority: Capability, count: int) -> list[Capability]:
    """Load the first capabilities with a call for each."""
    return [authority.load_capability(number * GRANULE) for number in range(count)]


def load_many(authority: Capability, count: int) -> list[Capability]:
    """Load them with one call."""
    return list(authority.load_capabilities(0, count))


each_load = pytest.mark.parametrize("load", [load_one_by_one, load_many])
Load = Callable[[Capability, int], list[Capability]]


@each_load
def test_a_load_gives_what_was_stored(root: Capability, load: Load) -> None:
    """Value and tag come back as stored, and again the next time."""
    values = [*fill(root, range(3)), root.without_tag(), root.seal_entry()]
    root.store_capabilities(3 * GRANULE, values[3:])
    assert load(root, 5) == values
    assert load(root, 5) == values


@each_load
def test_an_authority_without_load_cap_strips(root: Capability, load: Load) -> None:
    """A load through an authority without LOAD_CAP gives the bits without the tag; the memory keeps it."""
    values = fill(root, range(3))
    assert load(without(root, P.LOAD_CAP), 3) == [value.without_tag() for value in values]
    assert load(root, 3) == values


@each_load
@pytest.mark.parametrize("permissions", ["r", "rw", "rwW"])
def test_a_page_without_load_permission_strips(
    segment: Segment, root: Capability, load: Load, permissions: str
) -> None:
    """cheribsd:A17: a page without capability-load permission gives the bits without the tag; an alias shows it."""
    values = fill(root, range(3))
    assert load(segment.map(permissions), 3) == [value.without_tag() for value in values]
    assert load(root, 3) == values
    assert load(segment.map("rR"), 3) == values


def test_integer_loads_give_no_tag(root: Capability) -> None:
    """Bytes that were read from a tagged granule and written elsewhere are the same bits without the tag."""
    (value,) = fill(root, range(1))
    root.write(GRANULE, root.read(0, GRANULE))
    assert root.load_capability(GRANULE) == value.without_tag()


# Stores


@pytest.mark.parametrize("name", STORES)
def test_untagged_values_are_stored_anywhere(segment: Segment, root: Capability, name: str) -> None:
    """An untagged value needs no capability permission of authority or page, and clears the old tag."""
    authorities = [root, without(root, P.STORE_CAP | P.STORE_LOCAL), *map(segment.map, ("rw", "rwR", "rwW"))]
    for authority in authorities:
        fill(root, range(3))
        ACCESSES[name][0](authority, GRANULE, local(root).without_tag())
        assert tagged(root, 3) == {0, 2}
        assert root.load_capability(GRANULE) == local(root).without_tag()


@ONLY_V9
@pytest.mark.parametrize("name", STORES)
def test_v9_tagged_stores_need_permission(root: Capability, name: str) -> None:
    """v9: a tagged value needs STORE_CAP, one without GLOBAL also STORE_LOCAL; both faults leave the old value."""
    access, _ = ACCESSES[name]
    values = fill(root, range(2))
    with pytest.raises(PermissionViolation) as caught:
        access(without(root, P.STORE_CAP), GRANULE, root)
    assert caught.value.code == "PROT_CHERI_PERM"
    with pytest.raises(PermissionViolation) as caught:
        access(without(root, P.STORE_LOCAL), GRANULE, local(root))
    assert caught.value.code == "PROT_CHERI_STORELOCAL"
    assert list(root.load_capabilities(0, 2)) == values
    access(without(root, P.STORE_LOCAL), GRANULE, root)
    access(root, 0, local(root))
    assert list(root.load_capabilities(0, 2)) == [local(root), root]


@ONLY_RVY
@pytest.mark.parametrize("name", STORES)
def test_rvy_strips_where_v9_faults(segment: Segment, root: Capability, name: str) -> None:
    """rvy: without the permission the bits are stored without the tag, and the page is not asked about tags."""
    access, _ = ACCESSES[name]
    lacks_both = [(P.STORE_CAP, root), (P.STORE_CAP, local(root)), (P.STORE_LOCAL, local(root))]
    for page in root, segment.map("rwR"):
        for lacking, value in lacks_both:
            fill(root, range(2))
            access(without(page, lacking), GRANULE, value)
            assert tagged(root, 2) == {0}
            assert root.load_capability(GRANULE) == value.without_tag()
    access(without(root, P.STORE_LOCAL), GRANULE, root)
    assert root.load_capability(GRANULE) == root


@pytest.mark.parametrize("name", STORES)
@pytest.mark.parametrize("permissions", ["rw", "rwR"])
def test_pages_without_store_permission(segment: Segment, root: Capability, name: str, permissions: str) -> None:
    """cheribsd:A3, A8: a tagged store to a page without capability-store permission faults, in either profile."""
    values = fill(root, range(2))
    page = segment.map(permissions)
    with pytest.raises(StoreTagViolation) as caught:
        ACCESSES[name][0](page, GRANULE, root)
    assert (caught.value.signal, caught.value.code) == ("SIGSEGV", "SEGV_STORETAG")
    assert caught.value.address == page.address + GRANULE
    assert list(root.load_capabilities(0, 2)) == values


# Data and tags

GRANULES = 2 * PAGE // GRANULE
WRITES: dict[tuple[int, int], range] = {
    (0, 1): range(1),
    (15, 1): range(1),
    (15, 2): range(2),
    (8, 16): range(2),
    (16, 16): range(1, 2),
    (16, 17): range(1, 3),
    (7, 0): range(0),
    (LINE - 1, 2): range(63, 65),
    (LINE - 16, 2 * LINE): range(63, 191),
    (PAGE - 1, 2): range(255, 257),
    (0, 2 * PAGE): range(512),
}
"""(offset, length): the granules that a write there touches."""


@pytest.mark.parametrize("permissions", ["rwRW", "rwR", "rwW", "rw"])
@pytest.mark.parametrize(("where", "touched"), WRITES.items(), ids=str)
def test_a_data_write_clears_every_granule_it_touches(
    segment: Segment, root: Capability, permissions: str, where: tuple[int, int], touched: range
) -> None:
    """Whatever the alias may do with tags, and though the bytes stay: a misaligned write clears two granules."""
    fill(root, range(GRANULES))
    offset, length = where
    before = root.read(0, 2 * PAGE)
    segment.map(permissions).write(offset, before[offset : offset + length])
    assert root.read(0, 2 * PAGE) == before
    assert tagged(root, GRANULES) == set(range(GRANULES)) - set(touched)
    assert tagged(segment.map("rR"), GRANULES) == set(range(GRANULES)) - set(touched)


@pytest.mark.parametrize("permissions", ["rwR", "rw"])
def test_a_granule_can_be_tagged_again(segment: Segment, root: Capability, permissions: str) -> None:
    """A tag that an alias without store permission has cleared does not stand in the way of the next one."""
    alias = segment.map(permissions)
    for value in fill(root, range(3)):
        root.store_capability(0, value)
        assert root.load_capability(0) == value
        alias.write(0, bytes(1))
        assert not root.load_capability(0).tag


# Copies

FAR = 8 * PAGE


@pytest.mark.parametrize(
    ("source", "destination", "length", "kept"),
    [
        (0, 0, 64, range(4)),
        (0, 16, 64, range(1, 5)),
        (0, 0, 63, range(3)),
        (8, 8, 64, range(1, 4)),
        (1, 1, 15, range(0)),
        (1, 1, 31, range(1, 2)),
        (0, 8, 64, range(0)),
        (8, 0, 64, range(0)),
        (3, 5, 2000, range(0)),
        (0, LINE - 32, 4 * LINE, range(62, 318)),
        (PAGE - 32, 0, 64, range(4)),
        (0, 0, 0, range(0)),
    ],
)
def test_a_copy_keeps_the_tags_of_whole_congruent_granules(
    root: Capability, source: int, destination: int, length: int, kept: range
) -> None:
    """Bytes always arrive; tags arrive where both sides agree modulo 16, with granules that are copied whole."""
    fill(root, range(GRANULES))
    target = root + FAR
    fill(target, range(GRANULES))
    before, values = root.read(0, 2 * PAGE), list(root.load_capabilities(0, GRANULES))
    old = target.read(0, 2 * PAGE)
    (root + source).copy_to(target + destination, length)
    end = destination + length
    moved = before[source : source + length]
    assert target.read(0, 2 * PAGE) == old[:destination] + moved + old[end:]
    touched = set(range(destination // GRANULE, -(-end // GRANULE) if length else destination // GRANULE))
    assert tagged(target, GRANULES) == set(range(GRANULES)) - touched | set(kept)
    shift = (destination - source) // GRANULE
    assert all(target.load_capability(number * GRANULE) == values[number - shift] for number in kept)
    assert list(root.load_capabilities(0, GRANULES)) == values


@pytest.mark.parametrize("distance", [GRANULE, 3 * GRANULE, LINE, PAGE, 8, 1])
@pytest.mark.parametrize("upwards", [True, False])
def test_overlapping_copies(root: Capability, distance: int, upwards: bool) -> None:
    """A copy within one mapping comes out as if the source had been copied away first, in both directions."""
    fill(root, range(GRANULES))
    before, values = root.read(0, 2 * PAGE), list(root.load_capabilities(0, GRANULES))
    low, high = root, root + distance
    length = 2 * PAGE - distance
    (low if upwards else high).copy_to(high if upwards else low, length)
    after = before[:distance] + before[:length] if upwards else before[distance:] + before[length:]
    assert root.read(0, 2 * PAGE) == after
    shift, rest = divmod(distance, GRANULE)
    now = list(root.load_capabilities(0, GRANULES))
    if rest:
        assert {number for number, value in enumerate(now) if value.tag} == set()
    elif upwards:
        assert now == values[:shift] + values[:-shift]
    else:
        assert now == values[shift:] + values[-shift:]


def test_a_copy_onto_itself_changes_nothing(root: Capability) -> None:
    """Source and destination may be the same."""
    values = fill(root, range(64))
    root.copy_to(root, 64 * GRANULE)
    assert list(root.load_capabilities(0, 64)) == values


@pytest.mark.parametrize("permissions", ["r", "rw", "rwRW"])
def test_a_copy_loses_tags_where_a_load_strips(segment: Segment, root: Capability, permissions: str) -> None:
    """Through an authority without LOAD_CAP, or from a page that strips, tags are lost and nothing faults."""
    values = fill(root, range(4))
    source = segment.map(permissions)
    if permissions == "rwRW":
        source = without(source, P.LOAD_CAP)
    source.copy_to(segment.map("rw") + FAR, 4 * GRANULE)
    assert list(root.load_capabilities(FAR, 4)) == [value.without_tag() for value in values]
    assert list(root.load_capabilities(0, 4)) == values


def copy_to_fault(root: Capability, destination: Capability, refused: int) -> Fault:
    """Copy eight granules of which only this one must not be stored, and return the fault."""
    root.store_capability(refused * GRANULE, local(root))
    with pytest.raises(Fault) as caught:
        root.copy_to(destination, 8 * GRANULE)
    assert caught.value.address == destination.address + refused * GRANULE
    assert caught.value.capability == destination
    return caught.value


@ONLY_V9
@pytest.mark.parametrize("refused", [0, 3, 7])
def test_a_copy_stops_at_a_value_that_may_not_be_stored(root: Capability, refused: int) -> None:
    """v9: a tagged granule faults as a store of it would; those before it are copied, those behind it are as before."""
    values = fill(root, range(8))
    target = root + FAR
    old = fill(target, range(8))
    fault = copy_to_fault(root, without(target, P.STORE_LOCAL), refused)
    assert type(fault) is PermissionViolation
    assert fault.code == "PROT_CHERI_STORELOCAL"
    assert list(target.load_capabilities(0, 8)) == values[:refused] + old[refused:]


@pytest.mark.parametrize("refused", [0, 3, 7])
@pytest.mark.parametrize("permissions", ["rw", "rwR"])
def test_a_copy_to_a_page_without_store_permission(
    segment: Segment, root: Capability, permissions: str, refused: int
) -> None:
    """cheribsd:6.3: a tagged granule faults with StoreTagViolation, the untagged ones before it are copied."""
    untagged = [root.with_bounds(64 + number).without_tag() for number in range(8)]
    root.store_capabilities(0, untagged)
    old = fill(root + FAR, range(8))
    fault = copy_to_fault(root, segment.map(permissions) + FAR, refused)
    assert type(fault) is StoreTagViolation
    assert list(root.load_capabilities(FAR, 8)) == untagged[:refused] + old[refused:]


@ONLY_V9
@pytest.mark.parametrize("refused", [0, 3, 7])
def test_a_downward_copy_stops_with_what_lies_behind_copied(root: Capability, refused: int) -> None:
    """A copy to a higher, overlapping place runs downwards: what is copied before the fault lies behind it."""
    values = fill(root, range(12))
    destination = without(root, P.STORE_LOCAL) + 4 * GRANULE
    copy_to_fault(root, destination, refused)
    expected = list(values)
    expected[refused] = local(root)
    expected[4 + refused + 1 : 12] = values[refused + 1 : 8]
    assert list(root.load_capabilities(0, 12)) == expected


@ONLY_RVY
def test_rvy_copies_strip(segment: Segment, root: Capability) -> None:
    """rvy: an authority without STORE_CAP or STORE_LOCAL takes the bits of every granule and strips what it must."""
    values = [*fill(root, range(2)), local(root)]
    root.store_capability(2 * GRANULE, values[2])
    for lacking, kept in (P.STORE_CAP, set[int]()), (P.STORE_LOCAL, {0, 1}):
        root.copy_to(without(root + FAR, lacking), 3 * GRANULE)
        assert root.read(FAR, 3 * GRANULE) == root.read(0, 3 * GRANULE)
        assert tagged(root + FAR, 3) == kept
    without(segment.map("rwR") + FAR, P.STORE_CAP).write(0, bytes(1))
    root.copy_to(without(segment.map("rwR") + FAR, P.STORE_CAP), 3 * GRANULE)
    assert tagged(root + FAR, 3) == set()


# Raw stores


@pytest.mark.parametrize("write", ["pwrite", "view"])
def test_a_raw_store_untags_what_it_changes(segment: Segment, root: Capability, write: str) -> None:
    """cheribsd:D10: bytes that change past capshm take the tags of their granules, and only theirs."""
    fill(root, range(4))
    changed = bytes(byte ^ 1 for byte in root.read(8, GRANULE))
    raw_store(segment, write, 8, changed)
    assert root.read(8, GRANULE) == changed
    assert tagged(root, 4) == {2, 3}


@pytest.mark.parametrize("write", ["pwrite", "view"])
def test_a_raw_store_of_equal_bytes_is_not_seen(segment: Segment, root: Capability, write: str) -> None:
    """The one deviation from cheribsd:D10 and F7: the granule is still the capability last stored there."""
    values = fill(root, range(4))
    same = root.read(0, 4 * GRANULE)
    raw_store(segment, write, 0, bytes(4 * GRANULE))
    raw_store(segment, write, 0, same)
    assert list(root.load_capabilities(0, 4)) == values
    raw_store(segment, write, 0, bytes(4 * GRANULE))
    assert tagged(root, 4) == set()


def raw_store(segment: Segment, write: str, offset: int, data: bytes) -> None:
    """Change bytes in a way that no capability operation sees."""
    if write == "pwrite":
        os.pwrite(segment.fd, data, offset)
    else:
        segment.root.view(0, 4 * GRANULE, writable=True)[offset : offset + len(data)] = data
