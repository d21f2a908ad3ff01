"""The canary: how far apart this machine's processors are just now, which all that crosses them follows.

Virtual processors move between near and far places within seconds, and no file says so. A figure without its canary is
not comparable with itself an hour later. It spins in a process of its own: `python -m capshm.lab.runner.canary`.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys

from capshm._native import ffi, lib


class NoCanary(Exception):
    """Two processes cannot spin here; the message says why."""


def measure() -> float:
    """Microseconds of a round trip between two spinning processes; a tenth of a second's work. NoCanary: none."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "capshm.lab.runner.canary"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise NoCanary(done.stderr.strip() or f"it ended with status {done.returncode}")
    return float(done.stdout)


def main() -> None:
    """Print it once. Status 1: there is none, and standard error says why."""
    microseconds: float = lib.capshm_canary()
    if microseconds < 0:
        reason = "there is one processor" if ffi.errno == errno.ENODEV else os.strerror(ffi.errno)
        sys.exit(f"two processes cannot spin here: {reason}")
    print(microseconds)


if __name__ == "__main__":
    main()
