"""Owner binding: a memory object belongs to the address space that made it, and to no other ever.

Descriptors travel freely; authority does not travel with them. Whoever gets one may map the bytes, and only the owner
may map it with PROT_CAP, however often the descriptor goes round. When the owner ends, nobody inherits it.
(cheribsd:E1 to E7, F14, F16, F17)

    other: maps it with PROT_CAP                         cheribsd:E2
    other: maps its bytes, loads a tag                   False
    other: and finds the bytes of a pointer              True
    other: stores a capability there                     StoreTagViolation
    owner: maps the descriptor that came back, loads     True
    its owner, when that has ended                       None
    other: maps it with PROT_CAP                         cheribsd:E2
"""

import os
import socket

import capshm
from capshm import cheribsd as bsd
from course import expect, show

PAGE = 4096
DATA = bsd.PROT_READ | bsd.PROT_WRITE
ALL = DATA | bsd.PROT_CAP


def receive(end: socket.socket) -> int:
    """The descriptor of the next message."""
    _, (descriptor,), _, _ = socket.recv_fds(end, 1, 1)
    return descriptor


with capshm.Machine() as machine:
    here, there = socket.socketpair()
    if (owner := os.fork()) == 0:
        descriptor = bsd.memfd_create("letters")
        os.ftruncate(descriptor, PAGE)
        mine = bsd.mmap(None, PAGE, ALL, bsd.MAP_SHARED, descriptor, 0)
        mine.store_capability(0, bsd.malloc(64))
        socket.send_fds(there, [b"!"], [descriptor])
        again = bsd.mmap(None, PAGE, ALL, bsd.MAP_SHARED, receive(there), 0)
        show("owner: maps the descriptor that came back, loads", again.load_capability(0).tag, True)
        os._exit(0)
    there.close()  # so that no wait below outlasts the owner

    descriptor = receive(here)
    with expect(capshm.Refused, "other: maps it with PROT_CAP", rule="cheribsd:E2"):
        bsd.mmap(None, PAGE, ALL, bsd.MAP_SHARED, descriptor, 0)
    data = bsd.mmap(None, PAGE, DATA, bsd.MAP_SHARED, descriptor, 0)
    show("other: maps its bytes, loads a tag", data.load_capability(0).tag, False)
    show("other: and finds the bytes of a pointer", data.read(0, 16) != bytes(16), True)
    with expect(capshm.StoreTagViolation, "other: stores a capability there"):
        data.store_capability(16, bsd.malloc(64))

    socket.send_fds(here, [b"!"], [descriptor])
    assert os.waitpid(owner, 0)[1] == 0
    while len(machine.processes()) > 1:  # until the broker has heard of it, too
        os.sched_yield()
    (letters,) = machine.objects()
    show("its owner, when that has ended", letters.owner, None)
    with expect(capshm.Refused, "other: maps it with PROT_CAP", rule="cheribsd:E2"):
        bsd.mmap(None, PAGE, ALL, bsd.MAP_SHARED, descriptor, 0)
