"""cheribsd:1.A: mmap, and which pages may hold capabilities."""

import errno
import os

import pytest

from capshm import Machine, PageViolation, Permissions, PermissionViolation, StoreTagViolation
from capshm import cheribsd as bsd
from tests.conformance.cheribsd.support import (
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
    new_object,
    new_value,
    private,
    refused,
    shared,
    store,
)

W = bsd.PROT_WRITE
CAP = bsd.PROT_CAP
NO_CAP = bsd.PROT_NO_CAP


@emulated()
def test_A1_private_anonymous_memory_holds_capabilities() -> None:
    """A1: private anonymous memory, mapped without a flag for capabilities, keeps tags."""
    memory = anonymous(RW, 2 * PAGE)
    first, second = store(memory), store(memory, 2 * PAGE - 16)
    check_tagged(memory, first)
    check_tagged(memory, second, 2 * PAGE - 16)


@pytest.mark.parametrize("kind", ["file", "zero", "shm", "memfd"])
@emulated()
def test_A2_private_mapping_holds_capabilities(kind: str) -> None:
    """A2: a private mapping of whatever it may be, without a flag for capabilities, keeps tags in its own pages."""
    descriptor = new_object(kind)
    memory = private(descriptor)
    value = store(memory)
    if kind != "zero":
        assert os.pread(descriptor, 16, 0) == bytes(16)
    assert private(descriptor).read(0, 16) == bytes(16)
    check_tagged(memory, value)


@emulated()
def test_A3_shared_file_does_not_hold_capabilities() -> None:
    """A3: a shared mapping of a file has no capability permission: tagged stores fault, loads give untagged values."""
    descriptor = new_object("file")
    memory = shared(descriptor, RW)
    check_no_store(memory)
    value = new_value()
    memory.write(0, bits(value))
    check_stripped(memory, value)


@pytest.mark.parametrize("kind", ["shm", "memfd", "share-cap"])
@emulated()
def test_A4_shared_object_does_not_imply_capabilities(kind: str) -> None:
    """A4: a shared mapping of an object has capability permission only if it was asked for."""
    descriptor = new_object(kind)
    value = store(shared(descriptor, RWC))
    plain = shared(descriptor, RW)
    check_stripped(plain, value)
    check_no_store(plain, 16)


@emulated()
def test_A5_anonymous_shared_memory_does_not_imply_capabilities() -> None:
    """A5: MAP_ANON|MAP_SHARED without PROT_CAP has no capability permission, and with it has."""
    store(anonymous(RWC, flags=SHARED_ANON))
    plain = anonymous(RW, flags=SHARED_ANON)
    check_no_store(plain)
    value = new_value()
    plain.write(0, bits(value))
    check_stripped(plain, value)


@emulated()
def test_A6_shared_zero_does_not_imply_capabilities() -> None:
    """A6: MAP_SHARED of /dev/zero is as MAP_ANON|MAP_SHARED: capabilities with PROT_CAP only, in memory of its own."""
    descriptor = new_object("zero")
    first = shared(descriptor, RWC)
    store(first)
    plain = shared(descriptor, RW)
    check_no_store(plain)
    assert plain.read(0, 16) == bytes(16)
    assert not shared(descriptor, RWC).load_capability().tag


@pytest.mark.parametrize("kind", ["shm", "memfd", "share-cap"])
@emulated()
def test_A7_cap_gives_load_with_read_and_store_with_write(kind: str) -> None:
    """A7: PROT_CAP with READ gives load-capability permission, with WRITE store-capability permission."""
    descriptor = new_object(kind)
    both, reader, writer = shared(descriptor, RWC), shared(descriptor, RC), shared(descriptor, W | CAP)
    value = store(both)
    check_tagged(reader, value)
    with pytest.raises(PermissionViolation):
        reader.store_capability(16, value)
    writer.store_capability(32, value)
    check_tagged(both, value, 32)
    with pytest.raises(PermissionViolation):
        writer.load_capability(32)


@pytest.mark.parametrize("kind", ["anonymous", "file", "shm", "memfd"])
@emulated()
def test_A8_no_cap_suppresses_the_implication(kind: str) -> None:
    """A8: PROT_NO_CAP takes capability permission from memory that would have it."""
    if kind == "anonymous":
        store(anonymous())
        memory = anonymous(RWN)
    else:
        descriptor = new_object(kind)
        store(private(descriptor))
        memory = private(descriptor, RWN)
    check_no_store(memory)
    value = new_value()
    memory.write(0, bits(value))
    check_stripped(memory, value)


@emulated()
def test_A9_cap_needs_company(machine: Machine) -> None:
    """A9: PROT_CAP without READ or WRITE beside it is refused, in the maximum as well."""
    before = machine.mappings(os.getpid())
    for prot in (CAP, bsd.PROT_MAX(CAP), CAP | bsd.PROT_MAX(CAP), CAP | bsd.PROT_MAX(RWC)):
        with refused("cheribsd:A9", errno.ENOTSUP):
            anonymous(prot)
    assert machine.mappings(os.getpid()) == before


@emulated()
def test_A10_protection_beyond_its_maximum() -> None:
    """A10: protection that is no subset of PROT_MAX is refused."""
    for prot in (RW | bsd.PROT_MAX(R), R | bsd.PROT_MAX(W), RWC | bsd.PROT_MAX(RC)):
        with refused("cheribsd:A10", errno.ENOTSUP):
            anonymous(prot)


@emulated()
def test_A11_implied_and_explicit_are_not_mixed() -> None:
    """A11: a flag for capabilities in one of protection and PROT_MAX, and none in the other, is refused."""
    for prot in (RWC | bsd.PROT_MAX(RW), RW | bsd.PROT_MAX(RWC), RWN | bsd.PROT_MAX(RW), RW | bsd.PROT_MAX(RWN)):
        with refused("cheribsd:A11", errno.ENOTSUP):
            anonymous(prot)


@emulated()
def test_A11_nothing_may_have_a_maximum_with_cap() -> None:
    """A11 (6.3): PROT_NONE with a PROT_MAX that has CAP is allowed, and mprotect may raise up to the maximum."""
    memory = anonymous(bsd.PROT_NONE | bsd.PROT_MAX(RWC))
    with pytest.raises(PageViolation):
        memory.load_capability()
    bsd.mprotect(memory, PAGE, RWC)
    store(memory)


@emulated()
def test_A12_unknown_protection_bits() -> None:
    """A12: bits that mean nothing are refused."""
    for prot in (RW | 0x20, RW | 1 << 15, RW | bsd.PROT_MAX(RW | 0x20), RW | 1 << 30, -1):
        with refused("cheribsd:A12", errno.EINVAL):
            anonymous(prot)


@pytest.mark.parametrize("kind", ["anonymous", "shm"])
@emulated()
def test_A13_capabilities_may_be_added_later(kind: str) -> None:
    """A13: NO_CAP now with a maximum that has CAP: mprotect may add capability permission."""
    prot = RWN | bsd.PROT_MAX(RWC)
    memory = anonymous(prot) if kind == "anonymous" else shared(new_object(), prot)
    check_no_store(memory)
    bsd.mprotect(memory, PAGE, RWC)
    store(memory)


@emulated()
def test_A15_shared_file_with_cap() -> None:
    """A15: a shared mapping of a file is refused capability permission, as maximum too."""
    descriptor = new_object("file")
    shared(descriptor, RW)
    for prot in (RWC, RC, RWN | bsd.PROT_MAX(RWC)):
        with refused("cheribsd:A15", errno.EACCES):
            shared(descriptor, prot)


@emulated()
def test_A16_untagged_values_can_be_stored_anywhere() -> None:
    """A16: a page without store-capability permission takes untagged values and plain data."""
    memory = anonymous(RWN)
    check_no_store(memory)
    value = new_value()
    memory.store_capability(0, value.without_tag())
    memory.write(16, bits(value))
    check_stripped(memory, value)
    check_stripped(memory, value, 16)


@emulated()
def test_A17_load_from_a_page_that_strips() -> None:
    """A17: a load from a page without load-capability permission gives the value without its tag, and no fault."""
    memory = anonymous()
    value = store(memory)
    bsd.mprotect(memory, PAGE, RWN)
    check_stripped(memory, value)
    bsd.mprotect(memory, PAGE, RW)
    check_tagged(memory, value)


@emulated()
def test_A18_pages_of_a_file_have_no_tags_until_copied() -> None:
    """A18: the pages of a privately mapped file hold no tags until a write has made them the process's own."""
    descriptor = new_object("file")
    value = new_value()
    os.pwrite(descriptor, bits(value), 0)
    memory = private(descriptor)
    check_stripped(memory, value)
    memory.store_capability(16, value)
    check_tagged(memory, value, 16)
    check_stripped(memory, value)
    memory.store_capability(0, value)
    check_tagged(memory, value)
    assert os.pread(descriptor, 32, 0) == bits(value) + bytes(16)


P = Permissions
ALWAYS = P.GLOBAL | P.SW_VMEM
ACCESS = P.LOAD | P.STORE | P.EXECUTE | P.LOAD_CAP | P.STORE_CAP


READING = P.LOAD | P.LOAD_CAP
WRITING = P.STORE | P.STORE_CAP


@emulated()
def test_A19_permissions_of_the_returned_capability() -> None:
    """A19: the returned capability has the permissions of PROT_MAX if given, else of the protection; see 6.3 too."""
    for prot, expected in (
        (R, READING),
        (RW, READING | WRITING),
        (RWC, READING | WRITING),
        (RWN, READING | WRITING),
        (R | bsd.PROT_MAX(RW), READING | WRITING),
        (bsd.PROT_MAX(R), READING),
        (R | bsd.PROT_EXEC, READING | P.EXECUTE),
        (bsd.PROT_NONE, P(0)),
    ):
        permissions = anonymous(prot).permissions
        assert permissions.contains(ALWAYS)
        assert permissions & ACCESS == expected


@emulated()
def test_A19_what_the_page_lacks_is_judged_at_the_page() -> None:
    """A19 (6.3): the pointer to a page without capability permission has LOAD_CAP and STORE_CAP: the page decides."""
    memory = shared(new_object(), RW)
    assert memory.permissions.contains(P.LOAD_CAP | P.STORE_CAP)
    check_no_store(memory)


@emulated()
def test_copy_to_a_page_without_store_capability() -> None:
    """6.3: copy_to a page without store-capability permission faults at a tag; from one that strips it copies data."""
    tagged, plain, other = anonymous(), anonymous(RWN), anonymous()
    value = store(tagged, 16)
    tagged.write(0, b"before it       ")
    with pytest.raises(StoreTagViolation):
        tagged.copy_to(plain, 32)
    assert plain.read(0, 16) == b"before it       "
    bsd.mprotect(tagged, PAGE, RWN)
    tagged.copy_to(other, 32)
    check_stripped(other, value, 16)
    bsd.mprotect(tagged, PAGE, RW)
    tagged.copy_to(other, 32)
    check_tagged(other, value, 16)
