"""Calls on VMARs that no rule refuses and Linux does: what was changed, and that tree, maps topic and smaps agree."""

from collections.abc import Callable

import pytest

from capshm import Machine
from capshm import zircon as zx
from tests.conformance.zircon.support import PAGE, RW, Calls, R
from tests.faults.areas import fill_areas
from tests.faults.isolation import isolated


def refusals(vmar: zx.Handle, base: int) -> dict[str, int]:
    """How many calls of each kind Linux has refused, for want of areas."""
    found = {"map": 0, "protect": 0, "unmap": 0}
    vmo = zx.vmo_create(PAGE)
    attempts: dict[str, Callable[[int], object]] = {
        "map": lambda page: zx.vmar_map(vmar, RW | zx.VM_SPECIFIC, page * PAGE, vmo, 0, PAGE),
        "protect": lambda page: zx.vmar_protect(vmar, R, base + page * PAGE, PAGE),
        "unmap": lambda page: zx.vmar_unmap(vmar, base + page * PAGE, PAGE),
    }
    pages = {"map": range(33, 64, 2), "protect": range(1, 15, 2), "unmap": range(17, 31, 2)}
    for name, attempt in attempts.items():
        for page in pages[name]:
            try:
                attempt(page)
            except zx.ZxError as error:
                if (error.status, error.rule) != (zx.ERR_NO_MEMORY, "vmar:host"):
                    raise
                found[name] += 1
    return found


@pytest.mark.slow
@isolated()
def test_linux_has_no_further_area() -> None:
    """The process has used up its areas behind the broker's back: each call is refused, and changes nothing."""
    with Machine() as machine:
        calls = Calls(machine)
        vmar, base = calls.allocate(pages=64)
        calls.map(vmar, 0, 32)
        empty = fill_areas(1)
        found = refusals(vmar, base)
        empty()
        calls.look()
        assert all(count > 0 for count in found.values()), found
        assert zx.probe_write(base + 13 * PAGE) == zx.OK
        calls.vmar_protect(vmar, R, base, 32 * PAGE)
        calls.vmar_destroy(vmar)


@pytest.mark.slow
@isolated()
def test_a_destroy_that_linux_refuses() -> None:
    """The VMARs live on, with what is left in them, and can be destroyed when there is room."""
    with Machine() as machine:
        calls = Calls(machine)
        vmo = zx.vmo_create(3 * PAGE)
        outer, base = calls.allocate(pages=3)
        inner, _ = calls.allocate(outer, 1, zx.VM_SPECIFIC | zx.VM_CAN_MAP_READ | zx.VM_CAN_MAP_WRITE, page=1)
        for vmar, page in ((outer, 0), (inner, 0), (outer, 2)):  # one area for Linux
            place = page if vmar is outer else 1
            options = zx.VM_PERM_READ | zx.VM_SPECIFIC if vmar is outer else zx.VM_PERM_READ
            calls.vmar_map(vmar, options, page * PAGE, vmo, place * PAGE, PAGE)
        room, start = calls.allocate(pages=64)
        calls.map(room, 0, 32)
        empty = fill_areas(1)
        assert refusals(room, start)["map"]
        with pytest.raises(zx.ZxError) as caught:
            zx.vmar_destroy(inner)
        assert (caught.value.status, caught.value.rule) == (zx.ERR_NO_MEMORY, "vmar:host")
        empty()
        calls.look()
        assert calls.mapped(base, 3) == "xxx"
        calls.vmar_destroy(inner)
        assert calls.mapped(base, 3) == "x-x"
