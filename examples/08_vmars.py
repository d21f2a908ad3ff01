"""VMARs: address space itself as an object, in a tree; a handle says who may change which part of it.

Zircon's answer to who may map what, where: regions in regions. Each handle has rights; what a mapping may ever be is
fixed when it is made. Through its own region's handle it is raised that far, from whichever process, through an
ancestor's only lowered: so a parent can take, and never give. (vmar:1.3, RFC-0199)

    mapped: can be written                               True
    lowered by the root's handle: can be written         False
    raised by the root's handle                          vmar:1.3/8e
    raised by a child process, with the region's handle  True
    mapped by a handle without the right to write        vmar:1.2/8
    mapped by it to be read, then raised by the other    vmar:1.3/8b
    region destroyed: can be read                        False
    mapped by the region's handle                        vmar:1.2/17
"""

import os

import capshm
from capshm import zircon as zx
from course import expect, show

PAGE = 4096
REGION = zx.VM_CAN_MAP_READ | zx.VM_CAN_MAP_WRITE
READ = zx.VM_PERM_READ
DATA = READ | zx.VM_PERM_WRITE

with capshm.Machine(stop_timeout=60):  # seconds that a call on another process's region waits for that process
    root = zx.vmar_root_self()
    region, _ = zx.vmar_allocate(root, REGION, 0, 1 << 20)
    memory = zx.vmo_create(PAGE)
    buffer = zx.vmar_map(region, DATA, 0, memory, 0, PAGE)
    show("mapped: can be written", zx.probe_write(buffer) == zx.OK, True)
    zx.vmar_protect(root, READ, buffer, PAGE)
    show("lowered by the root's handle: can be written", zx.probe_write(buffer) == zx.OK, False)
    with expect(zx.ZxError, "raised by the root's handle", rule="vmar:1.3/8e"):
        zx.vmar_protect(root, DATA, buffer, PAGE)

    if (child := os.fork()) == 0:  # it has a copy of the handle, to this process's region
        zx.vmar_protect(region, DATA, buffer, PAGE)  # carried out there, by the process that waits below
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    show("raised by a child process, with the region's handle", zx.probe_write(buffer) == zx.OK, True)

    reader = zx.handle_duplicate(region, region.rights & ~zx.RIGHT_WRITE)
    with expect(zx.ZxError, "mapped by a handle without the right to write", rule="vmar:1.2/8"):
        zx.vmar_map(reader, DATA, 0, memory, 0, PAGE)
    fixed = zx.vmar_map(reader, READ, 0, memory, 0, PAGE)
    with expect(zx.ZxError, "mapped by it to be read, then raised by the other", rule="vmar:1.3/8b"):
        zx.vmar_protect(region, DATA, fixed, PAGE)

    zx.vmar_destroy(region)
    show("region destroyed: can be read", zx.probe_read(buffer) == zx.OK, False)
    with expect(zx.ZxError, "mapped by the region's handle", rule="vmar:1.2/17"):
        zx.vmar_map(region, READ, 0, memory, 0, PAGE)
