"""VMARs that are measured: full of mappings, or one in another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from capshm import zircon as zx

PAGE = 4096
FLAGS = zx.VM_CAN_MAP_READ | zx.VM_CAN_MAP_WRITE | zx.VM_CAN_MAP_SPECIFIC
READ_WRITE = zx.VM_PERM_READ | zx.VM_PERM_WRITE


@contextmanager
def child_vmar(pages: int, *, mapped: int) -> Iterator[tuple[zx.Handle, int]]:
    """A VMAR of the root of so many pages, and its address; of the first `mapped` each is a mapping of its own VMO."""
    with zx.vmar_root_self() as root:
        vmar, base = zx.vmar_allocate(root, FLAGS, 0, pages * PAGE)
    with vmar:
        for number in range(mapped):
            map_page(vmar, number)
        yield vmar, base
        zx.vmar_destroy(vmar)


def map_page(vmar: zx.Handle, number: int) -> int:
    """Map a page of a VMO of its own as that page of the VMAR; its address."""
    with zx.vmo_create(PAGE) as memory:
        return zx.vmar_map(vmar, READ_WRITE | zx.VM_SPECIFIC, number * PAGE, memory, 0, PAGE)


def nested_page(depth: int) -> tuple[zx.Handle, int]:
    """A page that is mapped so many VMARs below the root: the innermost one, and the address."""
    vmar = zx.vmar_root_self()
    for _ in range(depth):
        inner, _ = zx.vmar_allocate(vmar, FLAGS, 0, PAGE)
        vmar.close()
        vmar = inner
    return vmar, map_page(vmar, 0)
