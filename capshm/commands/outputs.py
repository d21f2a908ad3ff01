"""Files that verbs write: whether one may and can be written is better known before the work than after it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from capshm.errors import CapshmError


def check(path: Path, what: str, *, is_forced: bool, option: str = "--output") -> None:
    """CapshmError: the file, `what` with its article, may not or cannot be written there. Nothing is changed.

    option: by which another file is named.
    """
    if path.exists() and not path.is_file():
        raise CapshmError(f"{path} is no file that {what} could take the place of")
    if path.exists() and not is_forced:
        raise CapshmError(f"{path} is there already; --force overwrites it, {option} names another")
    if not path.parent.is_dir():
        raise CapshmError(f"there is no folder {path.parent} for {what}")
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name):
            pass
    except OSError as error:
        raise CapshmError(f"no file can be written into {path.parent}: {error.strerror}") from None
