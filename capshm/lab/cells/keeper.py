"""The keeper: runs one cell, and leaves nothing of it behind, whatever becomes of the cell or of whoever asked for it.

    python -m capshm.lab.cells.keeper < (a line of JSON, and then nothing for as long as the cell is wanted)

Standard input is the lifeline: its end means that the runner has died, or wants no more of this cell. Output, messages
and exit status are the cell's. As a "child subreaper" (prctl(2)) the keeper becomes the parent of every process whose
own parent has died, so it can find and end all that a cell has started, even where a workload forgets its children.
The cell itself goes first and the others get a moment: a machine's broker then ends its processes and removes their
memory in order, which a killed one cannot. When the keeper itself is killed, the kernel ends the cell.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_MOMENT = 5.0  # seconds
_KILLED = 128


_libc = ctypes.CDLL(None)


def main() -> None:
    """Run the cell that standard input describes, and end as it ends; a signal's number plus 128 if by a signal."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    lifeline = sys.stdin.fileno()
    order = _read_line(lifeline)
    # A group of its own: a workload that signals its group signals neither keeper nor runner.
    keeper = os.getpid()
    cell = subprocess.Popen(
        [sys.executable, "-P", "-m", "capshm.lab.cells.cell"],
        stdin=subprocess.PIPE,
        process_group=0,
        preexec_fn=lambda: _end_with(keeper),
    )
    assert cell.stdin is not None
    try:
        cell.stdin.write(order)
        cell.stdin.close()
    except BrokenPipeError:
        pass  # it has ended already, and its status says how
    _wait(cell.pid, lifeline)
    if cell.poll() is None:
        cell.kill()
    status = cell.wait()
    _end_descendants()
    sys.exit(_KILLED - status if status < 0 else status)


def _end_with(keeper: int) -> None:
    """In the cell, before its program: end with the keeper, which may have ended already."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != keeper:
        os.kill(os.getpid(), signal.SIGKILL)


def _read_line(descriptor: int) -> bytes:
    """The order; nothing more is read, so that the lifeline's end stays to be seen."""
    text = b""
    while not text.endswith(b"\n"):
        part = os.read(descriptor, 1 << 16)
        if not part:
            sys.exit("the keeper was given no cell")
        text += part
    return text


def _wait(cell: int, lifeline: int) -> None:
    """Return when the cell has ended, or is not wanted any more."""
    ended = os.pidfd_open(cell)
    watch = select.poll()
    watch.register(ended, select.POLLIN)
    watch.register(lifeline, select.POLLIN)
    watch.poll()
    os.close(ended)


def _end_descendants() -> None:
    """Reap what the cell has left; after a moment, kill it generation by generation, as each becomes our children."""
    signal.signal(signal.SIGALRM, lambda *_: _kill_children())
    signal.setitimer(signal.ITIMER_REAL, _MOMENT, _MOMENT / 100)
    try:
        while True:
            os.wait()
    except ChildProcessError:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _kill_children() -> None:
    # No number of a child is used again before it is reaped, and only the loop that this interrupts reaps.
    for pid in _children():
        os.kill(pid, signal.SIGKILL)


def _children() -> Iterator[int]:
    """By looking at all processes: not every kernel lists those of one."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()  # proc(5): state, parent, ...
        except (FileNotFoundError, ProcessLookupError):
            continue  # another's, which has just been reaped
        if int(fields[1]) == os.getpid():
            yield int(folder.name)


if __name__ == "__main__":
    main()
