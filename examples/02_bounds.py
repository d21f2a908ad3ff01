"""Bounds and permissions: a pointer knows how far it reaches and what it is for, and can only lose.

Deriving never faults. Who asks for more than there is gets a pointer without a tag, and the fault when it is used.
Bounds share the 16 bytes with the address, so those of large objects are rounded, and a pointer that is moved too far
from its bounds has lost them. (cheribsd:C1; the checks are those of CHERI ISAv9, in its order)

    a record: bytes                                      64
    the name in it: bytes                                16
    the byte behind the name                             BoundsViolation
    the byte before it                                   BoundsViolation
    the name, to be read: permissions                    r
    writing to it                                        PermissionViolation
    all permissions again: permissions                   r
    wide again: tag                                      False
    moved far away and back: tag                         False
    2**20 + 1 bytes exactly: tag                         False
    2**20 + 1 bytes rounded: bytes                       1050624
"""

import capshm
from capshm import Permissions, encoding
from capshm import cheribsd as bsd
from course import expect, show

with capshm.Machine():
    record = bsd.malloc(64)
    name = (record + 16).with_bounds(16)
    show("a record: bytes", record.length, 64)
    show("the name in it: bytes", name.length, 16)
    with expect(capshm.BoundsViolation, "the byte behind the name"):
        name.read(16, 1)
    with expect(capshm.BoundsViolation, "the byte before it"):
        name.read(-1, 1)

    reading = name.with_permissions(Permissions.LOAD)
    show("the name, to be read: permissions", reading.permissions.letters, "r")
    with expect(capshm.PermissionViolation, "writing to it"):
        reading.write(0, b"x")

    regained = reading.with_permissions(record.permissions)
    show("all permissions again: permissions", regained.permissions.letters, "r")
    show("wide again: tag", name.with_bounds(64).tag, False)
    show("moved far away and back: tag", (name + (1 << 40) - (1 << 40)).tag, False)

    large = bsd.malloc(2 << 20)
    odd = (1 << 20) + 1
    show("2**20 + 1 bytes exactly: tag", large.with_exact_bounds(odd).tag, False)
    show("2**20 + 1 bytes rounded: bytes", large.with_bounds(odd).length, encoding.representable_length(odd))
