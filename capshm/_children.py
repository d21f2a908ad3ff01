"""A function in a forked child, and nothing else there."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable


def fork_to_run(body: Callable[[], object]) -> int:
    """Fork a child that runs `body` and ends there; returns its pid, to be waited for.

    A number that the body returns is the exit status, anything else is 0; an exception prints its traceback and is 1.
    The child never returns to the caller's frames, whose `finally` blocks are for the parent. OSError: no child.
    """
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        answer = body()
        status = answer if isinstance(answer, int) else 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(status)
