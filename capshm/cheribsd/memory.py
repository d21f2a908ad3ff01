"""mmap, munmap, mprotect, minherit, mincore.

An address may be a Capability, an int (a number without authority) or None. Lengths are in bytes and go up to whole
pages. A call is asked of the broker and carried out undisturbed, so that calls of several threads happen in one order,
and no signal handler runs meanwhile. If the kernel cannot carry out a mapping, the broker forgets it again.
"""

from __future__ import annotations

import errno
import operator
import os

from capshm import client, errors
from capshm._native import ffi, lib
from capshm.capability import Capability, over
from capshm.cheribsd._arguments import WORD_END, as_argument, flag_bits
from capshm.cheribsd._arguments import word as word  # malloc imports it from here
from capshm.client import check, map_object
from capshm.model.constants import INHERIT_NONE, INHERIT_ZERO, MINCORE_CAPSTORE, MINCORE_INCORE
from capshm.pages import page_permissions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import SupportsIndex

    from capshm.cheribsd._arguments import Address
    from capshm.client import Client
    from capshm.connection import Answer

_PAGE: int = lib.PAGE_BYTES
_CAPSTORE: int = lib.PAGE_CAPABILITY_DIRTY | lib.PAGE_CAPABILITY_IDLE


def mmap(
    addr: Address,
    length: SupportsIndex,
    prot: SupportsIndex,
    flags: SupportsIndex,
    fd: SupportsIndex = -1,
    offset: SupportsIndex = 0,
) -> Capability:
    """Map memory and return the capability to it; it has SW_VMEM, so it may also change the mapping.

    fd: -1 for none. offset: whole pages. The bounds are padded until they can be represented; what is padded cannot be
    touched. Refused: the message says by which rule. Rules: cheribsd:A, C, E, G (`capshm explain A`).
    """
    descriptor = operator.index(fd)
    place = operator.index(offset)
    if not -(1 << 63) <= place < 1 << 63:
        raise ValueError(f"an offset is a 64-bit number, not {place}")
    mine = client.current()

    def map_it() -> Capability:
        answer = mine.ask(
            "map",
            descriptors=[descriptor] if descriptor >= 0 else [],
            address=as_argument(addr),
            length=word("length", length),
            prot=flag_bits("prot", prot),
            flags=flag_bits("flags", flags),
            offset=place,
            has_descriptor=descriptor >= 0,
        )
        return carry_out(mine, answer, descriptor, place)

    return mine.undisturbed(map_it)


def carry_out(mine: Client, answer: Answer, descriptor: int, offset: int) -> Capability:
    """Map what the broker has decided, and return the capability to it. descriptor: the caller's own, or -1."""
    start, length = answer.number("address"), answer.number("length")
    reserved = answer.numbers("reserved")
    has = answer.text("has")
    is_mapped = False
    try:
        given = dict(zip(has, answer.descriptors, strict=True))
        number = answer.number("object")
        map_object(
            start,
            length,
            letters=answer.text("rights"),
            data=given.get("d", descriptor if number else -1),
            tags=given.get("t", -1),
            clear=given.get("c", -1),
            offset=offset,
            number=number,
            is_shared=bool(answer.number("is_shared")),
            is_tags_writable="W" in answer.text("maximum"),
            is_clear_writable=bool(answer.number("is_shared")) and "w" in answer.text("maximum"),
            is_kept_at_fork=bool(answer.number("is_kept_at_fork")),
        )
        is_mapped = True
        if reserved[1] > start + length and reserved[0] == start:
            map_object(start + length, reserved[1] - start - length, letters="")  # the padding: nothing is permitted
        return over(*answer.numbers("capability"))
    except BaseException:
        if not is_mapped:
            mine.ask("revert", start=start)  # what was there before is there still
        elif not lib.capshm_unmap_range(start, length):
            mine.ask("undo", start=start, end=start + length)
        raise
    finally:
        answer.close()


def munmap(addr: Address, length: SupportsIndex) -> None:
    """Unmap whole pages. The reservation goes with its last page, and then its place may be used again.

    Refused with EPROT unless `addr` is a capability with SW_VMEM over all of the pages (C15).
    """
    mine = client.current()
    mine.undisturbed(lambda: unmap(mine.ask("unmap", address=as_argument(addr), length=word("length", length))))


def unmap(answer: Answer) -> None:
    """Carry out an answer that takes ranges away."""
    for start, end in answer.ranges("changes"):
        status = lib.capshm_unmap_range(start, end - start)
        if status:
            number = ffi.errno
            client.current().ask("revert", start=start)
            ffi.errno = number
            check(status, "munmap")


def mprotect(addr: Address, length: SupportsIndex, prot: SupportsIndex) -> None:
    """Change what whole pages permit now and, with PROT_MAX, at most. All pages are changed, or none.

    Refused with EPROT for the wrong pointer (B7), EACCES above the maximum (B3). Rules: cheribsd:B.
    """
    mine = client.current()

    def protect() -> None:
        answer = mine.ask(
            "protect", address=as_argument(addr), length=word("length", length), prot=flag_bits("prot", prot)
        )
        for row in answer.rows("changes"):
            status = _protect(row)
            if status:
                number = ffi.errno
                for old in mine.ask("revert", start=0).rows("changes"):
                    _protect(old)  # areas become one again: nothing that needs memory
                ffi.errno = number
                check(status, "mprotect")

    mine.undisturbed(protect)


def minherit(addr: Address, length: SupportsIndex, inherit: SupportsIndex) -> None:
    """Say what children of later forks get of whole pages: INHERIT_SHARE, COPY, NONE or ZERO. All pages, or none.

    Where Linux has no memory for private memory to become shared, what lies before it stays shared.
    Rules: cheribsd:I.
    """
    kind = operator.index(inherit)
    mine = client.current()

    def inherit_it() -> None:
        answer = mine.ask(
            "inherit",
            address=as_argument(addr),
            length=word("length", length),
            inherit=flag_bits("inherit", kind),
        )
        moved = 0  # there, and before it, nothing can be taken back
        try:
            moves = answer.rows("moves")
            moving = [row[0] for row in moves]
            for row in answer.rows("changes"):
                if row[0] not in moving:
                    check(_set_inherit(row, kind), "minherit")
            for row in moves:
                _move_into_object(row, answer.descriptors)
                moved = int(str(row[1]))
        except BaseException:
            for old in mine.ask("revert", start=moved).rows("changes"):
                _set_inherit(old, int(str(old[3])))
            raise
        finally:
            answer.close()

    mine.undisturbed(inherit_it)


def _protect(row: list[object]) -> int:
    """Give a range, [start, end, letters, ...], these permissions; the status of the core."""
    start, end, letters = int(str(row[0])), int(str(row[1])), str(row[2])
    status: int = lib.capshm_protect(start, end - start, page_permissions(letters))
    return status


def _set_inherit(row: list[object], kind: int) -> int:
    """Have the kernel give a range, [start, end, ...], to children, or not; the status of the core."""
    start, end = int(str(row[0])), int(str(row[1]))
    status: int = lib.capshm_set_inherit(start, end - start, kind not in (INHERIT_NONE, INHERIT_ZERO))
    return status


def _move_into_object(row: list[object], descriptors: list[int]) -> None:
    """Make private memory shared: it moves into its new object, tags included, which is mapped in its place."""
    start, end, number = (int(str(row[index])) for index in range(3))
    letters, maximum, has = str(row[3]), str(row[4]), str(row[6])
    filled = {letter: descriptors.pop(0) for letter in has}
    given = filled.copy()
    try:
        for letter, right in (("d", "w"), ("t", "W")):
            if letter in filled and right not in maximum:
                given[letter] = os.open(f"/proc/self/fd/{filled[letter]}", os.O_RDONLY | os.O_CLOEXEC)
        map_object(
            start,
            end - start,
            letters=letters,
            data=given["d"],
            tags=given.get("t", -1),
            clear=given["c"],
            number=number,
            is_shared=True,
            is_tags_writable="W" in maximum,
            is_clear_writable=True,
            is_kept_at_fork=bool(row[5]),
            filled=(filled["d"], filled.get("t", -1)),
        )
    finally:
        for fd in {*filled.values(), *given.values()}:
            os.close(fd)


def mincore(addr: Address, length: SupportsIndex) -> list[int]:
    """A flag word for each page: MINCORE_INCORE where the page is in memory, MINCORE_CAPSTORE where capabilities were
    stored through this process's mapping, until two revocations in a row have found none.

    Refused with ENOMEM where nothing is mapped.
    """
    import ctypes  # only here: attaching must stay cheap

    number = addr.address if isinstance(addr, Capability) else word("addr", 0 if addr is None else addr)
    start = number // _PAGE * _PAGE
    end = -(-(number + word("length", length)) // _PAGE) * _PAGE
    entries = []
    for page in range(start, min(end, WORD_END), _PAGE):
        entries.append(lib.capshm_page_entry(page))
        if not entries[-1] & lib.PAGE_MAPPED:
            raise errors.Refused(
                f"process {os.getpid()}: mincore({start:#x}, {end - start:#x}): not all of these pages are mapped",
                errno=errno.ENOMEM,
                rule="cheribsd:MAN",
            )
    resident = (ctypes.c_ubyte * len(entries))()
    libc = ctypes.CDLL(None, use_errno=True)
    if entries and libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(end - start), resident):
        reason = ctypes.get_errno()
        raise errors.Refused(f"mincore: {os.strerror(reason)}", errno=reason, rule="host")
    return [
        (MINCORE_INCORE if is_resident & 1 else 0) | (MINCORE_CAPSTORE if entry & _CAPSTORE else 0)
        for entry, is_resident in zip(entries, resident, strict=True)
    ]
