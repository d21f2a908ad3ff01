"""cheribsd:1.D, 3.2: shared memory objects: how they are opened, whose they are, and capabilities in one process."""

import errno
import fcntl
import os
import resource
from collections.abc import Callable

import pytest

from capshm import Machine, encoding
from capshm import cheribsd as bsd
from tests.conformance.cheribsd.support import (
    PAGE,
    RC,
    RW,
    RWC,
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
    refused,
    shared,
    store,
)
from tests.faults.processes import ask_child

CREATE = os.O_RDWR | os.O_CREAT
EXCLUSIVE = CREATE | os.O_EXCL
LARGE = bsd.SHM_LARGEPAGE


def check_usable(descriptor: int) -> None:
    """This process may map it with capability permission, and tags are kept."""
    store(shared(descriptor, RWC))


# The table of flags


@emulated()
def test_flags_access_modes() -> None:
    """1.D, flags: O_RDONLY and O_RDWR are the two access modes, and the descriptor has the one that was asked for."""
    new_named("/object")
    for access in (os.O_RDONLY, os.O_RDWR):
        descriptor = bsd.shm_open("/object", access)
        assert fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == access


@emulated()
def test_flags_creation() -> None:
    """1.D, flags: O_CREAT makes what is not there and opens what is; with O_EXCL it refuses what is there."""
    first = bsd.shm_open("/object", CREATE)
    os.ftruncate(first, PAGE)
    os.pwrite(first, b"content", 0)
    assert os.pread(bsd.shm_open("/object", CREATE), 7, 0) == b"content"
    with refused("cheribsd:1.D/10", errno.EEXIST):
        bsd.shm_open("/object", EXCLUSIVE)
    bsd.shm_unlink("/object")
    assert os.fstat(bsd.shm_open("/object", EXCLUSIVE)).st_size == 0


@emulated()
def test_flags_truncation() -> None:
    """1.D, flags: O_TRUNC acts only together with O_RDWR, and takes the tags along."""
    descriptor = new_named("/object")
    memory = shared(descriptor)
    value = store(memory)
    bsd.shm_open("/object", os.O_RDONLY | os.O_TRUNC)
    assert os.fstat(descriptor).st_size == PAGE
    check_tagged(memory, value)
    bsd.shm_open("/object", os.O_RDWR | os.O_TRUNC)
    assert os.fstat(descriptor).st_size == 0
    os.ftruncate(descriptor, PAGE)
    null = memory.load_capability()
    assert (null.tag, memory.read(0, 16)) == (False, bytes(16))
    os.pwrite(descriptor, bits(value), 0)  # the old bytes, after the loss of the tag was seen (design.md 1.4)
    check_stripped(memory, value)


@emulated()
def test_flags_close_on_exec() -> None:
    """1.D, flags: shm_open always sets close-on-exec, memfd_create only for MFD_CLOEXEC, and O_CLOEXEC is accepted."""
    assert not os.get_inheritable(bsd.shm_open(bsd.SHM_ANON, os.O_RDWR))
    assert not os.get_inheritable(bsd.shm_open(bsd.SHM_ANON, os.O_RDWR | os.O_CLOEXEC))
    assert not os.get_inheritable(bsd.memfd_create("closed", bsd.MFD_CLOEXEC))
    assert os.get_inheritable(bsd.memfd_create("open"))


@emulated()
def test_flags_share_cap_matters_at_creation(machine: Machine) -> None:
    """1.D, flags: O_SHARECAP matters for the open that creates the object, and reuses a bit of the host's flags."""
    assert bsd.O_SHARECAP == 0x0002_0000
    new_named("/everybody", bsd.O_SHARECAP)
    new_named("/mine")
    bsd.shm_open("/everybody", os.O_RDWR)
    states = {each.name: each.is_share_cap for each in machine.objects()}
    assert states == {"/everybody": True, "/mine": False}


# The order of checks

UNKNOWN = os.O_APPEND
ORDER: dict[str, tuple[str, int, int, str, int]] = {
    "shmflags first": ("no slash", os.O_WRONLY | UNKNOWN, 0x100, "cheribsd:1.D/1", errno.EINVAL),
    "access mode before flags": ("no slash", os.O_WRONLY | UNKNOWN, 0, "cheribsd:1.D/2", errno.EINVAL),
    "flags before path": ("no slash", os.O_RDWR | UNKNOWN, 0, "cheribsd:1.D/3", errno.EINVAL),
    "path before existence": ("no slash", os.O_RDWR, 0, "cheribsd:1.D/6", errno.EINVAL),
    "length of path": ("/" + 1023 * "x", CREATE, 0, "cheribsd:1.D/6", errno.ENAMETOOLONG),
    "existence": ("/absent", os.O_RDWR | bsd.O_SHARECAP, LARGE, "cheribsd:1.D/9", errno.ENOENT),
    "seals before EXCL": ("/sealable", EXCLUSIVE, 0, "cheribsd:1.D/10", errno.EPERM),
    "EXCL before share-cap": ("/owned", EXCLUSIVE | bsd.O_SHARECAP, LARGE, "cheribsd:1.D/10", errno.EEXIST),
    "share-cap before shmflags": ("/owned", CREATE | bsd.O_SHARECAP, LARGE, "cheribsd:D4", errno.EPERM),
    "shmflags": ("/owned", os.O_RDWR, LARGE, "cheribsd:1.D/10", errno.EINVAL),
}


@emulated()
def test_order_of_checks(machine: Machine) -> None:
    """1.D: the first check that fails decides, in the order that the section lists; nothing is made then."""
    new_named("/owned")
    bsd.shm_open2("/sealable", EXCLUSIVE, 0o600, bsd.SHM_ALLOW_SEALING)
    before = machine.objects()
    for path, flags, shm_flags, rule, number in ORDER.values():
        with refused(rule, number):
            bsd.shm_open2(path, flags, 0o600, shm_flags)
    assert machine.objects() == before


@emulated()
def test_order_path_of_1023_bytes() -> None:
    """1.D, step 6: a path may have 1023 bytes."""
    check_usable(new_named("/" + 1022 * "x"))


@emulated()
def test_order_no_descriptor_left(machine: Machine) -> None:
    """1.D, step 7: without a free descriptor it is EMFILE, and no object is made."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = machine.objects()
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        for path in ("/object", bsd.SHM_ANON):
            with refused("cheribsd:1.D/7", errno.EMFILE):
                bsd.shm_open(path, CREATE)
        with refused("cheribsd:1.D/7", errno.EMFILE):
            bsd.memfd_create("object")
        with refused("cheribsd:1.D/6", errno.EINVAL):
            bsd.shm_open("object", CREATE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert machine.objects() == before
    check_usable(new_named("/object"))


@emulated()
def test_no_descriptor_left_for_a_mapping(machine: Machine) -> None:
    """1.D, 1.A: a mapping that needs descriptors of this process's, and finds none free, is not there afterwards."""
    descriptor = new_object()
    before = machine.mappings(os.getpid()), machine.objects()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with refused("host", errno.EMFILE):
            shared(descriptor)
        with refused("host", errno.EMFILE):
            anonymous(RWC, flags=bsd.MAP_ANON | bsd.MAP_SHARED)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (machine.mappings(os.getpid()), machine.objects()) == before
    check_usable(descriptor)


@emulated()
def test_order_anonymous_and_read_only() -> None:
    """1.D, step 8: SHM_ANON for reading only is refused."""
    with refused("cheribsd:1.D/8", errno.EINVAL):
        bsd.shm_open(bsd.SHM_ANON, os.O_RDONLY)


@pytest.mark.parametrize("mode", [0o000, 0o400])
@emulated()
def test_order_mode_bits(mode: int) -> None:
    """1.D, step 10: mode bits that keep the caller out are the last check of an object that is there."""
    if os.geteuid() == 0:
        pytest.skip("the tests run as root, whom no mode keeps out")
    bsd.shm_open("/object", EXCLUSIVE, mode)
    with refused("cheribsd:1.D/10", errno.EACCES):
        bsd.shm_open("/object", os.O_RDWR)


# Rows


@emulated()
def test_D1_created_with_share_cap(machine: Machine) -> None:
    """D1: an object that was created with O_SHARECAP is share-cap and has no owner."""
    descriptor = new_object("share-cap")
    (made,) = machine.objects()
    assert (made.is_share_cap, made.owner) == (True, None)
    value = store(shared(descriptor))
    ask_child(lambda: check_tagged(shared(descriptor, RC), value))


@emulated()
def test_D2_created_without_it(machine: Machine) -> None:
    """D2: an object that was created without O_SHARECAP belongs to its creator's address space."""
    descriptor = new_object()
    (made,) = machine.objects()
    (me,) = machine.processes()
    assert (made.is_share_cap, made.owner) == (False, me.vmspace)
    check_usable(descriptor)


@emulated()
def test_D3_share_cap_opened_without_it() -> None:
    """D3: a share-cap object may be opened without O_SHARECAP, and stays share-cap."""
    value = store(shared(new_named("/object", bsd.O_SHARECAP)))

    def body() -> None:
        memory = shared(bsd.shm_open("/object", os.O_RDWR))
        check_tagged(memory, value)
        store(memory, 16)

    ask_child(body)


@emulated()
def test_D4_owned_object_opened_with_it() -> None:
    """D4: an owner-bound object is not opened with O_SHARECAP, by its owner neither, and stays owner-bound."""
    descriptor = new_named("/object")
    with refused("cheribsd:D4", errno.EPERM):
        bsd.shm_open("/object", os.O_RDWR | bsd.O_SHARECAP)
    with refused("cheribsd:D4", errno.EPERM):
        bsd.shm_open("/object", CREATE | bsd.O_SHARECAP)

    def body() -> None:
        with refused("cheribsd:E2", errno.EACCES):
            shared(descriptor)

    ask_child(body)
    check_usable(descriptor)


@emulated()
def test_D5_share_cap_opened_with_it() -> None:
    """D5: a share-cap object is opened with O_SHARECAP, as it was meant."""
    value = store(shared(new_named("/object", bsd.O_SHARECAP)))
    for flags in (os.O_RDWR, CREATE):
        check_tagged(shared(bsd.shm_open("/object", flags | bsd.O_SHARECAP)), value)


@pytest.mark.parametrize("kind", ["shm", "memfd", "large pages"])
@emulated()
def test_D7_every_object_can_hold_tags(kind: str) -> None:
    """D7: every object can hold tags from the start, the whole of it."""
    if kind == "large pages":
        descriptor, length = bsd.shm_open2(bsd.SHM_ANON, os.O_RDWR, 0o600, LARGE), 2 << 20
        os.ftruncate(descriptor, length)
    else:
        descriptor, length = new_object(kind, 4 * PAGE), 4 * PAGE
    memory = shared(descriptor, RWC, length)
    for offset in (0, length // 2, length - 16):
        store(memory, offset)


@pytest.mark.parametrize("by", ["memfd_create", "shm_open2"])
@emulated()
def test_D8_memfd_is_owned(by: str, machine: Machine) -> None:
    """D8: a memfd is owner-bound, whatever its flags; shm_open2 of SHM_ANON can make the like of it share-cap."""
    if by == "memfd_create":
        descriptor = bsd.memfd_create("object", bsd.MFD_CLOEXEC | bsd.MFD_ALLOW_SEALING)
    else:
        descriptor = bsd.shm_open2(bsd.SHM_ANON, os.O_RDWR | bsd.O_SHARECAP, 0, 0, "object")
    os.ftruncate(descriptor, PAGE)
    value = store(shared(descriptor))
    is_share_cap = by == "shm_open2"
    assert [each.is_share_cap for each in machine.objects()] == [is_share_cap]

    def body() -> None:
        if is_share_cap:
            check_tagged(shared(descriptor), value)
        else:
            with refused("cheribsd:E2", errno.EACCES):
                shared(descriptor)

    ask_child(body)


@emulated()
def test_D9_huge_memfd() -> None:
    """D9: MFD_HUGETLB is not supported."""
    with refused("cheribsd:D9", errno.ENOSYS):
        bsd.memfd_create("object", bsd.MFD_HUGETLB)


def _pwrite(descriptor: int, data: bytes) -> None:
    assert os.pwrite(descriptor, data, 0) == len(data)


def _write(descriptor: int, data: bytes) -> None:
    os.lseek(descriptor, 0, os.SEEK_SET)
    assert os.write(descriptor, data) == len(data)


@emulated()
def test_D10_writing_to_the_descriptor_clears_tags() -> None:
    """D10: write(2) and pwrite(2) on the descriptor clear the tags of what they change, and of nothing else."""
    descriptor = new_object()
    memory = shared(descriptor)
    writes: list[Callable[[int, bytes], None]] = [_pwrite, _write]
    for write in writes:
        store(memory)
        beside = store(memory, 16)
        other = new_value()
        write(descriptor, bits(other))
        check_stripped(memory, other)
        check_tagged(memory, beside, 16)


@emulated()
def test_D10_reading_from_the_descriptor_gives_bytes() -> None:
    """D10: read(2) gives bytes; put into memory they are an untagged value, and the tag in the object stays."""
    descriptor = new_object()
    memory, other = shared(descriptor), anonymous()
    value = store(memory)
    os.lseek(descriptor, 0, os.SEEK_SET)
    assert os.readv(descriptor, [other.view(0, 16, writable=True)]) == 16
    check_stripped(other, value)
    check_tagged(memory, value)


@emulated()
def test_D10_equal_bytes_are_the_deviation() -> None:
    """D10 (6.2): a raw write of the bytes that are there goes unseen; the authority is the one that was stored."""
    descriptor = new_object()
    memory = shared(descriptor)
    value = store(memory)
    os.pwrite(descriptor, bits(value), 0)
    check_tagged(memory, value)
    memory.write(0, bits(value))  # through capshm it is seen
    check_stripped(memory, value)


@pytest.mark.parametrize("flags", [0, bsd.O_SHARECAP])
@emulated()
def test_D11_renaming_changes_no_ownership(flags: int) -> None:
    """D11: ownership and the share-cap state go with the object when it is renamed, not with the name."""
    value = store(shared(new_named("/old", flags)))
    bsd.shm_rename("/old", "/new")
    with refused("cheribsd:1.D/9", errno.ENOENT):
        bsd.shm_open("/old", os.O_RDWR)

    def body() -> None:
        new_named("/old", bsd.O_SHARECAP ^ flags)
        descriptor = bsd.shm_open("/new", os.O_RDWR)
        if flags:
            check_tagged(shared(descriptor), value)
        else:
            with refused("cheribsd:E2", errno.EACCES):
                shared(descriptor)

    ask_child(body)
    check_tagged(shared(bsd.shm_open("/new", os.O_RDWR)), value)


@emulated()
def test_D12_large_pages_are_not_copied() -> None:
    """D12: an object of large pages is not mapped MAP_PRIVATE, and is mapped MAP_SHARED."""
    descriptor = bsd.shm_open2(bsd.SHM_ANON, os.O_RDWR, 0o600, LARGE)
    os.ftruncate(descriptor, 2 << 20)
    with refused("cheribsd:D12", errno.EINVAL):
        private(descriptor, RW, 2 << 20)
    store(shared(descriptor, RWC, 2 << 20))


# 3.2


@emulated()
def test_row_13_vm_tag_shm_open_anon_shared() -> None:
    """Row 13: SHM_ANON, one page, shared with PROT_CAP, keeps a tag."""
    store(shared(new_object(), RWC))


@emulated()
def test_row_14_vm_tag_shm_open_anon_shared_no_implied_cap() -> None:
    """Row 14: the same without PROT_CAP faults at the store of a capability."""
    descriptor = new_object()
    check_no_store(shared(descriptor, RW))
    assert os.pread(descriptor, 16, 0) == bytes(16)


@emulated()
def test_row_16_vm_tag_memfd_create_shared() -> None:
    """Row 16: a memfd, shared without PROT_CAP, faults at the store of a capability."""
    check_no_store(shared(new_object("memfd"), RW))


@emulated()
def test_row_18_vm_tag_shm_open_named_private() -> None:
    """Row 18: a named object, mapped privately without a flag, keeps a tag; the object does not see it."""
    descriptor = new_named("/object")
    memory = private(descriptor, RW)
    store(memory)
    assert shared(descriptor, RC).read(0, 16) == bytes(16)


@emulated()
def test_row_19_vm_tag_shm_open_anon_shared2x() -> None:
    """Row 19: what is stored through a second mapping is read through the first one, with its tag."""
    descriptor = new_object()
    reader = shared(descriptor, RC)
    null = reader.load_capability()
    assert (null.tag, null.address) == (False, 0)
    value = store(shared(descriptor, RWC))
    check_tagged(reader, value)
    assert value.address != 0


@pytest.mark.parametrize("is_named", [False, True])
@emulated()
def test_row_21_and_22_shm_open_read_nocaps(is_named: bool) -> None:
    """Rows 21, 22: a capability that is read from the descriptor is untagged and otherwise the same."""
    descriptor = new_named("/object") if is_named else new_object()
    value = store(shared(descriptor))
    other = anonymous()
    other.write(0, os.pread(descriptor, 16, 0))
    check_stripped(other, value)


@emulated()
def test_row_24_shm_open_anon_shm() -> None:
    """Row 24: a capability that is written to the descriptor is seen untagged through the mapping, else the same."""
    descriptor = new_named("/object")
    value = new_value()
    memory = shared(descriptor)
    old = store(memory)
    assert os.write(descriptor, bits(value)) == 16
    assert old != value
    check_stripped(memory, value)


@pytest.mark.parametrize("size", [2 << 20, 32 << 20])
@emulated()
def test_row_26_vm_large_pages_basic(size: int) -> None:
    """Row 26: an object of large pages, here made of the host's ordinary ones, keeps tags at start, middle and end."""
    descriptor = bsd.shm_open2(bsd.SHM_ANON, os.O_RDWR, 0o600, LARGE)
    os.ftruncate(descriptor, size)
    memory = shared(descriptor, RWC, size)
    assert memory.length == encoding.representable_length(size) == size
    for page in (0, size // 2, size - PAGE):
        store(memory, page)
