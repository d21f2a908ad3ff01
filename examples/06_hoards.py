"""Hoards: places where a pointer can hide from the one who wants it gone.

Freed memory may be given out again when no pointer to it is left anywhere: in variables, in memory, in the kernel's
queues, in an object that nobody has mapped and whose only descriptor lies in a socket. Objects that belong to everybody
are CheriBSD's documented hole; `Machine(scope="machine")` closes it. (cheribsd:J1, J4, J5)

    vmspace: in a variable                               freed False, in use True
    vmspace: in private memory                           freed False, in use True
    vmspace: in a kernel queue                           freed False, in use True
    vmspace: in an object that is mapped nowhere         freed False, in use True
    vmspace: in an object for everybody                  freed True, in use True
    machine: in a variable                               freed False, in use True
    machine: in private memory                           freed False, in use True
    machine: in a kernel queue                           freed False, in use True
    machine: in an object that is mapped nowhere         freed False, in use True
    machine: in an object for everybody                  freed False, in use True
"""

import os
import socket
from collections.abc import Callable

import capshm
from capshm import cheribsd as bsd
from course import show

PAGE = 4096
ALL = bsd.PROT_READ | bsd.PROT_WRITE | bsd.PROT_CAP
EVERYBODY = "in an object for everybody"


def new_object(secret: capshm.Capability, flags: int) -> int:
    """The descriptor of an object in which the pointer lies, and which is mapped nowhere."""
    descriptor = bsd.shm_open(bsd.SHM_ANON, os.O_RDWR | flags)
    os.ftruncate(descriptor, PAGE)
    area = bsd.mmap(None, PAGE, ALL, bsd.MAP_SHARED, descriptor, 0)
    area.store_capability(0, secret)
    bsd.munmap(area, PAGE)
    return descriptor


def first(descriptor: int) -> capshm.Capability:
    """The pointer in an object."""
    return bsd.mmap(None, PAGE, ALL, bsd.MAP_SHARED, descriptor, 0).load_capability(0)


def hide(secret: capshm.Capability) -> dict[str, Callable[[], capshm.Capability]]:
    """Put the pointer everywhere; by name of the place, how to get it back."""
    memory, queue = bsd.malloc(16), bsd.kqueue()
    here, there = socket.socketpair()
    own, common = new_object(secret, 0), new_object(secret, bsd.O_SHARECAP)
    memory.store_capability(0, secret)
    queue.register(1, secret)
    socket.send_fds(here, [b"!"], [own])
    os.close(own)
    return {
        "in a variable": lambda: secret,
        "in private memory": lambda: memory.load_capability(0),
        "in a kernel queue": lambda: queue.collect()[0][1],
        "in an object that is mapped nowhere": lambda: first(socket.recv_fds(there, 1, 1)[1][0]),
        EVERYBODY: lambda: first(common),
    }


for scope in ("vmspace", "machine"):
    with capshm.Machine(scope=scope):
        freed, in_use = bsd.malloc(64), bsd.malloc(64)
        places, others = hide(freed), hide(in_use)
        bsd.free(freed)
        bsd.malloc_revoke_quarantine_force_flush()  # the next example looks inside
        for place, take in places.items():
            is_missed = scope == "vmspace" and place == EVERYBODY
            found = f"freed {take().tag}, in use {others[place]().tag}"
            show(f"{scope}: {place}", found, f"freed {is_missed}, in use True")
