"""Shares capabilities with a program in C, share.c, both ways. The argument is where that was compiled: ./share."""

import os
import sys

import capshm
from capshm import cheribsd as bsd

ALL = bsd.PROT_READ | bsd.PROT_WRITE | bsd.PROT_CAP

with capshm.Machine(policy="cheribsd") as machine:
    shared = bsd.shm_open("/box", os.O_RDWR | os.O_CREAT | bsd.O_SHARECAP)
    owned = bsd.shm_open("/secrets", os.O_RDWR | os.O_CREAT)
    os.ftruncate(shared, 4096)
    os.ftruncate(owned, 4096)
    box = bsd.mmap(None, 4096, ALL, bsd.MAP_SHARED, shared)
    box.store_capability(0, (box + 64).with_bounds(64))

    program = machine.spawn([sys.argv[1], hex(box.address)])
    status = program.wait()

    present = box.load_capability(16)
    print(f"C ended with {status}, and has left: {box.read(64, 12).decode()}")
    print(f"it gave back: tag {present.tag}, {present.length} bytes, {present.permissions.letters}")
    refused = [event.rule for event in machine.audit() if event.pid == program.pid and not event.allowed]
    print("refused to C, by the audit:", *refused)
    bsd.shm_unlink("/box")
    bsd.shm_unlink("/secrets")
