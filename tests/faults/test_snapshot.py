"""Snapshots of real programs: every pointer, exactly, as a process and as a core, and the program goes on."""

import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cyclopts
import pytest

from capshm._native import lib
from capshm.commands.snapshot import snapshot as verb
from capshm.errors import CapshmError
from capshm.lab.inputs import image, snapshot
from capshm.lab.inputs.core_file import CoreFile
from capshm.lab.inputs.held import Held
from capshm.lab.inputs.image import PAGE, Image
from capshm.lab.inputs.snapshot import Mapping, Source
from tests.faults.isolation import isolated
from tests.faults.plain_user import become_plain
from tests.faults.processes import Child, stop_here

PAGES = 64
Pairs = Sequence[tuple[int, int]]
CAPSHM = [sys.executable, "-m", "capshm", "snapshot"]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of snapshotted.c."""
    built = tmp_path_factory.mktemp("snapshotted") / "snapshotted"
    source = Path(__file__).with_name("snapshotted.c")
    subprocess.run(["cc", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", built, source], check=True)
    return built


class Running:
    """The program with its pages, at `private`, and its shared one, at `shared`."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        self._process = process
        self.pid = process.pid
        self.private, self.shared = (int(word, 16) for word in process.stdout.readline().split())

    def end(self) -> int:
        """Its status, after the end of its input."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._process.wait()


@contextmanager
def running(program: Path, pairs: Pairs, *way: str, folder: Path | None = None) -> Iterator[Running]:
    """The program, with these pointers; it is killed at the end if it still runs."""
    words = [str(word) for pair in pairs for word in pair]
    with subprocess.Popen(
        [program, *way, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder
    ) as process:
        try:
            yield Running(process)
        finally:
            process.kill()


class Part:
    """Of a source: the pages at some addresses alone."""

    def __init__(self, source: Source, *starts: int) -> None:
        self.program = source.program
        self.mappings = [mapping for mapping in source.mappings if mapping.start in starts]
        self.pieces = source.pieces


def a_choice() -> Pairs:
    """Pointers at any word of the pages; some of them near each other, many pages without any."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    words = {chance.randrange(PAGES * PAGE // 8 // 3) for _ in range(200)} | {8, 9}
    return [(word * 8, chance.randrange(PAGES * PAGE)) for word in words]


def expected(pairs: Pairs) -> Image:
    """The image of the program's pages, made in the slow way."""
    first = {word // 16: target for word, target in sorted(pairs, reverse=True)}
    pages = sorted({word // PAGE for word, _ in pairs} | {target // PAGE for target in first.values()})
    tagged = {pages.index(granule // 256) * 256 + granule % 256: target // 16 for granule, target in first.items()}
    bits = bytearray(len(pages) * image.BITS)
    for granule in tagged:
        bits[granule // 8] |= 1 << granule % 8
    targets = [pages.index(target // 256) * 256 + target % 256 for _, target in sorted(tagged.items())]
    return Image(
        program="snapshotted",
        pointers=len(pairs),
        ranges=(image.Range("heap", len(pages)),),
        bits=bytes(bits),
        targets=struct.pack(f"<{len(targets)}I", *targets),
    )


@pytest.mark.slow
@pytest.mark.parametrize("way", [[], ["thread"]])
def test_every_pointer_of_a_process(program: Path, way: list[str]) -> None:
    """Wherever they lie and lead, two in one granule too, while a thread runs; and then the program goes on."""
    pairs = a_choice()
    with running(program, pairs, *way) as it:
        with Held(it.pid, is_all=False) as source:
            states = {tasks.joinpath("stat").read_text().rpartition(")")[2].split()[0] for tasks in threads(it.pid)}
            found = snapshot.make(Part(source, it.private))
        assert states == {"t"}
        assert found == expected(pairs)
        assert it.end() == 0


def threads(pid: int) -> list[Path]:
    """What the kernel tells of each."""
    return list(Path(f"/proc/{pid}/task").iterdir())


@pytest.mark.slow
def test_what_is_no_pointer(program: Path) -> None:
    """A word that is not aligned; one that leads behind the end; what other memory would have found."""
    pairs = [(4, 32), (4096, PAGES * PAGE), (8192, 48)]
    with running(program, pairs) as it, Held(it.pid, is_all=False) as source:
        found = snapshot.make(Part(source, it.private))
    written = [0, 1, 2]
    assert (found.pointers, found.tags, found.pages) == (1, 1, len(written))
    assert found.targets == struct.pack("<I", 48 // 16)


@pytest.mark.slow
def test_all_memory(program: Path) -> None:
    """Shared memory, data and stacks are looked at on demand only."""
    with running(program, [(0, 16)]) as it:
        found = {}
        for is_all in (False, True):
            with Held(it.pid, is_all=is_all) as source:
                kinds = {mapping.kind for mapping in source.mappings}
                found[is_all] = (kinds, snapshot.make(Part(source, it.private, it.shared)))
    assert found[False][0] == {"heap"}
    assert found[True][0] == {"heap", "data", "stack"}
    assert (found[False][1].pointers, found[True][1].pointers) == (1, 2)
    assert sorted(found[True][1].ranges, key=lambda each: each.kind) == [image.Range("data", 1), image.Range("heap", 1)]


@pytest.mark.slow
def test_a_core_of_the_kernel(program: Path, tmp_path: Path) -> None:
    """Of a program that has ended by a signal: the same pointers."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if pattern.startswith(("|", "/")):
        pytest.skip(f"cores go elsewhere here: /proc/sys/kernel/core_pattern is {pattern}")
    pairs = a_choice()
    with running(program, pairs, "abort", folder=tmp_path) as it:
        assert it.end() == -signal.SIGABRT
    cores = list(tmp_path.iterdir())
    if not cores:
        pytest.skip("no core was left: ulimit -H -c forbids it")
    with CoreFile(cores[0], is_all=False) as source:
        assert snapshot.make(Part(source, it.private)) == expected(pairs)
        assert {mapping.kind for mapping in source.mappings} == {"heap"}
    with CoreFile(cores[0], is_all=True) as source:
        assert {mapping.kind for mapping in source.mappings} == {"heap", "data", "stack"}


@pytest.mark.slow
def test_a_core_is_what_the_process_was(program: Path, tmp_path: Path) -> None:
    """gcore copies a program that goes on: the same image in all, whatever the C library has there."""
    if shutil.which("gcore") is None:
        pytest.skip("gcore is not on this machine; Debian has it in gdb")
    with running(program, a_choice()) as it:
        subprocess.run(["gcore", "-o", tmp_path / "core", str(it.pid)], check=True, capture_output=True)
        with Held(it.pid, is_all=False) as source:
            alive = snapshot.make(source)
        assert it.end() == 0
    with CoreFile(tmp_path / f"core.{it.pid}", is_all=False) as source:
        assert snapshot.make(source) == alive


@pytest.mark.slow
@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "raise KeyboardInterrupt"])
def test_whoever_looks_may_be_killed(program: Path, end: str) -> None:
    """At any moment: the kernel lets the program go on."""
    code = (
        "import os, signal, sys; from capshm.lab.inputs.held import Held\n"
        f"with Held(int(sys.argv[1]), is_all=False):\n    print('held', flush=True); {end}"
    )
    with running(program, [], "thread") as it:
        done = subprocess.run([sys.executable, "-c", code, str(it.pid)], capture_output=True, text=True, check=False)
        assert (done.stdout, done.returncode < 0) == ("held\n", True)
        assert "TracerPid:\t0\n" in Path(f"/proc/{it.pid}/status").read_text()
        assert it.end() == 0


@pytest.mark.slow
def test_a_stopped_process_stays_stopped(program: Path) -> None:
    """Its pointers are found, and whoever has stopped it finds it as it was."""
    pairs = a_choice()
    with running(program, pairs) as it:
        os.kill(it.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, it.pid, os.WSTOPPED)
        with Held(it.pid, is_all=False) as source:
            assert snapshot.make(Part(source, it.private)) == expected(pairs)
        while "State:\tT (stopped)" not in Path(f"/proc/{it.pid}/status").read_text():
            os.sched_yield()  # it goes back into its stop by itself
        os.kill(it.pid, signal.SIGCONT)
        assert it.end() == 0


@pytest.mark.slow
def test_a_signal_meanwhile_is_taken(program: Path) -> None:
    """When the program goes on, and not before."""
    with running(program, []) as it:
        with Held(it.pid, is_all=False):
            os.kill(it.pid, signal.SIGTERM)
            assert "State:\tt" in Path(f"/proc/{it.pid}/status").read_text()
        assert it.end() == -signal.SIGTERM


def test_processes_that_there_are_not() -> None:
    """None with that number; one that has ended; and this one."""
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    for pid, message in ((ended.pid, "has ended"), (os.getpid(), "is this one"), (1 << 22, "there is no process")):
        with pytest.raises(CapshmError, match=message):
            Held(pid, is_all=False)
    ended.wait()


@pytest.mark.slow
def test_a_process_that_is_traced(program: Path) -> None:
    """By another, who is named."""
    with running(program, []) as it, Held(it.pid, is_all=False):
        done = subprocess.run([*CAPSHM, str(it.pid)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"capshm: process {it.pid} cannot be held: process {os.getpid()} traces it already\n"


@pytest.mark.slow
def test_names_of_any_bytes(tmp_path: Path) -> None:
    """A program, and a file that it has mapped: what is no UTF-8, and what ends a line for Python alone."""
    strange = tmp_path / "a\x0cb\u2028c"
    strange.write_bytes(bytes(PAGE))
    code = (
        "import ctypes, mmap, sys\nctypes.CDLL(None).prctl(15, b'a\\xff\\x0cb', 0, 0, 0)\n"
        "with open(sys.argv[1], 'r+b') as file:\n    kept = mmap.mmap(file.fileno(), 0)\n"
        "print(flush=True)\nsys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(strange)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with Held(process.pid, is_all=True) as source:
            assert source.program == "a\ufffd\x0cb"
            done = subprocess.run([*CAPSHM, str(process.pid)], capture_output=True, text=True, check=False)
        assert f"process {os.getpid()} traces it already" in done.stderr


@pytest.mark.slow
@isolated()
def test_a_process_of_another_user() -> None:
    """Only root may; and what one's own user has made undumpable is told from that."""
    others = os.getppid()
    if os.getuid() != 0:
        pytest.skip("only root can be one user first, and then another")
    become_plain()
    with pytest.raises(CapshmError, match=f"process {others} cannot be held: it is user 0's; run capshm as that user"):
        Held(others, is_all=False)

    def hide() -> None:
        lib.capshm_set_dumpable(False)
        stop_here()

    with Child(hide) as child:
        assert child.wait_stopped()
        with pytest.raises(CapshmError, match="cannot be held: it is undumpable"):
            Held(child.pid, is_all=False)


@pytest.mark.slow
def test_the_command(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It writes an image, tells what is in it, shows it again, and overwrites nothing unasked."""
    monkeypatch.chdir(tmp_path)
    pairs = a_choice()
    with running(program, pairs) as it:
        made = subprocess.run([*CAPSHM, str(it.pid), "--json"], capture_output=True, text=True, check=True)
        with pytest.raises(CapshmError, match=r"snapshotted\.image is there already; --force overwrites it"):
            verb(str(it.pid))
        verb(str(it.pid), force=True)
        assert it.end() == 0
    facts, found = json.loads(made.stdout), image.read(tmp_path / "snapshotted.image")
    assert (facts["program"], facts["tags"], facts["pages"]) == ("snapshotted", found.tags, found.pages)
    assert facts["pointers"] >= len(pairs)
    assert sum(each["pages"] for each in facts["histogram"]) == facts["pages"]
    told = capsys.readouterr().out
    verb(show=Path("snapshotted.image"))
    assert told.endswith(capsys.readouterr().out)  # the seed stands before it
    assert f"{found.tags:,} tags" in told
    assert [path.name for path in tmp_path.iterdir()] == ["snapshotted.image"]


@pytest.mark.parametrize(
    ("words", "named", "message"),
    [
        ((), {}, "name a process or a core file"),
        (("1",), {"show": Path("a")}, "name a process or a core file"),
        (("nowhere",), {}, "No such file"),
        ((), {"show": Path("nowhere")}, "there is no image 'nowhere': give the path of a file, or one of perl"),
        (("1",), {"output": Path("nowhere/a.image")}, "there is no folder nowhere"),
        (("1",), {"output": Path()}, "is no file that an image could take the place of"),
        ((sys.executable,), {}, "is an ELF file, but no core"),
        ((__file__,), {}, "is no core file, or damaged: ELFError: Magic number does not match"),
    ],
)
def test_command_lines_that_cannot_be(
    words: tuple[str, ...],
    named: dict[str, Any],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They say what is wrong, and leave nothing."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises((CapshmError, cyclopts.CycloptsError, OSError), match=message):
        verb(*words, **named)
    assert list(tmp_path.iterdir()) == []


HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
SEGMENT = struct.Struct("<IIQQQQQQ")


def a_core(*mappings: tuple[int, bytes, int], rights: int = 6) -> bytes:
    """A core file made by hand: addresses, contents and lengths of mappings, and no notes."""
    start = HEADER.size + SEGMENT.size * len(mappings)
    header = HEADER.pack(b"\x7fELF\x02\x01\x01", 4, 62, 1, 0, HEADER.size, 0, 0, 64, 56, len(mappings), 0, 0, 0)
    rows, contents = [], b""
    for address, content, length in mappings:
        rows.append(SEGMENT.pack(1, rights, start + len(contents), address, 0, len(content), length, 1))
        contents += content
    return header + b"".join(rows) + contents


def look(path: Path) -> Image:
    """The image of a core's heap."""
    with CoreFile(path, is_all=False) as source:
        return snapshot.make(source)


ONE = struct.pack("<Q", 0x10020).ljust(PAGE, b"\0")


def test_a_core_made_by_hand(tmp_path: Path) -> None:
    """A pointer from one mapping into another, and from there into what the core has left out."""
    path = tmp_path / "core"
    other = struct.pack("<QQ", 0x12FF8, 0x13000).ljust(PAGE, b"\0")
    path.write_bytes(a_core((0x8000, ONE, PAGE), (0x10000, other, 3 * PAGE)))
    found = look(path)
    assert (found.program, found.pages, found.pointers) == ("core", 3, 2)
    assert found.targets == struct.pack("<II", 256 + 2, 512 + 255)
    assert [each.pages for each in found.ranges] == [1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (a_core((0x10000, ONE, PAGE))[:-1], "is cut short: it ends at byte 4,215, and should have 4,216"),
        (a_core((0x10000, ONE, 8)), "is damaged: its mapping of 8 bytes"),
        (a_core((0x10000, ONE, PAGE), (0x8000, ONE, PAGE)), "is damaged"),
        (a_core((0x10010, ONE, PAGE)), "is damaged"),
        (a_core(((1 << 64) - PAGE, ONE, PAGE)), "is damaged"),
        (a_core((0x10000, ONE, PAGE), rights=4), "has no such memory: --all"),
        (a_core((0x10000, ONE, PAGE)).replace(b"ELF\x02", b"ELF\x01"), "no core"),
        (a_core((0x10000, ONE, PAGE)).replace(b"ELF\x02\x01", b"ELF\x02\x02"), "no core"),
        (b"", "no core file"),
    ],
)
def test_cores_that_are_none(tmp_path: Path, content: bytes, message: str) -> None:
    """Or that are not whole, or of other programs."""
    (tmp_path / "core").write_bytes(content)
    with pytest.raises(CapshmError, match=message):
        look(tmp_path / "core")


@pytest.mark.slow
def test_hostile_cores(tmp_path: Path) -> None:
    """Whatever their heads say, there is an image or one kind of error."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    good = a_core((0x8000, ONE, PAGE), (0x10000, ONE, 1 << 40))
    for _ in range(200):
        content = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            content[chance.randrange(HEADER.size + 2 * SEGMENT.size)] = chance.randrange(256)
        (tmp_path / "core").write_bytes(content)
        try:
            look(tmp_path / "core")
        except CapshmError:
            pass


def test_more_memory_than_an_image_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told, and nothing is made."""

    class Large:
        program = "large"
        mappings = (Mapping(0x10000, 0x10000 + 2 * PAGE, "heap"),)

        def pieces(self, mapping: Mapping) -> Iterator[tuple[int, bytes]]:
            yield mapping.start, b"\1" * 2 * PAGE
            assert image.MOST_PAGES > 1, "it goes on looking at what is too large"

    assert snapshot.make(Large()).pages == 2
    monkeypatch.setattr(image, "MOST_PAGES", 1)
    with pytest.raises(CapshmError, match="no image of large can be made: it has 2 pages of 4 KiB, and an image has 1"):
        snapshot.make(Large())
