"""The screen of `capshm top`: a line about the machine, and a table each of processes, objects and refusals.

A thread of its own looks once in a while, so that keys are answered whatever the broker does; it posts what it has seen
to the screen. Nothing waits for it at the end: a broker that stands still keeps nobody from leaving.
"""

from __future__ import annotations

import threading
import time
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import DataTable, Footer, Input, Static

from capshm.commands.tables import Cell
from capshm.commands.top_glance import Glance, Section, Watch, headline, sections
from capshm.errors import CapshmError
from capshm.observer import machines


class Looked(Message):
    """The machine was looked at."""

    def __init__(self, glance: Glance) -> None:
        super().__init__()
        self.glance = glance


class Ended(Message):
    """It cannot be looked at any more, and why."""

    def __init__(self, machine: str, reason: str) -> None:
        super().__init__()
        self.machine = machine
        self.reason = reason


class Eyes(threading.Thread):
    """Looks at one machine once in `interval` seconds, and tells the app, until `close` or the machine's end."""

    def __init__(self, app: App[None], machine: str, interval: float) -> None:
        super().__init__(name=f"looks at {machine}", daemon=True)
        self._app = app
        self._machine = machine
        self._interval = interval
        self._is_closed = threading.Event()

    def run(self) -> None:
        """Look until the end."""
        try:
            with Watch(self._machine) as watch:
                while not self._is_closed.is_set():
                    self._app.post_message(Looked(watch.look()))
                    self._is_closed.wait(self._interval)
        except CapshmError:
            self._app.post_message(Ended(self._machine, "has ended"))
        except Exception as error:  # above all what a broker of another version answers
            what = f"{type(error).__name__}: {error}"
            self._app.post_message(Ended(self._machine, f"does not answer as this version of capshm expects ({what})"))

    def close(self) -> None:
        """Look no more; a look that is under way is told to nobody who minds."""
        self._is_closed.set()


class Table(DataTable[Text]):
    """Rows that are sorted and filtered as the user wishes. The cursor stays where it is while they change."""

    def __init__(self, name: str, sorted_by: int = 0, *, is_descending: bool = False) -> None:
        super().__init__(id=name, cursor_type="row", zebra_stripes=True)
        self.border_title = name
        self._section: Section | None = None
        self._sorted_by = sorted_by
        self._is_descending = is_descending
        self._filter = ""

    def show(self, section: Section) -> None:
        """Take the place of what is shown; to draw what has not changed again would cost more than the look."""
        if section != self._section:
            self._section = section
            self._fill()

    def sort_next(self) -> None:
        """Sort by the next column, from the beginning again behind the last one."""
        if self._section is not None:
            self._sorted_by = (self._sorted_by + 1) % len(self._section.columns)
            self._fill()

    def reverse(self) -> None:
        """Turn the order round."""
        self._is_descending = not self._is_descending
        self._fill()

    def filter(self, words: str) -> None:
        """Show those rows alone that have these letters somewhere."""
        self._filter = words.lower()
        self._fill()

    def _fill(self) -> None:
        if self._section is None:
            return
        cursor, top = self.cursor_row, self.scroll_y
        self.clear(columns=True)
        for number, column in enumerate(self._section.columns):
            mark = ("▼" if self._is_descending else "▲") if number == self._sorted_by else ""
            self.add_column(f"{column}{mark}")
        rows = [row for row in self._section.rows if self._filter in " ".join(map(_text, row)).lower()]
        rows.sort(key=lambda row: _order(row[self._sorted_by]), reverse=self._is_descending)
        for row in rows:
            self.add_row(*(Text(_text(cell), justify="right" if _is_number(cell) else "left") for cell in row))
        self.border_subtitle = f"{len(rows)} of {len(self._section.rows)}" if self._filter else ""
        self.move_cursor(row=cursor)
        self.scroll_to(y=top, animate=False)


class Top(App[None]):
    """The screen. machine: which is looked at first. interval: seconds between looks. patience: how many without an
    answer until it is said that there is none.
    """

    TITLE = "capshm top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Table { height: 1fr; border: round $primary; scrollbar-size-vertical: 1; }
    Table:focus { border: round $accent; }
    #processes { height: 2fr; }
    #headline { padding: 0 1; }
    #headline.ended { background: $error; color: $text; }
    #filter { display: none; height: 3; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        ("s", "sort", "Sort"),
        ("r", "reverse", "Reverse"),
        ("slash", "filter", "Filter"),
        ("m", "machine", "Next machine"),
        ("q", "quit", "Quit"),
        ("escape", "unfilter", "All rows"),
        Binding("ctrl+c", "quit", "Quit", show=False, priority=True),
    ]

    def __init__(self, machine: str, interval: float = 1.0, patience: float = 5.0) -> None:
        super().__init__()
        self.machine = machine
        self.glance: Glance | None = None
        self.is_over = False
        self._interval = interval
        self._patience = patience
        self._last = time.monotonic()
        self._eyes = Eyes(self, machine, interval)

    def compose(self) -> ComposeResult:
        """Top to bottom."""
        yield Static(f"machine {self.machine} …", id="headline", markup=False)
        with Vertical():
            yield Table("processes")
            yield Table("objects")
            yield Table("refusals", sorted_by=2, is_descending=True)
        yield Input(placeholder="letters that a row has; Enter keeps them, Escape shows all rows", id="filter")
        yield Footer()

    def on_mount(self) -> None:
        """Begin to look."""
        self.query_one("#processes").focus()
        self._eyes.start()
        self.set_interval(self._interval, self._complain)

    def on_unmount(self) -> None:
        """Look no more."""
        self._eyes.close()

    def on_looked(self, message: Looked) -> None:
        """Show it, unless another machine was chosen meanwhile."""
        glance = message.glance
        if glance.machine == self.machine:
            self.glance = glance
            self._last = time.monotonic()
            self._tell(headline(glance))
            for section in sections(glance):
                self.query_one(f"#{section.name}", Table).show(section)

    def on_ended(self, message: Ended) -> None:
        """Say so; what was seen last stays."""
        if message.machine == self.machine:
            others = [each for each in machines() if each != message.machine]
            hint = f"m: look at {others[0]}" if others else "no other is running; q: quit"
            self.is_over = True
            self._tell(f"machine {message.machine} {message.reason} · {hint}", is_ended=True)

    def on_input_changed(self, message: Input.Changed) -> None:
        """Filter while it is typed."""
        for table in self.query(Table):
            table.filter(message.value)

    def on_input_submitted(self) -> None:
        """Back to the tables."""
        self.query_one("#processes").focus()

    def action_sort(self) -> None:
        """Of the table that has the focus."""
        self._focused_table().sort_next()

    def action_reverse(self) -> None:
        """Of the table that has the focus."""
        self._focused_table().reverse()

    def action_filter(self) -> None:
        """Type letters."""
        words = self.query_one("#filter", Input)
        words.display = True
        words.focus()

    def action_unfilter(self) -> None:
        """All rows."""
        words = self.query_one("#filter", Input)
        words.value = ""
        words.display = False
        self.query_one("#processes").focus()

    def action_machine(self) -> None:
        """The next one by name, from the beginning again behind the last."""
        running = machines()
        if not running:
            self._tell("no machine of this user is running · q: quit", is_ended=True)
            return
        self._eyes.close()
        self.is_over = False
        self._last = time.monotonic()
        self.machine = next((each for each in running if each > self.machine), running[0])
        self._tell(f"machine {self.machine} …")
        self._eyes = Eyes(self, self.machine, self._interval)
        self._eyes.start()

    def _complain(self) -> None:
        """A broker that stands still would else look like a machine in which nothing happens."""
        silence = time.monotonic() - self._last
        if silence > self._patience and not self.is_over:
            self._tell(f"machine {self.machine} has not answered for {silence:.0f} s · q: quit", is_ended=True)

    def _focused_table(self) -> Table:
        return self.focused if isinstance(self.focused, Table) else self.query_one("#processes", Table)

    def _tell(self, words: str, *, is_ended: bool = False) -> None:
        line = self.query_one("#headline", Static)
        line.update(words)
        line.set_class(is_ended, "ended")


def _text(cell: Cell) -> str:
    if cell is None or cell == "":
        return "-"
    return f"{cell:,.1f}" if isinstance(cell, float) else str(cell)


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, int | float)


def _order(cell: Cell) -> tuple[int, float, str]:
    """What is missing comes first, then numbers, then words."""
    if cell is None:
        return 0, 0, ""
    return (1, cell, "") if isinstance(cell, int | float) else (2, 0, cell)
