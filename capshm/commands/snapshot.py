"""capshm snapshot: where a real program keeps its pointers."""

from __future__ import annotations

import importlib.util
import sys
from contextlib import AbstractContextManager
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import cyclopts

from capshm.commands import outputs
from capshm.commands.options import Flag, Output
from capshm.commands.tables import Json, print_json, print_table
from capshm.errors import CapshmError

if TYPE_CHECKING:
    from capshm.lab.inputs.image import Image
    from capshm.lab.inputs.snapshot import Source

_WIDTH = 40  # of the longest bar


def snapshot(
    program: str | None = None,
    /,
    *,
    all_memory: Annotated[bool, cyclopts.Parameter(name="--all", negative=())] = False,
    output: Output = None,
    force: Flag = False,
    show: Path | None = None,
    json_output: Json = False,
) -> None:
    """Take a program's memory, find the pointers in it, and write an image of where they are and where they lead.

    `capshm snapshot PID` holds a running program still while it looks, and lets it go on; `capshm snapshot CORE` looks
    at a core file, `capshm snapshot --show IMAGE` at an image. `capshm compare --image IMAGE` measures revocation on
    it: with tags where the program had its pointers.

    An image has no contents, no addresses, no arguments and no paths: it has the program's name, and for each 16 bytes
    whether a pointer lay there, and to which other 16 bytes it led. A pointer is an aligned word of 8 bytes whose value
    is an address in the memory that is looked at. So a number that happens to be one is taken for a pointer, and so are
    pointers that the program has given up, as in a conservative garbage collector. CHERI's pointers have 16 bytes: the
    layout stays the program's own, and the 16 bytes in which a pointer lies are tagged; two in them make one tag.

    Nothing is left of it in the program, whatever happens to capshm: it is held by ptrace, and the kernel lets it go.
    Needed is what a debugger needs: the same user and kernel.yama.ptrace_scope=0, or root.

    Parameters
    ----------
    program
        The number of a process, or the path of a core file, of 64 bits and little-endian.
    all_memory
        All memory that the program may write: data of programs and libraries, the stack, and shared memory, too.
        Without it only its heap: private memory of no file, which stacks of threads are as well.
    output
        The image to be written; NAME.image here, with the program's name, if not given.
    force
        Overwrite a file that is there.
    show
        Show what this image holds; a file, or the name of one that comes with capshm.
    json_output
        Print one JSON document instead of the tables.
    """
    from capshm.lab.inputs import image  # only here: `capshm --help` stays fast

    if (program is None) == (show is None):
        raise cyclopts.CycloptsError(msg="name a process or a core file, or an image with --show")
    if show is not None:
        path = image.find(str(show))
        made = image.read(path)
    else:
        assert program is not None
        path, made = _take(program, output, is_all=all_memory, is_forced=force)
    _print(made, path, is_json=json_output)


def _take(program: str, output: Path | None, *, is_all: bool, is_forced: bool) -> tuple[Path, Image]:
    """Make and write the image; where it is."""
    if importlib.util.find_spec("numpy") is None or importlib.util.find_spec("elftools") is None:
        raise CapshmError(
            "snapshot needs numpy and pyelftools, which are not installed: pip install 'capshm[snapshot]'"
        )
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from capshm.lab.inputs import image, snapshot

    if output is not None:
        outputs.check(output, "an image", is_forced=is_forced)  # better than when a program was held still for it
    described = TextColumn("{task.description}", markup=False)  # the program's name may look like markup
    columns = [described, BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn()]
    console = Console(stderr=True)
    with (
        _source(program, is_all=is_all) as source,
        Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress,
    ):
        path = output or Path(f"{source.program.replace('/', '_') or 'program'}.image")
        if output is None:
            outputs.check(path, "an image", is_forced=is_forced)
        total = sum(mapping.end - mapping.start for mapping in source.mappings)
        task = progress.add_task(f"looking at {source.program}", total=total)
        made = snapshot.make(source, lambda size: progress.advance(task, size))
    image.write(made, path)
    return path, made


def _source(program: str, *, is_all: bool) -> AbstractContextManager[Source]:
    if program.isascii() and program.isdecimal():
        from capshm.lab.inputs.held import Held

        return Held(int(program), is_all=is_all)
    from capshm.lab.inputs.core_file import CoreFile

    return CoreFile(Path(program), is_all=is_all)


def _print(made: Image, path: Path, *, is_json: bool) -> None:
    from capshm.lab.inputs.image import GRANULES_IN_PAGE

    size = path.stat().st_size
    if is_json:
        facts = {
            "image": str(path),
            "bytes": size,
            "program": made.program,
            "pages": made.pages,
            "granules": made.granules,
            "tags": made.tags,
            "pointers": made.pointers,
            "density": made.density,
            "ranges": [{"kind": each.kind, "pages": each.pages} for each in made.ranges],
            "histogram": [{"least": least, "pages": pages} for least, pages in made.histogram.items()],
        }
        print_json(facts)
        return
    print(
        f"{path}: {made.program}, {made.pages:,} pages, {made.tags:,} tags in {made.granules:,} granules "
        f"({made.density:.3g} %), {made.pointers:,} pointers; {size:,} bytes\n"
    )
    kinds = {each.kind: 0 for each in made.ranges}
    for each in made.ranges:
        kinds[each.kind] += each.pages
    print_table(["MEMORY", "PAGES"], list(kinds.items()))
    print()
    bounds = [*made.histogram, GRANULES_IN_PAGE + 1]
    rows = [
        (
            f"{least} - {end - 1}" if end - least > 1 else str(least),
            pages,
            "#" * ceil(_WIDTH * pages / max(made.pages, 1)),
        )
        for (least, pages), end in zip(made.histogram.items(), bounds[1:], strict=True)
    ]
    print_table(["TAGS A PAGE", "PAGES", ""], rows)
