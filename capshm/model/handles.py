"""Handles: what a process may do with which kernel object (vmar:1.8).

A handle is a value in the table of one process, an object, and rights that never grow. The table of a fork's child is
a copy: the same values, the same objects. An object counts its handles, those in messages under way included; what the
last one's end means is the object's business (`KernelObject.unnamed`): for a VMAR nothing at all.

Look-up refuses in one order: BAD_HANDLE, WRONG_TYPE, ACCESS_DENIED; the row is the caller's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeVar

from capshm.model import zircon_constants as z
from capshm.model.rules import ZxRefusal

if TYPE_CHECKING:
    from collections.abc import Iterator


class KernelObject:
    """What handles can name. koid: its identity, given with its first handle; handles: how many name it."""

    type: ClassVar[int]

    def __init__(self) -> None:
        self.koid = 0
        self.handles = 0

    def unnamed(self) -> None:
        """The last handle is gone."""

    def __str__(self) -> str:
        """As a refusal names it."""
        return f"{z.OBJ_TYPE_NAMES[self.type]} {self.koid}"


class Handle(NamedTuple):
    """An object and the rights to it."""

    object: KernelObject
    rights: int

    def limited(self, rights: int) -> int:
        """The rights that are asked for, SAME_RIGHTS meaning all. ValueError: it has fewer."""
        if rights == z.RIGHT_SAME_RIGHTS:
            return self.rights
        if rights & ~self.rights:
            raise ValueError
        return rights


_O = TypeVar("_O", bound=KernelObject)


class Koids:
    """The identities of one machine's objects, never given twice."""

    def __init__(self) -> None:
        self._last = 1023  # those below are reserved

    def next(self) -> int:
        """One that nothing has."""
        self._last += 1
        return self._last


class HandleTable:
    """The handles of one process."""

    def __init__(self, koids: Koids) -> None:
        self._koids = koids
        self._handles: dict[int, Handle] = {}
        self._next = 0

    def __iter__(self) -> Iterator[tuple[int, Handle]]:
        return iter(list(self._handles.items()))

    def add(self, target: KernelObject, rights: int) -> int:
        """A new handle; its value."""
        if not target.koid:
            target.koid = self._koids.next()
        target.handles += 1
        return self.install(Handle(target, rights))

    def install(self, handle: Handle) -> int:
        """Take over a handle that is counted already; its value."""
        self._next += 1
        value = self._next << 2 | z.HANDLE_FIXED_BITS
        self._handles[value] = handle
        return value

    def remove(self, value: int) -> Handle | None:
        """Take a handle out; it still counts. None: there is none."""
        return self._handles.pop(value, None)

    def close(self, value: int) -> bool:
        """Close a handle. False: there is none."""
        handle = self.remove(value)
        if handle is not None:
            release(handle)
        return handle is not None

    def get(self, value: int) -> Handle | None:
        """The handle with this value."""
        return self._handles.get(value)

    def find(self, value: int, kind: type[_O], rights: int, *, rule: str, asked: str) -> tuple[_O, int]:
        """The object and the handle's rights, of which it needs these. ZxRefusal by `rule`."""
        handle = self.known(value, rule=rule, asked=asked)
        if not isinstance(handle.object, kind):
            raise ZxRefusal(
                rule,
                asked=asked,
                allowed=f"handle {value:#x} is {handle.object}'s",
                needed=f"a handle to a {z.OBJ_TYPE_NAMES[kind.type]}",
                status="WRONG_TYPE",
            )
        if missing := rights & ~handle.rights:
            raise ZxRefusal(
                rule,
                asked=asked,
                allowed=f"handle {value:#x} to {handle.object} has {rights_text(handle.rights)}, "
                f"without {rights_text(missing)}",
                needed=f"a handle with {rights_text(rights)}",
                status="ACCESS_DENIED",
            )
        return handle.object, handle.rights

    def known(self, value: int, *, rule: str, asked: str) -> Handle:
        """The handle with this value. ZxRefusal by `rule`: there is none."""
        handle = self._handles.get(value)
        if handle is None:
            raise ZxRefusal(
                rule,
                asked=asked,
                allowed=f"{value:#x} is no handle of this process",
                needed="a handle that is neither closed nor sent away",
                status="BAD_HANDLE",
            )
        return handle

    def duplicate(self, value: int, rights: int) -> int:
        """zx_handle_duplicate."""
        asked = f"handle_duplicate({value:#x}, {rights_text(rights)})"
        target, _ = self.find(value, KernelObject, 0, rule="vmar:1.8/1", asked=asked)
        self.find(value, KernelObject, z.RIGHT_DUPLICATE, rule="vmar:1.8/2", asked=asked)
        return self.add(target, _limited(self._handles[value], rights, asked))

    def replace(self, value: int, rights: int) -> int:
        """zx_handle_replace: the old handle is gone, also after a refusal."""
        asked = f"handle_replace({value:#x}, {rights_text(rights)})"
        handle = self.known(value, rule="vmar:1.8/1", asked=asked)
        self.remove(value)
        try:
            return self.install(Handle(handle.object, _limited(handle, rights, asked)))
        except ZxRefusal:
            release(handle)
            raise

    def copy(self) -> HandleTable:
        """That of a fork's child."""
        copy = HandleTable(self._koids)
        copy._handles = self._handles.copy()
        copy._next = self._next
        for handle in self._handles.values():
            handle.object.handles += 1
        return copy

    def close_all(self) -> None:
        """The process is gone."""
        handles, self._handles = self._handles, {}
        for handle in handles.values():
            release(handle)


def release(handle: Handle) -> None:
    """A handle that is in no table is gone."""
    handle.object.handles -= 1
    if not handle.object.handles:
        handle.object.unnamed()


def _limited(handle: Handle, rights: int, asked: str) -> int:
    try:
        return handle.limited(rights)
    except ValueError:
        raise ZxRefusal(
            "vmar:1.8/3",
            asked=asked,
            allowed=f"the handle has {rights_text(handle.rights)}, and rights cannot be regained",
            needed="some of these rights, or SAME_RIGHTS",
        ) from None


def rights_text(rights: int) -> str:
    """READ|MAP."""
    if rights == z.RIGHT_SAME_RIGHTS:
        return "SAME_RIGHTS"
    names = [name for bit, name in z.RIGHT_NAMES.items() if rights & bit]
    known = sum(z.RIGHT_NAMES)
    if rights & ~known:
        names.append(f"{rights & ~known:#x}")
    return "|".join(names) or "no rights"
