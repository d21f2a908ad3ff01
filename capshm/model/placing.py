"""The address argument of mmap: what it authorises, and where the mapping goes (rows C1 to C16)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from capshm import encoding
from capshm.model import constants as c
from capshm.model.pointer import Address, Pointer, permissions_asked, round_down, round_up
from capshm.model.regions import Reservation, Vmar
from capshm.model.rules import Refusal
from capshm.permissions import Permissions

if TYPE_CHECKING:
    from capshm.model.address_space import AddressSpace

_SUPERPAGE = 2 << 20


class Place(NamedTuple):
    """Where a mapping goes. length: of the capability to it."""

    start: int
    length: int
    reservation: Reservation
    is_new_reservation: bool


def check_address(address: Address, length: int, prot: int, flags: int) -> Pointer | None:
    """The pointer that authorises a mapping in its own reservation; None if mmap is to make a reservation (C3, C4)."""
    if not isinstance(address, Pointer) or address.is_null_derived:
        return None
    fixed = "MAP_FIXED at" if flags & c.MAP_FIXED else "mmap at"
    asked = f"{fixed} {address.address:#x} [{address.base:#x}, {address.top:#x})"
    if not address.tag:
        raise Refusal(
            "cheribsd:C9",
            asked=asked,
            allowed="the pointer has no tag, and is no mere number either",
            needed="None, a number, or a tagged capability",
        )
    if not flags & c.MAP_FIXED:
        raise Refusal(
            "cheribsd:C8",
            asked=asked,
            allowed="a capability is no hint: it says which memory is to be replaced",
            needed="MAP_FIXED, or a number as hint",
        )
    if not address.may_change_mappings:
        raise Refusal(
            "cheribsd:C7",
            asked=asked,
            allowed="the pointer lacks SW_VMEM, as all pointers of malloc and to globals do",
            needed="the capability that mmap returned",
        )
    start, end = round_down(address.address), round_up(address.address + max(length, 0))
    if address.is_sealed or start < address.base or end > address.top:
        raise Refusal(
            "cheribsd:C10",
            asked=f"{asked} for [{start:#x}, {end:#x})",
            allowed="a sealed pointer authorises nothing" if address.is_sealed else "the range leaves its bounds",
            needed="an unsealed pointer over the whole range",
        )
    lacking = permissions_asked(prot) & ~address.permissions
    if lacking:
        raise Refusal(
            "cheribsd:C10",
            asked=asked,
            allowed=f"the mapping would allow what the pointer does not: {Permissions.from_raw(lacking)!r}",
            needed="a pointer with these permissions, or less in prot",
        )
    return address


def find_place(space: AddressSpace, pointer: Pointer | None, address: Address, length: int, flags: int) -> Place:
    """Where it goes: into the pointer's reservation, at a number, or wherever there is room."""
    size = round_up(length)
    if size > space.arena_end - space.arena_start:
        raise _no_room(space, size)
    alignment = _alignment(size, flags)
    if pointer is not None:
        return _inside(space, pointer, size, alignment, flags)
    number = address.address if isinstance(address, Pointer) else address
    padded = encoding.representable_length(size)
    if flags & c.MAP_FIXED:
        start = _exactly(space, number or 0, padded, alignment)
    else:
        place = space.find_free(padded, alignment, hint=number)
        if place is None:
            raise _no_room(space, padded)
        start = place
    return Place(start, padded, Reservation(start, start + padded, size), True)


def _alignment(size: int, flags: int) -> int:
    """Row C1: as bounds of this size need it, and as MAP_ALIGNED asks for."""
    needed = max(c.PAGE, (1 << 64) - encoding.representable_mask(size))
    wanted = flags & c.MAP_ALIGNMENT_MASK
    if wanted == c.MAP_ALIGNED_SUPER:
        return max(needed, _SUPERPAGE) if size >= _SUPERPAGE else needed
    if wanted in (0, c.MAP_ALIGNED_CHERI, c.MAP_ALIGNED_CHERI_SEAL):
        return needed
    power = wanted >> c.MAP_ALIGNMENT_SHIFT
    if not c.PAGE <= 1 << power < 1 << 64:
        raise Refusal(
            "cheribsd:MAN",
            asked=f"MAP_ALIGNED({power})",
            allowed="alignments are from a page to half of the address space",
            needed="MAP_ALIGNED of 12 to 63",
        )
    return max(needed, 1 << power)


def _exactly(space: AddressSpace, start: int, padded: int, alignment: int) -> int:
    """Row C4: where a number says, if nothing has been there since the last reservation went."""
    asked = f"MAP_FIXED at the number {start:#x}"
    end = start + padded
    if start % alignment:
        raise Refusal(
            "cheribsd:C1",
            asked=asked,
            allowed=f"bounds of {padded:#x} bytes start at multiples of {alignment:#x}",
            needed="an aligned address",
        )
    if not space.arena_start <= start <= end <= space.arena_end:
        raise Refusal(
            "cheribsd:MAN",
            asked=asked,
            allowed=f"memory lies in [{space.arena_start:#x}, {space.arena_end:#x})",
            needed="an address in there",
        )
    regions, entries = space.reservations_overlapping(start, end), space.overlapping(start, end)
    if regions and all(space.is_quarantined(one) for one in regions):
        raise _quarantined(asked, regions[0])
    there = [*regions, *entries]  # an entry may lie in no reservation: a mapping of the root VMAR
    if there:
        is_hole = not entries and all(
            isinstance(one, Reservation) and max(start, one.start) < one.start + one.length for one in regions
        )
        raise Refusal(
            "cheribsd:C11" if is_hole else "cheribsd:C5",
            asked=f"{asked} for {padded:#x} bytes",
            allowed=f"the reservation [{there[0].start:#x}, {there[0].end:#x}) is there, "
            + ("and lasts until all of it is unmapped" if is_hole else "and a number does not authorise to replace it"),
            needed="the reservation's own pointer, or a free range",
        )
    return start


def _inside(space: AddressSpace, pointer: Pointer, size: int, alignment: int, flags: int) -> Place:
    """Row C6: over a part of the pointer's own reservation."""
    start = pointer.address
    end = start + size
    asked = f"MAP_FIXED of [{start:#x}, {end:#x})"
    if start % c.PAGE:
        raise Refusal(
            "cheribsd:MAN", asked=asked, allowed="mappings start at whole pages", needed="a pointer to a page's start"
        )
    unit = (1 << 64) - encoding.representable_mask(size)
    lowest, highest = round_down(start, unit), round_up(end, unit)
    if lowest < pointer.base or highest > pointer.top:
        raise Refusal(
            "cheribsd:C10",
            asked=asked,
            allowed=f"bounds around it are [{lowest:#x}, {highest:#x}) at least, more than the pointer's own",
            needed=f"a range aligned to {unit:#x}, or a wider pointer",
        )
    reservation = space.reservation_around(start, end)
    if reservation is None:
        raise Refusal(
            "cheribsd:C13",
            asked=asked,
            allowed="the range does not lie in one reservation: what this pointer was made for has been unmapped",
            needed="a pointer to memory that is still reserved, or None as address",
        )
    if space.is_quarantined(reservation):
        raise _quarantined(asked, reservation)
    if flags & c.MAP_STACK:
        raise Refusal(
            "cheribsd:C16",
            asked=asked,
            allowed="a stack needs a reservation of its own",
            needed="MAP_STACK without MAP_FIXED",
        )
    if flags & c.MAP_EXCL and space.overlapping(start, end):
        raise Refusal(
            "cheribsd:MAN",
            asked=asked,
            allowed="MAP_EXCL replaces nothing, and something is mapped there",
            needed="a hole in the reservation, or no MAP_EXCL",
            errno="ENOMEM",
        )
    return Place(start, size, reservation, False)


def _quarantined(asked: str, reservation: Reservation | Vmar) -> Refusal:
    return Refusal(
        "cheribsd:C12",
        asked=asked,
        allowed=f"the reservation [{reservation.start:#x}, {reservation.end:#x}) was unmapped, and is in quarantine",
        needed="another place, or a revocation before",
    )


def _no_room(space: AddressSpace, length: int) -> Refusal:
    return Refusal(
        "cheribsd:MAN",
        asked=f"mmap of {length:#x} bytes",
        allowed=f"the arena of {space.arena_end - space.arena_start:#x} bytes has no such hole",
        needed="less memory, or a machine with a larger arena_size",
        errno="ENOMEM",
    )
