"""`capshm.model.rights`: how a protection argument is read (rows A7 to A13)."""

import pytest

from capshm.model import constants as c
from capshm.model.rights import Rights, read_protection
from tests.unit.model_scene import RW, RWC, RWN, refused

PROT_MAX = c.PROT_MAX


def asked(prot: int, *, is_cap_implied: bool = False) -> str:
    """Current and maximum as letters."""
    read = read_protection(prot, is_cap_implied=is_cap_implied)
    return f"{read.current.letters}/{read.maximum.letters}"


@pytest.mark.parametrize("letters", ["", "r", "rw", "rwx", "rwRW", "rR", "rwxRW"])
def test_letters_and_rights_are_inverse(letters: str) -> None:
    """Procstat's letters name a set of rights."""
    assert Rights.from_letters(letters).letters == letters


def test_an_unknown_letter_is_named() -> None:
    """What is no letter of a right is refused."""
    with pytest.raises(ValueError, match="'q' is no right"):
        Rights.from_letters("rq")


@pytest.mark.parametrize(
    ("prot", "expected"),
    [(c.PROT_READ | c.PROT_CAP, "rR/rR"), (c.PROT_WRITE | c.PROT_CAP, "wW/wW"), (RWC, "rwRW/rwRW")],
)
def test_a7_cap_goes_with_read_and_write(prot: int, expected: str) -> None:
    """A7: READ gives load-capability, WRITE store-capability permission."""
    assert asked(prot) == expected


def test_a8_no_cap_suppresses_the_implication() -> None:
    """A8: no capability permission, now or later, where it would be implied."""
    assert asked(RWN, is_cap_implied=True) == "rw/rw"


@pytest.mark.parametrize(
    "prot", [c.PROT_CAP, PROT_MAX(c.PROT_CAP), c.PROT_READ | PROT_MAX(c.PROT_CAP), c.PROT_EXEC | c.PROT_CAP]
)
def test_a9_cap_alone(prot: int) -> None:
    """A9: PROT_CAP needs READ or WRITE beside it, in PROT_MAX as well."""
    with refused("A9", "ENOTSUP"):
        read_protection(prot, is_cap_implied=False)


@pytest.mark.parametrize("prot", [RW | PROT_MAX(c.PROT_READ), RWC | PROT_MAX(RWN), RWC | PROT_MAX(c.PROT_READ)])
def test_a10_not_within_the_maximum(prot: int) -> None:
    """A10: nothing can be had now that PROT_MAX lacks."""
    with refused("A10", "ENOTSUP"):
        read_protection(prot, is_cap_implied=False)


@pytest.mark.parametrize("prot", [RWC | PROT_MAX(RW), RW | PROT_MAX(RWC), RW | PROT_MAX(RWN), RWN | PROT_MAX(RW)])
def test_a11_mixed(prot: int) -> None:
    """A11: what is implied in one of prot and PROT_MAX is not explicit in the other."""
    with refused("A11", "ENOTSUP"):
        read_protection(prot, is_cap_implied=True)


def test_a11_opposites() -> None:
    """A11: PROT_CAP and PROT_NO_CAP do not go together."""
    with refused("A11", "ENOTSUP"):
        read_protection(RWC | c.PROT_NO_CAP, is_cap_implied=True)


def test_a11_none_goes_with_any_maximum() -> None:
    """A11, 6.3: nothing is implied for PROT_NONE, so it goes with a maximum that has PROT_CAP."""
    assert asked(c.PROT_NONE | PROT_MAX(RWC)) == "/rwRW"


@pytest.mark.parametrize("prot", [0x20, PROT_MAX(0x20), 1 << 40, -1])
def test_a12_unknown_bits(prot: int) -> None:
    """A12: bits without a meaning, also beyond those of PROT_MAX."""
    with refused("A12", "EINVAL"):
        read_protection(prot, is_cap_implied=False)


def test_a13_kept_for_later() -> None:
    """A13: PROT_NO_CAP now and PROT_CAP in the maximum."""
    assert asked(RWN | PROT_MAX(RWC), is_cap_implied=True) == "rw/rwRW"


def test_without_a_maximum_it_is_what_is_asked() -> None:
    """A CheriABI process that gives no PROT_MAX gets what it asks for as the maximum."""
    assert asked(c.PROT_READ, is_cap_implied=True) == "rR/rR"
