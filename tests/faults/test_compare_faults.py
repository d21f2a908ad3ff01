"""`capshm compare` when something goes wrong: Ctrl-C, deaths, failing cells, full disks.

What has finished is kept, and no process is left: `scene` waits until this session has no other.
"""

import os
import random
import resource
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from capshm.lab.results import results
from capshm.lab.results.results import Failed, Measured, Record
from tests.faults import plugins
from tests.faults.isolation import isolated
from tests.faults.residue import wait_until_alone

WORKS, HANGS, RAISES, DIES, STRAYS, TALKS, DIFFERS, LISTENS, BEGINS = range(1 << 16, (1 << 16) + 9)
SIZES = {
    "WORKS": WORKS,
    "HANGS": HANGS,
    "RAISES": RAISES,
    "DIES": DIES,
    "STRAYS": STRAYS,
    "TALKS": TALKS,
    "DIFFERS": DIFFERS,
    "LISTENS": LISTENS,
    "BEGINS": BEGINS,
}
COMMAND = [sys.executable, "-P", "-m", "capshm", "compare"]
PLUGIN = """
'''Works, or does something else: its size says what.'''

import os
import signal

DEFAULT_SIZE = {WORKS}


def run(setting):
    with setting.measured():
        if setting.size == {HANGS}:
            os.fork()
            hang(os.open({fifo!r}, os.O_WRONLY))
        if setting.size == {RAISES}:
            raise ValueError("no more paper")
        if setting.size == {DIES}:
            os.kill(os.getpid(), signal.SIGKILL)
        if setting.size == {STRAYS}:
            read, write = os.pipe()
            if os.fork() == 0:
                if os.fork() == 0:
                    hang(write)
                os._exit(0)
            os.read(read, 1)
        if setting.size == {TALKS}:
            print("a word of its own", flush=True)
            os.write(1, b"and another")
        if setting.size == {LISTENS}:
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            with open({fifo!r}, "w") as told:
                print(os.getpid(), os.getppid(), file=told)
            while True:
                signal.pause()
        if setting.size == {BEGINS}:
            os.write(os.open({fifo!r}, os.O_WRONLY), b"!")
        if setting.size == {DIFFERS}:
            setting.crew.counts.checksum = os.getpid()
        sum(range(10_000))


def hang(told):
    '''In a group of its own, where no signal but SIGKILL reaches it.'''
    os.setpgid(0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    os.write(told, b"!")
    while True:
        signal.pause()
"""


class Done(NamedTuple):
    """How a command has ended."""

    status: int
    output: str
    messages: str


class Scene:
    """Comparisons of plain with a policy, by that workload. Its sizes say what happens."""

    def __init__(self, folder: Path, policy: str) -> None:
        self.results = folder / "results"
        self._policy = policy
        self._fifo = folder / "fifo"
        os.mkfifo(self._fifo)
        self.environment = plugins.install(folder, PLUGIN.format(**SIZES, fifo=str(self._fifo)), workloads="toy")

    def start(
        self,
        *sizes: int,
        repeats: int = 2,
        timeout: int = 600,
        limit: int = resource.RLIM_INFINITY,
        options: Sequence[str] = (),
    ) -> subprocess.Popen[str]:
        """timeout: seconds. limit: bytes that any file may have. options: more of them."""
        words = [
            "--workloads",
            "toy",
            "--repeats",
            str(repeats),
            "--sizes",
            *map(str, sizes),
            "--policies",
            self._policy,
            "--timeout",
            str(timeout),
        ]
        return self._start([*words, *options, "--output", str(self.results)], limit)

    def start_again(self) -> subprocess.Popen[str]:
        """Go on with what was cut short."""
        return self._start(["--resume", str(self.results)], resource.RLIM_INFINITY)

    def _start(self, words: list[str], limit: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, *words],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=partial(_prepare, limit),
        )

    def run(self, *sizes: int, repeats: int = 2, limit: int = resource.RLIM_INFINITY) -> Done:
        """The same, to its end."""
        return self.end(self.start(*sizes, repeats=repeats, limit=limit))

    def end(self, runner: subprocess.Popen[str]) -> Done:
        """Wait for its end."""
        with runner:
            output, messages = runner.communicate()
        return Done(runner.returncode, output, messages)

    def wait_until_hanging(self, count: int) -> None:
        """Return when so many processes hang."""
        with self._fifo.open("rb", buffering=0) as fifo:
            while count:
                count -= len(fifo.read(count))

    @contextmanager
    def unheard(self) -> Iterator[int]:
        """Inside, whoever says something need not wait until somebody hears it; a descriptor to hear it."""
        reader = os.open(self._fifo, os.O_RDWR | os.O_NONBLOCK)  # it is never at its end
        try:
            yield reader
        finally:
            os.close(reader)

    def wait_for_listener(self) -> tuple[int, int]:
        """The pids of a cell that LISTENS, and of its keeper."""
        cell, keeper = self._fifo.read_text(encoding="ascii").split()
        return int(cell), int(keeper)

    def show(self) -> Done:
        """What the command shows of the folder afterwards."""
        command = [*COMMAND, "--show", str(self.results)]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        return Done(done.returncode, done.stdout, done.stderr)

    def records(self) -> list[Record]:
        """What has finished, of a folder that is whole."""
        found = results.read(self.results)
        assert (found.tail, found.damages) == (0, [])
        return found.records

    def check_what_has_finished(self) -> None:
        """All cells before the first that hangs, and no others."""
        cells = results.read(self.results).manifest.plan.round(1)
        hanging = next(number for number, cell in enumerate(cells) if cell.case.size == HANGS)
        assert [record.cell for record in self.records() if isinstance(record, Measured)] == cells[:hanging]


def _prepare(limit: int) -> None:
    """Before the command runs: whoever started these tests in the background has had Ctrl-C ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


@contextmanager
def scene(policy: str = "open") -> Iterator[Scene]:
    """With nothing left of it at the end."""
    with tempfile.TemporaryDirectory() as folder:
        yield Scene(Path(folder), policy)
        wait_until_alone()


@pytest.mark.slow
@isolated(bound=250)
def test_ctrl_c_ends_the_cell_and_shows_what_has_finished() -> None:
    """Status 130, the table, the whole folder; and of the cell, which had signals blocked, nothing is left."""
    with scene() as here:
        runner = here.start(WORKS, HANGS)
        here.wait_until_hanging(2)
        os.kill(runner.pid, signal.SIGINT)
        done = here.end(runner)
        assert done.status == 130
        assert "interrupted" in done.messages
        assert "of 2 rounds" in done.output
        here.check_what_has_finished()
        assert (here.results / results.TABLE).read_text(encoding="utf-8").strip() == done.output.strip()
        assert (here.results / results.DATABASE).exists()
        assert here.show() == Done(0, done.output, "")


@pytest.mark.slow
@isolated(bound=250)
def test_a_reader_that_has_gone_takes_nothing_away() -> None:
    """The folder is whole before the table is printed."""
    with scene() as here:
        runner = here.start(WORKS, repeats=1)
        assert runner.stdout is not None
        runner.stdout.close()
        runner.stdout = None
        here.end(runner)
        assert (here.results / results.DATABASE).exists()
        assert (here.results / results.TABLE).read_text(encoding="utf-8") == here.show().output[:-1]


@pytest.mark.slow
@isolated(bound=250)
def test_when_the_runner_is_killed_its_cell_goes_too() -> None:
    """What has finished is there, and is shown."""
    with scene() as here:
        runner = here.start(WORKS, HANGS)
        here.wait_until_hanging(2)
        runner.kill()
        assert here.end(runner).status == -signal.SIGKILL
        wait_until_alone()
        here.check_what_has_finished()
        assert here.show().status == 0


@pytest.mark.slow
@isolated(bound=250)
def test_a_killed_run_is_gone_on_with() -> None:
    """Killed in any of its cells: what has finished stays, and afterwards every cell is there once."""
    check_going_on(kills=1, rounds=1)


@pytest.mark.soak
@isolated(bound=2500)
def test_a_run_that_is_killed_again_and_again_is_gone_on_with() -> None:
    """The same, often."""
    for _ in range(10):
        check_going_on(kills=3, rounds=2)


def check_going_on(kills: int, rounds: int) -> None:
    """Kill the runner so often, each time in a cell that chance chooses; then go on to the end."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    choose = random.Random(seed)
    with scene() as here, here.unheard() as heard:
        kept: list[Record] = []
        left = cells = 2 * rounds  # plain, and the policy
        while kills and left:
            kills -= 1
            runner = here.start_again() if kept else here.start(BEGINS, repeats=rounds)
            for _ in range(choose.randint(1, left)):
                select.select([heard], [], [])
                os.read(heard, 1)
            runner.kill()
            here.end(runner)
            wait_until_alone()
            if select.select([heard], [], [], 0)[0]:
                os.read(heard, left)  # of a cell that began meanwhile
            found = results.read(here.results)
            assert found.records[: len(kept)] == kept
            kept = found.records
            left = cells - sum(isinstance(each, Measured) for each in kept)
        done = here.end(here.start_again())
        assert done.status == 0
        assert "going on in" in done.messages
        records = here.records()
        assert records[: len(kept)] == kept
        plan = results.read(here.results).manifest.plan
        ended = sorted((each.round, plan.cells.index(each.cell)) for each in records if isinstance(each, Measured))
        assert ended == [(1 + turn, place) for turn in range(rounds) for place in range(2)]
        assert here.show() == Done(0, done.output, "")


@pytest.mark.slow
@isolated(bound=250)
def test_cells_that_fail_are_told_and_the_others_run() -> None:
    """Status 3; each failure with the cell's own words, or with the signal that ended it."""
    with scene() as here:
        done = here.run(WORKS, RAISES, DIES, repeats=1)
        assert done.status == 3
        failures = [record for record in here.records() if isinstance(record, Failed)]
        said = {RAISES: "ValueError: no more paper", DIES: "status 137"}
        assert len(failures) == 2 * 2  # sizes, policies
        assert all(said[each.cell.case.size] in each.message for each in failures)
        measured = [record for record in here.records() if isinstance(record, Measured)]
        assert [each.cell.case.size for each in measured] == [WORKS] * 2
        assert "4 cells failed" in done.output
        assert "ValueError: no more paper" in done.messages
        assert here.show().status == 3


@pytest.mark.slow
@isolated(bound=250)
def test_what_a_workload_prints_is_no_answer() -> None:
    """Nor is it in the way of one."""
    with scene() as here:
        assert here.run(TALKS, repeats=1).status == 0
        assert [type(record) for record in here.records()].count(Measured) == 2


@pytest.mark.slow
@isolated(bound=250)
def test_cells_that_have_done_different_work_are_told() -> None:
    """Status 3, with the case; its cells have finished, and stay in the folder."""
    with scene() as here:
        done = here.run(WORKS, DIFFERS, repeats=1)
        assert done.status == 3
        assert "have not done the same work" in done.output
        assert f"toy of {DIFFERS:,} B: plain: checksum" in done.output
        assert len([record for record in here.records() if isinstance(record, Measured)]) == 4
        assert here.show().status == 3


@pytest.mark.slow
@isolated(bound=250)
def test_a_cell_that_hangs_is_ended_after_its_time() -> None:
    """It has failed, nothing of it is left, and the run goes on; also if it was slow to begin."""
    with scene() as here, here.unheard():
        done = here.end(here.start(HANGS, WORKS, repeats=1, timeout=2))
        assert done.status == 3
        cells = [record for record in here.records() if isinstance(record, Measured | Failed)]
        assert sorted(each.cell.case.size for each in cells) == [WORKS, WORKS, HANGS, HANGS]
        # On a machine that is busy enough, what works may take as long.
        failures = {each.cell: each.message for each in cells if isinstance(each, Failed)}
        assert len([cell for cell in failures if cell.case.size == HANGS]) == 2
        assert all("had not ended after 2 seconds" in message for message in failures.values())


@pytest.mark.slow
@isolated(bound=250)
def test_when_its_keeper_is_killed_a_cell_ends() -> None:
    """By the kernel, though it has all signals blocked; the cell has failed, and the run goes on."""
    with scene() as here:
        runner = here.start(LISTENS, WORKS, repeats=1)
        for _ in range(2):
            cell, keeper = here.wait_for_listener()
            ended = os.pidfd_open(cell)
            os.kill(keeper, signal.SIGKILL)
            select.select([ended], [], [])
            os.close(ended)
        done = here.end(runner)
        assert done.status == 3
        failures = [record for record in here.records() if isinstance(record, Failed)]
        assert [each.cell.case.size for each in failures] == [LISTENS, LISTENS]


@pytest.mark.slow
@isolated(bound=250)
def test_what_a_cell_leaves_behind_is_ended() -> None:
    """A grandchild whose parents are gone, in a process group of its own; the cell itself has done its work."""
    with scene() as here:
        assert here.run(STRAYS, repeats=1).status == 0
        wait_until_alone()
        assert len([record for record in here.records() if isinstance(record, Measured)]) == 2


@pytest.mark.slow
@isolated(bound=250)
def test_a_file_that_may_not_grow_ends_the_run() -> None:
    """Status 1 with the reason; the records before it are whole, and their table is printed."""
    with scene() as here:
        done = here.run(WORKS, repeats=100, limit=2048)
        assert done.status == 1
        assert "results.jsonl: File too large; the cells before this one are in it" in done.messages
        assert len(here.records()) > 3
        assert (here.results / results.RESULTS).stat().st_size <= 2048
        assert here.show().output == done.output


@pytest.mark.slow
@isolated(bound=250)
def test_a_full_disk_ends_the_run() -> None:
    """The same with a file system of two pages, which a user may mount for himself where the kernel lets him."""
    with tempfile.TemporaryDirectory() as folder:
        mount = ["unshare", "--map-root-user", "--mount", "sh", "-ec"]
        if subprocess.run([*mount, f"mount -t tmpfs tmpfs {folder}"], capture_output=True, check=False).returncode:
            pytest.skip("this machine lets no user mount a file system of his own")
        environment = plugins.install(Path(folder), PLUGIN.format(**SIZES, fifo=""), workloads="toy")
        script = (
            f"mkdir {folder}/disk; mount -t tmpfs -o size=8k tmpfs {folder}/disk; cd {folder}/disk; "
            f"capshm='{sys.executable} -P -m capshm compare'; "
            f"$capshm --workloads toy --policies open --repeats 100 --output run >{folder}/first || status=$?; "
            f"echo $status; $capshm --show run >{folder}/second; cmp {folder}/first {folder}/second"
        )
        done = subprocess.run([*mount, script], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "1\n"
        assert "results.jsonl: No space left on device" in done.stderr
        wait_until_alone()


@pytest.mark.slow
@isolated(bound=250)
def test_damage_is_told_and_the_rest_is_shown() -> None:
    """A half-written tail, as a death leaves it, is no failure; a damaged line is."""
    with scene() as here:
        assert here.run(WORKS, repeats=1).status == 0
        path = here.results / results.RESULTS
        whole = path.read_bytes()
        path.write_bytes(whole + b'{"type":"meas')
        shown = here.show()
        assert (shown.status, "half-written line of 13 bytes" in shown.messages) == (0, True)
        path.write_bytes(whole.replace(b"wall_ns", b"wall_nz", 1))
        shown = here.show()
        assert shown.status == 1
        assert "no record" in shown.messages
        assert "of 1 round" in shown.output
        (here.results / results.MANIFEST).unlink()
        shown = here.show()
        assert (shown.status, shown.output) == (1, "")
        assert "holds no results" in shown.messages
