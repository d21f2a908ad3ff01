"""cheribsd:1.K, 6: the switches that allow or forbid sharing capabilities with other address spaces."""

import errno
import os
from pathlib import Path

from capshm import Machine
from capshm import cheribsd as bsd
from tests.conformance.cheribsd.support import (
    RW,
    RWC,
    SHARED_ANON,
    anonymous,
    check_no_store,
    check_stripped,
    check_tagged,
    emulated,
    new_object,
    refused,
    shared,
    store,
)
from tests.faults.processes import ask_child

DEFAULT, ENABLE, DISABLE = bsd.PROC_SHARECAP_DEFAULT, bsd.PROC_SHARECAP_ENABLE, bsd.PROC_SHARECAP_DISABLE


def control(value: int | None = None) -> int:
    """The knob of this process."""
    return bsd.procctl(bsd.PROC_SHARECAP_CTL, value)


def check_allowed(is_allowed: bool) -> None:
    """Whether what makes memory for everybody is allowed; what stays one's own, and data, always is."""
    if is_allowed:
        store(shared(new_object("share-cap")))
        store(anonymous(RWC, flags=SHARED_ANON))
    else:
        with refused("cheribsd:K1", errno.EACCES):
            new_object("share-cap")
        with refused("cheribsd:K3", errno.EACCES):
            anonymous(RWC, flags=SHARED_ANON)
    store(shared(new_object()))
    check_no_store(anonymous(RW, flags=SHARED_ANON))


@emulated()
def test_K1_process_before_program_before_machine() -> None:
    """K1 (6): the process's control decides before the program's note, and that before the machine's default."""
    check_allowed(True)
    for process, program, is_allowed in (
        (DEFAULT, None, True),
        (DEFAULT, True, True),
        (DEFAULT, False, False),
        (ENABLE, None, True),
        (ENABLE, False, True),
        (DISABLE, None, False),
        (DISABLE, True, False),
    ):
        bsd.program_note(share_cap=program)
        assert control(process) == process
        check_allowed(is_allowed)


@emulated()
def test_K1_asking_and_going_back() -> None:
    """K1: the control can be asked for, and taken back to the note and the default; other values are refused."""
    assert control() == DEFAULT
    assert [control(value) for value in (DISABLE, ENABLE)] == [DISABLE, ENABLE]
    with refused("cheribsd:MAN", errno.EINVAL):
        control(3)
    assert control() == ENABLE
    bsd.program_note(share_cap=False)
    check_allowed(True)
    control(DEFAULT)
    check_allowed(False)
    bsd.program_note()
    check_allowed(True)


@emulated()
def test_K1_refusal_is_in_the_audit(machine: Machine) -> None:
    """K1: a refusal by the knob is in the audit, with the process and the line of the program that asked."""
    control(DISABLE)
    with refused("cheribsd:K1", errno.EACCES):
        bsd.shm_open(bsd.SHM_ANON, os.O_RDWR | bsd.O_SHARECAP)
    record = next(each for each in reversed(machine.audit()) if each.rule == "cheribsd:K1")
    assert (record.allowed, record.pid) == (False, os.getpid())
    assert Path(record.file).samefile(__file__)
    assert record.line > 0
    assert record.message


@emulated()
def test_K1_object_of_another_process() -> None:
    """K1: a process that may not share does not map another's share-cap object with CAP either; its data it may."""
    descriptor = new_object("share-cap")
    store(shared(descriptor))

    def body() -> None:
        control(DISABLE)
        with refused("cheribsd:K1", errno.EACCES):
            shared(descriptor)
        check_no_store(shared(descriptor, RW), 16)

    ask_child(body)
    store(shared(descriptor))


@emulated()
def test_K1_at_fork() -> None:
    """K1: a process that may not share forks children that lose CAP in memory for everybody, as by F2."""
    memory = shared(new_object("share-cap"))
    value = store(memory)
    ask_child(lambda: check_tagged(memory, value))
    control(DISABLE)

    def body() -> None:
        check_stripped(memory, value)
        check_no_store(memory, 16)

    ask_child(body)
    check_tagged(memory, value)


@emulated()
def test_K1_is_per_process() -> None:
    """K1: a child's control is its own from the fork on."""
    ask_child(lambda: control(DISABLE))
    check_allowed(True)


@emulated()
def test_K3_anonymous_shared_memory_obeys_the_knob(machine: Machine) -> None:
    """K3 (6): MAP_ANON|MAP_SHARED, and /dev/zero, with PROT_CAP obey the same knob, and the refusal is in the audit."""
    control(DISABLE)
    with refused("cheribsd:K3", errno.EACCES):
        anonymous(RWC, flags=SHARED_ANON)
    zero = new_object("zero")
    with refused("cheribsd:K3", errno.EACCES):
        shared(zero)
    assert [each.allowed for each in machine.audit() if each.rule == "cheribsd:K3"] == [False, False]
    control(ENABLE)
    store(anonymous(RWC, flags=SHARED_ANON))
    store(shared(zero))
