"""cheribsd:1.I: minherit."""

import errno
import os

import pytest

from capshm import Machine
from capshm import cheribsd as bsd
from tests.conformance.cheribsd.support import (
    PAGE,
    PRIVATE_ANON,
    RW,
    RWC,
    RWN,
    SHARED_ANON,
    anonymous,
    bits,
    check_absent,
    check_tagged,
    emulated,
    guard,
    new_object,
    private,
    refused,
    shared,
    store,
    without_vmem,
)
from tests.faults.processes import ask_child

SHARE, COPY, NONE, ZERO = bsd.INHERIT_SHARE, bsd.INHERIT_COPY, bsd.INHERIT_NONE, bsd.INHERIT_ZERO


@emulated()
def test_I1_untouched_anonymous_memory() -> None:
    """I1: private anonymous memory that nobody has touched is not shared with children, and stays private."""
    memory = anonymous()
    with refused("cheribsd:I1", errno.EACCES):
        bsd.minherit(memory, PAGE, SHARE)
    ask_child(lambda: memory.write(0, b"child"))
    assert memory.read(0, 5) == bytes(5)


@pytest.mark.parametrize("kind", ["shared", "private"])
@emulated()
def test_I2_memory_of_an_object_that_is_not_share_cap(kind: str) -> None:
    """I2: a mapping of an owner-bound object that is not INHERIT_SHARE is not made that."""
    descriptor = new_object()
    memory = shared(descriptor) if kind == "shared" else private(descriptor)
    value = store(memory)
    bsd.minherit(memory, PAGE, COPY)
    with refused("cheribsd:I2", errno.EACCES):
        bsd.minherit(memory, PAGE, SHARE)
    ask_child(lambda: memory.write(0, b"child"))
    check_tagged(memory, value)


@pytest.mark.parametrize("kind", ["shm", "share-cap", "file"])
@emulated()
def test_I3_shared_already(kind: str) -> None:
    """I3: SHARE of what is shared already is allowed and changes nothing."""
    memory = shared(new_object(kind), RW if kind == "file" else RWC)
    bsd.minherit(memory, PAGE, SHARE)
    if kind == "file":
        ask_child(lambda: memory.write(0, b"child"))
        assert memory.read(0, 5) == b"child"
        return
    value = store(memory)
    assert ask_child(lambda: memory.load_capability().tag) == (kind == "share-cap")
    check_tagged(memory, value)


@emulated()
def test_I5_memory_of_a_share_cap_object() -> None:
    """I5: a mapping of a share-cap object may be made INHERIT_SHARE again, and the child then shares capabilities."""
    for memory in (shared(new_object("share-cap")), anonymous(RWC, flags=SHARED_ANON)):
        value = store(memory)
        bsd.minherit(memory, PAGE, COPY)
        ask_child(lambda memory=memory: memory.write(0, b"child"))  # type: ignore[misc]
        check_tagged(memory, value)
        bsd.minherit(memory, PAGE, SHARE)
        passed = ask_child(lambda memory=memory: bits(store(memory, 16)))  # type: ignore[misc]
        assert memory.load_capability(16).tag
        assert memory.read(16, 16) == passed


@pytest.mark.parametrize("kind", ["anonymous", "shm", "file", "touched"])
@emulated()
def test_I6_mapping_that_cannot_hold_capabilities(kind: str) -> None:
    """I6 (6): memory whose maximum lacks CAP may be shared with children, with what is in it."""
    memory = private(new_object(kind), RWN) if kind in ("shm", "file") else anonymous(RWN)
    if kind != "anonymous":
        memory.write(100, b"content")
    bsd.minherit(memory, PAGE, SHARE)

    def body() -> None:
        assert memory.read(100, 7) == (bytes(7) if kind == "anonymous" else b"content")
        memory.write(0, b"child")

    ask_child(body)
    assert memory.read(0, 5) == b"child"


@emulated()
def test_I6_maximum_decides() -> None:
    """I6: where the maximum has CAP, memory without capability permission now is refused as well."""
    memory = anonymous(RWN | bsd.PROT_MAX(RWC))
    with refused("cheribsd:I1", errno.EACCES):
        bsd.minherit(memory, PAGE, SHARE)


@emulated()
def test_I7_copy_of_shared_memory() -> None:
    """I7: COPY of shared memory is allowed: the child has a copy of its own, of data and tags at the fork."""
    memory = shared(new_object())
    value = store(memory)
    bsd.minherit(memory, PAGE, COPY)

    def body() -> None:
        check_tagged(memory, value)
        store(memory, 16)
        memory.write(0, b"child")

    ask_child(body)
    check_tagged(memory, value)
    assert memory.read(16, 16) == bytes(16)
    store(memory, 32)


@pytest.mark.parametrize("inherit", [COPY, NONE, ZERO])
@pytest.mark.parametrize("kind", ["anonymous", "shm", "share-cap", "file"])
@emulated()
def test_I7_all_but_share_is_allowed(kind: str, inherit: int) -> None:
    """I7: COPY, NONE and ZERO are allowed for every memory, and the child finds what they say."""
    memory = anonymous() if kind == "anonymous" else shared(new_object(kind), RW if kind == "file" else RWC)
    memory.write(0, b"parent")
    bsd.minherit(memory, PAGE, inherit)

    def body() -> None:
        if inherit == NONE:
            check_absent(memory)
            return
        assert memory.read(0, 6) == (b"parent" if inherit == COPY else bytes(6))
        memory.write(0, b"child!")

    ask_child(body)
    assert memory.read(0, 6) == b"parent"


@emulated()
def test_I8_large_pages_are_not_copied() -> None:
    """I8: COPY of an object of large pages is refused."""
    size = 2 << 20
    descriptor = bsd.shm_open2(bsd.SHM_ANON, os.O_RDWR | bsd.O_SHARECAP, 0o600, bsd.SHM_LARGEPAGE)
    os.ftruncate(descriptor, size)
    memory = shared(descriptor, RWC, size)
    with refused("cheribsd:I8", errno.EINVAL):
        bsd.minherit(memory, size, COPY)
    value = store(memory)
    ask_child(lambda: check_tagged(memory, value))


@emulated()
def test_I10_guards_stay_guards() -> None:
    """I10: ZERO leaves guards as they are."""
    place = guard()
    middle = bsd.mmap(place + PAGE, PAGE, RW, PRIVATE_ANON | bsd.MAP_FIXED)
    middle.write(0, b"parent")
    bsd.minherit(place, 3 * PAGE, ZERO)

    def body() -> None:
        check_absent(place, "SEGV_ACCERR")
        assert middle.read(0, 6) == bytes(6)
        check_absent(place, "SEGV_ACCERR", 2 * PAGE)

    ask_child(body)


@emulated()
def test_I11_all_or_nothing() -> None:
    """I11: where one entry of a range is refused, none is changed."""
    memory = anonymous(RW, 3 * PAGE)
    for page in (0, 2):
        bsd.mmap(memory + page * PAGE, PAGE, RWN, PRIVATE_ANON | bsd.MAP_FIXED)
    with refused("cheribsd:I1", errno.EACCES):
        bsd.minherit(memory, 3 * PAGE, SHARE)
    parts = [memory + page * PAGE for page in (0, 2)]

    def body() -> None:
        for part in parts:
            part.write(0, b"child")

    ask_child(body)
    assert [part.read(0, 5) for part in parts] == [bytes(5), bytes(5)]
    for part in parts:
        bsd.minherit(part, PAGE, SHARE)
    ask_child(body)
    assert [part.read(0, 5) for part in parts] == [b"child", b"child"]


@emulated()
def test_I12_unknown_inheritance() -> None:
    """I12: a value that is no inheritance is refused."""
    memory = anonymous()
    for inherit in (4, -1, 1 << 30):
        with refused("cheribsd:I12", errno.EINVAL):
            bsd.minherit(memory, PAGE, inherit)


@emulated()
def test_I13_pointer_that_does_not_authorise(machine: Machine) -> None:
    """I13: a pointer without tag, bounds or SW_VMEM for the range is refused, and nothing is changed."""
    memory = anonymous(RW, 2 * PAGE)
    before = machine.mappings(os.getpid())
    for pointer in (
        memory.without_tag(),
        memory.with_bounds(PAGE),
        memory + PAGE,
        without_vmem(memory),
        memory.address,
    ):
        with refused("cheribsd:I13", bsd.EPROT):
            bsd.minherit(pointer, 2 * PAGE, NONE)
    assert machine.mappings(os.getpid()) == before
    value = store(memory, PAGE)
    ask_child(lambda: check_tagged(memory, value, PAGE))


@emulated()
def test_I15_none_for_part_of_a_reservation() -> None:
    """I15 (6): NONE for part of a reservation is refused, and changes nothing; for the whole it is not."""
    memory = anonymous(RW, 3 * PAGE)
    values = [store(memory, page * PAGE) for page in range(3)]
    for part, length in ((memory, PAGE), (memory + PAGE, PAGE), (memory + PAGE, 2 * PAGE)):
        with refused("cheribsd:I15", errno.EINVAL):
            bsd.minherit(part, length, NONE)

    def body() -> None:
        for page, value in enumerate(values):
            check_tagged(memory, value, page * PAGE)

    ask_child(body)
    bsd.minherit(memory, 3 * PAGE, NONE)
    ask_child(lambda: check_absent(memory, offset=PAGE))


@emulated()
def test_I16_the_old_test_changes() -> None:
    """I16: NONE and then SHARE on private anonymous memory, which an old test expects to work, is refused by I1."""
    memory = anonymous()
    bsd.minherit(memory, PAGE, NONE)
    with refused("cheribsd:I1", errno.EACCES):
        bsd.minherit(memory, PAGE, SHARE)
    ask_child(lambda: check_absent(memory))
