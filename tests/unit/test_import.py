"""What importing the package brings into a process: every emulated process pays for it, and may fork afterwards."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import capshm

PROGRAM = """
import os, sys
import capshm, capshm.testing
print(len(os.listdir("/proc/self/task")))
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_import_is_light() -> None:
    """There is one thread, and nothing that only analysis and tests need has been imported."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True, check=True)
    threads, modules = done.stdout.splitlines()
    assert threads == "1"
    assert "capshm" in modules.split()
    unwanted = {"numpy", "scipy", "polars", "structlog", "psutil", "msgspec", "hypothesis", "pytest", "asyncio"}
    assert unwanted & set(modules.split()) == set()


def test_import_attaches_nothing() -> None:
    """A process that only imports the package reserves no arena and opens no descriptor."""
    program = (
        "import os; before = os.listdir('/proc/self/fd'); import capshm, capshm.testing\n"
        "from capshm._native import lib\n"
        "assert not lib.capshm_is_attached()\n"
        "assert os.listdir('/proc/self/fd') == before"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


CLIENT = """
import sys
for name in sys.argv[1:]:
    sys.modules.pop(name, None)  # the hook of an editable installation has imported what it likes
import capshm
capshm.attach()
print(*sys.modules)
"""
DEAR = (
    "asyncio dataclasses inspect json msgspec multiprocessing pathlib psutil re rich socket "
    "sortedcontainers structlog subprocess threading typing"
)


def test_a_program_that_attaches_imports_little() -> None:
    """None of what would make each emulated process start late: not even `re` and `typing`, nor what brings them."""
    with capshm.Machine() as machine:
        command = [sys.executable, "-c", CLIENT, *DEAR.split()]
        with machine.spawn(command, stdout=subprocess.PIPE) as program:
            modules = program.communicate()[0].decode().split()
    assert "capshm.client" in modules
    assert set(DEAR.split()) & set(modules) == set()


OUT_OF_REACH = {
    "model": {"broker", "client", "connection", "process", "cheribsd", "zircon", "machine", "_native"},
    "broker": {"client", "process", "cheribsd", "zircon", "machine"},
    "revokers": {"broker", "client", "cheribsd", "zircon", "machine"},
}
"""What no file of a room imports: the model knows nobody, and the broker not those that it serves."""


@pytest.mark.parametrize("room", OUT_OF_REACH)
def test_imports_point_one_way(room: str) -> None:
    """The rules can be read without the broker, and the broker without what its clients run."""
    for path in sorted(Path(capshm.__file__).with_name(room).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ImportFrom):
                base = node.module or ""
                names = [base, *(f"{base}.{each.name}" for each in node.names)]
            elif isinstance(node, ast.Import):
                names = [each.name for each in node.names]
            else:
                continue
            rooms = {name.split(".")[1] for name in names if name.startswith("capshm.")}
            assert rooms.isdisjoint(OUT_OF_REACH[room]), f"{path.name} imports {names}"
