"""The limit of attaching: an interpreter that imports nothing and exits, from its start to its end."""

from __future__ import annotations

import os
import sys
from time import perf_counter_ns


def run() -> int:
    """Nanoseconds."""
    begin = perf_counter_ns()
    pid = os.posix_spawn(sys.executable, [sys.executable, "-I", "-S", "-c", ""], os.environ)
    _, status = os.waitpid(pid, 0)
    assert status == 0
    return perf_counter_ns() - begin
