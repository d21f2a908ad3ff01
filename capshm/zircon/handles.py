"""Handles: values that name kernel objects, with rights that never grow; and what objects tell of themselves."""

from __future__ import annotations

import operator
from collections import namedtuple

from capshm import client
from capshm.cheribsd._arguments import word
from capshm.model import zircon_constants as z

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import NamedTuple, Self, SupportsIndex, TypeAlias

    class HandleBasic(NamedTuple):
        """INFO_HANDLE_BASIC."""

        koid: int
        rights: int
        type: int

    class VmarInfo(NamedTuple):
        """INFO_VMAR; in bytes."""

        base: int
        length: int

    class VmoInfo(NamedTuple):
        """INFO_VMO; sizes in bytes. populated_bytes: what has real memory."""

        koid: int
        size: int
        stream_size: int
        populated_bytes: int

    class MapsEntry(NamedTuple):
        """A row of INFO_VMAR_MAPS and INFO_PROCESS_MAPS, which walk the tree, parents first.

        type: one of INFO_MAPS_TYPE_*. mmu_flags: VM_PERM_* of what is permitted now. A mapping whose pages differ in
        that has several rows; a reservation of mmap is shown as a VMAR.
        """

        name: str
        base: int
        size: int
        depth: int
        type: int
        mmu_flags: int
        vmo_koid: int
        vmo_offset: int

else:
    HandleBasic = namedtuple("HandleBasic", "koid rights type", module=__name__)
    VmarInfo = namedtuple("VmarInfo", "base length", module=__name__)
    VmoInfo = namedtuple("VmoInfo", "koid size stream_size populated_bytes", module=__name__)
    MapsEntry = namedtuple("MapsEntry", "name base size depth type mmu_flags vmo_koid vmo_offset", module=__name__)


_NAME_LIMIT = 31


class Handle:
    """A handle of this process, as the calls return it; its value goes wherever a handle is asked for.

    rights, koid, type: they never change. pid: the Linux process that a process's handle names; else 0. It closes at
    the end of a `with`, unless it has been sent or replaced; nothing closes it otherwise. A child of fork has a handle
    of the same value.
    """

    __slots__ = ("_is_open", "koid", "pid", "rights", "type", "value")

    def __init__(self, description: dict[str, int]) -> None:
        self.value = description["value"]
        self.koid = description["koid"]
        self.rights = description["rights"]
        self.type = description["type"]
        self.pid = description["pid"]
        self._is_open = True

    def __index__(self) -> int:
        return self.value

    def __repr__(self) -> str:
        name = z.OBJ_TYPE_NAMES.get(self.type, "object")
        return f"<Handle {self.value:#x} to {name} {self.koid}, rights {self.rights:#x}>"

    def close(self) -> None:
        """Close it, if it is still there."""
        if self._is_open:
            self._is_open = False
            client.current().ask("handle_close", handle=self.value)

    def spend(self) -> None:
        """Note that a call has consumed it."""
        self._is_open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


if TYPE_CHECKING:
    AnyHandle: TypeAlias = Handle | SupportsIndex
    """A handle, or its value."""


def spend(handle: AnyHandle) -> None:
    """The call that gets it consumes it, whatever comes of that."""
    if isinstance(handle, Handle):
        handle.spend()


def number(what: str, value: SupportsIndex) -> int:
    """Options, rights and the like: 32 bits. ValueError, TypeError."""
    found = operator.index(value)
    if not 0 <= found < 1 << 32:
        raise ValueError(f"{what} must fit in 32 bits, not {found:#x}")
    return found


def process_self() -> Handle:
    """A handle to this process."""
    return made(client.current().ask("process_self").body["handle"])


def process_create(name: str) -> tuple[Handle, Handle]:
    """A process that only waits, with an empty address space: handles to it and to its root VMAR.

    It is a real process, a child of the broker's; `pid` of the first handle is its number. It ends when the last handle
    to it is closed, or killed; calls on its VMARs are BAD_STATE then. name: at most 31 characters, shown by ps.
    ValueError, TypeError: of the name; CapshmError: it could not be started.
    """
    if not isinstance(name, str):
        raise TypeError(f"a process's name is a str, not {type(name).__name__}")
    if len(name) > _NAME_LIMIT or "\0" in name:
        raise ValueError(f"a process's name has at most {_NAME_LIMIT} characters, none of them NUL: {name!r:.100}")
    body = client.current().ask("process_create", name=name).body
    return made(body["process"]), made(body["root"])


def made(description: object) -> Handle:
    """The handle that an answer describes."""
    assert isinstance(description, dict)
    return Handle(description)


def handle_duplicate(h: AnyHandle, rights: SupportsIndex) -> Handle:
    """Another handle to the same object, with these rights, all of which `h` must have; RIGHT_SAME_RIGHTS copies.

    ZxError: vmar:1.8. `h` needs DUPLICATE.
    """
    answer = client.current().ask(
        "handle_duplicate", handle=word("handle", h), rights=number("rights", rights), is_replaced=False
    )
    return made(answer.body["handle"])


def handle_replace(h: AnyHandle, rights: SupportsIndex) -> Handle:
    """A handle instead of `h`, which is gone afterwards, also after a refusal. ZxError: vmar:1.8."""
    spend(h)
    answer = client.current().ask(
        "handle_duplicate", handle=word("handle", h), rights=number("rights", rights), is_replaced=True
    )
    return made(answer.body["handle"])


def handle_close(h: AnyHandle) -> None:
    """Close a handle; 0 is none, and no mistake. What a VMAR's handle named stays mapped. ZxError: BAD_HANDLE."""
    spend(h)
    client.current().ask("handle_close", handle=word("handle", h))


def handle_check_valid(h: AnyHandle) -> None:
    """ZxError unless the value is a handle of this process; one to a destroyed VMAR is."""
    client.current().ask("handle_check_valid", handle=word("handle", h))


def object_get_info(h: AnyHandle, topic: SupportsIndex) -> HandleBasic | VmarInfo | VmoInfo | list[MapsEntry]:
    """What an object tells of itself: INFO_HANDLE_BASIC, INFO_VMAR, INFO_VMO, INFO_VMAR_MAPS, INFO_PROCESS_MAPS.

    All but the first need INSPECT. ZxError: vmar:1.7.
    """
    body = client.current().ask("object_get_info", handle=word("handle", h), topic=number("topic", topic)).body
    if "handle" in body:
        handle = made(body["handle"])
        return HandleBasic(handle.koid, handle.rights, handle.type)
    if "base" in body:
        return VmarInfo(body["base"], body["length"])  # type: ignore[arg-type]  # as the broker writes them
    if "vmo" in body:
        return VmoInfo(*body["vmo"])  # type: ignore[misc]
    return [MapsEntry(*row) for row in body["maps"]]  # type: ignore[attr-defined]
