"""cheribsd:1.F: what a fork leaves to the child, and what exec and exit make of ownership."""

import errno
import os
import socket

import pytest

from capshm import Machine, PageViolation
from capshm import cheribsd as bsd
from tests.conformance.cheribsd.support import (
    OWNED_KINDS,
    PAGE,
    PRIVATE_ANON,
    RC,
    RW,
    RWC,
    SHARED_ANON,
    R,
    anonymous,
    bits,
    check_absent,
    check_no_store,
    check_stripped,
    check_tagged,
    emulated,
    guard,
    new_object,
    new_value,
    private,
    receive_descriptor,
    receiver,
    refused,
    run_program,
    send_descriptor,
    shared,
    store,
    wait_until,
)
from tests.faults.processes import ask_child


@pytest.mark.parametrize("kind", ["anonymous", "shm", "file"])
@emulated()
def test_F1_private_memory_is_copied_with_tags(kind: str) -> None:
    """F1: the child has a copy of private memory with tags and the same permission; what either stores is its own."""
    memory = anonymous() if kind == "anonymous" else private(new_object(kind))
    value = store(memory)
    elsewhere = store(memory, 32)

    def body() -> None:
        check_tagged(memory, value)
        store(memory, 16)
        memory.write(32, b"x")
        bsd.mprotect(memory, PAGE, RWC)

    ask_child(body)
    check_tagged(memory, elsewhere, 32)
    assert memory.read(16, 16) == bytes(16)
    check_tagged(memory, value)


@emulated()
def test_F1_private_pages_that_were_not_written_yet() -> None:
    """F1: that goes for pages of a private mapping that are still the object's as well; a write parts them later."""
    descriptor = new_object()
    common, memory = shared(descriptor), private(descriptor)
    value = store(common)

    def body() -> None:
        check_tagged(memory, value)
        store(memory, 16)
        check_tagged(memory, value)

    ask_child(body)
    check_tagged(memory, value)
    assert common.read(16, 16) == bytes(16)


@emulated()
def test_F2_protection_of_parts() -> None:
    """F2: what has CAP loses it: of a mapping in parts each keeps its other permissions, and so does the rest."""
    memory = shared(new_object("shm", 4 * PAGE), RWC, 4 * PAGE)
    values = [store(memory, page * PAGE) for page in range(4)]
    bsd.mprotect(memory, PAGE, R)
    bsd.mprotect(memory + PAGE, PAGE, bsd.PROT_NONE)
    bsd.mprotect(memory + 2 * PAGE, PAGE, RW | bsd.PROT_NO_CAP)
    others = anonymous()
    kept = store(others)

    def body() -> None:
        check_stripped(memory, values[0])
        with pytest.raises(PageViolation):
            memory.write(0, b"x")
        check_absent(memory, "SEGV_ACCERR", PAGE)
        for page in (2, 3):
            check_stripped(memory, values[page], page * PAGE)
            check_no_store(memory, page * PAGE + 16)
        check_tagged(others, kept)

    ask_child(body)
    bsd.mprotect(memory, 4 * PAGE, RW)
    for page in range(4):
        check_tagged(memory, values[page], page * PAGE)


@OWNED_KINDS
@emulated()
def test_F2_owner_bound_memory_loses_cap_in_the_child(kind: str, machine: Machine) -> None:
    """F2: a shared mapping of an owner-bound object stays shared and loses CAP in the child, from its maximum too."""
    memory = shared(new_object(kind))
    value = store(memory)

    def body() -> tuple[set[str], set[str]]:
        mine = next(each for each in machine.mappings(os.getpid()) if each.start == memory.base)
        assert mine.is_shared
        memory.write(16, b"from the child")
        return set(mine.current) & set("rwRW"), set(mine.maximum) & set("rwRW")

    assert ask_child(body) == (set("rw"), set("rw"))
    assert memory.read(16, 14) == b"from the child"
    ours = next(each for each in machine.mappings(os.getpid()) if each.start == memory.base)
    assert set(ours.current) >= set("rwRW")
    assert set(ours.maximum) >= set("rwRW")
    check_tagged(memory, value)
    store(memory, 32)


@OWNED_KINDS
@emulated()
def test_F3_child_loads_untagged_values(kind: str) -> None:
    """F3: the child loads a capability of the parent without its tag, also one that is stored after the fork."""
    memory = shared(new_object(kind))
    value = store(memory)

    def body(end: socket.socket) -> None:
        check_stripped(memory, value)
        end.sendall(b"1")
        later = end.recv(16)
        assert memory.read(16, 16) == later
        assert not memory.load_capability(16).tag

    with receiver(body) as end:
        assert end.recv(1) == b"1"
        end.sendall(bits(store(memory, 16)))
    check_tagged(memory, value)


@OWNED_KINDS
@emulated()
def test_F4_child_cannot_store_tags(kind: str) -> None:
    """F4: the child's tagged store faults with SEGV_STORETAG, of a value of its own as of an inherited one."""
    memory = shared(new_object(kind))
    inherited = store(memory)

    def body() -> None:
        check_no_store(memory, 16)
        memory.store_capability(32, inherited.without_tag())

    ask_child(body)
    check_tagged(memory, inherited)
    check_stripped(memory, inherited, 32)


@OWNED_KINDS
@emulated()
def test_F5_child_cannot_raise_its_permission(kind: str) -> None:
    """F5: the child's mprotect with CAP is refused, and one without a flag implies nothing."""
    memory = shared(new_object(kind))
    value = store(memory)

    def body() -> None:
        for prot in (RWC, RC):
            with refused("cheribsd:B3", errno.EACCES):
                bsd.mprotect(memory, PAGE, prot)
        bsd.mprotect(memory, PAGE, bsd.PROT_NONE)
        bsd.mprotect(memory, PAGE, RW)
        check_stripped(memory, value)
        check_no_store(memory, 16)

    ask_child(body)


@OWNED_KINDS
@emulated()
def test_F6_child_maps_the_inherited_descriptor(kind: str) -> None:
    """F6: the child is refused another mapping of the inherited descriptor with CAP, in the old mapping's place too."""
    descriptor = new_object(kind)
    memory = shared(descriptor)
    store(memory)

    def body() -> None:
        with refused("cheribsd:E2", errno.EACCES):
            shared(descriptor)
        with refused("cheribsd:E2", errno.EACCES):
            bsd.mmap(memory, PAGE, RWC, bsd.MAP_SHARED | bsd.MAP_FIXED, descriptor)

    ask_child(body)
    store(shared(descriptor))


@OWNED_KINDS
@emulated()
def test_F7_child_overwrites_a_tag(kind: str) -> None:
    """F7: data that the child writes over a capability clears the parent's tag, of that granule alone."""
    memory = shared(new_object(kind))
    values = [store(memory, offset) for offset in (0, 16, 32)]
    ask_child(lambda: memory.write(24, b"x"))
    check_tagged(memory, values[0])
    assert not memory.load_capability(16).tag
    assert memory.read(24, 1) == b"x"
    check_tagged(memory, values[2], 32)


@emulated()
def test_F7_equal_bytes() -> None:
    """F7 (6.2): through capshm equal bytes clear the tag, too; written past it they are the one deviation."""
    memory = shared(new_object())
    values = [store(memory, offset) for offset in (0, 16)]

    def body() -> None:
        memory.write(0, bits(values[0]))
        memory.view(16, 16, writable=True)[:] = bits(values[1])

    ask_child(body)
    check_stripped(memory, values[0])
    check_tagged(memory, values[1], 16)


@pytest.mark.parametrize("kind", ["O_SHARECAP", "MAP_ANON|MAP_SHARED", "System V"])
@emulated()
def test_F8_share_cap_memory_keeps_cap_in_the_child(kind: str) -> None:
    """F8: the child keeps CAP in memory that is share-cap, and tags travel both ways after the fork."""
    if kind == "O_SHARECAP":
        memory = shared(new_object("share-cap"))
    elif kind == "System V":
        memory = bsd.shmat(bsd.shmget(bsd.IPC_PRIVATE, PAGE, 0o600))
    else:
        memory = anonymous(RWC, flags=SHARED_ANON)
    value = store(memory)

    def body(end: socket.socket) -> None:
        check_tagged(memory, value)
        end.sendall(bits(store(memory, 16)))
        later = end.recv(16)
        assert memory.load_capability(32).tag
        assert memory.read(32, 16) == later
        bsd.mprotect(memory, PAGE, R)
        bsd.mprotect(memory, PAGE, RWC)

    with receiver(body) as end:
        passed = end.recv(16)
        assert memory.load_capability(16).tag
        assert memory.read(16, 16) == passed
        end.sendall(bits(store(memory, 32)))


@pytest.mark.parametrize("kind", ["anonymous", "shm", "share-cap"])
@emulated()
def test_F9_inherit_none(kind: str) -> None:
    """F9: a range with INHERIT_NONE is absent in the child."""
    memory = anonymous() if kind == "anonymous" else shared(new_object(kind))
    value = store(memory)
    bsd.minherit(memory, PAGE, bsd.INHERIT_NONE)

    def body() -> None:
        check_absent(memory)
        replaced = bsd.mmap(memory.address, PAGE, RW, PRIVATE_ANON | bsd.MAP_FIXED)
        assert replaced.read(0, 16) == bytes(16)

    ask_child(body)
    check_tagged(memory, value)


@pytest.mark.parametrize("kind", ["anonymous", "shm", "share-cap"])
@emulated()
def test_F10_inherit_zero(kind: str) -> None:
    """F10: of a range with INHERIT_ZERO the child gets zero-filled memory of its own with the same permission."""
    memory = anonymous(RW, 2 * PAGE) if kind == "anonymous" else shared(new_object(kind, 2 * PAGE), RWC, 2 * PAGE)
    value = store(memory)
    bsd.minherit(memory, PAGE, bsd.INHERIT_ZERO)
    beside = store(memory, PAGE)

    def body() -> None:
        assert memory.read(0, PAGE) == bytes(PAGE)
        assert not memory.load_capability().tag
        store(memory, 16)
        assert memory.read(PAGE, 16) == bits(beside)

    ask_child(body)
    check_tagged(memory, value)
    assert memory.read(16, 16) == bytes(16)


@emulated()
def test_F12_guards_and_holes_are_copied() -> None:
    """F12: guards and what was unmapped in a reservation are that in the child as well."""
    place, memory = guard(), anonymous(RW, 3 * PAGE)
    bsd.munmap(memory + PAGE, PAGE)

    def body() -> None:
        for page in range(3):
            check_absent(place, "SEGV_ACCERR", page * PAGE)
        with refused("cheribsd:C5", errno.ENOMEM):
            bsd.mmap(place.address, PAGE, RW, PRIVATE_ANON | bsd.MAP_FIXED)
        with pytest.raises(PageViolation):
            memory.read(PAGE, 1)
        with refused("cheribsd:C11", errno.ENOMEM):
            bsd.mmap(memory.address + PAGE, PAGE, RW, PRIVATE_ANON | bsd.MAP_FIXED)
        store(bsd.mmap(place, PAGE, RW, PRIVATE_ANON | bsd.MAP_FIXED))

    ask_child(body)


@emulated()
def test_F12_guard_with_inherit_none() -> None:
    """F12: but with INHERIT_NONE a guard is not there, and its place is free."""
    place = guard()
    bsd.minherit(place, 3 * PAGE, bsd.INHERIT_NONE)

    def body() -> None:
        store(bsd.mmap(place.address, PAGE, RW, PRIVATE_ANON | bsd.MAP_FIXED))

    ask_child(body)
    with refused("cheribsd:C5", errno.ENOMEM):
        bsd.mmap(place.address, PAGE, RW, PRIVATE_ANON | bsd.MAP_FIXED)


@emulated()
def test_F13_child_owns_nothing_of_its_parents(machine: Machine) -> None:
    """F13: the parent's objects stay the parent's: the child owns none of them, and the parent goes on owning all."""
    descriptors = [new_object(), new_object("memfd")]
    owner = machine.processes()[0].vmspace

    def body() -> None:
        for descriptor in descriptors:
            with refused("cheribsd:E2", errno.EACCES):
                shared(descriptor)
        assert {each.owner for each in machine.objects()} == {owner}

    ask_child(body)
    for descriptor in descriptors:
        store(shared(descriptor))


@emulated()
def test_F14_child_owns_what_it_makes(machine: Machine) -> None:
    """F14: an object that the child makes is the child's, and not its parent's."""

    def body(end: socket.socket) -> None:
        descriptor = new_object()
        memory = shared(descriptor)
        value = store(memory)
        (made,) = machine.objects()
        me = next(each for each in machine.processes() if each.pid == os.getpid())
        assert made.owner == me.vmspace
        send_descriptor(end, descriptor)
        end.sendall(bits(value))
        assert end.recv(1) == b"!"
        check_tagged(memory, value)

    with receiver(body) as end:
        descriptor = receive_descriptor(end)
        with refused("cheribsd:E2", errno.EACCES):
            shared(descriptor)
        memory = shared(descriptor, RW)
        assert memory.read(0, 16) == end.recv(16)
        assert not memory.load_capability().tag
        end.sendall(b"!")


@emulated()
def test_F15_share_cap_is_seen_before_any_copy() -> None:
    """F15: whether the memory is share-cap is asked of the object itself, untouched as it may be, over generations."""
    memories = [shared(new_object("share-cap")), anonymous(RWC, flags=SHARED_ANON)]

    def grandchild() -> list[bytes]:
        return [bits(store(memory)) for memory in memories]

    stored = ask_child(lambda: ask_child(grandchild))
    for memory, content in zip(memories, stored, strict=True):
        assert memory.load_capability().tag
        assert memory.read(0, 16) == content


def orphan(machine: Machine, kind: str = "shm") -> tuple[int, bytes]:
    """A descriptor of an object that holds a capability and whose owner is dead, and the bits of that capability."""

    def body(end: socket.socket) -> None:
        descriptor = new_object(kind)
        value = store(shared(descriptor))
        send_descriptor(end, descriptor)
        end.sendall(bits(value))

    with receiver(body) as end:
        descriptor = receive_descriptor(end)
        content = end.recv(16)
    wait_until(lambda: [each.pid for each in machine.processes()] == [os.getpid()])
    return descriptor, content


@OWNED_KINDS
@emulated()
def test_F16_object_outlives_its_owner(kind: str, machine: Machine) -> None:
    """F16: when the owner's address space ends the object has no owner and lives on while somebody has it."""
    descriptor, content = orphan(machine, kind)
    (left,) = machine.objects()
    assert (left.owner, left.is_share_cap) == (None, False)
    assert os.pread(descriptor, 16, 0) == content
    memory = shared(descriptor, RW)
    memory.write(16, b"data")
    os.close(descriptor)
    assert len(machine.objects()) == 1
    bsd.munmap(memory, PAGE)
    wait_until(lambda: not machine.objects())


@OWNED_KINDS
@emulated()
def test_F17_nobody_maps_an_orphan_with_cap(kind: str, machine: Machine) -> None:
    """F17: after that nobody may ever map it with CAP: not the parent, not a later child, not a new program."""
    descriptor, _ = orphan(machine, kind)

    def body() -> None:
        with refused("cheribsd:E2", errno.EACCES):
            shared(descriptor)
        with refused("cheribsd:E5", errno.EACCES):
            private(descriptor)
        shared(descriptor, RW)

    body()
    for _ in range(3):
        ask_child(body)
    found = run_program(machine, "try_to_map", descriptor, descriptors=[descriptor])
    assert isinstance(found, list)
    assert found[:2] == [["cheribsd:E2", errno.EACCES], []]


@emulated()
def test_F18_tags_of_an_orphan_are_out_of_reach(machine: Machine) -> None:
    """F18: capabilities in it stay as bytes that nobody can load with a tag."""
    descriptor, content = orphan(machine)
    memory = shared(descriptor, RW)
    assert memory.read(0, 16) == content
    assert not memory.load_capability().tag
    check_no_store(memory, 16)
    assert not private(descriptor, RW | bsd.PROT_NO_CAP).load_capability().tag


@emulated()
def test_F19_exec_gives_a_new_identity(machine: Machine) -> None:
    """F19 (6): the program that a process becomes by exec owns nothing of what the process had made before."""
    assert run_program(machine, "keep_over_exec") == {
        "same process": True,
        "same content": True,
        "found": [["cheribsd:E2", errno.EACCES], [], False],
    }


@emulated()
def test_F20_new_program_is_not_the_owner(machine: Machine) -> None:
    """F20: a program that was started with the descriptor is refused a mapping with CAP, and finds the data."""
    descriptor = new_object("memfd")
    value = store(shared(descriptor))
    found = run_program(machine, "try_to_map", descriptor, descriptors=[descriptor])
    assert found == [["cheribsd:E2", errno.EACCES], [], False, bits(value).hex()]
    check_tagged(shared(descriptor), value)


@emulated()
def test_F21_exec_closes_shared_memory_descriptors(machine: Machine) -> None:
    """F21: descriptors of shm_open are closed by exec, those of memfd_create without MFD_CLOEXEC are not."""
    descriptors = [new_object(), new_object("share-cap"), new_object("memfd"), bsd.memfd_create("x", bsd.MFD_CLOEXEC)]
    assert run_program(machine, "is_open", *descriptors, are_closed=False) == [False, False, True, False]
    assert new_value().tag
