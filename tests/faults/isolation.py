"""Runs the body of a test in a fresh interpreter with one thread, from which it may fork, and ends all that it leaves.

A test worker has threads of its own, and whoever forks from it gets their locks in whatever state they are. So a test
of processes is marked `@isolated()`: its body runs in a new interpreter, with plain arguments from parametrize, and in
a session of its own. When the body ends, or does not end in time, whatever still runs in that session is ended; in the
second case each process first prints the stacks of its threads. That is the one watchdog: inside, waits are plain.
"""

import functools
import importlib
import inspect
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from capshm._native import lib
from capshm.testing import steps
from capshm.testing.stepping import SteppingUnavailable

_ROOT = Path(__file__).resolve().parents[2]
_SKIPPED = 77
_BOUND = 120  # seconds; no limit on speed, but less than the limit of pytest-timeout, which shows no child's stacks
_LAST_WORDS = 10  # seconds for printing stacks
_WIDTH = 300


def isolated(*, core: str | None = None, bound: float = _BOUND) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a test run in a process of its own; core: the value of CAPSHM_CORE there, None for that of the caller.

    "steps" is that of the caller, too, if it has step points: a seeded bug goes with the tests that are to find it.
    The test fails with everything that the process and its children printed; the tracebacks show local variables. A
    skip in the body skips the test, and so does a machine without single steps. bound: seconds of patience.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def wrapper(**arguments: object) -> None:
            __tracebackhide__ = True
            _run(function, arguments, core, bound)

        return wrapper

    return decorate


def _run(function: Callable[..., None], arguments: dict[str, object], core: str | None, bound: float) -> None:
    __tracebackhide__ = True
    start = "from tests.faults.isolation import main; main()"
    command = [sys.executable, "-X", "faulthandler", "-W", "error", "-c", start]
    command += [function.__module__, function.__name__, json.dumps(arguments)]
    if core == "steps" and steps.is_available():
        core = None
    environment = os.environ | ({} if core is None else {"CAPSHM_CORE": core})
    # Under the address sanitizer faults go to the core and to Python all the same.
    environment["ASAN_OPTIONS"] = f"{os.environ.get('ASAN_OPTIONS', '')}:handle_segv=0:handle_sigbus=0"
    with tempfile.TemporaryFile(mode="w+") as output:
        with subprocess.Popen(
            command,
            cwd=_ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process:
            try:
                is_in_time = _wait(process.pid, bound)
                if not is_in_time:
                    os.killpg(process.pid, signal.SIGABRT)  # faulthandler prints the stacks
                    _wait(process.pid, _LAST_WORDS)
            finally:
                os.killpg(process.pid, signal.SIGKILL)  # it is not reaped yet, so the number is still its own
        output.seek(0)
        text = output.read()
    if process.returncode == _SKIPPED and is_in_time:
        pytest.skip(text.strip().splitlines()[-1])
    if not is_in_time:
        pytest.fail(f"still running after {bound} seconds\n{text}", pytrace=False)
    if process.returncode != 0:
        pytest.fail(f"the process ended with status {process.returncode}\n{text}", pytrace=False)


def _wait(pid: int, seconds: float) -> bool:
    """Whether the process has ended by then; it is not reaped."""
    descriptor = os.pidfd_open(pid)
    try:
        watch = select.poll()
        watch.register(descriptor, select.POLLIN)
        return bool(watch.poll(seconds * 1000))
    finally:
        os.close(descriptor)


def main() -> None:
    """What the new interpreter runs: the body of one test."""
    module, name, arguments = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # deaths are what these tests are about
    lib.driver_end_with(os.getppid())  # a worker that is killed cannot end what it has started
    function = inspect.unwrap(getattr(importlib.import_module(module), name))
    try:
        function(**json.loads(arguments))
    except (pytest.skip.Exception, SteppingUnavailable) as reason:
        print(reason, flush=True)
        sys.exit(_SKIPPED)
    except Exception as error:
        print_traceback(error)
        sys.exit(1)


def print_traceback(error: BaseException) -> None:
    """Print it with the local variables of each frame: asserts in other processes are not explained by pytest."""
    text = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    lines = [line[:_WIDTH] for line in text.splitlines()]  # a variable may be a page of memory
    sys.stderr.write("\n".join([f"process {os.getpid()}", *lines, ""]))
    sys.stderr.flush()
