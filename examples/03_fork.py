"""Fork: a child takes its private memory along with all tags, and of shared memory the bytes alone.

The pointers in a private page are good in the child, for its copy of everything is at the same place. A shared page has
one content for both, and who may keep capabilities there is not the child's to say: it loses that permission for good,
and can still spoil what the parent stored. (cheribsd:F1 to F7)

    child: private page, loads a tag                     True
    child: shared page, loads a tag                      False
    child: and the same bytes                            True
    child: stores a capability there                     StoreTagViolation
    child: asks for the permission again                 cheribsd:B3
    child: maps the descriptor again                     cheribsd:E2
    parent: private page, after the child cleared its    True
    parent: shared page, loads a tag                     True
    parent: the same, after the child wrote a byte there False
"""

import os

import capshm
from capshm import cheribsd as bsd
from course import expect, show

PAGE = 4096
DATA = bsd.PROT_READ | bsd.PROT_WRITE
ALL = DATA | bsd.PROT_CAP

with capshm.Machine():
    descriptor = bsd.shm_open(bsd.SHM_ANON, os.O_RDWR)
    os.ftruncate(descriptor, PAGE)
    shared = bsd.mmap(None, PAGE, ALL, bsd.MAP_SHARED, descriptor, 0)
    private = bsd.mmap(None, PAGE, DATA, bsd.MAP_PRIVATE | bsd.MAP_ANON)
    pointer = bsd.malloc(64)
    for page in (private, shared):
        page.store_capability(0, pointer)

    if (child := os.fork()) == 0:  # an emulated process by itself, with an address space of its own
        mine = private.load_capability(0)
        show("child: private page, loads a tag", mine.tag, True)
        show("child: shared page, loads a tag", shared.load_capability(0).tag, False)
        show("child: and the same bytes", shared.read(0, 16) == private.read(0, 16), True)
        with expect(capshm.StoreTagViolation, "child: stores a capability there"):
            shared.store_capability(16, mine)
        with expect(capshm.Refused, "child: asks for the permission again", rule="cheribsd:B3"):
            bsd.mprotect(shared, PAGE, ALL)
        with expect(capshm.Refused, "child: maps the descriptor again", rule="cheribsd:E2"):
            bsd.mmap(None, PAGE, ALL, bsd.MAP_SHARED, descriptor, 0)
        private.write(0, bytes(16))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    show("parent: private page, after the child cleared its", private.load_capability(0).tag, True)
    show("parent: shared page, loads a tag", shared.load_capability(0).tag, True)

    if (child := os.fork()) == 0:
        shared.write(15, b"!")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    show("parent: the same, after the child wrote a byte there", shared.load_capability(0).tag, False)
