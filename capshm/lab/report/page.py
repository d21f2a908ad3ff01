"""report.html: one page that needs no network, in the reader's light or dark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
from markupsafe import Markup

from capshm.lab import table
from capshm.lab.report.answers import Answer
from capshm.lab.report.exhibit import Exhibit, Missing
from capshm.lab.report.palette import COLOURS
from capshm.lab.report.runs import Run


class Section(NamedTuple):
    """What one folder has given. shown: each exhibit, and its picture as a part of a page."""

    run: Run
    shown: list[tuple[Exhibit, str]]


def render(sections: Sequence[Section], found: Sequence[Answer], missing: Sequence[Missing]) -> str:
    """The whole page."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(Path(__file__).with_suffix(".html").read_text(encoding="utf-8")).render(
        sections=sections,
        answers=found,
        missing=missing,
        accent=COLOURS[0],
        markup=Markup,  # of pictures: matplotlib escapes what it writes
        canary=table.canary,
        rounds=lambda run: min((line.repeats + line.failures for line in run.summary.lines), default=0),
    )
