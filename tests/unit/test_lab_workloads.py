"""The laboratory's cells: each workload in each world, counted exactly; bad input; deaths. All with real processes."""

import json
import os
import resource
import signal
import subprocess
import sys
from array import array
from pathlib import Path

import pytest

from capshm import Machine, RevocationIncomplete
from capshm import cheribsd as bsd
from capshm.lab import workloads
from capshm.lab.cells import world as worlds
from capshm.lab.cells.cell import Cell, Setting
from capshm.lab.cells.crew import CellFailed, Crew
from capshm.lab.cells.world import Emulated, Plain, enter
from capshm.lab.workloads import (
    LARGEST,
    PLAIN,
    SMALLEST,
    bufferpool,
    churn,
    descriptors,
    forkstorm,
    loader,
    messagebus,
    prefork,
    ring,
    zygote,
)
from tests.faults import plugins
from tests.faults.isolation import isolated
from tests.faults.residue import names_in, wait_until_alone

SIZE = 256 << 10
COMMAND = [sys.executable, "-m", "capshm.lab.cells.cell"]


def run_cell(**wanted: object) -> subprocess.CompletedProcess[str]:
    """A cell as the runner has it run."""
    return subprocess.run(COMMAND, input=json.dumps(wanted), capture_output=True, text=True, check=False)


def answer_of(workload: str, policy: str, *, size: int = SIZE, seed: int = 7, **others: object) -> dict[str, int]:
    """The counts of a cell, its checksum, and how many pauses it had; the times are only looked at."""
    done = run_cell(workload=workload, policy=policy, size=size, seed=seed, trace=None, **others)
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert set(answer) == {"wall_ns", "cpu_ns", "setup_ns", "pauses_ns", "counts", "checksum"}
    assert min(answer["wall_ns"], answer["cpu_ns"], answer["setup_ns"], *answer["pauses_ns"]) > 0
    counts: dict[str, int] = answer["counts"]
    return counts | {"checksum": answer["checksum"], "pauses": len(answer["pauses_ns"])}


UNSWEPT = {"pages": 0, "tag_words": 0, "tags": 0, "cleared": 0}
NO_PASS = UNSWEPT | {"pauses": 0}


def items(size: int) -> int:
    """Of a graph in so many bytes: 160 bytes each, in multiples of what one tag line speaks for."""
    return size // 160 // 64 * 64


def per_ring(size: int) -> int:
    """Capabilities that go through each ring."""
    return (size // ring.CONSUMERS - 1024) // 80 // 64 * 64 * ring.ROUNDS


def slots_of_topic(size: int) -> int:
    """In each of its rings."""
    return (size // messagebus.TOPICS // messagebus.SUBSCRIBERS - 1024) // 80 // 64 * 64


PASSED = SIZE // descriptors.OBJECT_SIZE * items(descriptors.OBJECT_SIZE)
LOADED = loader.COMPONENTS * items(loader.image_size(SIZE))
TAKEN = messagebus.TOPICS * messagebus.SUBSCRIBERS * messagebus.ROUNDS * slots_of_topic(SIZE)
SHARED = items(max(SIZE // zygote.SHARED_PART, zygote.CHILDREN << 10))
EXPECTED = {
    # operations; loads from shared memory; forks; what cheribsd and isolated refuse; whether tags cross in cheribsd
    "prefork": (
        prefork.ROUNDS * items(SIZE),
        (2 * prefork.ROUNDS + 1) * items(SIZE),
        prefork.WORKERS,
        (prefork.WORKERS, prefork.WORKERS),
        False,
    ),
    "ring": (ring.CONSUMERS * per_ring(SIZE), ring.CONSUMERS * per_ring(SIZE), 1 + ring.CONSUMERS, (0, 1), True),
    "zygote": (items(SIZE) + SHARED, 3 * SHARED, zygote.CHILDREN, (zygote.CHILDREN, zygote.CHILDREN), False),
    "messagebus": (TAKEN, TAKEN, messagebus.TOPICS + messagebus.SUBSCRIBERS, (0, 1 + messagebus.TOPICS), True),
    "descriptors": (PASSED, 3 * PASSED, 1, (0, 2), True),
    "loader": (LOADED, 3 * LOADED, loader.COMPONENTS, (0, 1 + loader.COMPONENTS), True),
}


NAMES = ("prefork", "ring", "zygote", "descriptors", "loader", "messagebus", "forkstorm", "bufferpool", "churn")


@pytest.mark.slow
@pytest.mark.parametrize("workload", EXPECTED)
def test_counts_are_those_of_the_policy(workload: str) -> None:
    """The same work in every world, by its checksum; what crosses, is derived anew and is refused is the policy's."""
    operations, loads, forks, (refused_by_cheribsd, refused_by_isolated), crosses = EXPECTED[workload]
    plain = answer_of(workload, PLAIN)
    work = {"operations": operations, "forks": forks, "checksum": plain["checksum"]} | NO_PASS
    assert plain == work | {"crossed": 0, "rederived": 0, "refused": 0}
    crossed = {"crossed": loads, "rederived": 0}
    rederived = {"crossed": 0, "rederived": loads}
    assert answer_of(workload, "open") == work | crossed | {"refused": 0}
    assert answer_of(workload, "cheribsd") == work | (crossed if crosses else rederived) | {
        "refused": refused_by_cheribsd
    }
    assert answer_of(workload, "isolated") == work | rederived | {"refused": refused_by_isolated}


@pytest.mark.slow
def test_churn_is_revoked_where_there_is_a_revoker() -> None:
    """The same work in every world; each process that frees enough has its memory revoked before it uses it again."""
    size = 4 << 20  # the parent's quarantine fills the heap up to where passes begin, and each worker inherits it
    objects = size * len(churn.SIZES) // sum(churn.SIZES)
    plain = answer_of("churn", PLAIN, size=size)
    work = {
        "operations": objects + 2 * objects * (1 + churn.WORKERS * churn.TURNS),
        "forks": churn.WORKERS,
        "checksum": plain["checksum"],
    }
    assert plain == work | {"passes": 0} | NO_PASS
    assert answer_of("churn", "cheribsd", size=size, revoker="none") == plain
    revoked = answer_of("churn", "cheribsd", size=size, revoker="stop-the-world")
    met = {name: revoked[name] for name in ("passes", *NO_PASS)}
    assert revoked == work | met
    assert met["pauses"] >= met["passes"] >= churn.WORKERS  # one that could not stop everybody is a pause as well
    assert met["tag_words"] == 4 * met["pages"]  # of objects in private memory, nothing else
    assert met["tags"] > met["cleared"] > 0


@pytest.mark.slow
def test_dense_churn_leaves_more_to_sweep() -> None:
    """The same work, whatever share of the granules holds capabilities; that share of them is found."""
    sparse, dense = (
        answer_of("churn", "cheribsd", size=4 << 20, processes=1, density=density) for density in (None, 50)
    )
    assert [sparse[name] for name in ("operations", "checksum")] == [dense[name] for name in ("operations", "checksum")]
    assert dense["tags"] > 10 * sparse["tags"]
    assert dense["cleared"] > 10 * sparse["cleared"]


@pytest.mark.slow
def test_forkstorm_is_the_same_everywhere() -> None:
    """Each process of the tree writes to its share of the pages as its ancestors have left them."""
    expected = answer_of("forkstorm", PLAIN)
    written = SIZE // 4096 // forkstorm.WRITTEN_PART
    counts = {"operations": (1 + forkstorm.CHILDREN) * written, "forks": forkstorm.CHILDREN}
    assert expected == counts | {"checksum": expected["checksum"]} | NO_PASS
    assert answer_of("forkstorm", "cheribsd") == expected
    alone = answer_of("forkstorm", PLAIN, processes=1)
    assert (alone["operations"], alone["forks"]) == (2 * written, 1)
    assert answer_of("forkstorm", "cheribsd", processes=1, density=100) == answer_of(
        "forkstorm", PLAIN, processes=1, density=100
    )


@pytest.mark.slow
@pytest.mark.parametrize("density", [None, 100])
def test_bufferpool_is_revoked_where_it_belongs_to_somebody(density: float | None) -> None:
    """Each turn ends with a pass, which finds every pointer of the emptied frames, and takes it.

    Under the policy "open" objects are nobody's: there is nothing to sweep.
    """
    frames = SIZE // 4096 // 5 * 5
    emptied = bufferpool.TURNS * frames // 5
    reads = bufferpool.READERS * bufferpool.TURNS * bufferpool.ROUNDS * (frames - frames // 5)
    pointers = 26 if density is None else 255
    plain = answer_of("bufferpool", PLAIN, density=density)
    work = {"operations": reads + emptied, "forks": bufferpool.READERS, "checksum": plain["checksum"], "refused": 0}
    assert plain == work | {"crossed": 0, "rederived": 0, "passes": 0} | NO_PASS
    unswept = answer_of("bufferpool", "cheribsd", density=density, revoker="none")
    assert unswept == plain | {"rederived": 2 * reads}
    swept = answer_of("bufferpool", "cheribsd", density=density)
    met = {name: swept[name] for name in NO_PASS}
    assert swept == unswept | met | {"passes": bufferpool.TURNS, "cleared": emptied * pointers}
    assert met["pauses"] >= bufferpool.TURNS  # one that could not stop everybody is made again
    assert met["tags"] >= bufferpool.TURNS * frames * pointers
    assert met["tag_words"] == 4 * met["pages"] >= 4 * bufferpool.TURNS * frames
    nobodys = answer_of("bufferpool", "open", density=density)
    assert (nobodys["crossed"], nobodys["passes"], nobodys["cleared"]) == (2 * reads, bufferpool.TURNS, 0)


@pytest.mark.slow
@pytest.mark.parametrize("workload", ["prefork", "ring", "zygote", "messagebus", "bufferpool", "churn"])
def test_a_cell_has_the_processes_that_it_is_told(workload: str) -> None:
    """As many as are wanted, in the smallest cell too; those that they work for come on top."""
    others = {"ring": 1, "messagebus": messagebus.TOPICS}.get(workload, 0)
    assert answer_of(workload, PLAIN, size=SMALLEST, processes=17)["forks"] == 17 + others


@pytest.mark.slow
@isolated()
def test_section_has_its_own_passes_alone() -> None:
    """Those before and after it count nowhere; in it, pauses and tags of all processes, in memory and registers."""

    def revoke() -> None:
        keeper, secret = bsd.malloc(64), bsd.malloc(64)
        keeper.store_capability(0, secret)
        bsd.free(secret)
        bsd.malloc_revoke_quarantine_force_flush()

    crew = Crew(1)
    with enter(Machine(), crew) as world, crew:
        setting = Setting(world, crew, SMALLEST, 7, None)
        revoke()
        with setting.measured():
            revoke()
            crew.fork(revoke)
            crew.wait()
        revoke()
    met = crew.total()
    assert len(setting.times.pauses_ns) == 2
    assert min(setting.times.pauses_ns) > 0
    assert met["cleared"] == 2 * len(["keeper's granule", "the register of secret"])
    assert met["tags"] > met["cleared"]
    assert met["tag_words"] == 4 * met["pages"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("workload", NAMES)
def test_seed_gives_the_work(workload: str) -> None:
    """One seed, one checksum, in every run; another seed, another; the smallest size will do, and the largest seed."""
    of_seed = {seed: answer_of(workload, PLAIN, size=SMALLEST, seed=seed) for seed in (0, 1, (1 << 64) - 1)}
    assert of_seed[0] == answer_of(workload, PLAIN, size=SMALLEST, seed=0)
    assert len({each["checksum"] for each in of_seed.values()}) == 3
    assert len({each["operations"] for each in of_seed.values()}) == 1


def test_all_workloads_are_described() -> None:
    """Each has a line, a paragraph, and a default size that a cell may have; an unknown name is told the known ones."""
    assert workloads.NAMES == NAMES
    for name in workloads.NAMES:
        line, paragraph = workloads.describe(name)
        assert line.endswith(".")
        assert "\n" not in line
        assert len(paragraph.splitlines()) > 2
        assert SMALLEST <= workloads.default_size(name) <= LARGEST
    with pytest.raises(ValueError, match=r"no workload 'sheep'.*prefork, ring, .*bufferpool, churn"):
        workloads.find("sheep")


GOOD = {"workload": "prefork", "policy": "open", "size": SIZE, "seed": 7, "trace": None}
WRONG = [
    ({"workload": "sheep"}, "no workload 'sheep'"),
    ({"workload": ["ring"]}, "no workload"),
    ({"policy": "shut"}, "no policy 'shut'; there are plain, cheribsd, isolated, open"),
    ({"policy": None}, "no policy None"),
    ({"size": SMALLEST - 1}, f"not {SMALLEST - 1}"),
    ({"size": LARGEST + 1}, f"not {LARGEST + 1}"),
    ({"size": -1}, "not -1"),
    ({"size": "4096"}, "'str'"),
    ({"size": 1e6}, "'float'"),
    ({"seed": -1}, "not -1"),
    ({"seed": 1 << 64}, f"not {1 << 64}"),
    ({"trace": "program.trace"}, "and no other"),
    ({"revoker": "regret"}, "revoker must be one of none, stop-the-world, not 'regret'"),
    ({"stopper": "wall"}, "stopper must be one of gate, "),
    ({"scope": "everything"}, "scope must be one of vmspace, "),
    ({"policy": PLAIN, "revoker": "none", "scope": "vmspace"}, "no machine, and has no revoker and no scope"),
    ({"sizes": 1}, "'sizes'"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_wrong_cells_cannot_be_made(change: dict[str, object], message: str) -> None:
    """The message names what is wrong."""
    with pytest.raises((TypeError, ValueError)) as caught:
        Cell(**GOOD | change)  # type: ignore[arg-type]
    assert message in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["", "[]", '{"workload": "sheep", "policy": "open", "size": 65536, "seed": 1}', "{"])
def test_wrong_input_is_told_on_standard_error(text: str) -> None:
    """Status 2, one line that begins with the kind of error, and no answer."""
    done = subprocess.run(COMMAND, input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.partition(":")[0] in ("ValueError", "TypeError", "JSONDecodeError")


PLUG_INS = {
    "flock": '''"""A flock.

Whatever sheep do.
"""
DEFAULT_SIZE = 65536

def run(setting):
    with setting.measured():
        setting.crew.fork(lambda: None)
        setting.crew.wait()
        setting.crew.counts.operations += setting.size
''',
    "idle": '''"""Nothing."""
DEFAULT_SIZE = 65536

def run(setting):
    pass
''',
}


@pytest.mark.slow
def test_workloads_are_plug_ins(tmp_path: Path) -> None:
    """Modules in the entry point group "capshm.workloads" are run as the others are, and stand behind them.

    One that measures nothing has no result.
    """
    for name, text in PLUG_INS.items():
        (tmp_path / f"{name}.py").write_text(text)
    distribution = tmp_path / "flock-1.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: flock\nVersion: 1\n")
    (distribution / "entry_points.txt").write_text("[capshm.workloads]\nsheep = flock\ndog = idle\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}

    def run_plug_in(name: str) -> subprocess.CompletedProcess[str]:
        cell = json.dumps(GOOD | {"workload": name})
        return subprocess.run(COMMAND, input=cell, capture_output=True, text=True, check=False, env=environment)

    counts = json.loads(run_plug_in("sheep").stdout)["counts"]
    assert counts == {"operations": SIZE, "crossed": 0, "rederived": 0, "refused": 0, "forks": 1} | UNSWEPT
    idle = run_plug_in("dog")
    assert (idle.returncode, idle.stdout) == (1, "")
    assert "CellFailed: the workload 'dog' has measured nothing" in idle.stderr
    program = "from capshm.lab import workloads as w; print(*w.NAMES, *w.describe('sheep'), w.default_size('sheep'))"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert shown.stdout.strip().endswith("bufferpool churn dog sheep A flock. Whatever sheep do. 65536")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("1 / 0", "cannot be loaded: ZeroDivisionError"),
        ("def run(setting): pass", "needs run"),
        ("DEFAULT_SIZE = 65536", "needs run"),
        ("DEFAULT_SIZE = 1\ndef run(setting): pass", "65536 to"),
    ],
)
def test_a_broken_plug_in_is_named(tmp_path: Path, source: str, why: str) -> None:
    """Where all workloads are wanted, with status 2 and in one line; whoever names others is not troubled."""
    environment = plugins.install(tmp_path, source, workloads="broken")
    command = [sys.executable, "-P", "-m", "capshm", "compare", "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "the workload 'broken'" in done.stderr
    assert why in done.stderr
    subprocess.run([*command, "--workloads", "ring"], capture_output=True, check=True, env=environment)


LIGHT = """
import os, sys
from capshm.lab import workloads
assert "capshm.machine" not in sys.modules, "the registry imports the machine"
import capshm.lab.cells.cell
for name in (*workloads.NAMES, *workloads.FROM_FILES):
    workloads.find(name)
assert len(os.listdir("/proc/self/task")) == 1
unwanted = {"numpy", "scipy", "polars", "rich", "msgspec", "psutil", "asyncio", "matplotlib", "distributed"}
unwanted |= {f"capshm.lab.{name}" for name in
             "cells.keeper choice comparison inputs.core_file inputs.held inputs.snapshot perfetto plan report results "
             "runner statistics summary table".split()}
assert not unwanted & set(sys.modules), unwanted & set(sys.modules)
"""


@pytest.mark.slow
def test_cell_imports_little() -> None:
    """One thread, and nothing of the comparison, which may have more; the registry does not even import the machine."""
    subprocess.run([sys.executable, "-c", LIGHT], check=True)


@pytest.mark.slow
@isolated()
def test_crew_tells_who_has_failed() -> None:
    """CellFailed names the process and how it ended; the others have been ended and reaped when the crew is left."""
    for body, how in [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "was ended by SIGKILL"),
        (lambda: os.kill(os.getpid(), signal.SIGRTMIN + 1), f"was ended by signal {signal.SIGRTMIN + 1}"),
        (lambda: os._exit(3), "ended with status 3"),
    ]:
        with Crew(2) as crew:
            crew.fork(signal.pause)
            crew.fork(body)
            with pytest.raises(CellFailed, match=f"process [0-9]+ of the cell {how}"):
                crew.wait()
        wait_until_alone()


@pytest.mark.slow
@isolated()
def test_crew_waits_for_a_descriptor_or_a_death() -> None:
    """Whoever waits for its children's word gets it, though others have ended well, and fails where one has not."""
    word = os.eventfd(0)
    with Crew(3) as crew:
        crew.fork(lambda: None)
        crew.fork(lambda: os.eventfd_write(word, 7))
        crew.wait_for_readable(word)
        assert os.eventfd_read(word) == 7
        crew.fork(lambda: os._exit(3))
        with pytest.raises(CellFailed, match="ended with status 3"):
            crew.wait_for_readable(word)


@pytest.mark.slow
@isolated()
def test_crew_has_a_bound() -> None:
    """One process more than it was made for is refused; those that there are go on."""
    with Crew(1) as crew:
        crew.fork(lambda: None)
        with pytest.raises(CellFailed, match="made for 1"):
            crew.fork(lambda: None)
        crew.wait()
    assert crew.total() == {"operations": 0, "crossed": 0, "rederived": 0, "refused": 0, "forks": 1} | UNSWEPT


@pytest.mark.slow
@isolated()
def test_members_of_a_crew_fork_too() -> None:
    """All counts come together by their numbers; a grandchild's death fails its parent, and so the crew."""
    with Crew(3) as crew:

        def grandchild() -> None:
            crew.counts.operations = 1

        def parent() -> None:
            crew.counts.operations = 10
            crew.fork(grandchild, number=2)
            crew.wait_for(2)
            crew.fork(lambda: None, number=3)  # waited for at the end

        crew.fork(parent)
        crew.wait()
        assert (crew.total()["operations"], crew.total()["forks"]) == (11, 3)
    with Crew(2) as crew:
        crew.fork(lambda: crew.fork(lambda: os.kill(os.getpid(), signal.SIGKILL), number=2))
        with pytest.raises(CellFailed, match="ended with status 1"):
            crew.wait()
    wait_until_alone()


@pytest.mark.slow
@isolated()
def test_crew_keeps_no_process_that_it_cannot_watch() -> None:
    """Where descriptors have run out, fork raises, and the new process is ended and reaped."""
    with Crew(1) as crew:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        with pytest.raises(OSError, match="Too many open files"):
            crew.fork(signal.pause)
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        assert crew.total()["forks"] == 0


def children_of(cell: subprocess.Popen[str]) -> tuple[list[int], list[int]]:
    """The children of a cell by age: its forks, and those that run another program (the broker, Python's helper)."""
    text = Path(f"/proc/{cell.pid}/task/{cell.pid}/children").read_text(encoding="ascii")
    everyone, own = [int(pid) for pid in text.split()], command(cell.pid)
    commands = {pid: command(pid) for pid in everyone}
    return [pid for pid in everyone if commands[pid] == own], [pid for pid in everyone if commands[pid] != own]


def command(pid: int) -> bytes:
    """Of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def start(workload: str, policy: str) -> tuple[subprocess.Popen[str], list[int]]:
    """A cell that has much to do, in the middle of it: all of its processes have been made."""
    cell = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert cell.stdin is not None
    cell.stdin.write(json.dumps({"workload": workload, "policy": policy, "size": LONG[workload], "seed": 7}))
    cell.stdin.close()
    cell.stdin = None
    has_helper = policy != PLAIN or workload == "ring"  # until it runs its own program it looks like a fork
    while True:
        forks, helpers = children_of(cell)
        if len(forks) == PROCESSES[workload] and len(helpers) == has_helper:
            return cell, forks
        assert cell.poll() is None, cell.communicate()
        os.sched_yield()


PROCESSES = {"ring": 1 + ring.CONSUMERS, "descriptors": 1}
LONG = {"ring": 64 << 20, "descriptors": 1 << 30}
"""Bytes that keep a cell busy for seconds."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workload", "victim"), [(workload, number) for workload in PROCESSES for number in range(PROCESSES[workload])]
)
@pytest.mark.parametrize("policy", [PLAIN, "cheribsd"])
@isolated()
def test_dead_worker_fails_its_cell(policy: str, workload: str, victim: int) -> None:
    """Whoever waits for the dead process is ended, the cell says who died, and nothing is left."""
    names = set(names_in("/dev/shm"))
    cell, children = start(workload, policy)
    os.kill(children[victim], signal.SIGKILL)
    out, told = cell.communicate()
    assert (cell.returncode, out) == (1, "")
    assert f"CellFailed: process {children[victim]} of the cell was ended by SIGKILL" in told
    wait_until_alone()
    assert set(names_in("/dev/shm")) <= names


@pytest.mark.slow
@pytest.mark.parametrize("policy", [PLAIN, "cheribsd"])
@isolated()
def test_dead_cell_leaves_nothing(policy: str) -> None:
    """When its first process is killed, the others end with it, and their memory with them."""
    names = set(names_in("/dev/shm"))
    cell, _ = start("ring", policy)
    cell.kill()
    assert cell.communicate()[0] == ""
    wait_until_alone()
    assert set(names_in("/dev/shm")) <= names


def test_no_room_for_plain_memory() -> None:
    """Shared memory that there is no room for is refused with the reason, before the kernel would end the process."""
    with pytest.raises(CellFailed, match="/dev/shm has no room"):
        Plain().inherited(1 << 50)


def test_whoever_could_not_be_stopped_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine makes a revocation in a cell late, and no cell fail."""
    asked = []

    def revoke(ranges: "array[int]") -> None:
        asked.append(list(ranges))
        if len(asked) < 3:
            raise RevocationIncomplete("somebody was slow", processes=[(1, "is in an operation")])

    monkeypatch.setattr(worlds, "revoke_ranges", revoke)
    monkeypatch.setattr(bsd, "malloc_revoke_enabled", lambda: True)
    Emulated(Machine(), Crew(1)).revoke(array("Q", [4096, 16]))
    assert asked == [[4096, 16]] * 3
