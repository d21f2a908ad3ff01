"""What an uncaught fault does to a forked process of a machine with faults="signal": the real signal ends it.

The traceback comes first, as it always does. Linux has no SIGPROT, so SIGSEGV stands for it; the error itself goes on
naming CheriBSD's signal.
"""

from __future__ import annotations

import os
import signal
import sys
from types import TracebackType

from capshm.errors import Fault

_SIGNALS = {"SIGPROT": signal.SIGSEGV, "SIGSEGV": signal.SIGSEGV, "SIGBUS": signal.SIGBUS}

_previous = sys.__excepthook__


def end_by_signal() -> None:
    """From now on, in this process and its children."""
    global _previous
    if sys.excepthook is not _excepthook:
        _previous = sys.excepthook
        sys.excepthook = _excepthook


def _excepthook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    _previous(kind, error, traceback)
    if not isinstance(error, Fault):
        return
    number = _SIGNALS[error.signal]
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    os.kill(os.getpid(), number)
