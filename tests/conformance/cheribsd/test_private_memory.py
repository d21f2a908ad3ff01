"""cheribsd:3.1, 3.4: tags in private, anonymous and file memory, and copying on write."""

import pytest

from capshm import StoreTagViolation
from capshm import cheribsd as bsd
from tests.conformance.cheribsd.support import (
    PAGE,
    RW,
    RWC,
    RWN,
    SHARED_ANON,
    anonymous,
    check_no_store,
    check_tagged,
    emulated,
    new_named,
    new_object,
    new_value,
    private,
    shared,
    store,
)


@emulated()
def test_row_1_vm_tag_mmap_anon() -> None:
    """Row 1: anonymous memory keeps a tag."""
    store(anonymous(RW))


@emulated()
def test_row_2_vm_tag_mmap_anon_cap() -> None:
    """Row 2: and with PROT_CAP."""
    store(anonymous(RWC))


@emulated()
def test_row_4_vm_notag_mprotect_no_cap() -> None:
    """Row 4: after mprotect with PROT_NO_CAP the store of a capability faults, at the address of the page."""
    memory = anonymous(RW)
    value = store(memory)
    bsd.mprotect(memory, PAGE, RWN)
    with pytest.raises(StoreTagViolation) as caught:
        memory.store_capability(0, value)
    fault = caught.value
    assert (fault.signal, fault.code, fault.address) == ("SIGSEGV", "SEGV_STORETAG", memory.address)


@emulated()
def test_row_6_vm_tag_anon_shared_no_implied_cap() -> None:
    """Row 6: anonymous shared memory without PROT_CAP faults at the store of a capability."""
    check_no_store(anonymous(RW, flags=SHARED_ANON))


@emulated()
def test_row_7_vm_tag_dev_zero_shared() -> None:
    """Row 7: /dev/zero, shared with PROT_CAP, keeps a tag."""
    store(shared(new_object("zero"), RWC))


@emulated()
def test_row_9_vm_notag_tmpfile_shared() -> None:
    """Row 9: a file, shared, faults at the store of a capability, at that address."""
    memory = shared(new_object("file"), RW)
    check_no_store(memory, PAGE - 16)


@emulated()
def test_row_10_vm_tag_tmpfile_private() -> None:
    """Row 10: a file, mapped privately, keeps a tag."""
    store(private(new_object("file"), RW))


@emulated()
def test_row_43_vm_cow_read() -> None:
    """Row 43: what is stored through a shared mapping is loaded through a private one, with its tag."""
    descriptor = new_object()
    common, mine = shared(descriptor, RWC), private(descriptor, RW)
    value = store(common)
    check_tagged(mine, value)


@emulated()
def test_row_46_vm_cow_named_write() -> None:
    """Row 46: a write through the private mapping copies the page with its tags; both sides keep theirs."""
    descriptor = new_named("/object")
    common, mine = shared(descriptor, RWC), private(descriptor, RW)
    value = store(common)
    check_tagged(mine, value)
    mine.write(16, b"neighbour")
    check_tagged(common, value)
    check_tagged(mine, value)
    assert common.read(16, 9) == bytes(9)
    replacement = new_value()
    common.store_capability(0, replacement)
    check_tagged(common, replacement)
    check_tagged(mine, value)
