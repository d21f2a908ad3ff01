"""A machine for the body of an `isolated` test, and the memory that most of them put into it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from capshm import Capability, Machine
from capshm import cheribsd as bsd
from tests.faults.residue import Residue, descriptors

PAGE = 4096
SIZE = 2 * PAGE
READ_WRITE = bsd.PROT_READ | bsd.PROT_WRITE
ALL = READ_WRITE | bsd.PROT_CAP


@contextmanager
def new_machine(**settings: object) -> Iterator[Machine]:
    """A machine, of which nothing may be left afterwards."""
    with Residue("") as residue, Machine(**settings) as machine:  # type: ignore[arg-type]
        residue.name = machine.name
        yield machine


def new_object(length: int = SIZE, *, is_share_cap: bool = False) -> int:
    """A descriptor of a new object without name."""
    fd = bsd.shm_open(bsd.SHM_ANON, os.O_RDWR | (bsd.O_SHARECAP if is_share_cap else 0))
    os.ftruncate(fd, length)
    return fd


def share() -> Capability:
    """Memory that this process and its children share, capabilities included."""
    return bsd.mmap(None, SIZE, ALL, bsd.MAP_ANON | bsd.MAP_SHARED)


def own() -> Capability:
    """Memory of an object of this process, with its tags; nobody else can map those."""
    fd = new_object()
    try:
        return bsd.mmap(None, SIZE, ALL, bsd.MAP_SHARED, fd)
    finally:
        os.close(fd)


def wait_until_alone(machine: Machine, held: int | None = None) -> None:
    """Return when the broker has noticed that all others have ended; held: and has that many descriptors.

    A child whose parent was killed amid the fork may still be to come, and to go.
    """
    while len(machine.processes()) > 1 or held not in (None, len(descriptors(machine.broker_pid))):
        os.sched_yield()
