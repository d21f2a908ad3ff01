"""capshm top, over real machines in processes of their own: what it shows is what they do, and what they stop doing."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias
from xml.etree import ElementTree

import pytest
from textual.binding import Binding
from textual.pilot import Pilot
from textual.widgets import Input, Static

import capshm
from capshm import observer
from capshm.commands import top as verb
from capshm.commands import top_screen
from capshm.commands.top_glance import Glance, Passes, sections
from capshm.commands.top_screen import Table, Top

_ROOT = Path(__file__).resolve().parents[2]

Rows: TypeAlias = list[list[str]]

_PROGRAM = """
import os, sys
import capshm
from capshm import cheribsd as bsd

RWC = bsd.PROT_READ | bsd.PROT_WRITE | bsd.PROT_CAP
fd = bsd.shm_open(bsd.SHM_ANON, os.O_RDWR)
os.ftruncate(fd, 4096)
mine = bsd.mmap(None, 4096, RWC, bsd.MAP_SHARED, fd, 0)
secret = bsd.malloc(64)
mine.store_capability(0, secret)
mine.store_capability(16, bsd.malloc(64))
bsd.free(secret)
bsd.malloc_revoke_quarantine_force_flush()
read, write = os.pipe()
if (pid := os.fork()) == 0:
    os.close(write)
    while os.read(read, 1):
        try:
            bsd.mmap(None, 4096, RWC, bsd.MAP_SHARED, fd, 0)
        except capshm.Refused:
            print("refused", flush=True)
    os._exit(0)
print(os.getpid(), pid, flush=True)
for line in sys.stdin:
    os.write(write, b"!")
os.close(write)
os.waitpid(pid, 0)
"""


class Running:
    """A machine with a parent that has stored two capabilities and had one revoked, and a child that waits."""

    def __init__(self, name: str, script: Path) -> None:
        command = [sys.executable, "-P", "-m", "capshm", "run", "--name", name, "--", str(script)]
        environment = {key: value for key, value in os.environ.items() if key != "CAPSHM_MACHINE"}
        self.name = name
        self._program = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.parent, self.child = self._read().split()

    def refuse(self) -> None:
        """The child asks for what it may not have."""
        assert self._program.stdin is not None
        self._program.stdin.write("once more\n")
        self._program.stdin.flush()
        assert self._read() == "refused\n"

    @property
    def broker(self) -> int:
        """Its pid: of the processes that the command has started, the other one."""
        children = Path(f"/proc/{self._program.pid}/task/{self._program.pid}/children").read_text(encoding="ascii")
        (pid,) = set(children.split()) - {self.parent}
        return int(pid)

    def end(self) -> None:
        """All of it, and wait."""
        if self._program.poll() is None:
            self._program.communicate("")
        assert self._program.returncode == 0

    def _read(self) -> str:
        assert self._program.stdout is not None
        return self._program.stdout.readline()


@contextmanager
def running(folder: Path, *names: str) -> Iterator[list[Running]]:
    """Machines whose names no other test of this user has."""
    script = folder / "waits.py"
    script.write_text(_PROGRAM, encoding="utf-8")
    machines: list[Running] = []
    try:
        for name in names:
            machines.append(Running(f"{name}-{os.getpid()}", script))  # noqa: PERF401 - those before must be ended
        yield machines
    finally:
        for machine in machines:
            machine.end()


def rows(app: Top, name: str) -> Rows:
    """What a table shows."""
    table = app.query_one(f"#{name}", Table)
    return [[str(cell) for cell in table.get_row_at(number)] for number in range(table.row_count)]


def headline(app: Top) -> str:
    """The line above the tables."""
    return str(app.query_one("#headline", Static).content)


async def until(pilot: Pilot[None], condition: Callable[[], bool]) -> None:
    """Let the app go on until it is so; the watchdog is pytest's."""
    while not condition():
        assert pilot.app.is_running
        await pilot.pause()


def play(app: Top, body: Callable[[Pilot[None]], Awaitable[None]]) -> None:
    """Run the app without a terminal, and do this with it."""

    async def run() -> None:
        async with app.run_test(size=(140, 40)) as pilot:
            await body(pilot)

    asyncio.run(run())


@pytest.mark.slow
def test_the_screen_shows_what_the_machine_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes, objects with their tags, a refusal as it happens, sorting, filtering, and the next machine.

    Nothing of it is in the machine's audit, and one that ends while it is watched says so.
    """
    with running(tmp_path, "top-first", "top-second") as (first, second):
        mine = {first.name, second.name}  # others may run on this machine
        monkeypatch.setattr(top_screen, "machines", lambda: [each for each in observer.machines() if each in mine])
        app = Top(first.name, interval=0.2, patience=1)

        async def body(pilot: Pilot[None]) -> None:
            await until(pilot, lambda: len(rows(app, "processes")) == 3)
            assert {row[0] for row in rows(app, "processes")} >= {first.parent, first.child}
            (memory,) = rows(app, "objects")
            assert memory[1:] == ["shm", "-", "4096", "2", "1"]
            assert rows(app, "refusals") == []
            assert re.search(r" 1 pass by gate · last pause [\d.]+ ms.* · 1 tag cleared", headline(app))

            with observer.Observer(first.name) as outside:
                events = outside.last_event()
                first.refuse()
                first.refuse()
                await until(pilot, lambda: [row[:2] for row in rows(app, "refusals")] == [["cheribsd:E2", "2"]])
                assert rows(app, "refusals")[0][3].startswith(f"map by {first.child} at ")
                assert outside.last_event() == events + 2

            pids = [int(row[0]) for row in rows(app, "processes")]
            assert pids == sorted(pids)
            await pilot.press("r")
            await until(pilot, lambda: [int(row[0]) for row in rows(app, "processes")] == sorted(pids, reverse=True))
            await pilot.press("s")
            parents = sorted((row[1] for row in rows(app, "processes")), key=int, reverse=True)
            await until(pilot, lambda: [row[1] for row in rows(app, "processes")] == parents)

            await pilot.press("slash", *"-n")
            shown = f"-m capshm run --name {first.name}"
            await until(pilot, lambda: [shown in row[7] for row in rows(app, "processes")] == [True])
            await pilot.press("enter")
            await until(pilot, lambda: not isinstance(app.focused, Input))
            await pilot.press("escape")
            await until(pilot, lambda: len(rows(app, "processes")) == 3)

            await pilot.press("m")
            await until(pilot, lambda: second.child in {row[0] for row in rows(app, "processes")})
            assert rows(app, "refusals") == []
            second.end()
            await until(pilot, lambda: f"machine {second.name} has ended" in headline(app))
            assert app.glance is not None
            assert app.glance.machine == second.name
            assert len(rows(app, "processes")) == len(app.glance.processes)  # what was seen last stays
            await pilot.press("m")
            await until(pilot, lambda: f"machine {first.name} ·" in headline(app))
            try:
                os.kill(first.broker, signal.SIGSTOP)
                await until(pilot, lambda: f"machine {first.name} has not answered for " in headline(app))
            finally:
                os.kill(first.broker, signal.SIGCONT)
            await until(pilot, lambda: f"machine {first.name} ·" in headline(app))
            await pilot.press("q")
            while app.return_code is None:
                await asyncio.sleep(0)
            assert app.return_code == 0

        play(app, body)


@pytest.mark.slow
def test_one_look_for_scripts_and_one_for_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--once, --json and --screenshot show the same machine; a picture is not overwritten unasked."""
    with running(tmp_path, "top-once") as (machine,):
        machine.refuse()
        verb.top(machine.name, json_output=True)
        found = json.loads(capsys.readouterr().out)
        assert found["machine"] == machine.name
        assert {machine.parent, machine.child} <= {str(each["pid"]) for each in found["processes"]}
        assert [(each["rule"], each["refused"]) for each in found["refusals"]] == [("cheribsd:E2", 1)]
        assert found["objects"][0]["tag_count"] == 1
        assert (found["passes"]["passes"], found["passes"]["cleared"]) == (1, 1)
        assert 0 < found["passes"]["last_pause_ns"] == found["passes"]["longest_pause_ns"]

        verb.top(machine.name, once=True)
        text = capsys.readouterr().out
        assert text.startswith(f"machine {machine.name} · 3 processes · 1 object · {found['events']} events · 1 pass")
        assert re.search(rf"^ *{machine.child} +{machine.parent} ", text, re.MULTILINE)

        picture = tmp_path / "top.svg"
        verb.top(machine.name, screenshot=picture)
        words = "".join(ElementTree.fromstring(picture.read_text(encoding="utf-8")).itertext()).replace("\xa0", " ")
        for word in (machine.name, machine.child, "cheribsd:E2", "waits.py"):
            assert word in words
        for path, reason in (
            (picture, "--force overwrites it, --screenshot names another"),
            (tmp_path, "is no file that a picture could take the place of"),
            (tmp_path / "no" / "top.svg", "there is no folder .* for a picture"),
        ):
            with pytest.raises(capshm.CapshmError, match=reason):
                verb.top(machine.name, screenshot=path)
        with pytest.raises(capshm.CapshmError, match="needs a terminal"):
            verb.top(machine.name)
    with pytest.raises(capshm.CapshmError, match=f"no machine '{machine.name}' of this user is running"):
        verb.top(machine.name, once=True)


@pytest.mark.slow
def test_without_its_library_top_names_the_extra(tmp_path: Path) -> None:
    """And one look needs none; capshm trace says the same of its own."""
    program = (
        "import importlib.util, sys\n"
        "from importlib.util import find_spec\n"
        "lacking = ('textual', 'perfetto')\n"
        "importlib.util.find_spec = lambda name, *rest: None if name in lacking else find_spec(name, *rest)\n"
        "sys.argv = sys.argv[1:]\n"
        "from capshm.commands import main\n"
        "main()\n"
    )
    with running(tmp_path, "top-bare") as (machine,):
        for words, status, text in (
            (["top", machine.name], 1, "pip install 'capshm[top]'; --once does without"),
            (["trace", "--machine", machine.name], 1, "pip install 'capshm[trace]'"),
            (["top", machine.name, "--once"], 0, machine.child),
        ):
            done = subprocess.run(
                [sys.executable, "-c", program, "capshm", *words], capture_output=True, text=True, check=False
            )
            assert done.returncode == status, done.stderr
            assert text in done.stdout + done.stderr


def test_without_any_machine_top_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was asked for."""
    monkeypatch.setattr(verb, "machines", list)
    for is_once in (False, True):
        with pytest.raises(capshm.CapshmError, match=r"no machine .* `capshm run -- script.py` starts one"):
            verb.top(once=is_once)


def test_the_picture_of_the_readme_is_of_this_screen() -> None:
    """It has the columns and keys that there are now; `make pictures` takes it again."""
    text = (_ROOT / "docs" / "top.svg").read_text(encoding="utf-8")
    words = "".join(ElementTree.fromstring(text).itertext()).replace("\xa0", " ")
    nothing = Glance("", 0, [], [], [], Passes(0, "", None, None, 0))
    shown = [section.name for section in sections(nothing)] + [
        each.description for each in Binding.make_bindings(Top.BINDINGS)
    ]
    shown += [column for section in sections(nothing) for column in section.columns]
    assert [word for word in shown if word not in words] == []
    assert "(docs/top.svg)" in (_ROOT / "README.md").read_text(encoding="utf-8")
