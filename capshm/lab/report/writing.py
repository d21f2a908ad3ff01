"""A report, from folders into a folder: report.html, and figures/ with each picture as SVG, PDF and PNG.

Everything is made beside its place and renamed into it, the page last. A death in the middle leaves each file whole,
old or new, and the page shows its own pictures. Whatever else is in the folder stays.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from capshm.lab.report import answers, differences, drawing, growth, maps, overheads, page, pauses
from capshm.lab.report.answers import Answer
from capshm.lab.report.exhibit import Exhibit, Missing
from capshm.lab.report.page import Section
from capshm.lab.report.runs import ReportError, Run

PAGE, FIGURES = "report.html", "figures"

_KINDS: tuple[tuple[Callable[[Run], Iterator[Exhibit]], Missing], ...] = (
    (overheads.exhibits, overheads.MISSING),
    (pauses.exhibits, pauses.MISSING),
    (growth.exhibits, growth.MISSING),
    (maps.exhibits, maps.MISSING),
    (differences.exhibits, differences.MISSING),
)


def write(
    folders: Sequence[Path],
    output: Path,
    *,
    is_forced: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[Path, list[Answer]]:
    """Write the report of these results folders into `output`, which is made; the page's path, and its answers.

    is_forced: replace a report that is there. tell: is told what is being done. ReportError, ResultsError: a folder
    holds too little, a report is there already, or it cannot be written; nothing is changed then.
    """
    check(output, is_forced=is_forced)
    runs = []
    for folder in folders:
        tell(f"reading {folder}")
        runs.append(Run(folder))
    given = [[list(make(run)) for make, _ in _KINDS] for run in runs]
    missing = [lacking for place, (_, lacking) in enumerate(_KINDS) if not any(each[place] for each in given)]
    found = answers.answers(runs)
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".report-", dir=output) as name:
            new = Path(name)
            (new / FIGURES).mkdir()
            sections = []
            for number, (run, kinds) in enumerate(zip(runs, given, strict=True), 1):
                prefix = f"run{number}-" if len(runs) > 1 else ""  # the files of all runs lie in one folder
                exhibits = [each._replace(key=prefix + each.key) for kind in kinds for each in kind]
                sections.append(Section(run, [(each, _draw(each, new, tell)) for each in exhibits]))
            (new / PAGE).write_text(page.render(sections, found, missing), encoding="utf-8")
            _move(new, output)
    except OSError as error:
        raise ReportError(f"cannot write a report into {output}: {error}") from error
    return output / PAGE, found


def check(output: Path, *, is_forced: bool) -> None:
    """ReportError: a report is there already, and may not be replaced."""
    if not is_forced and any((output / name).exists() for name in (PAGE, FIGURES)):
        raise ReportError(f"{output} has a report: name another folder by --output, or say --force to replace it")


def _draw(exhibit: Exhibit, new: Path, tell: Callable[[str], None]) -> str:
    """Its files; the part of the page."""
    tell(f"drawing {exhibit.key}: {exhibit.title}")
    drawn = drawing.picture(exhibit)
    for kind, content in drawn.files.items():
        (new / FIGURES / f"{exhibit.key}.{kind}").write_bytes(content)
    return drawn.inline


def _move(new: Path, output: Path) -> None:
    """The pictures first; those of an older report that this one has not go last."""
    figures = output / FIGURES
    figures.mkdir(exist_ok=True)
    names = {path.name for path in (new / FIGURES).iterdir()}
    for name in sorted(names):
        (new / FIGURES / name).replace(figures / name)
    (new / PAGE).replace(output / PAGE)
    for path in figures.iterdir():
        if path.name not in names and path.suffix[1:] in drawing.KINDS:
            path.unlink()
