"""No revocation: what is freed is used again at once, and stale capabilities go on working."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capshm.model.revoker import World


class NoRevoker:
    """Is never asked: the calls fail before."""

    name = "none"
    can_revoke = False

    def open(self, world: World) -> None:
        """Nothing."""

    def close(self, world: World) -> None:
        """Nothing."""
