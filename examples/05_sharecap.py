"""O_SHARECAP: an object that is made for everybody carries pointers between address spaces, both ways.

A list of pointers lies in shared memory; a child walks it, and puts a node of its own in front. What travels is an
address with bounds, not what is there: a pointer to private memory leads each process to its own. (cheribsd:D1, E9, F8)

    child: the list                                      ['fork', 'bounds', 'tags']
    child: the private page behind the parent's pointer  b"the child's "
    parent: the list, after the child was there          ['O_SHARECAP', 'fork', 'bounds', 'tags']
    parent: its private page                             b"the parent's"
    whose is the object                                  None
    share-cap                                            True
"""

import os

import capshm
from capshm import cheribsd as bsd
from course import show

SIZE, NODE, FIRST, PRIVATE = 4096, 32, 0, 16  # bytes; offsets of the two pointers that are not in nodes
DATA = bsd.PROT_READ | bsd.PROT_WRITE


def push(area: capshm.Capability, number: int, word: str) -> None:
    """Put a node in front: a pointer to the next one, and a word."""
    node = (area + NODE * number).with_bounds(NODE)
    node.store_capability(0, area.load_capability(FIRST))
    node.write(16, word.encode().ljust(16))
    area.store_capability(FIRST, node)


def walk(area: capshm.Capability) -> list[str]:
    """The words, by the pointers: it ends where there is no tag."""
    words, node = [], area.load_capability(FIRST)
    while node.tag:
        words.append(node.read(16, 16).decode().rstrip())
        node = node.load_capability(0)
    return words


with capshm.Machine() as machine:
    descriptor = bsd.shm_open(bsd.SHM_ANON, os.O_RDWR | bsd.O_SHARECAP)
    os.ftruncate(descriptor, SIZE)
    area = bsd.mmap(None, SIZE, DATA | bsd.PROT_CAP, bsd.MAP_SHARED, descriptor, 0)
    for number, word in enumerate(["tags", "bounds", "fork"], start=1):
        push(area, number, word)
    private = bsd.malloc(16)
    private.write(0, b"the parent's")
    area.store_capability(PRIVATE, private)

    if (child := os.fork()) == 0:
        show("child: the list", walk(area), ["fork", "bounds", "tags"])
        push(area, 4, "O_SHARECAP")
        private.write(0, b"the child's ")
        pointer = area.load_capability(PRIVATE)
        show("child: the private page behind the parent's pointer", pointer.read(0, 12), b"the child's ")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    show("parent: the list, after the child was there", walk(area), ["O_SHARECAP", "fork", "bounds", "tags"])
    show("parent: its private page", area.load_capability(PRIVATE).read(0, 12), b"the parent's")

    (made,) = machine.objects()
    show("whose is the object", made.owner, None)
    show("share-cap", made.is_share_cap, True)
