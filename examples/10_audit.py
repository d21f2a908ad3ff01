"""Audit: who shared what with whom, by which rule, and which line of which program asked.

The broker writes a record before it answers, so what was answered stands there; numbers without a gap show that nothing
is missing. Whether pointers have ever crossed between processes is then a question to a file, and the answer an exit
status, which a test or a CI job can take. (cheribsd:D1, D2, E1, E2, E9, F2)

    vmspace 1: shm_open in line 44                       allowed cheribsd:D2
    vmspace 1: map in line 46                            allowed cheribsd:E1
    vmspace 1: shm_open in line 44                       allowed cheribsd:D1
    vmspace 1: map in line 46                            allowed cheribsd:E9
    vmspace 1: fork drop                                 allowed cheribsd:F2
    vmspace 2: map in line 51                            refused cheribsd:E2
    vmspace 2: map in line 51                            allowed cheribsd:E9
    have pointers crossed (--rule E9)? exit status       1
    the same, its last byte cut off: exit status         3
"""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import capshm
from capshm import cheribsd as bsd
from course import show, tell

PAGE = 4096
ALL = bsd.PROT_READ | bsd.PROT_WRITE | bsd.PROT_CAP


def check(file: Path, *filters: str) -> int:
    """The exit status of `capshm audit check`: 0 no, 1 yes, 3 damaged."""
    command = [sys.executable, "-m", "capshm", "audit", "check", str(file), *filters]
    return subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode


with TemporaryDirectory() as folder:
    file = Path(folder) / "audit"
    with capshm.Machine(audit=file) as machine:
        descriptors = []
        for flags in (0, bsd.O_SHARECAP):
            descriptor = bsd.shm_open(bsd.SHM_ANON, os.O_RDWR | flags)
            os.ftruncate(descriptor, PAGE)
            bsd.mmap(None, PAGE, ALL, bsd.MAP_SHARED, descriptor, 0)
            descriptors.append(descriptor)
        if (child := os.fork()) == 0:
            for descriptor in descriptors:
                with suppress(capshm.Refused):
                    bsd.mmap(None, PAGE, ALL, bsd.MAP_SHARED, descriptor, 0)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        for each in machine.audit():
            if each.rule:
                where = f" in line {each.line}" if each.line else ""
                answer = "allowed" if each.allowed else "refused"
                tell(f"vmspace {each.vmspace}: {each.event}{where}", f"{answer} {each.rule}")

    show("have pointers crossed (--rule E9)? exit status", check(file, "--rule", "E9"), 1)
    os.truncate(file, file.stat().st_size - 1)
    show("the same, its last byte cut off: exit status", check(file), 3)
