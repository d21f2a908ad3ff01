"""The C programs of tests/native, built around a core of the test's choosing, and what they print."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from native import variants

CORES = {"native": (), "portable": ("CAPSHM_PORTABLE",)}
"""The two ways through the core, by the defines that choose them."""


@dataclass(frozen=True)
class Outcome:
    """How a program ended. results: the JSON objects that it printed. text: all that it printed."""

    status: int
    results: list[dict[str, int | str]]
    text: str


def build(
    name: str, core: str, *, cflags: Sequence[str] = (), patches: Sequence[variants.Patch] = (), variant: str = ""
) -> Path:
    """Return the path of tests/native/NAME.c compiled with that core; variant tells patched ones apart for people."""
    return variants.build_program(
        "-".join(part for part in (name, core, variant) if part),
        [f"tests/native/{name}.c", "tests/native/harness.h"],
        defines=CORES[core],
        cflags=cflags,
        patches=patches,
    )


def run(program: Path, *arguments: object, bound: float = 250) -> Outcome:
    """Run it to its end; after so many seconds it is killed, and its children end with it. Its output is printed."""
    command = [str(program), *map(str, arguments)]
    environment = variants.environment() | {"TSAN_OPTIONS": "exitcode=66"}
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=bound,
        env=environment,
    )
    print(done.stdout)  # the seed
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return Outcome(done.returncode, results, done.stdout)
