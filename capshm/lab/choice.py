"""What a plan file and a command line say, before it is a plan (capshm.lab.plan).

A plan file is TOML with the names of `Choice`; what is left out has its default, and the command line goes first:

    workloads = ["prefork", "ring"]        # without it: all
    sizes = [1_048_576, 4_194_304]         # bytes; without it: each workload's own
    processes = [1, 4, 16]                 # of a cell; without it: each workload's own number
    densities = [1, 10, 100]               # percent of granules with a capability; without it: each workload's own
    traces = ["build.trace"]               # files, or names of bundled ones; without it, all bundled ones if the
                                           # workload "trace" is among the workloads
    images = ["perl"]                      # the same for the workload "image"
    policies = ["open", "cheribsd"]        # without it: all that are installed
    revokers = ["none", "stop-the-world"]  # without these three: what a machine has by itself
    stoppers = ["gate", "sigstop"]
    scopes = ["vmspace"]
    baseline = "plain"                     # or a policy, revoker, stopper or scope
    repeats = 8
    seed = 1
    timeout = 600                          # seconds that a cell may take; without it: by its size, 600 and more

A file may hold several comparisons, which share its rounds: tables `[[comparisons]]` with the same names, but for the
last three; what they leave out is as above them.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from capshm.errors import CapshmError
from capshm.lab.workloads import DENSEST, LARGEST, MOST_FORKS, SMALLEST

_BUNDLED = Path(__file__).with_name("plans")


class PlanError(CapshmError):
    """A plan that cannot be run: what is wrong, and what there is. Nothing has been run."""


class Choice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a plan file or a command line says; None: nothing."""

    workloads: tuple[str, ...] | None = None
    sizes: tuple[Annotated[int, msgspec.Meta(ge=SMALLEST, le=LARGEST)], ...] | None = None
    processes: tuple[Annotated[int, msgspec.Meta(ge=1, le=MOST_FORKS)], ...] | None = None
    densities: tuple[Annotated[float, msgspec.Meta(gt=0, le=DENSEST)], ...] | None = None
    traces: tuple[str, ...] | None = None
    images: tuple[str, ...] | None = None
    policies: tuple[str, ...] | None = None
    revokers: tuple[str, ...] | None = None
    stoppers: tuple[str, ...] | None = None
    scopes: tuple[str, ...] | None = None
    baseline: str | None = None
    repeats: Annotated[int, msgspec.Meta(ge=1, le=10_000)] | None = None
    seed: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)] | None = None
    timeout: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    comparisons: tuple[Choice, ...] | None = None

    def __post_init__(self) -> None:
        for each in self.comparisons or ():
            if each.comparisons or (each.repeats, each.seed, each.timeout) != (None, None, None):
                raise ValueError("repeats, seed and timeout are of the whole plan, and comparisons hold no others")


def read(path: Path) -> Choice:
    """A plan file, or a bundled one by its name. PlanError: it cannot be read, is no TOML, or says what no plan can."""
    bundled = _BUNDLED / f"{path}.toml"
    if not path.exists() and path.name == str(path) and bundled.exists():
        path = bundled
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # TOML's own errors, and too long numbers, are the second
        raise PlanError(f"{path} is no plan: {error}") from error
    check_names(f"{path}: key", document, Choice.__struct_fields__)
    return _convert(f"{path}: ", document)


def choose(**given: object) -> Choice:
    """What a command line says; None is nothing. PlanError: a number out of range."""
    return _convert("", {name: value for name, value in given.items() if value is not None})


def merge(line: Choice, file: Choice) -> Choice:
    """What the command line says, and the file for what that leaves open."""
    given = {name: value for name, value in msgspec.structs.asdict(line).items() if value is not None}
    return msgspec.structs.replace(file, **given)


def _convert(where: str, document: dict[str, object]) -> Choice:
    try:
        return msgspec.convert(document, Choice, strict=True)
    except msgspec.ValidationError as error:
        raise PlanError(f"{where}{error}") from error


def check_names(what: str, names: Iterable[str], known: Sequence[str]) -> None:
    """PlanError, with the nearest of those that there are: one is not among them."""
    for name in names:
        if name not in known:
            raise PlanError(f"{what} {name!r} is unknown; there are: {', '.join(known)}{_nearest(name, known)}")


def _nearest(name: str, known: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
