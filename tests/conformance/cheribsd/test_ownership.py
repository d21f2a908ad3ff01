"""cheribsd:1.E, 3.3, 3.9: whose address space an object belongs to, and what crosses into another one."""

import errno
import fcntl
import functools
import os
import select
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from capshm import Capability, Machine, Refused
from capshm import cheribsd as bsd
from tests.conformance.cheribsd.support import (
    OWNED_KINDS,
    PAGE,
    RC,
    RW,
    RWC,
    RWN,
    SHARED_ANON,
    R,
    anonymous,
    bits,
    check_no_store,
    check_stripped,
    check_tagged,
    emulated,
    new_named,
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
from tests.faults.processes import Child, ask_child

EXCLUSIVE = os.O_RDWR | os.O_CREAT | os.O_EXCL


def is_foreign(descriptor: int) -> bool:
    """Whether this process is refused capability permission by the rule of ownership."""
    try:
        shared(descriptor, RWC)
    except Refused as error:
        return (error.rule, error.errno) == ("cheribsd:E2", errno.EACCES)
    return False


@OWNED_KINDS
@emulated()
def test_E1_owner_has_aliases(kind: str) -> None:
    """E1: the owner may map with CAP as often as it likes; a tag stored through one mapping is seen through others."""
    descriptor = new_object(kind, 2 * PAGE)
    aliases = [shared(descriptor, RWC, 2 * PAGE) for _ in range(3)]
    for offset, alias in enumerate(aliases):
        value = store(alias, PAGE + 16 * offset)
        for other in aliases:
            check_tagged(other, value, PAGE + 16 * offset)
    aliases[0].write(PAGE, b"x")
    assert not aliases[1].load_capability(PAGE).tag


@OWNED_KINDS
@emulated()
def test_E2_another_address_space_has_no_capabilities(kind: str) -> None:
    """E2: a process that is not the owner is refused any mapping whose maximum has CAP."""
    descriptor = new_object(kind)
    protections = [RWC, RC, bsd.PROT_WRITE | bsd.PROT_CAP, RWN | bsd.PROT_MAX(RWC), bsd.PROT_NONE | bsd.PROT_MAX(RC)]
    for prot in protections:
        shared(descriptor, prot)

    def body() -> None:
        for prot in protections:
            with refused("cheribsd:E2", errno.EACCES):
                shared(descriptor, prot)

    ask_child(body)
    store(shared(descriptor))


@OWNED_KINDS
@emulated()
def test_E3_another_address_space_has_the_data(kind: str) -> None:
    """E3: without CAP a process that is not the owner shares the data; loads are untagged, tagged stores fault."""
    descriptor = new_object(kind)
    memory = shared(descriptor)
    value = store(memory)

    def body() -> None:
        for prot in (RW, RWN):
            mine = shared(descriptor, prot)
            check_stripped(mine, value)
            check_no_store(mine, 16)
            with refused("cheribsd:B3", errno.EACCES):
                bsd.mprotect(mine, PAGE, RWC)
            mine.write(32, b"from the child")

    ask_child(body)
    assert memory.read(32, 14) == b"from the child"
    check_tagged(memory, value)


@OWNED_KINDS
@emulated()
def test_E4_private_mapping_with_cap(kind: str) -> None:
    """E4: a private mapping with PROT_CAP is refused to a process that is not the owner, as a shared one is."""
    descriptor = new_object(kind)
    value = store(shared(descriptor))
    check_tagged(private(descriptor, RWC), value)

    def body() -> None:
        for prot in (RWC, RC, RWN | bsd.PROT_MAX(RWC)):
            with refused("cheribsd:E2", errno.EACCES):
                private(descriptor, prot)

    ask_child(body)


@OWNED_KINDS
@emulated()
def test_E5_private_mapping_that_implies_cap(kind: str) -> None:
    """E5: a private mapping implies CAP, so it is refused to a process that is not the owner, but for PROT_NO_CAP."""
    descriptor = new_object(kind)
    value = store(shared(descriptor))
    check_tagged(private(descriptor, RW), value)

    def body() -> None:
        for prot in (RW, R, R | bsd.PROT_MAX(RW)):
            with refused("cheribsd:E5", errno.EACCES):
                private(descriptor, prot)
        mine = private(descriptor, RWN)
        check_stripped(mine, value)
        check_no_store(mine, 16)
        mine.write(0, bytes(16))

    ask_child(body)
    check_tagged(shared(descriptor), value)


def _open_name(descriptor: int) -> int:
    return bsd.shm_open("/object", os.O_RDWR)


def _keep(descriptor: int) -> int:
    return descriptor


def _duplicate(descriptor: int) -> int:
    return os.dup(descriptor)


def _reopen(descriptor: int) -> int:
    return os.open(f"/dev/fd/{descriptor}", os.O_RDWR)


@pytest.mark.parametrize("way", ["_open_name", "_keep", "_duplicate", "_reopen"])
@emulated()
def test_E6_having_the_object_is_not_owning_it(way: str, machine: Machine) -> None:
    """E6: another process may open the name, inherit, duplicate or reopen the descriptor; only CAP is refused."""
    obtain: Callable[[int], int] = globals()[way]
    descriptor = new_named("/object")
    value = store(shared(descriptor))
    before = machine.objects()

    def body() -> None:
        mine = obtain(descriptor)
        assert is_foreign(mine)
        check_stripped(shared(mine, RW), value)

    ask_child(body)
    assert [each.owner for each in machine.objects()] == [each.owner for each in before]
    check_tagged(shared(descriptor), value)


@emulated()
def test_E6_received_by_a_socket(machine: Machine) -> None:
    """E6: a descriptor that came by SCM_RIGHTS brings data, and no capabilities."""
    value_bits = []

    def body(end: socket.socket) -> None:
        mine = receive_descriptor(end)
        expected = end.recv(16)
        assert is_foreign(mine)
        memory = shared(mine, RW)
        assert memory.read(0, 16) == expected
        assert not memory.load_capability().tag

    with receiver(body) as end:
        descriptor = new_object()
        memory = shared(descriptor)
        value_bits.append(bits(store(memory)))
        send_descriptor(end, descriptor)
        end.sendall(value_bits[0])
    assert memory.load_capability().tag
    assert machine.objects()[0].owner == machine.processes()[0].vmspace


def _send_there_and_back() -> None:
    def body(end: socket.socket) -> None:
        mine = receive_descriptor(end)
        assert is_foreign(mine)
        send_descriptor(end, mine)

    with receiver(body) as end:
        descriptor = new_object()
        memory = shared(descriptor)
        value = store(memory)
        bsd.munmap(memory, PAGE)
        send_descriptor(end, descriptor)
        os.close(descriptor)
        returned = receive_descriptor(end)
    memory = shared(returned)
    check_tagged(memory, value)
    store(memory, 16)


@emulated()
def test_E7_descriptor_that_came_back() -> None:
    """E7: when the descriptor is back with the owner, it may map with CAP again, and finds its tags."""
    _send_there_and_back()


@emulated()
def test_E8_writing_through_a_read_only_descriptor() -> None:
    """E8: a shared writable mapping of a read-only descriptor is refused, before the owner is looked at."""
    writable = new_named("/object")
    descriptor = bsd.shm_open("/object", os.O_RDONLY)

    def body() -> None:
        for prot in (RW, RWC):
            with refused("cheribsd:E8", errno.EACCES):
                shared(descriptor, prot)

    body()
    ask_child(body)
    store(shared(writable))
    store(private(descriptor, RW), 16)


@emulated()
def test_E8_writing_to_a_sealed_object() -> None:
    """E8: so is one of an object that is sealed against writing."""
    descriptor = bsd.memfd_create("object", bsd.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, PAGE)
    memory = shared(descriptor)
    value = store(memory)
    bsd.munmap(memory, PAGE)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    for prot in (RW, RWC):
        with refused("cheribsd:E8", errno.EACCES):
            shared(descriptor, prot)
    check_tagged(shared(descriptor, RC), value)


@emulated()
def test_E9_share_cap_object() -> None:
    """E9: any process may map a share-cap object with CAP, and tags travel in both directions."""
    descriptor = new_object("share-cap")
    memory = shared(descriptor)
    value = store(memory)

    def body() -> bytes:
        mine = shared(descriptor)
        check_tagged(mine, value)
        return bits(store(mine, 16))

    answer = ask_child(body)
    assert memory.load_capability(16).tag
    assert memory.read(16, 16) == answer


@emulated()
def test_E10_share_cap_object_without_cap() -> None:
    """E10: through a mapping without CAP no capability of a share-cap object passes."""
    descriptor = new_object("share-cap")
    memory = shared(descriptor)
    value = store(memory)

    def body() -> None:
        for prot in (RW, RWN):
            mine = shared(descriptor, prot)
            check_stripped(mine, value)
            check_no_store(mine, 16)
        check_tagged(shared(descriptor, RC), value)

    ask_child(body)


@emulated()
def test_E11_creator_is_the_owner() -> None:
    """E11: the owner is who created the object, not who maps it first."""
    descriptor = new_named("/object")

    def body() -> None:
        mine = bsd.shm_open("/object", os.O_RDWR | os.O_CREAT)
        shared(mine, RW).write(0, b"mapped first")
        assert is_foreign(mine)

    ask_child(body)
    memory = shared(descriptor)
    assert memory.read(0, 12) == b"mapped first"
    store(memory)


@emulated()
def test_E12_threads_are_one_address_space() -> None:
    """E12: what one thread has created another may map with CAP. (vfork and rfork have no Python call of their own.)"""
    made: list[int] = []
    found: list[Capability] = []
    thread = threading.Thread(target=lambda: made.append(new_object()))
    thread.start()
    thread.join()
    value = store(shared(made[0]))
    thread = threading.Thread(target=lambda: found.append(shared(made[0]).load_capability()))
    thread.start()
    thread.join()
    assert found[0].tag
    assert found[0] == value


@emulated()
def test_E13_owner_is_not_kept_alive_by_its_objects(machine: Machine) -> None:
    """E13: an object holds no reference to its owner, whose address space ends though the object lives on."""

    def body(end: socket.socket) -> None:
        descriptor = new_object()
        store(shared(descriptor))
        send_descriptor(end, descriptor)

    with receiver(body) as end:
        descriptor = receive_descriptor(end)
    wait_until(lambda: [each.pid for each in machine.processes()] == [os.getpid()])
    (left,) = machine.objects()
    assert left.owner is None
    assert shared(descriptor, RW).read(0, 16) != bytes(16)


@pytest.mark.parametrize("prot", [RW, RWC])
@emulated()
def test_E14_capabilities_leak_in_but_not_back(prot: int) -> None:
    """E14: a private mapping of a share-cap object in another process loads tags, and its stores stay its own."""
    descriptor = new_object("share-cap")
    memory = shared(descriptor)
    values = [store(memory), store(memory, PAGE - 16)]

    def body() -> None:
        mine = private(descriptor, prot)
        check_tagged(mine, values[0])
        replacement = store(mine)
        check_tagged(mine, replacement)
        check_tagged(mine, values[1], PAGE - 16)
        check_tagged(shared(descriptor), values[0])

    ask_child(body)
    check_tagged(memory, values[0])
    check_tagged(memory, values[1], PAGE - 16)


# 3.3


@emulated()
def test_row_27_vm_shm_open_anon_unix_surprise() -> None:
    """Row 27: a descriptor that a process forked before receives by SCM_RIGHTS is not mapped with CAP by it."""
    surprise(is_named=False)


def surprise(*, is_named: bool) -> None:
    """The parent stores its own pointer, unmaps, and sends the descriptor; the child tries to map it and load."""

    def body(end: socket.socket) -> None:
        mine = receive_descriptor(end)
        with refused("cheribsd:E2", errno.EACCES):
            shared(mine, RC)
        assert not shared(mine, R).load_capability().tag

    with receiver(body) as end:
        descriptor = new_named("/surprise") if is_named else new_object()
        if is_named:
            bsd.shm_unlink("/surprise")
        memory = shared(descriptor)
        value = store(memory)
        bsd.munmap(memory, PAGE)
        send_descriptor(end, descriptor)
    check_tagged(shared(descriptor, RC), value)


@emulated()
def test_row_28_vm_shm_open_named_unix_surprise() -> None:
    """Row 28: nor is one of an object that had a name and has lost it."""
    surprise(is_named=True)


def pass_bytes(connection: tuple[int, int], length: int) -> None:
    """A child writes memory full of capabilities to the second descriptor; what is read from the first has no tags."""
    read, write = connection
    value = new_value()

    def body() -> None:
        memory = anonymous(RW, length)
        memory.fill_capabilities(0, length // 16, value)
        assert all(memory.load_capabilities(0, length // 16).tags)
        rest = memory.view(0, length)
        while rest:
            rest = rest[os.write(write, rest) :]

    memory = anonymous(RW, length)
    for offset in range(0, length, PAGE):
        store(memory, offset)  # which the kernel overwrites
    with Child(body) as child:
        rest = memory.view(0, length, writable=True)
        while rest:
            count = os.readv(read, [rest])
            assert count
            rest = rest[count:]
        assert child.wait() == 0
    assert memory.read(0, length) == bits(value) * (length // 16)
    assert not any(memory.load_capabilities(0, length // 16).tags)


@emulated()
def test_row_32_ipc_pipe_capsize_tagstripped() -> None:
    """Row 32: sixteen bytes with a capability lose their tag in a pipe."""
    pass_bytes(os.pipe(), 16)


@emulated()
def test_row_34_ipc_socket_local_stream_capsize_tagstripped() -> None:
    """Row 34: so they do in a local socket."""
    ours, theirs = socket.socketpair()
    pass_bytes((ours.fileno(), theirs.fileno()), 16)


@emulated()
def test_row_35_ipc_socket_local_stream_8k_tagstripped() -> None:
    """Row 35: so do 8 KiB of them."""
    ours, theirs = socket.socketpair()
    pass_bytes((ours.fileno(), theirs.fileno()), 8192)


@emulated()
def test_row_37_ipc_socket_tcp_stream_8k_tagstripped() -> None:
    """Row 37: so they do in a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    pass_bytes((ours.fileno(), theirs.fileno()), 8192)


class _Interrupted(Exception):
    pass


def _interrupt(number: int, frame: object) -> None:
    raise _Interrupted


@emulated()
def test_row_38_ipc_pipe_sleep_signal() -> None:
    """Row 38: a write of capabilities that waits for room in a pipe is interrupted by SIGALRM, and all goes on."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    while select.select([], [write], [], 0)[1]:
        os.write(write, bytes(PAGE))
    os.set_blocking(write, True)

    def body() -> None:
        memory = anonymous(RW, 8192)
        value = new_value()
        memory.fill_capabilities(0, 512, value)
        signal.signal(signal.SIGALRM, _interrupt)
        with pytest.raises(_Interrupted):
            os.write(write, memory.view(0, 8192))
        assert all(memory.load_capabilities(0, 512).tags)
        store(memory)

    with Child(body) as child:
        place = Path(f"/proc/{child.pid}/wchan")
        wait_until(lambda: "pipe_write" in place.read_text(encoding="ascii"))
        os.kill(child.pid, signal.SIGALRM)
        assert child.wait() == 0
    os.close(read)
    store(anonymous())


@emulated()
def test_row_42_colocation_exec_child(machine: Machine) -> None:
    """Row 42: a new program is in an address space of its own."""
    pid = run_program(machine, "who_am_i")
    assert pid != os.getpid()
    (me,) = [each for each in machine.processes() if each.pid == os.getpid()]
    descriptor = new_object("memfd")
    store(shared(descriptor))
    assert run_program(machine, "try_to_map", descriptor, descriptors=[descriptor])[0] == [  # type: ignore[index]
        "cheribsd:E2",
        errno.EACCES,
    ]
    others = {event.vmspace for event in machine.audit() if event.pid == pid}
    assert others
    assert me.vmspace not in others


# 3.9


@emulated()
def test_X1_foreign_shared_mapping_with_cap() -> None:
    """X1: a process that is not the owner is refused a shared mapping with CAP."""
    descriptor = new_object()
    store(shared(descriptor))
    assert ask_child(functools.partial(is_foreign, descriptor))
    assert not is_foreign(descriptor)


@emulated()
def test_X3_descriptor_there_and_back() -> None:
    """X3: the owner sends the descriptor away, gets it back, maps with CAP and finds the old tag."""
    _send_there_and_back()


@emulated()
def test_X4_forked_child_loads_the_pointer() -> None:
    """X4: a forked child loads the pointer that its parent has stored: untagged, of equal value."""
    memory = shared(new_object())
    value = store(memory)
    ask_child(lambda: check_stripped(memory, value))
    check_tagged(memory, value)


@emulated()
def test_X6_forked_child_asks_for_cap() -> None:
    """X6: a forked child's mprotect with CAP is refused."""
    memory = shared(new_object())
    store(memory)

    def body() -> None:
        with refused("cheribsd:B3", errno.EACCES):
            bsd.mprotect(memory, PAGE, RWC)

    ask_child(body)
    bsd.mprotect(memory, PAGE, RWC)


@emulated()
def test_X7_forked_child_of_share_cap() -> None:
    """X7: with O_SHARECAP the forked child loads the pointer with its tag."""
    memory = shared(new_object("share-cap"))
    value = store(memory)
    ask_child(lambda: check_tagged(memory, value))


@emulated()
def test_X10_reopening_with_share_cap() -> None:
    """X10: a named owner-bound object is not opened with O_SHARECAP, by a forked child neither."""
    new_named("/object")

    def body() -> None:
        with refused("cheribsd:D4", errno.EPERM):
            bsd.shm_open("/object", os.O_RDWR | bsd.O_SHARECAP)

    body()
    ask_child(body)


@emulated()
def test_X12_exclusive_beats_share_cap() -> None:
    """X12: O_EXCL is looked at before the share-cap state."""
    new_named("/object")
    with refused("cheribsd:1.D/10", errno.EEXIST):
        bsd.shm_open("/object", EXCLUSIVE | bsd.O_SHARECAP)


@emulated()
def test_X13_meaningless_flags() -> None:
    """X13: other access modes and flags that mean nothing for shared memory are refused."""
    wrong = [(os.O_WRONLY, 2), (os.O_RDWR | os.O_WRONLY, 2)]
    wrong += [(os.O_RDWR | flag, 3) for flag in (os.O_APPEND, os.O_NONBLOCK, os.O_DIRECTORY, os.O_SYNC, 1 << 28)]
    for flags, step in wrong:
        for path in ("/object", bsd.SHM_ANON):
            with refused(f"cheribsd:1.D/{step}", errno.EINVAL):
                bsd.shm_open(path, flags | os.O_CREAT)
    with refused("cheribsd:1.D/9", errno.ENOENT):
        bsd.shm_open("/object", os.O_RDWR)


@emulated()
def test_X14_sharing_touched_private_memory() -> None:
    """X14: private anonymous memory that was written to is not shared with children."""
    memory = anonymous()
    store(memory)
    with refused("cheribsd:I1", errno.EACCES):
        bsd.minherit(memory, PAGE, bsd.INHERIT_SHARE)


@emulated()
def test_X17_pointer_passed_up() -> None:
    """X17: through MAP_ANON|MAP_SHARED with CAP a forked child passes a pointer up to its parent."""
    memory = anonymous(RWC, flags=SHARED_ANON)
    passed = ask_child(lambda: bits(store(memory)))
    assert memory.load_capability().tag
    assert memory.read(0, 16) == passed


@emulated()
def test_X18_segment_between_unrelated_processes(machine: Machine) -> None:
    """X18: through a System V segment capabilities pass between two programs that are not related by fork."""
    segment = bsd.shmget(0x1234, PAGE, bsd.IPC_CREAT | 0o600)
    memory = bsd.shmat(segment)
    value = store(memory)
    found = run_program(machine, "attach_and_store", segment)
    assert found == [True, bits(value).hex(), memory.read(16, 16).hex()]
    assert memory.load_capability(16).tag


@pytest.mark.parametrize("is_owner", [True, False])
@emulated()
def test_X22_writing_through_a_read_only_descriptor_with_cap(is_owner: bool) -> None:
    """X22: a foreign writable CAP mapping of a read-only descriptor fails by the check of writing, like the owner's."""
    new_named("/object")
    descriptor = bsd.shm_open("/object", os.O_RDONLY)

    def body() -> None:
        with refused("cheribsd:E8", errno.EACCES):
            shared(descriptor, RWC)

    if is_owner:
        body()
    else:
        ask_child(body)
