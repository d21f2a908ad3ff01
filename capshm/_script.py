"""Runs a Python script as a process of the machine of the environment: `python -P -m capshm._script FILE ...`."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import TracebackType

from capshm import client


def main() -> None:
    """Attach, and become the script: its arguments, its directory first on the path, its name `__main__`."""
    sys.argv = sys.argv[1:]
    client.attach()
    sys.path.insert(0, str(Path(sys.argv[0]).absolute().parent))
    _begin_tracebacks_at(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")


def _begin_tracebacks_at(script: str) -> None:
    """An uncaught error is shown as if Python itself had run the script: without the frames that lead to it."""
    show = sys.excepthook

    def show_from_script(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        while traceback is not None and traceback.tb_frame.f_code.co_filename != script:
            traceback = traceback.tb_next
        show(kind, error.with_traceback(traceback), traceback)

    sys.excepthook = show_from_script


if __name__ == "__main__":
    main()
