"""Revocation: free memory is memory to which nobody has a pointer.

free() cannot find the pointers that a program has kept, so what is freed waits in quarantine. A pass stops all
processes, takes the tags of every pointer into what waits, and only then may the memory be given out again. This is how
malloc does it, and then the same by hand: paint, open and close an epoch, clear. A fork's copies are the child's own.
(cheribsd:2.1 to 2.3, 2.6)

    freed, in quarantine: tag of a kept copy             True
    and it reads                                         b'my letters'
    and malloc gives out other memory                    True
    after a pass: tag of the kept copy                   False
    and reading through it                               TagViolation
    by hand: painted, tag                                True
    the clock: enqueue, dequeue                          (2, 2)
    epoch opened: tag                                    True
    the clock: enqueue, dequeue                          (3, 2)
    epoch closed: tag                                    False
    the clock: enqueue, dequeue                          (4, 4)
    the pointer beside it, not painted: tag              True
    child, forked before: tag                            True
"""

import os

import capshm
from capshm import Permissions
from capshm import cheribsd as bsd
from course import expect, show

PAGE = 4096
DATA = bsd.PROT_READ | bsd.PROT_WRITE
CLOCK = "the clock: enqueue, dequeue"

with capshm.Machine(stop_timeout=60):  # seconds that a pass waits for a process that is inside an operation
    letters = bsd.malloc(64)
    letters.write(0, b"my letters")
    kept = letters + 0
    bsd.free(letters)
    show("freed, in quarantine: tag of a kept copy", kept.tag, True)
    show("and it reads", kept.read(0, 10), b"my letters")
    show("and malloc gives out other memory", bsd.malloc(64).base != kept.base, True)
    bsd.malloc_revoke_quarantine_force_flush()
    show("after a pass: tag of the kept copy", kept.tag, False)
    with expect(capshm.TagViolation, "and reading through it"):
        kept.read(0, 10)

    arena = bsd.mmap(None, PAGE, DATA, bsd.MAP_PRIVATE | bsd.MAP_ANON)
    ours = arena.permissions.without(Permissions.SW_VMEM)  # what may change mappings is the allocator's, and stays
    doomed, spared = ((arena + offset).with_bounds(64).with_permissions(ours) for offset in (0, 64))
    shadow = bsd.cheri_revoke_get_shadow(bsd.CHERI_REVOKE_SHADOW_NOVMEM, arena)
    clock = bsd.cheri_revoke_get_shadow(bsd.CHERI_REVOKE_SHADOW_INFO_STRUCT)
    assert isinstance(shadow, bsd.Shadow)
    assert isinstance(clock, bsd.RevokeInfo)

    go_on, told = os.pipe()
    if (child := os.fork()) == 0:
        os.read(go_on, 1)
        show("child, forked before: tag", doomed.tag, True)
        os._exit(0)

    shadow.paint(doomed)
    then = clock.enqueue  # a pass that begins later takes what is painted by now
    show("by hand: painted, tag", doomed.tag, True)
    show(CLOCK, (clock.enqueue, clock.dequeue), (2, 2))
    bsd.cheri_revoke(0, then)
    show("epoch opened: tag", doomed.tag, True)
    show(CLOCK, (clock.enqueue, clock.dequeue), (3, 2))
    bsd.cheri_revoke(bsd.CHERI_REVOKE_LAST_PASS, then)
    show("epoch closed: tag", doomed.tag, False)
    show(CLOCK, (clock.enqueue, clock.dequeue), (4, 4))
    shadow.clear(doomed)
    show("the pointer beside it, not painted: tag", spared.tag, True)
    os.write(told, b"!")
    assert os.waitpid(child, 0)[1] == 0
