"""`capshm.Permissions`: the raw numbers of the ISA, and sets of them."""

import copy
import pickle

import pytest

from capshm.permissions import Permissions

HARDWARE = [
    "GLOBAL", "EXECUTE", "LOAD", "STORE", "LOAD_CAP", "STORE_CAP",
    "STORE_LOCAL", "SEAL", "CINVOKE", "UNSEAL", "SYSTEM_REGISTERS", "SET_CID",
]  # fmt: skip
SOFTWARE = ["SW0", "SW1", "SW2", "SW3"]
ALL = 0x78FFF


def test_raw_bits_are_those_of_the_isa() -> None:
    """Hardware permissions are bits 0 to 11, software ones 15 to 18, in the ISA's order."""
    expected = {name: 1 << bit for bit, name in enumerate(HARDWARE)}
    expected |= {name: 1 << bit for bit, name in enumerate(SOFTWARE, 15)}
    assert {permission.name: permission.raw for permission in Permissions} == expected


def test_vmem_is_software_permission_1() -> None:
    """SW_VMEM is CheriBSD's name for SW1, not a permission of its own."""
    assert Permissions["SW_VMEM"] is Permissions["SW1"]


@pytest.mark.parametrize("raw", [0, 1, 1 << 11, 1 << 15, 1 << 18, 0x6FC, ALL], ids=hex)
def test_from_raw_and_raw_are_inverse(raw: int) -> None:
    """Any set of permissions survives the way to its number and back."""
    assert Permissions.from_raw(raw).raw == raw


@pytest.mark.parametrize(
    ("raw", "bits"),
    [(1 << 12, "12"), (0x7000, "12, 13, 14"), (1 << 19, "19"), (ALL | 1 << 63 | 1 << 13, "13, 63")],
    ids=lambda value: hex(value) if isinstance(value, int) else "",
)
def test_from_raw_names_unknown_bits(raw: int, bits: str) -> None:
    """Bits that are no permission are refused, and the message lists them."""
    with pytest.raises(ValueError, match=f"^raw permissions {raw:#x} have bits that are no permission: {bits}$"):
        Permissions.from_raw(raw)


def test_from_raw_refuses_what_is_no_bit_set() -> None:
    """A negative number is a ValueError, and what is no int is a TypeError."""
    with pytest.raises(ValueError, match="must not be negative, not -1"):
        Permissions.from_raw(-1)
    with pytest.raises(TypeError):
        Permissions.from_raw("rw")  # type: ignore[arg-type]


def test_sets_combine() -> None:
    """`|` joins, `&` intersects, `without` takes away what is there and ignores what is not."""
    both = Permissions.LOAD | Permissions.STORE
    assert both.raw == Permissions.LOAD.raw | Permissions.STORE.raw
    assert both & (Permissions.STORE | Permissions.SEAL) == Permissions.STORE
    assert both.without(Permissions.STORE | Permissions.SEAL) == Permissions.LOAD
    assert both.without(both) == Permissions(0)


def test_contains_asks_for_all() -> None:
    """A set contains its subsets, the empty one among them, and nothing that has one permission more."""
    both = Permissions.LOAD | Permissions.STORE
    assert both.contains(Permissions.LOAD)
    assert both.contains(both)
    assert both.contains(Permissions(0))
    assert not both.contains(Permissions.LOAD | Permissions.EXECUTE)
    assert not Permissions(0).contains(Permissions.LOAD)


@pytest.mark.parametrize(
    ("permissions", "letters"),
    [
        (Permissions(0), ""),
        (Permissions.from_raw(ALL), "rwxRW"),
        (Permissions.STORE_CAP | Permissions.LOAD_CAP | Permissions.STORE | Permissions.LOAD, "rwRW"),
        (Permissions.EXECUTE | Permissions.LOAD, "rx"),
        (Permissions.LOAD_CAP, "R"),
        (Permissions.GLOBAL | Permissions.SW_VMEM | Permissions.SEAL, ""),
    ],
)
def test_letters_are_procstats(permissions: Permissions, letters: str) -> None:
    """Only the rights to memory have letters, in the order rwxRW, and only those that are held."""
    assert permissions.letters == letters


def test_values_are_immutable_and_hashable() -> None:
    """A set of permissions cannot be changed, and equal sets are one dictionary key."""
    both = Permissions.LOAD | Permissions.STORE
    with pytest.raises(AttributeError):
        both.raw = 0  # type: ignore[misc]
    assert {both: 1}[Permissions.from_raw(both.raw)] == 1


def test_values_pickle_and_copy() -> None:
    """A set of permissions arrives in another process as the same set."""
    both = Permissions.LOAD | Permissions.SW_VMEM
    assert pickle.loads(pickle.dumps(both)) == both
    assert copy.deepcopy(both) == both
