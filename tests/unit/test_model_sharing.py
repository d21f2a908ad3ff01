"""`capshm.model.sharing`: who may map an object with capability permission, rows D12, E1 to E14, G1, G3, K1, K3."""

import pytest

from capshm.model import constants as c
from capshm.model.knobs import Knobs
from capshm.policies.isolated import Isolated
from capshm.policies.open import Open
from tests.unit.model_scene import ANON_SHARED, PAGE, RW, RWC, RWN, Process, refused


def test_e1_the_owner_may() -> None:
    """E1, E11: as often as it likes."""
    process = Process()
    memory = process.shm()
    assert [process.letters(process.share(memory)) for _ in range(2)] == ["rwRW/rwRW"] * 2


@pytest.mark.parametrize("prot", [RWC, RWN | c.PROT_MAX(RWC), c.PROT_READ | c.PROT_CAP])
def test_e2_nobody_else_may(prot: int) -> None:
    """E2, E6: another address space is refused, whatever it opened, if the maximum has capability permission."""
    process = Process()
    memory = process.shm(path="/a")
    other = process.another()
    assert other.open("/a").object is memory
    with refused("E2", "EACCES") as caught:
        other.share(memory, prot)
    for word in ("address space 2", "owned by address space 1", "O_SHARECAP"):
        assert word in caught.value.message


def test_e3_data_is_free() -> None:
    """E3: a foreign mapping without capability permission."""
    process = Process()
    other, memory = process.another(), process.shm()
    assert other.letters(other.share(memory, RW)) == "rw/rw" == other.letters(other.share(memory, RWN))


def test_e4_private_makes_no_difference() -> None:
    """E4: with PROT_CAP a foreign private mapping is E2."""
    process = Process()
    with refused("E2", "EACCES"):
        process.another().mmap(prot=RWC, flags=c.MAP_PRIVATE, memory=process.shm())


def test_e5_implied_counts() -> None:
    """E5: a foreign private mapping implies capability permission, unless PROT_NO_CAP is given."""
    process = Process()
    other, memory = process.another(), process.shm()
    with refused("E5", "EACCES"):
        other.mmap(flags=c.MAP_PRIVATE, memory=memory)
    assert other.letters(other.mmap(prot=RWN, flags=c.MAP_PRIVATE, memory=memory)) == "rw/rw"


def test_e8_before_e2() -> None:
    """E8: writing through a read-only descriptor is refused before it is asked whose the object is."""
    process = Process()
    memory = process.shm()
    with refused("E8", "EACCES"):
        process.another().share(memory, RWC, is_writable=False)
    with refused("E2", "EACCES"):
        process.another().share(memory, c.PROT_READ | c.PROT_CAP, is_writable=False)


def test_e8_the_maximum_of_a_read_only_descriptor() -> None:
    """E8: PROT_MAX cannot promise what the descriptor does not allow; a private mapping can be written."""
    process = Process()
    memory = process.shm()
    pointer = process.share(memory, c.PROT_READ | c.PROT_CAP | c.PROT_MAX(RWC), is_writable=False)
    assert process.letters(pointer) == "rR/rR"
    private = process.mmap(prot=RW, flags=c.MAP_PRIVATE, memory=memory, is_writable=False)
    assert process.letters(private) == "rwRW/rwRW"


@pytest.mark.parametrize("flags", [c.MAP_SHARED, c.MAP_PRIVATE])
def test_e9_e14_share_cap_is_everybodys(flags: int) -> None:
    """E9, E14: any process maps a share-cap object with capability permission, shared or private."""
    process = Process()
    other, memory = process.another(), process.shm(is_share_cap=True)
    assert other.letters(other.mmap(prot=RWC, flags=flags, memory=memory)) == "rwRW/rwRW"


def test_e10_share_cap_without_cap() -> None:
    """E10: a mapping without capability permission has none."""
    process = Process()
    assert process.letters(process.share(process.shm(is_share_cap=True), RW)) == "rw/rw"


def test_d12_large_pages_are_not_copied() -> None:
    """D12: MAP_PRIVATE of a large page object."""
    process = Process()
    memory = process.open(None, shm_flags=c.SHM_LARGEPAGE).object
    with refused("D12", "EINVAL"):
        process.mmap(flags=c.MAP_PRIVATE, memory=memory)
    process.share(memory)


def test_g1_anonymous_with_cap_is_share_cap() -> None:
    """G1: the object of a new reservation with capability permission is for everybody."""
    process = Process()
    memory = process.at(process.mmap(prot=RWC, flags=ANON_SHARED)).object
    assert memory is not None
    assert (memory.is_share_cap, memory.owner) == (True, None)


def test_g3_inside_a_reservation_it_is_not() -> None:
    """G3: with MAP_FIXED into an existing reservation the object has an owner, and a child loses capabilities (F2)."""
    process = Process()
    pointer = process.mmap(process.mmap(), PAGE, RWC, ANON_SHARED | c.MAP_FIXED)
    memory = process.at(pointer).object
    assert memory is not None
    assert (memory.is_share_cap, memory.owner) == (False, 1)
    assert process.fork()[0].letters(pointer) == "rw/rw"


def test_isolated_anonymous_sharing() -> None:
    """G1 under isolated: with capability permission it is refused, without it is allowed."""
    process = Process(Isolated())
    with refused("isolated", "EACCES"):
        process.mmap(prot=RWC, flags=ANON_SHARED)
    assert process.letters(process.mmap(flags=ANON_SHARED)) == "rw/rw"


def test_isolated_foreign_mapping() -> None:
    """E1, E2 under isolated: as under cheribsd."""
    process = Process(Isolated())
    memory = process.shm()
    process.share(memory)
    with refused("E2", "EACCES"):
        process.another().share(memory)


def test_open_foreign_mapping() -> None:
    """E2, E5 under open: allowed, and implied."""
    process = Process(Open())
    other, memory = process.another(), process.shm()
    assert other.letters(other.share(memory, RW)) == "rwRW/rwRW"
    other.mmap(flags=c.MAP_PRIVATE, memory=memory)


def test_k1_a_share_cap_object_is_mapped_for_data_only() -> None:
    """K1: a process that may not share maps its own objects as ever, and share-cap ones without capabilities."""
    process = Process()
    memory = process.shm(is_share_cap=True)
    process.knobs = Knobs(program=False)
    process.share(process.shm())
    process.share(memory, RW)
    with refused("K1", "EACCES") as caught:
        process.share(memory)
    assert "the program's note" in caught.value.message


def test_k1_after_e2() -> None:
    """K1: whose the object is comes before the switch."""
    process = Process()
    other, memory = process.another(), process.shm()
    other.knobs = Knobs(machine=False)
    with refused("E2", "EACCES"):
        other.share(memory)


def test_k3_anonymous_sharing_obeys() -> None:
    """K3: MAP_ANON|MAP_SHARED with PROT_CAP is refused; what is not share-cap (G3), or has no CAP, is not."""
    process = Process()
    process.knobs = Knobs(machine=False)
    with refused("K3", "EACCES"):
        process.mmap(prot=RWC, flags=ANON_SHARED)
    process.mmap(flags=ANON_SHARED)
    process.mmap(process.mmap(), PAGE, RWC, ANON_SHARED | c.MAP_FIXED)


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        (Knobs(), True),
        (Knobs(machine=False), False),
        (Knobs(program=True, machine=False), True),
        (Knobs(program=False), False),
        (Knobs(process=1, program=False, machine=False), True),
        (Knobs(process=2, program=True), False),
    ],
)
def test_k1_precedence(knobs: Knobs, expected: bool) -> None:
    """K1: the process before the program before the machine."""
    assert knobs.may_share() == expected


def test_k1_unknown_value() -> None:
    """K1: procctl knows three values."""
    with refused("MAN", "EINVAL"):
        Knobs().with_process(3)
