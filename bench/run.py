"""Builds the programs that measure, and runs them in rounds.

A round runs the canary and then each program once, so that the repeats of a figure are spread over the whole run and
every two of them are interleaved with all the rest.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.figures import FIGURES, Figure, Program
from capshm.lab.runner import canary
from native.variants import ROOT, DoesNotCompile, build_program


class BenchError(Exception):
    """A program could not be built, failed, or did not print what it should."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One repeat of a figure."""

    value: float
    limit: float

    @property
    def ratio(self) -> float:
        """How far the value is from the limit of the same repeat."""
        return self.value / self.limit


@dataclass(frozen=True, slots=True)
class Samples:
    """All repeats: of each figure, and of the canary, in microseconds; it has none where it cannot run."""

    figures: Mapping[str, list[Sample]]
    canary: list[float]


@dataclass(frozen=True, slots=True)
class _Line:
    key: str
    value: float
    limit: float | None


def needed(figures: Iterable[Figure]) -> list[Figure]:
    """The figures and those that their limits are made of, in the registry's order."""
    keys = {figure.key for figure in figures}
    for figure in reversed(FIGURES):  # a limit is made of figures that stand before it
        if figure.key in keys:
            keys.update(key for key, _ in figure.limit_from)
    return [figure for figure in FIGURES if figure.key in keys]


def run(figures: Sequence[Figure], repeats: int, *, quick: bool, progress: Callable[[str], None]) -> Samples:
    """Measure: `repeats` rounds, each with one sample of each figure. BenchError ends the run."""
    everything = needed(figures)
    programs = list(dict.fromkeys(figure.program for figure in everything))
    commands: dict[Program, list[str]] = {}
    for program in programs:
        progress(f"building {program.path}")
        keys = [figure.key for figure in everything if figure.program == program]
        commands[program] = _command(program, keys, quick=quick)
    samples: dict[str, list[Sample]] = {figure.key: [] for figure in figures}
    round_trips: list[float] = []
    for number in range(1, repeats + 1):
        try:
            round_trips.append(canary.measure())
        except canary.NoCanary as error:
            progress(f"no canary: {error}")
        lines: dict[str, _Line] = {}
        for program in programs:
            progress(f"round {number} of {repeats}: {program.path}")
            lines.update((line.key, line) for line in read_lines(_output(commands[program])))
        found = resolve(everything, lines)
        for key, repeated in samples.items():
            repeated.append(found[key])
    return Samples(samples, round_trips)


def read_lines(output: str) -> Iterator[_Line]:
    """What a program printed; BenchError says which line is not as it should be."""
    for text in output.splitlines():
        try:
            found = json.loads(text)
            limit = found.get("limit")
            line = _Line(found["key"], float(found["value"]), None if limit is None else float(limit))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BenchError(f"not a line with key, value and limit: {text!r}") from error
        if not all(0 < number < math.inf for number in (line.value, 1 if line.limit is None else line.limit)):
            raise BenchError(f"value and limit must be above 0 and finite: {text!r}")
        yield line


def resolve(figures: Iterable[Figure], lines: Mapping[str, _Line]) -> dict[str, Sample]:
    """The samples of one round, limits that are made of other figures filled in; BenchError names what is missing."""
    samples: dict[str, Sample] = {}
    by_key = {figure.key: figure for figure in FIGURES}
    for figure in figures:
        if figure.key not in lines:
            raise BenchError(f"{figure.program.path} did not print {figure.key}")
        line = lines[figure.key]
        parts = [figure.in_unit(getattr(samples[key], part), by_key[key]) for key, part in figure.limit_from]
        limit = sum(parts) if parts else line.limit
        if limit is None:
            raise BenchError(f"{figure.program.path} printed no limit for {figure.key}")
        samples[figure.key] = Sample(line.value, limit)
    return samples


def _command(program: Program, keys: Sequence[str], *, quick: bool) -> list[str]:
    if program.path.endswith(".c"):
        name = "bench-" + program.path.removesuffix(".c").rpartition("/")[2]
        try:
            return [str(build_program(name, [program.path])), "1"]
        except DoesNotCompile as error:
            raise BenchError(str(error)) from error
    command = [sys.executable, "-m", program.path.removesuffix(".py").replace("/", ".")]
    _output([*command, "--prepare"])
    return [*command, *(["--quick"] if quick else []), *keys]


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, env=os.environ, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"{' '.join(command)} ended with status {done.returncode}")
    return done.stdout
