"""docs/top.svg: `capshm top` over a server and its workers, who answer through memory that all share, and try more."""

import os
import subprocess
import sys

import capshm
from capshm import cheribsd as bsd

RWC = bsd.PROT_READ | bsd.PROT_WRITE | bsd.PROT_CAP
SIZE = 1 << 20
WORKERS = 4
REQUESTS = 64


def share(flag: int, name: str) -> tuple[int, capshm.Capability]:
    """A new object, and the whole of it."""
    fd = bsd.shm_open(name, os.O_RDWR | os.O_CREAT | flag)
    os.ftruncate(fd, SIZE)
    return fd, bsd.mmap(None, SIZE, RWC, bsd.MAP_SHARED, fd, 0)


def work(number: int, private: int, answers: capshm.Capability) -> None:
    """Answer requests by capabilities of this worker; and try the server's own memory, as often as its number says."""
    for request in range(REQUESTS):
        answer = bsd.malloc(256)
        answers.store_capability((number * REQUESTS + request) * 16, answer)
        if request % 4 == 0:
            bsd.free(answer)
    bsd.malloc_revoke_quarantine_force_flush()
    for _ in range(number):
        try:
            bsd.mmap(None, SIZE, RWC, bsd.MAP_SHARED, private, 0)
        except capshm.Refused:
            pass


def main() -> None:
    """Take the picture while the workers wait to be told to end."""
    with capshm.Machine(name="server", scope="machine"):
        private, sessions = share(0, "/sessions")
        _, answers = share(bsd.O_SHARECAP, "/answers")
        for session in range(100):
            sessions.store_capability(session * 16, bsd.malloc(64))
        over, go = os.pipe()
        children = []
        for number in range(WORKERS):
            ready, done = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.close(go)
                work(number, private, answers)
                os.write(done, b"!")
                os.read(over, 1)
                os._exit(0)
            os.close(done)
            os.read(ready, 1)
            children.append(pid)
        command = ["-P", "-m", "capshm", "top", "server", "--screenshot", "docs/top.svg", "--force"]
        subprocess.run([sys.executable, *command], check=True)
        os.close(go)
        for pid in children:
            os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
