"""cheribsd:6.1: what the three policies decide, cell by cell of the table."""

import errno
import os

import pytest

from capshm import cheribsd as bsd
from tests.conformance.cheribsd.support import (
    PAGE,
    RW,
    RWC,
    SHARED_ANON,
    anonymous,
    bits,
    check_no_store,
    check_stripped,
    check_tagged,
    emulated,
    new_object,
    private,
    refused,
    shared,
    store,
)
from tests.faults.processes import Child, Event, ask_child

POLICIES = pytest.mark.parametrize("policy", ["open", "cheribsd", "isolated"])


@pytest.mark.parametrize("kind", ["shm", "memfd", "anonymous", "zero"])
@POLICIES
@emulated()
def test_implied_capabilities_of_shared_memory(policy: str, kind: str) -> None:
    """6.1, A4, A5, A6: shared memory without a flag has capability permission under `open`, and no other policy."""
    memory = anonymous(RW, flags=SHARED_ANON) if kind == "anonymous" else shared(new_object(kind), RW)
    if policy == "open":
        value = store(memory)
        ask_child(lambda: check_tagged(memory, value))
    else:
        check_no_store(memory)


@POLICIES
@emulated()
def test_files(policy: str) -> None:
    """6.1, A3, A15: shared files hold no capabilities under any policy, and are refused if asked to."""
    descriptor = new_object("file")
    check_no_store(shared(descriptor, RW))
    with refused("cheribsd:A15", errno.EACCES):
        shared(descriptor, RWC)


@POLICIES
@emulated()
def test_foreign_mappings(policy: str) -> None:
    """6.1, E2, E4, E5: a foreign mapping with CAP is allowed under `open`, where every object is share-cap, only."""
    descriptor = new_object()
    value = store(shared(descriptor))

    def body() -> None:
        if policy == "open":
            for memory in (shared(descriptor), private(descriptor, RWC), private(descriptor, RW)):
                check_tagged(memory, value)
            return
        for rule, call, prot in (("E2", shared, RWC), ("E2", private, RWC), ("E5", private, RW)):
            with refused(f"cheribsd:{rule}", errno.EACCES):
                call(descriptor, prot)
        check_stripped(shared(descriptor, RW), value)

    ask_child(body)
    check_tagged(shared(descriptor), value)


@POLICIES
@emulated()
def test_share_cap_creation(policy: str) -> None:
    """6.1, D1: O_SHARECAP makes an object for everybody, and is refused under `isolated`."""
    if policy == "isolated":
        with refused("isolated", errno.EACCES):
            new_object("share-cap")
        return
    descriptor = new_object("share-cap")
    value = store(shared(descriptor))
    ask_child(lambda: check_tagged(shared(descriptor), value))


@pytest.mark.parametrize("kind", ["anonymous", "zero"])
@POLICIES
@emulated()
def test_anonymous_sharing(policy: str, kind: str) -> None:
    """6.1, G1: anonymous shared memory with CAP is share-cap, and refused under `isolated`, where data is allowed."""
    descriptor = new_object("zero") if kind == "zero" else -1
    flags = bsd.MAP_SHARED if kind == "zero" else SHARED_ANON
    if policy == "isolated":
        with refused("isolated", errno.EACCES):
            bsd.mmap(None, PAGE, RWC, flags, descriptor)
        data = bsd.mmap(None, PAGE, RW, flags, descriptor)
        ask_child(lambda: data.write(0, b"child"))
        assert data.read(0, 5) == b"child"
        return
    memory = bsd.mmap(None, PAGE, RWC, flags, descriptor)
    passed = ask_child(lambda: bits(store(memory)))
    assert memory.load_capability().tag
    assert memory.read(0, 16) == passed


@POLICIES
@emulated()
def test_system_v(policy: str) -> None:
    """6.1, H1: a System V segment is share-cap; `isolated` refuses shmat, which cannot ask for less than CAP."""
    segment = bsd.shmget(bsd.IPC_PRIVATE, PAGE, 0o600)
    if policy == "isolated":
        with refused("isolated", errno.EACCES):
            bsd.shmat(segment)
        return
    memory = bsd.shmat(segment)
    passed = ask_child(lambda: bits(store(bsd.shmat(segment))))
    assert memory.load_capability().tag
    assert memory.read(0, 16) == passed


@POLICIES
@emulated()
def test_private_memory_at_fork(policy: str) -> None:
    """6.1, F1: private memory keeps its tags in the child under every policy; the child's stores are its own."""
    memory = anonymous()
    value = store(memory)

    def body() -> None:
        check_tagged(memory, value)
        store(memory, 16)

    ask_child(body)
    assert memory.read(16, 16) == bytes(16)


@POLICIES
@emulated()
def test_owned_memory_at_fork(policy: str) -> None:
    """6.1, F2: a shared mapping of an object that is not made to share keeps CAP in the child under `open` only."""
    memory = shared(new_object())
    value = store(memory)

    def body() -> None:
        if policy == "open":
            check_tagged(memory, value)
            store(memory, 16)
        else:
            check_stripped(memory, value)
            check_no_store(memory, 16)

    ask_child(body)
    check_tagged(memory, value)
    assert memory.load_capability(16).tag == (policy == "open")


@POLICIES
@emulated()
def test_no_share_cap_memory_at_fork(policy: str) -> None:
    """6.1, F8: share-cap memory keeps CAP in the child; under `isolated` there is no such memory to be had."""
    if policy != "isolated":
        memory = shared(new_object("share-cap"))
        value = store(memory)
        ask_child(lambda: check_tagged(memory, value))
        return
    place = anonymous(RW, 2 * PAGE)
    with refused("isolated", errno.EACCES):
        bsd.mmap(place, PAGE, RWC, SHARED_ANON | bsd.MAP_FIXED)
    memory = bsd.mmap(place, PAGE, RWC, bsd.MAP_SHARED | bsd.MAP_FIXED, new_object())
    value = store(memory)
    ask_child(lambda: check_stripped(memory, value))


@pytest.mark.parametrize("kind", ["I1", "I2"])
@POLICIES
@emulated()
def test_sharing_by_minherit(policy: str, kind: str) -> None:
    """6.1, I1, I2: minherit(INHERIT_SHARE) of memory that can hold capabilities is allowed under `open` only."""
    memory = anonymous() if kind == "I1" else shared(new_object())
    value = store(memory)
    if kind == "I2":
        bsd.minherit(memory, PAGE, bsd.INHERIT_COPY)
    if policy != "open":
        with refused(f"cheribsd:{kind}", errno.EACCES):
            bsd.minherit(memory, PAGE, bsd.INHERIT_SHARE)
        ask_child(lambda: memory.write(0, b"child"))
        check_tagged(memory, value)
        return
    bsd.minherit(memory, PAGE, bsd.INHERIT_SHARE)

    def body() -> bytes:
        check_tagged(memory, value)
        return bits(store(memory, 16))

    passed = ask_child(body)
    assert memory.load_capability(16).tag
    assert memory.read(16, 16) == passed


@emulated("isolated")
def test_nothing_crosses_by_any_way() -> None:
    """6.1, `isolated`: no way that memory is shared in carries a tag from one address space into another."""
    descriptor = new_object()
    value = store(shared(descriptor))
    received = ask_child(lambda: [shared(descriptor, RW).load_capability().tag, os.pread(descriptor, 16, 0)])
    assert received == [False, bits(value)]


@pytest.mark.parametrize(("policy", "arrives"), [("isolated", False), ("cheribsd", True)])
@emulated()
def test_F1_what_is_stored_after_the_fork(policy: str, arrives: bool) -> None:
    """F1: a page that nobody has written is still the object's in a child; under isolated it is the child's own."""
    fd = new_object()
    origin, mine = shared(fd), private(fd)
    value = store(origin)
    stored = Event()

    def body() -> None:
        stored.wait()
        check_tagged(mine, value)
        assert mine.load_capability(16).tag == arrives

    with Child(body) as child:
        origin.store_capability(16, value)
        stored.set()
        assert child.wait() == 0
    check_tagged(mine, value, 16)
