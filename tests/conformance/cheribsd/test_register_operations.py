"""cheribsd:5.2: register operations never fault; what they may not do clears the tag.

Not expressible here, because no operation of the API stands for them: build, invoke, a jump to a sentry.
"""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capshm import Capability, Permissions, sealing_root
from capshm._native import lib
from capshm.capability import make
from capshm.testing import Segment
from tests.conformance.cheribsd.support import ONLY_RVY, ONLY_V9

P = Permissions
EVERYTHING = P.from_raw(int(lib.PERMISSIONS_ALL))
UNSEALED, SENTRY = int(lib.OBJECT_TYPE_UNSEALED), int(lib.OBJECT_TYPE_SENTRY)
FIRST_RESERVED = int(lib.OBJECT_TYPE_FIRST_RESERVED)


def almighty(address: int = 0) -> Capability:
    """All permissions over the whole address space, of which programs only ever get a part."""
    return make(address, int(lib.METADATA_ROOT), tag=True)


def sealed(value: Capability, object_type: int = 5) -> Capability:
    """The value, sealed with this type."""
    return value.seal(sealing_root() + object_type)


SEALS: dict[str, Callable[[Capability], Capability]] = {"sealed": sealed, "sentry": Capability.seal_entry}
each_seal = pytest.mark.parametrize("seal", SEALS.values(), ids=SEALS.keys())

DERIVATIONS: dict[str, Callable[[Capability], Capability]] = {
    "with_address": lambda value: value.with_address(value.address),
    "with_offset": lambda value: value.with_offset(value.offset),
    "add": lambda value: value + 0,
    "subtract": lambda value: value - 0,
    "with_bounds": lambda value: value.with_bounds(16),
    "with_exact_bounds": lambda value: value.with_exact_bounds(16),
    "seal": sealed,
    "seal_entry": Capability.seal_entry,
}
each_derivation = pytest.mark.parametrize("derive", DERIVATIONS.values(), ids=DERIVATIONS.keys())


@each_derivation
def test_a_tag_is_kept_by_what_is_allowed(root: Capability, derive: Callable[[Capability], Capability]) -> None:
    """Each derivation of a tagged, unsealed capability that asks for nothing more gives a tagged one."""
    assert derive(root).tag


@each_derivation
@each_seal
def test_sealed_capabilities_are_not_changed(
    root: Capability, derive: Callable[[Capability], Capability], seal: Callable[[Capability], Capability]
) -> None:
    """A sealed capability or sentry loses its tag in any derivation, even in one that changes nothing."""
    assert seal(root).tag
    assert not derive(seal(root)).tag


@each_derivation
def test_no_derivation_sets_a_tag(root: Capability, derive: Callable[[Capability], Capability]) -> None:
    """What is derived from an untagged capability is untagged."""
    assert not derive(root.without_tag()).tag


def test_clearing_the_tag_changes_nothing_else(root: Capability) -> None:
    """Without its tag a capability says the same as before, and the original keeps its own."""
    untagged = root.without_tag()
    assert str(untagged) == f"{root} (invalid)"
    assert root.tag


# Permissions


@pytest.mark.parametrize("mask", [P(0), *P, EVERYTHING], ids=str)
def test_permissions_are_only_taken_away(root: Capability, mask: Permissions) -> None:
    """The result has at most the permissions that the capability and the mask share."""
    result = root.with_permissions(mask)
    assert result.tag
    assert (root.permissions & mask).contains(result.permissions)
    assert (result.base, result.top, result.address) == (root.base, root.top, root.address)


@ONLY_V9
@pytest.mark.parametrize("mask", [P(0), *P, EVERYTHING], ids=str)
def test_v9_permissions_are_an_intersection(segment: Segment, mask: Permissions) -> None:
    """v9 takes away exactly what the mask lacks: no permission depends on another."""
    assert almighty().with_permissions(mask).permissions == mask
    assert segment.root.with_permissions(mask).permissions == segment.root.permissions & mask


@ONLY_RVY
@pytest.mark.parametrize(
    ("needed", "dependent"),
    [(P.LOAD, P.LOAD_CAP), (P.STORE, P.STORE_CAP), (P.STORE, P.STORE_LOCAL), (P.EXECUTE, P.SYSTEM_REGISTERS)],
    ids=str,
)
def test_rvy_dependent_permissions_fall_too(segment: Segment, needed: Permissions, dependent: Permissions) -> None:
    """rvy also takes away what is of no use without a permission that is gone, and nothing else."""
    left = almighty().with_permissions(EVERYTHING.without(needed)).permissions
    assert not left.contains(dependent)
    assert almighty().with_permissions(needed | dependent).permissions == needed | dependent
    assert almighty().with_permissions(EVERYTHING).permissions == EVERYTHING


@each_seal
def test_permissions_of_sealed_capabilities(
    root: Capability, isa: str, seal: Callable[[Capability], Capability]
) -> None:
    """v9: the tag goes in any case. rvy: only if a permission is lost."""
    assert seal(root).with_permissions(EVERYTHING).tag is (isa == "rvy")
    assert not seal(root).with_permissions(root.permissions.without(P.STORE)).tag


# Bounds


@pytest.mark.parametrize(
    ("offset", "length", "is_inside"),
    [(0, 0, True), (0, 256, True), (255, 1, True), (256, 0, True), (0, 257, False), (256, 1, False), (257, 0, False)],
)
def test_bounds_stay_inside(root: Capability, offset: int, length: int, is_inside: bool) -> None:
    """New bounds go from the address; a range that is not inside the old bounds clears the tag."""
    parent = (root + 1024).with_bounds(256)
    result = (parent + offset).with_bounds(length)
    assert result.tag is is_inside
    assert (result.base, result.length, result.offset) == (parent.base + offset, length, 0)
    assert result.permissions == parent.permissions


def test_bounds_below_the_base_clear_the_tag(root: Capability) -> None:
    """An address below the base is outside, however short the range."""
    parent = (root + 1024).with_bounds(256)
    assert not (parent - 1).with_bounds(1).tag
    assert not (parent - 1).with_exact_bounds(0).tag


@pytest.mark.parametrize(("offset", "length"), [(1, 4096), (8, 8191), (3, 20000), (100, 40001)])
def test_rounding_goes_outwards_and_not_beyond_the_parent(root: Capability, offset: int, length: int) -> None:
    """Bounds that cannot be expressed are rounded outwards inside the parent; the exact form clears the tag instead."""
    request = root + offset
    rounded, exact = request.with_bounds(length), request.with_exact_bounds(length)
    assert rounded.tag
    assert root.base <= rounded.base <= request.address < request.address + length <= rounded.top <= root.top
    assert (rounded.base, rounded.length) != (request.address, length)
    assert rounded.address == request.address
    assert not exact.tag
    assert (exact.base, exact.top) == (rounded.base, rounded.top)


@pytest.mark.parametrize(("offset", "length"), [(1, 4095), (8, 4096), (16, 8192), (32, 16384)])
def test_expressible_bounds_are_exact(root: Capability, offset: int, length: int) -> None:
    """Any bounds below 4096 bytes, and aligned larger ones, are exact in both forms."""
    for result in (root + offset).with_bounds(length), (root + offset).with_exact_bounds(length):
        assert result.tag
        assert (result.base, result.length) == (root.base + offset, length)


# Address


@pytest.mark.parametrize("distance", [-2048, -1, 0, 64, 65, 8192])
def test_addresses_near_the_bounds_keep_the_tag(root: Capability, distance: int) -> None:
    """An address outside the bounds, but near enough, is representable: the tag and the bounds stay."""
    parent = (root + 32768).with_bounds(64)
    target = parent.base + distance
    for moved in parent.with_address(target), parent.with_offset(distance), parent + distance, parent - -distance:
        assert moved.tag
        assert (moved.address, moved.base, moved.top) == (target, parent.base, parent.top)
        assert moved.offset == distance


@pytest.mark.parametrize("distance", [-16384, 16384, 1 << 40, -(1 << 40)])
def test_addresses_far_from_the_bounds_clear_the_tag(root: Capability, distance: int) -> None:
    """An address from which the bounds cannot be expressed clears the tag for good: going back does not restore it."""
    parent = (root + 32768).with_bounds(64)
    target = parent.base + distance
    for moved in parent.with_address(target), parent.with_offset(distance), parent + distance, parent - -distance:
        assert not moved.tag
        assert moved.address == target
        assert not moved.with_address(parent.address).tag


def test_addition_wraps(root: Capability) -> None:
    """Adding is modulo 2**64, as in the ISA."""
    assert root + 8 + ((1 << 64) - 1) == root + 7
    assert root.without_tag() - (root.address + 1) == root.without_tag().with_address((1 << 64) - 1)


# Seals


def test_seal_and_unseal(root: Capability) -> None:
    """Sealing takes the type from the authority's address and leaves the rest; unsealing undoes it."""
    authority = sealing_root() + 7
    locked = root.seal(authority)
    assert locked.tag
    assert locked.is_sealed
    assert locked.object_type == 7
    assert (locked.address, locked.base, locked.top) == (root.address, root.base, root.top)
    assert locked.permissions == root.permissions
    assert locked.unseal(authority) == root


def wrong_authorities(permission: Permissions) -> dict[str, Capability]:
    """Authorities over type 5 that lack one thing each, or name a type that they may not."""
    good = sealing_root() + 5
    return {
        "untagged": good.without_tag(),
        "sealed": good.seal_entry(),
        "without the permission": good.with_permissions(EVERYTHING.without(permission)),
        "below its bounds": good.with_bounds(2) - 1,
        "at its top": good.with_bounds(2) + 2,
        "empty": good.with_bounds(0),
    }


WRONG = list(wrong_authorities(P.SEAL))


@pytest.mark.parametrize("wrong", WRONG)
def test_sealing_needs_an_authority(root: Capability, wrong: str) -> None:
    """Any defect of the authority clears the tag of what would be sealed."""
    assert sealed(root).tag
    assert not root.seal(wrong_authorities(P.SEAL)[wrong]).tag


@pytest.mark.parametrize("wrong", WRONG)
def test_unsealing_needs_an_authority(root: Capability, wrong: str) -> None:
    """Any defect of the authority clears the tag of what would be unsealed."""
    authority = wrong_authorities(P.UNSEAL)[wrong]
    locked = sealed(root, min(authority.address, FIRST_RESERVED - 1))
    assert locked.tag
    assert not locked.unseal(authority).tag


@pytest.mark.parametrize("reserved", [FIRST_RESERVED, SENTRY, UNSEALED, UNSEALED + 1])
def test_reserved_types_are_nobodys(root: Capability, reserved: int) -> None:
    """Even an authority whose bounds hold a reserved type can neither seal with it nor unseal it."""
    assert not root.seal(almighty(reserved)).tag
    assert not root.seal_entry().unseal(almighty(reserved)).tag


def test_unsealing_needs_the_type(root: Capability) -> None:
    """What is sealed with another type, or not at all, is not unsealed."""
    assert not sealed(root, 5).unseal(sealing_root() + 6).tag
    assert not root.unseal(sealing_root() + 5).tag


def test_unsealing_may_take_global(root: Capability) -> None:
    """An authority without GLOBAL takes GLOBAL from what it unseals, and nothing else."""
    authority = (sealing_root() + 5).with_permissions(P.UNSEAL)
    unsealed = sealed(root).unseal(authority)
    assert unsealed.tag
    assert unsealed.permissions == root.permissions.without(P.GLOBAL)


def test_a_sentry_needs_no_authority(root: Capability) -> None:
    """Anybody may make a sentry of an unsealed capability, and nobody unseals it."""
    sentry = root.seal_entry()
    assert sentry.tag
    assert sentry.is_sealed
    assert sentry.object_type == SENTRY
    assert sentry.permissions == root.permissions
    assert not sentry.unseal(sealing_root()).tag


# Monotonicity

offsets = st.integers(-100, 1 << 16)
steps = st.one_of(
    st.tuples(st.just("with_offset"), offsets),
    st.tuples(st.just("__add__"), offsets),
    st.tuples(st.just("with_bounds"), st.integers(0, 1 << 17)),
    st.tuples(st.just("with_exact_bounds"), st.integers(0, 1 << 17)),
    st.tuples(st.just("with_permissions"), st.integers(0, EVERYTHING.raw).map(lambda raw: P(raw & EVERYTHING.raw))),
    st.tuples(st.just("seal"), st.integers(0, 3)),
    st.tuples(st.just("unseal"), st.integers(0, 3)),
    st.tuples(st.just("seal_entry")),
)


@pytest.mark.slow
@settings(deadline=None, print_blob=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, max_size=12))
def test_rights_never_grow(root: Capability, walk: list[tuple[str, int]]) -> None:
    """Whatever is derived in whatever order: a tagged result has no byte and no permission that its origin lacks."""
    value = root
    for name, *operands in walk:
        is_about_type = name in ("seal", "unseal")
        parent, value = value, getattr(value, name)(*(sealing_root() + n if is_about_type else n for n in operands))
        if value.tag:
            assert parent.tag
            assert parent.base <= value.base <= value.top <= parent.top
            assert parent.permissions.contains(value.permissions)
