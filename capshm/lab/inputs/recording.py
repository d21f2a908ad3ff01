"""Runs a program with the recorder before its allocator (native/recorder/), and collects what was written down.

Each process writes its own journal in a folder that is there only meanwhile, in the directory for temporary files. The
recording is over when the program is: what children do that outlive it is left out.

Signals are the program's affair. Those of the terminal, ^C and ^\\, reach it as they would without us; what somebody
sends to us to end us (kill, timeout, a terminal that is closed) is passed on, and the recording ends with the program.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

from capshm.errors import CapshmError
from capshm.lab.inputs import journals
from capshm.lab.inputs.journals import Journal

_SEPARATORS = frozenset(" :")  # of LD_PRELOAD, which has no way to escape them


class NothingRecorded(CapshmError):
    """The program ran, or cannot even be started, in a way that the recorder has no part in."""


def find_program(name: str) -> Path:
    """The file that the shell would run. CapshmError: there is none."""
    found = shutil.which(name)
    if found is None:
        raise CapshmError(f"there is no program {name!r}" + ("" if "/" in name else ", in no directory of PATH"))
    return Path(found).absolute()


def run(command: Sequence[str]) -> tuple[int, list[Journal]]:
    """Run a program to its end; its exit status, or the negative number of a signal, and its journals, one at least.

    It has this process's terminal, and gets this process's signals: must be called in the main thread.

    CapshmError: there is no such program. NothingRecorded: the recorder was never loaded; the message says why.
    RecordingEndedEarly: a process could not write all of its history, because the disk is full, for one.
    """
    program = find_program(command[0])
    with _signals_passed_on() as begin, tempfile.TemporaryDirectory(prefix="capshm-record-") as name:
        folder = Path(name)
        preloaded = [str(_preload(_recorder(), folder)), *os.environ.get("LD_PRELOAD", "").split()]
        environment = os.environ | {"LD_PRELOAD": " ".join(preloaded), "CAPSHM_RECORD": name}
        journals.prepare(folder)
        with subprocess.Popen(command, executable=program, env=environment) as process:
            try:
                begin(process)
                status = process.wait()
            except BaseException:
                process.kill()
                raise
        found = journals.collect(folder)
    if not found:
        raise NothingRecorded(f"{program} ended with status {status}, and nothing was recorded: {_why(program)}")
    return status, found


@contextmanager
def _signals_passed_on() -> Iterator[Callable[[subprocess.Popen[bytes]], None]]:
    """Yields what must be called with the program when it has started: from then on it gets SIGTERM and SIGHUP, those
    too that have come before. When it has ended, they end us, by SystemExit. What was ignored stays so, for both.
    """
    program: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def begin(process: subprocess.Popen[bytes]) -> None:
        nonlocal program
        program = process
        for number in early:
            program.send_signal(number)

    def pass_on(number: int, _: FrameType | None) -> None:
        if program is None:
            early.append(number)
        elif program.returncode is None:
            program.send_signal(number)
        else:
            raise SystemExit(128 + number)

    # No SIG_IGN: that the program would inherit.
    handlers = {
        signal.SIGINT: lambda *_: None,
        signal.SIGQUIT: lambda *_: None,
        signal.SIGTERM: pass_on,
        signal.SIGHUP: pass_on,
    }
    before = {number: signal.getsignal(number) for number in handlers}
    try:
        for number, handler in handlers.items():
            if before[number] is not signal.SIG_IGN:
                signal.signal(number, handler)
        yield begin
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _preload(library: Path, folder: Path) -> Path:
    """The library by a path that LD_PRELOAD can hold: its own, or that of a link in the folder."""
    path = library
    if _SEPARATORS & set(str(path)):
        path = folder / library.name
        path.symlink_to(library)
    if _SEPARATORS & set(str(path)):
        raise CapshmError(f"LD_PRELOAD cannot hold {path}, which has a space or a colon; TMPDIR may name another")
    return path


def _recorder() -> Path:
    """The library beside the core that came with this capshm, whichever core CAPSHM_CORE names."""
    core = find_spec("capshm._core")
    library = Path(core.origin if core is not None and core.origin else __file__).with_name("_recorder.so")
    if not library.is_file():
        raise CapshmError(f"the recorder {library} has not been built: install capshm with pip, or run make")
    return library


def _why(program: Path) -> str:
    mode = program.stat().st_mode
    if mode & (stat.S_ISUID | stat.S_ISGID):
        return "it is setuid or setgid, and the loader then takes no libraries from the environment"
    interpreter = _interpreter(program)
    if interpreter == "":
        return "it is statically linked, so there is no loader to put the recorder in"
    if interpreter is not None and not Path(interpreter).is_file():
        return f"its loader, {interpreter}, is not here"
    return "it has dropped LD_PRELOAD, or is of another architecture or C library than the recorder"


def _interpreter(program: Path) -> str | None:
    """The loader that an ELF program of 64 bits names; "": none, so it is static. None: it is no such program."""
    content = program.read_bytes()
    if content[:6] != b"\x7fELF\x02\x01":
        return None
    (table,) = struct.unpack_from("<Q", content, 32)
    entry_size, count = struct.unpack_from("<HH", content, 54)
    for place in range(table, table + count * entry_size, entry_size):
        kind, _, offset, _, _, size = struct.unpack_from("<IIQQQQ", content, place)
        if kind == 3:  # PT_INTERP
            return content[offset : offset + size].rstrip(b"\0").decode()
    return ""
