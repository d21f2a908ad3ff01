"""A process that zircon.process_create has made: `python -m capshm._created NAME`, started by the broker.

It attaches, says so, and waits; what is mapped in it others map. It ends with the broker, or when its last handle is
closed.
"""

from __future__ import annotations

import os
import signal
import sys

from capshm import client, errors
from capshm._native import lib


def main() -> None:
    """Wait for the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's interrupt is for the program
    if not lib.driver_end_with(os.getppid()):
        return
    try:
        client.attach().ask("process_ready")
    except errors.CapshmError as error:
        sys.exit(str(error))
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
