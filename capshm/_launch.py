"""Starting a machine's broker, and ending what is left when the broker cannot do it any more."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from capshm.errors import CapshmError

if TYPE_CHECKING:
    import subprocess

_END_BOUND = 20.0  # seconds; the broker itself gives killed processes ten


def start_broker(settings: dict[str, str | int | float | bool | None], audit: str | None) -> subprocess.Popen[bytes]:
    """A broker that listens. CapshmError: it could not; nothing is left of it."""
    import subprocess  # only here: attaching must stay cheap

    read, write = os.pipe()
    creator = os.pidfd_open(os.getpid())
    try:
        start = {
            "creator": os.getpid(),
            "creator_pidfd": creator,
            "ready": write,
            "audit": audit,
            "settings": settings,
        }
        # -P: a module of the program's directory must not take the place of one that the broker imports.
        broker = subprocess.Popen(
            [sys.executable, "-P", "-m", "capshm.broker", json.dumps(start)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[creator, write],
        )
    except BaseException:
        os.close(read)
        raise
    finally:
        os.close(write)
        os.close(creator)
    try:
        with os.fdopen(read, "rb") as ready:
            text = ready.read()
    except BaseException:
        broker.kill()
        broker.wait()
        raise
    answer = json.loads(text) if text else {"error": "it has ended at once; its own message stands above"}
    if answer:
        broker.wait()
        raise CapshmError(f"no broker for machine {settings['name']!r}: {answer['error']}")
    return broker


def await_end(broker: subprocess.Popen[bytes]) -> bool:
    """Whether the broker has ended by itself in good time; if not, it is killed."""
    import subprocess

    try:
        is_good = broker.wait(_END_BOUND) == 0
    except subprocess.TimeoutExpired:
        is_good = False
    if not is_good:
        broker.kill()
        broker.wait()
    return is_good


def end_survivors(machine: str, members: Callable[[], set[int]] = set, *, spared: int | None = None) -> list[int]:
    """Kill every other process of a machine whose broker is gone: all that have its gate mapped. Returns their pids.

    spared: the broker, where it is only about to go. members: names those that are known otherwise; what a hardened
    machine's processes have mapped is not to be seen. What forks meanwhile is found in the next round. OSError does
    not come: a process that ends meanwhile is no news, and one that cannot be ended, or not in good time, is left
    alone.
    """
    mark = f"/memfd:capshm-gate/{machine} ".encode()
    ended: list[int] = []
    tried: set[int] = set() if spared is None else {spared}
    while True:
        found = _survivors(_processes(), mark, members()) - tried
        if not found:
            return ended
        ended += sorted(_end(found, lambda pids: _survivors(pids, mark, members())))
        tried |= found


def _survivors(pids: Iterable[int], mark: bytes, known: set[int]) -> set[int]:
    return {pid for pid in pids if pid != os.getpid() and (pid in known or _has_mapped(pid, mark))}


def _processes() -> list[int]:
    return [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()]


def _has_mapped(pid: int, mark: bytes) -> bool:
    try:
        return mark in Path(f"/proc/{pid}/maps").read_bytes()
    except OSError:  # it has ended, or is another user's
        return False


def _end(pids: set[int], survivors: Callable[[Iterable[int]], set[int]]) -> set[int]:
    """Kill them all, and wait for them. Returned: those that have ended by it."""
    pidfds: dict[int, int] = {}
    watch = select.poll()
    ended: set[int] = set()
    try:
        for pid in pids:
            with contextlib.suppress(OSError):
                pidfds[pid] = os.pidfd_open(pid)
        awaited: dict[int, int] = {}
        for pid in survivors(pidfds):  # a number may have been used again before the pidfd was made
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(pidfds[pid], signal.SIGKILL)
                awaited[pidfds[pid]] = pid
                watch.register(pidfds[pid], select.POLLIN)
        deadline = time.monotonic() + _END_BOUND
        while awaited and (left := deadline - time.monotonic()) > 0:
            for fd, _ in watch.poll(left * 1000):
                watch.unregister(fd)
                ended.add(awaited.pop(fd))
    finally:
        for fd in pidfds.values():
            os.close(fd)
    return ended
