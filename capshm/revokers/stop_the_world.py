"""Everything while the machine stands still, in the call that closes an epoch; opening one only opens it.

So loads may yield what is painted until then (cheribsd:6.3), and the pause grows with what is to be swept. In return
nothing has to be looked at twice, and loads cost what they always cost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capshm.model.revoker import World


class StopTheWorld:
    """CheriBSD's oldest kind."""

    name = "stop-the-world"
    can_revoke = True

    def open(self, world: World) -> None:
        """Nothing has to be done yet."""

    def close(self, world: World) -> None:
        """Stop, sweep what the broker can reach, and leave the rest to each process."""
        with world.stopped():
            world.sweep_objects()
            world.leave_private()
