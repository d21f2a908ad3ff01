"""`capshm.model.inheritance`: minherit and fork, rows I1 to I15 and F1 to F15."""

import pytest

from capshm.model import constants as c
from capshm.model.knobs import Knobs
from capshm.model.objects import MemoryObject
from capshm.model.pointer import Address, Pointer
from capshm.policies import Policy
from capshm.policies.cheribsd import CheriBSD
from capshm.policies.isolated import Isolated
from capshm.policies.open import Open
from tests.unit.model_scene import ANON_SHARED, PAGE, RW, RWC, RWN, Process, moved, refused, untagged, without_vmem

SHARE, COPY, NONE, ZERO = c.INHERIT_SHARE, c.INHERIT_COPY, c.INHERIT_NONE, c.INHERIT_ZERO


def the_object(process: Process, pointer: Pointer) -> MemoryObject:
    """The object that is mapped there."""
    memory = process.at(pointer).object
    assert memory is not None
    return memory


# minherit


def test_i1_memory_of_ones_own() -> None:
    """I1: anonymous private memory that can hold capabilities is not shared with children; under open it is."""
    process = Process()
    with refused("I1", "EACCES"):
        process.minherit(process.mmap(), SHARE)
    process = Process(Open())
    pointer = process.mmap()
    process.minherit(pointer, SHARE)
    assert process.fork()[0].letters(pointer) == "rwRW/rwRW"


@pytest.mark.parametrize("flags", [c.MAP_PRIVATE, c.MAP_SHARED])
def test_i2_objects_of_ones_own(flags: int) -> None:
    """I2: a mapping with capability permission of an object that is not share-cap, private or once made COPY."""
    process = Process()
    pointer = process.mmap(prot=RWC, flags=flags, memory=process.shm())
    process.minherit(pointer, COPY)
    with refused("I2", "EACCES"):
        process.minherit(pointer, SHARE)


def test_i3_shared_stays_shared() -> None:
    """I3: SHARE of what is SHARE is no change, whoever owns the object."""
    process = Process()
    pointer = process.share(process.shm())
    before = process.at(pointer)
    process.minherit(pointer, SHARE)
    assert process.at(pointer) == before


def test_i5_share_cap_may_be_shared() -> None:
    """I5, F15: a private mapping of a share-cap object; the child keeps capability permission."""
    process = Process()
    pointer = process.mmap(prot=RWC, flags=c.MAP_PRIVATE, memory=process.shm(is_share_cap=True))
    process.minherit(pointer, SHARE)
    assert process.at(pointer).is_shared
    assert process.fork()[0].letters(pointer) == "rwRW/rwRW"


def test_i4_i6_without_capability_permission() -> None:
    """I4, I6: where the maximum has no capability permission memory may be shared, and gets an object to live in."""
    process = Process()
    pointer = process.mmap(prot=RWN)
    process.minherit(pointer, SHARE)
    entry = process.at(pointer)
    assert (entry.is_shared, the_object(process, pointer).owner) == (True, 1)
    child, plan = process.fork()
    assert child.at(pointer) == entry
    assert plan[1:] == ([], [], [], [])


@pytest.mark.parametrize("inherit", [COPY, NONE, ZERO])
def test_i7_the_rest_is_free(inherit: int) -> None:
    """I7: COPY, NONE and ZERO are allowed for any memory, and do not touch the neighbours."""
    process = Process()
    neighbour = process.mmap()
    for pointer in (process.mmap(length=2 * PAGE), process.mmap(None, 2 * PAGE, RWC, c.MAP_SHARED, process.shm())):
        process.minherit(pointer, inherit, 2 * PAGE)
        assert process.at(pointer).inherit == inherit
    assert process.at(neighbour).inherit == COPY


def test_i8_large_pages() -> None:
    """I8: COPY of a large page object."""
    process = Process()
    pointer = process.share(process.open(None, shm_flags=c.SHM_LARGEPAGE).object)
    with refused("I8", "EINVAL"):
        process.minherit(pointer, COPY)
    process.minherit(pointer, ZERO)


def test_i10_guards_are_not_made_zero() -> None:
    """I10: ZERO leaves a guard as it is."""
    process = Process()
    pointer = process.mmap(prot=c.PROT_NONE, flags=c.MAP_GUARD)
    process.minherit(pointer, ZERO)
    assert process.at(pointer).inherit == COPY


def test_i11_all_or_nothing() -> None:
    """I11: one entry that is refused refuses the whole range."""
    process = Process()
    pointer = process.mmap(length=2 * PAGE, prot=RWN | c.PROT_MAX(RWC))
    process.mprotect(pointer, RWN | c.PROT_MAX(RWN))
    with refused("I1", "EACCES"):
        process.minherit(pointer, SHARE, 2 * PAGE)
    assert process.at(pointer).inherit == COPY


@pytest.mark.parametrize("inherit", [-1, 4, 99])
def test_i12_g5_one_of_four(inherit: int) -> None:
    """I12, G5: there are four inheritances, and memory has one of them."""
    process = Process()
    with refused("I12", "EINVAL"):
        process.minherit(process.mmap(), inherit)


def test_i13_needs_the_pointer() -> None:
    """I13: no tag, out of bounds, no SW_VMEM, a number, a stale pointer; before the value is looked at."""
    process = Process()
    pointer, stale = process.mmap(), process.mmap()
    process.munmap(stale)
    wrong: list[Address] = [untagged(pointer), moved(pointer, PAGE), without_vmem(pointer), pointer.address, stale]
    for one in wrong:
        with refused("I13", "EPROT"):
            process.minherit(one, 99 if one is not stale else NONE)


def test_i15_a_reservation_as_a_whole() -> None:
    """I15: NONE on a part is refused; all that is mapped is enough, be the rest a hole."""
    process = Process()
    pointer = process.mmap(length=3 * PAGE)
    with refused("I15", "EINVAL"):
        process.minherit(pointer, NONE, 2 * PAGE)
    assert process.at(pointer).inherit == COPY
    process.munmap(moved(pointer, 2 * PAGE))
    process.minherit(pointer, NONE, 2 * PAGE)
    child, plan = process.fork()
    assert plan.none == [(pointer.base, pointer.base + 2 * PAGE)]
    assert not child.space.reservations


# fork


@pytest.mark.parametrize("policy", [CheriBSD(), Open(), Isolated()], ids=lambda policy: policy.name)
def test_f1_private_memory(policy: Policy) -> None:
    """F1: a private entry has the same rights in the child; only under isolated it is no more the object's."""
    process = Process(policy)
    anonymous, of_object = process.mmap(), process.mmap(prot=RWC, flags=c.MAP_PRIVATE, memory=process.shm())
    child, plan = process.fork()
    assert child.at(anonymous) == process.at(anonymous)
    if policy.name == "isolated":
        assert child.at(of_object) == process.at(of_object)._replace(object=None)
        assert plan.copies == [(of_object.base, of_object.base + PAGE)]
    else:
        assert child.at(of_object) == process.at(of_object)
        assert plan.copies == []
    assert (plan.drops, plan.zero, plan.none) == ([], [], [])
    assert child.space.serial == 2


def test_f2_the_child_loses_capability_permission() -> None:
    """F2, F5, F6: now and for ever; the parent keeps it, and what it does later changes nothing for the child."""
    process = Process()
    memory = process.shm()
    pointer = process.share(memory)
    child, plan = process.fork()
    assert (process.letters(pointer), child.letters(pointer)) == ("rwRW/rwRW", "rw/rw")
    assert plan.drops == [(pointer.base, pointer.top)]
    with refused("B3", "EACCES"):
        child.mprotect(pointer, RWC)
    with refused("E2", "EACCES"):
        child.share(memory)
    child.mprotect(pointer, RW)
    assert child.letters(pointer) == "rw/rw"


def test_f2_what_has_no_cap_drops_none() -> None:
    """F2: a shared mapping without capability permission is no drop; one that may get it is."""
    process = Process()
    process.share(process.shm(), RW)
    later = process.share(process.shm(), RWN | c.PROT_MAX(RWC))
    child, plan = process.fork()
    assert plan.drops == [(later.base, later.top)]
    assert child.letters(later) == "rw/rw"


@pytest.mark.parametrize("policy", [CheriBSD(), Open()], ids=lambda policy: policy.name)
def test_f8_share_cap_is_kept(policy: Policy) -> None:
    """F8, G2: O_SHARECAP objects, and anonymous shared memory with PROT_CAP."""
    process = Process(policy)
    pointers = [process.share(process.shm(is_share_cap=True)), process.mmap(prot=RWC, flags=ANON_SHARED)]
    child, plan = process.fork()
    assert [child.letters(pointer) for pointer in pointers] == ["rwRW/rwRW"] * 2
    assert plan.drops == []


def test_f8_isolated() -> None:
    """F2, F8 under isolated: shared mappings always lose it."""
    process = Process(Isolated())
    pointer = process.share(process.shm())
    assert process.fork()[0].letters(pointer) == "rw/rw"


def test_f8_k1() -> None:
    """K1: the child of a process that may not share loses capability permission to share-cap objects, too."""
    process = Process()
    pointer = process.share(process.shm(is_share_cap=True))
    process.knobs = Knobs(process=c.PROC_SHARECAP_DISABLE)
    child, plan = process.fork()
    assert child.letters(pointer) == "rw/rw"
    assert plan.drops == [(pointer.base, pointer.top)]


def test_f9_none() -> None:
    """F9: the range is absent in the child, which may map there; the parent keeps it."""
    process = Process()
    pointer = process.mmap()
    process.minherit(pointer, NONE)
    child, plan = process.fork()
    assert plan.none == [(pointer.base, pointer.top)]
    assert (child.letters(pointer), process.letters(pointer)) == ("", "rwRW/rwRW")
    assert child.mmap(pointer.base, flags=c.MAP_ANON | c.MAP_FIXED).base == pointer.base


def test_f10_zero() -> None:
    """F10: private memory of the same permissions, also where an object was shared."""
    process = Process()
    pointers = [process.mmap(), process.share(process.shm())]
    for pointer in pointers:
        process.minherit(pointer, ZERO)
    child, plan = process.fork()
    assert plan.zero == [(pointer.base, pointer.top) for pointer in pointers]
    for pointer in pointers:
        entry = child.at(pointer)
        assert (entry.object, entry.is_shared, entry.inherit) == (None, False, ZERO)
        assert child.letters(pointer) == "rwRW/rwRW"
    assert plan.drops == []


@pytest.mark.parametrize("inherit", [COPY, SHARE, NONE])
def test_f12_guards_and_holes(inherit: int) -> None:
    """F12: copied as such, unless NONE."""
    process = Process()
    pointer = process.mmap(length=3 * PAGE, prot=c.PROT_NONE, flags=c.MAP_GUARD)
    process.munmap(moved(pointer, PAGE))
    process.minherit(pointer, inherit, 3 * PAGE)
    child, _ = process.fork()
    assert [child.letters(pointer.base + n * PAGE) for n in range(3)] == (
        ["", "", ""] if inherit == NONE else ["/", "", "/"]
    )


def test_copy_of_shared_memory() -> None:
    """A shared mapping under INHERIT_COPY is the child's own copy, and keeps capability permission as F1 does."""
    process = Process()
    pointer = process.share(process.shm())
    process.minherit(pointer, COPY)
    child, plan = process.fork()
    entry = child.at(pointer)
    assert plan.copies == [(pointer.base, pointer.top)]
    assert (entry.object, entry.is_shared) == (None, False)
    assert child.letters(pointer) == "rwRW/rwRW"
    assert process.at(pointer).is_shared


def test_the_parent_is_not_changed() -> None:
    """A fork is a plan: the parent's address space is as it was, and later changes of the child's are its own."""
    process = Process()
    pointer = process.share(process.shm())
    before = dict(process.space.entries)
    child, _ = process.fork()
    child.munmap(pointer)
    assert dict(process.space.entries) == before
