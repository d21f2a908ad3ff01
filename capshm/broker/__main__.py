"""The program of the broker: `python -m capshm.broker SETTINGS`, started by `capshm.Machine` and by nobody else.

It says on the descriptor `ready` whether it listens, as one line of JSON, and then serves until its machine ends.
"""

from __future__ import annotations

import gc
import os
import signal
import sys

import msgspec

from capshm._native import ffi, lib
from capshm.broker import connections
from capshm.broker.audit import AuditLog
from capshm.broker.segments import Segments, new_sealed, raise_descriptor_limit
from capshm.broker.server import Server
from capshm.broker.service import Service
from capshm.broker.state import Settings
from capshm.errors import CapshmError


class Start(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the creator gives. creator_pidfd, ready: inherited descriptors. audit: a path, or None for a memory file."""

    creator: int
    creator_pidfd: int
    ready: int
    audit: str | None
    settings: Settings


def make_server(start: Start) -> Server:
    """All that the broker has; CapshmError and OSError say what was in the way."""
    if start.settings.hardened:
        lib.capshm_set_dumpable(False)  # before there is anything to look at
    raise_descriptor_limit()
    for fd in (start.creator_pidfd, start.ready):
        os.set_inheritable(fd, False)
    listener = connections.listen(start.settings.name)
    audit = AuditLog(start.audit)
    segments = Segments()
    # Its name is how the creator finds the machine's processes when the broker was killed.
    gate = new_sealed(f"capshm-gate/{start.settings.name}", lib.capshm_gate_size())
    if lib.capshm_keep_gate(gate):
        raise OSError(ffi.errno, f"cannot map the gate: {os.strerror(ffi.errno)}")
    service = Service(start.settings, segments, audit)
    return Server(listener, service, segments, audit, gate, (start.creator, start.creator_pidfd))


def main() -> None:
    """Serve one machine."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's interrupt is for the program; the broker ends with it
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where the program ignores it there would be no child to wait for
    start = msgspec.json.decode(sys.argv[1], type=Start)
    try:
        server = make_server(start)
    except (CapshmError, OSError) as error:
        answer = {"error": str(error)}
    else:
        answer = {}
    with os.fdopen(start.ready, "wb") as ready:
        ready.write(msgspec.json.encode(answer))
    if not answer:
        gc.freeze()
        server.run()


if __name__ == "__main__":
    main()
