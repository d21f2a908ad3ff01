"""Audit: who shared what with whom, by which rule, and which line of which program asked.

The broker writes a record before it answers, so what was answered stands there; numbers without a gap show that nothing
is missing. Whether pointers could ever cross between processes is then a question to a file, and the answer an exit
status, which a test or a CI job can take. (cheribsd:D1, D2, E1, E2, E9, F2)

    vmspace 1: shm_open in line 37                       allowed cheribsd:D2
    vmspace 1: map in line 39                            allowed cheribsd:E1
    vmspace 1: shm_open in line 37                       allowed cheribsd:D1
    vmspace 1: map in line 39                            allowed cheribsd:E9
    vmspace 1: fork drop                                 allowed cheribsd:F2
    vmspace 2: map in line 44                            refused cheribsd:E2
    vmspace 2: map in line 44                            allowed cheribsd:E9
    numbered without a gap                               True
    could pointers cross? exit status of the question    1
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
        records = machine.audit()

    for each in records:
        if each.rule:
            where = f" in line {each.line}" if each.line else ""
            answer = "allowed" if each.allowed else "refused"
            tell(f"vmspace {each.vmspace}: {each.event}{where}", f"{answer} {each.rule}")
    show("numbered without a gap", [each.number for each in records] == list(range(1, len(records) + 1)), True)

    question = [sys.executable, "-m", "capshm", "audit", "check", "--rule", "E9", str(file)]  # as from a shell
    status = subprocess.run(question, stdout=subprocess.DEVNULL, check=False).returncode
    show("could pointers cross? exit status of the question", status, 1)
