"""docs/report.png: the upper end of the report on the bundled questions, of a run here, in build/questions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from capshm.lab.report import browser

FOLDER, PICTURE = Path("build/questions"), Path("docs/report.png")
CAPSHM = [sys.executable, "-P", "-m", "capshm"]


def main() -> None:
    """Measure, write the report, and photograph it."""
    if browser.find() is None:
        sys.exit(f"{PICTURE} needs a browser, which this machine has not: one of {', '.join(browser.NAMES)}")
    subprocess.run([*CAPSHM, "compare", "--plan", "questions", "--output", str(FOLDER), "--force"], check=True)
    subprocess.run([*CAPSHM, "report", str(FOLDER), "--force"], check=True)
    browser.photograph(FOLDER / "report.html", "light", PICTURE, 1100, 1500)
    print(PICTURE)


if __name__ == "__main__":
    main()
