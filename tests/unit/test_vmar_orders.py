"""`capshm.broker.zircon.vmar_orders`: as few system calls as can be for a protect over many mappings."""

from typing import cast

from capshm.broker.zircon.vmar_orders import protect_orders
from capshm.model import zircon_constants as z
from capshm.model.constants import PAGE
from capshm.model.vmar_changing import commit_protect, plan_protect
from tests.unit.vmar_scene import RW, R, Zircon


def orders(zircon: Zircon, vmar: int, options: int, address: int, pages: int) -> list[tuple[int, int, str, str]]:
    """First page, pages, letters now, letters before of each order to protect; the model is changed."""
    caller = zircon.caller(vmar, 0, "vmar:1.3/1")
    planned = plan_protect(caller, options, address, pages * PAGE)
    found = cast("list[list[str | int]]", protect_orders(planned, commit_protect(caller, planned)))
    return [
        ((int(start) - address) // PAGE, int(length) // PAGE, str(now), str(then))
        for _, start, length, now, then in found
    ]


def test_what_is_alike_is_one_order() -> None:
    """Mappings of many VMOs that become and were alike go together; what is so already is left alone."""
    zircon = Zircon()
    vmar = zircon.allocate(zircon.root)
    address = zircon.base(vmar)
    for page in range(8):
        zircon.map(vmar, RW | z.VM_SPECIFIC, page * PAGE)
    assert orders(zircon, vmar, R, address, 8) == [(0, 8, "r", "rw")]
    assert orders(zircon, vmar, R, address, 8) == []
    assert orders(zircon, vmar, 0, address + 2 * PAGE, 1) == [(0, 1, "", "r")]
    assert orders(zircon, vmar, RW, address + 5 * PAGE, 1) == [(0, 1, "rw", "r")]
    assert orders(zircon, vmar, R, address, 8) == [(2, 1, "r", ""), (5, 1, "r", "rw")]
    zircon.protect(vmar, 0, address + 3 * PAGE)
    assert orders(zircon, vmar, RW, address, 8) == [(0, 3, "rw", "r"), (3, 1, "rw", ""), (4, 4, "rw", "r")]
