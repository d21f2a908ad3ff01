"""A headless browser, where one is installed: what it makes of a page, and how that looks.

For the tests, and for the README's picture; the report itself needs none.
"""

from __future__ import annotations

import html
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_WATCHDOG = 200  # seconds
_SCHEMES = {"dark": 0, "light": 1}


def find() -> str | None:
    """The program; None: there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def dump(page: Path, scheme: str) -> str:
    """The document as the browser has it when all is loaded, for a reader who likes light or dark."""
    return _run(page, scheme, "--dump-dom")


def photograph(page: Path, scheme: str, picture: Path, width: int, height: int) -> None:
    """Make a PNG of the page's upper end."""
    _run(page, scheme, f"--screenshot={picture.resolve()}", f"--window-size={width},{height}", "--hide-scrollbars")


def attribute(document: str, name: str) -> str:
    """What is in the one attribute of this name."""
    (found,) = re.findall(rf'{name}="([^"]*)"', document)
    return html.unescape(found)


def _run(page: Path, scheme: str, *options: str) -> str:
    """With a profile of its own, which is removed, and a proxy that does not exist in place of the network."""
    program = find()
    assert program is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
        command += ["--disable-background-networking", "--disable-component-update", "--disable-extensions"]
        command += ["--disable-dev-shm-usage", f"--user-data-dir={profile}", "--proxy-server=127.0.0.1:9"]
        command += [f"--blink-settings=preferredColorScheme={_SCHEMES[scheme]}", *options, page.resolve().as_uri()]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=_WATCHDOG).stdout
