"""A file that has all of what was to be written, or is as it was."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file beside that one, which takes its place when the block has ended, unless by an error.

    OSError: it could not be written; it names the path. A death in the middle leaves a file whose name begins with a
    dot beside it.
    """
    half_written = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with half_written.open("wb") as file:
            yield file
        half_written.replace(path)
    except OSError as error:
        error.filename = os.fspath(path)  # a failed write names none
        raise
    finally:
        half_written.unlink(missing_ok=True)
