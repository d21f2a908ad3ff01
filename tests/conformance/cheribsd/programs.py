"""What tests run in programs of their own: `python -m tests.conformance.cheribsd.programs NAME ARGUMENTS`.

Each function is one program: it attaches to the machine that started it and returns what is to be printed, as JSON.
"""

import json
import os
import sys
from pathlib import Path

import capshm
from capshm import Refused
from capshm import cheribsd as bsd
from tests.conformance.cheribsd.revocation import info, run_library

PAGE = 4096
RW = bsd.PROT_READ | bsd.PROT_WRITE
RWC = RW | bsd.PROT_CAP


def _refusal(descriptor: int, prot: int, flags: int = bsd.MAP_SHARED) -> list[object]:
    """Rule and errno with which mapping it is refused; empty if it is not."""
    try:
        bsd.mmap(None, PAGE, prot, flags, descriptor)
    except Refused as error:
        return [error.rule, error.errno]
    return []


def try_to_map(descriptor: int) -> object:
    """The refusals of a capability mapping and of a data mapping, and the bytes that are found."""
    refusals = [_refusal(descriptor, RWC), _refusal(descriptor, RW)]
    data = bsd.mmap(None, PAGE, RW, bsd.MAP_SHARED, descriptor)
    return [*refusals, data.load_capability(0).tag, data.read(0, 16).hex()]


def keep_over_exec() -> object:
    """Store a capability in a memfd of one's own, replace the program, and try to map the same descriptor."""
    descriptor = bsd.memfd_create("kept")
    os.ftruncate(descriptor, PAGE)
    memory = bsd.mmap(None, PAGE, RWC, bsd.MAP_SHARED, descriptor)
    memory.store_capability(0, memory)
    assert memory.load_capability(0) == memory
    before = os.getpid()
    text = json.dumps([descriptor, before, memory.read(0, 16).hex()])
    command = [sys.executable, "-W", "error", "-m", __spec__.name, "find_after_exec", text]
    os.execv(sys.executable, command)


def find_after_exec(descriptor: int, before: int, content: str) -> object:
    """The second half of `keep_over_exec`."""
    return {
        "same process": os.getpid() == before,
        "same content": try_to_map(descriptor)[-1] == content,  # type: ignore[index]
        "found": try_to_map(descriptor)[:3],  # type: ignore[index]
    }


def is_open(*descriptors: int) -> object:
    """Which of the descriptors this program has."""
    return [Path(f"/proc/self/fd/{descriptor}").exists() for descriptor in descriptors]


def attach_and_store(segment: int) -> object:
    """Check the capability that another process has stored in a System V segment, and store an answer beside it."""
    memory = bsd.shmat(segment)
    found = memory.load_capability(0)
    memory.store_capability(16, memory)
    return [found.tag, memory.read(0, 16).hex(), memory.read(16, 16).hex()]


def revoke_library(seed: int, is_split: bool) -> object:
    """The clock that it began with, and whether upstream's library test passed."""
    return [list(run_library(seed, is_split=is_split)), True]


def epochs() -> object:
    """The published clock."""
    return [info().enqueue, info().dequeue]


def is_revoking(*said: str) -> object:
    """Whether what is freed goes into quarantine, after this was said by the note, and by procctl."""
    bsd.program_note(revocation={"note on": True, "note off": False}[said[0]] if said else None)
    if "control off" in said:
        bsd.procctl(bsd.PROC_CHERI_REVOKE_CTL, bsd.PROC_CHERI_REVOKE_DISABLE)
    return bsd.malloc_revoke_enabled()


def who_am_i() -> object:
    """The pid."""
    return os.getpid()


def main() -> None:
    """Run one of them."""
    name, arguments = sys.argv[1:]
    capshm.attach()
    json.dump(globals()[name](*json.loads(arguments)), sys.stdout)


if __name__ == "__main__":
    main()
