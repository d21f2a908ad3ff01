"""Runs a Python script as a process of the machine of the environment: `python -P -m capshm._script FILE ...`."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from capshm import client


def main() -> None:
    """Attach, and become the script: its arguments, its directory first on the path, its name `__main__`."""
    sys.argv = sys.argv[1:]
    client.attach()
    sys.path.insert(0, str(Path(sys.argv[0]).absolute().parent))
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
