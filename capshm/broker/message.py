"""What all requests have in common, and the types of their fields."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

Word: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
"""A 64-bit word; msgspec itself knows no bound above 2**63 - 1, so what is larger is sifted out by `decode`."""
Flags: TypeAlias = Annotated[int, msgspec.Meta(ge=-(1 << 31), le=(1 << 32) - 1)]
Name: TypeAlias = Annotated[str, msgspec.Meta(max_length=4096)]


class Message(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, tag_field="do"):
    """What every request has. n: its number, returned with the answer; at: file and line of the program that asks."""

    n: Annotated[int, msgspec.Meta(ge=0, le=(1 << 53) - 1)]
    at: tuple[Name, int] = ("", 0)
