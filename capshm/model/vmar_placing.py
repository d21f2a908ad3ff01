"""Where a VMAR or a mapping goes: rows 9 to 16 of vmar:1.1, for allocate and map alike."""

from __future__ import annotations

from itertools import chain

from capshm.model import zircon_constants as z
from capshm.model.constants import PAGE
from capshm.model.pointer import round_up
from capshm.model.regions import Vmar
from capshm.model.rules import ZxRefusal
from capshm.model.vmar_options import alignment


def find_place(vmar: Vmar, options: int, offset: int, size: int, asked: str) -> int:
    """The address. With SPECIFIC_OVERWRITE what lies there is not looked at: that is the caller's."""
    is_chosen = bool(options & (z.VM_SPECIFIC | z.VM_SPECIFIC_OVERWRITE))
    is_limited = bool(options & z.VM_OFFSET_IS_UPPER_LIMIT)
    _check_offset(vmar, offset, asked, is_chosen=is_chosen, is_limited=is_limited)
    is_inside = size <= offset <= vmar.length if is_limited else offset < vmar.length >= size + offset
    if not is_inside:
        raise ZxRefusal(
            "vmar:1.1/13",
            asked=asked,
            allowed=f"{size:#x} bytes {'below' if is_limited else 'from'} {offset:#x} are not inside "
            f"the {vmar.length:#x} bytes of {vmar}",
            needed="a range that is",
        )
    unit = max(PAGE, alignment(options))
    if is_chosen:
        start = vmar.start + offset
        if start % unit:
            raise ZxRefusal(
                "vmar:1.1/14",
                asked=asked,
                allowed=f"{start:#x} is no multiple of {unit:#x}",
                needed="an aligned place, or no ALIGN",
            )
        if not options & z.VM_SPECIFIC_OVERWRITE:
            _check_free(vmar, start, start + size, asked)
        return start
    end = vmar.start + offset if is_limited else vmar.end
    place = _search(vmar, size, unit, end)
    if place is None:
        raise ZxRefusal(
            "vmar:1.1/16",
            asked=asked,
            allowed=f"{vmar} has no gap of {size:#x} bytes aligned to {unit:#x}"
            + (f" below {end:#x}" if is_limited else ""),
            needed="less, or a larger VMAR; closing handles frees nothing, destroying or unmapping does",
        )
    return place


def _check_offset(vmar: Vmar, offset: int, asked: str, *, is_chosen: bool, is_limited: bool) -> None:
    """Rows 9 to 12."""
    if is_chosen and is_limited:
        raise ZxRefusal(
            "vmar:1.1/9",
            asked=asked,
            allowed="the offset is either the place or a limit",
            needed="SPECIFIC or OFFSET_IS_UPPER_LIMIT",
        )
    if offset and not (is_chosen or is_limited):
        raise ZxRefusal(
            "vmar:1.1/10",
            asked=asked,
            allowed=f"the offset {offset:#x} means nothing without SPECIFIC or OFFSET_IS_UPPER_LIMIT",
            needed="offset 0, or one of these",
        )
    if offset % PAGE:
        raise ZxRefusal(
            "vmar:1.1/11", asked=asked, allowed=f"{offset:#x} is no multiple of a page", needed="whole pages"
        )
    if (is_chosen or is_limited) and not vmar.is_specific:
        raise ZxRefusal(
            "vmar:1.1/12",
            asked=asked,
            allowed=f"{vmar} was allocated without CAN_MAP_SPECIFIC",
            needed="a VMAR that has it, or no SPECIFIC and no OFFSET_IS_UPPER_LIMIT",
        )


def _check_free(vmar: Vmar, start: int, end: int, asked: str) -> None:
    """Row 15."""
    regions = vmar.overlapping(start, end)
    entries = vmar.space.overlapping(start, end)
    if not regions and not entries:
        return
    there = min([*regions, *entries], key=lambda one: one.start)
    what = "a mapping" if there in entries else "a VMAR" if isinstance(there, Vmar) else "a reservation of mmap"
    raise ZxRefusal(
        "vmar:1.1/15",
        asked=asked,
        allowed=f"{what} has [{there.start:#x}, {there.end:#x})",
        needed="a free range, or for mappings SPECIFIC_OVERWRITE",
    )


def _search(vmar: Vmar, size: int, unit: int, end: int) -> int | None:
    """The first fit behind the last place that was given; then from the start, as always in a COMPACT one."""
    first = vmar.start if vmar.is_compact else vmar.next
    for lowest, (start, stop) in chain(
        ((first, gap) for gap in vmar.gaps(first)), ((vmar.start, gap) for gap in vmar.gaps(vmar.start))
    ):
        candidate = round_up(max(lowest, start), unit)
        if candidate + size <= min(stop, end):
            return candidate
    return None
