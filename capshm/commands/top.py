"""capshm top: a running machine, live."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from capshm import connection
from capshm.commands import outputs
from capshm.commands.options import Flag
from capshm.commands.tables import Json, print_json, print_table
from capshm.errors import CapshmError
from capshm.observer import Observer, choose, machines

if TYPE_CHECKING:
    from textual.pilot import Pilot

    from capshm.commands.top_screen import Top

_SIZE = 132, 30  # of a picture, in characters


def top(
    machine: str | None = None,
    *,
    once: Flag = False,
    screenshot: Path | None = None,
    force: Flag = False,
    json_output: Json = False,
) -> None:
    """Watch a machine: its processes, memory objects with their tags, refusals by rule, and how passes stop it.

    One look a second, at what `capshm ps`, `caps` and `audit` show; nothing is attached, and nothing changes. Refusals
    and passes are counted over the last 5,000 events and those that follow, PER SECOND over the last ten seconds.

    Keys: Tab goes to the next table, s sorts it by the next column, r turns the order round, / shows only the rows that
    have some letters, Escape all again, m goes to the next machine, q quits. A machine that ends says so, and what was
    seen last stays.

    Parameters
    ----------
    machine
        Its name. Without it, the only one; of several the first, from which m leads on, but --once and --json need it.
    once
        Print what there is now as text.
    screenshot
        Write the first screen as a picture (SVG) into this file.
    force
        Overwrite a picture that is there.
    json_output
        Print what there is now as one JSON document.
    """
    from capshm.commands.top_glance import Watch, document, headline, sections

    if machine is None and not machines():
        raise CapshmError("no machine of this user is running; `capshm run -- script.py` starts one")
    if once or json_output:
        with Watch(choose(machine)) as watch:
            glance = watch.look()
        if json_output:
            print_json(document(glance))
            return
        print(headline(glance))
        for section in sections(glance):
            print()
            print_table(section.columns, section.rows)
        return
    if importlib.util.find_spec("textual") is None:
        raise CapshmError("capshm top needs the library textual: pip install 'capshm[top]'; --once does without")
    from capshm.commands.top_screen import Top

    if screenshot is not None:
        outputs.check(screenshot, "a picture", is_forced=force, option="--screenshot")
    name = machine or os.environ.get(connection.MACHINE_VARIABLE) or machines()[0]
    Observer(name).close()  # better to know now that there is none of that name
    app = Top(name)
    if screenshot is not None:
        screenshot.write_text(_picture(app), encoding="utf-8")
        return
    if not sys.stdout.isatty():
        raise CapshmError("capshm top needs a terminal; --once and --json print what there is now")
    app.run()


def _picture(app: Top) -> str:
    """The screen after the first look, as SVG."""
    pictures: list[str] = []

    async def take(pilot: Pilot[object]) -> None:
        while app.glance is None:
            if app.is_over:
                raise CapshmError(f"machine {app.machine} has ended")
            await pilot.pause()
        await pilot.pause()
        pictures.append(app.export_screenshot(title=f"capshm top {app.machine}"))
        app.exit()

    app.run(headless=True, size=_SIZE, auto_pilot=take)
    return pictures[0]
