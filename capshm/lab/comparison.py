"""What is compared: cases, the configurations that each runs in, and what each is compared with.

A *case* is a workload at one size, with so many processes and capabilities, or a file of a real program. A
*configuration* is what a machine is made with: a policy, a revoker, a stopper, a scope; or plain shared memory. Each of
the four is an *axis*. A *comparison* has some cases, runs each of them in the same configurations, and is one table:
its columns compare along the axes.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from capshm.lab import workloads
from capshm.lab.workloads import PLAIN

AXES = {"policy": "policies", "revoker": "revokers", "stopper": "stoppers", "scope": "scopes"}
"""As arguments of `Machine`, and what several are called."""

REFERENCES = {"policy": "open", "revoker": "none", "stopper": "gate", "scope": "vmspace"}
"""What the others of an axis are compared with where it takes part: CheriBSD before the pull request, no revocation,
the stopper that disturbs nobody, the reach that CheriBSD's revocation has."""

_BESIDE_SECONDS, _MEASURED_SECONDS = 0.6, 0.25  # of a cell of the default size, on two cores of a shared machine


class Case(msgspec.Struct, frozen=True):
    """What is run. size: bytes. trace, image: path of the file, for the workload of that name.

    processes: how many work; density: percent of granules that hold a capability. None: the workload's own.
    """

    workload: str
    size: int
    trace: str | None = None
    image: str | None = None
    processes: int | None = None
    density: float | None = None

    @property
    def files(self) -> list[str]:
        """Paths of what it reads."""
        return [path for path in (self.trace, self.image) if path is not None]

    @property
    def seconds(self) -> float:
        """About how long a cell of it takes."""
        share = self.size / workloads.default_size(self.workload)
        return _BESIDE_SECONDS + _MEASURED_SECONDS * share


class Configuration(msgspec.Struct, frozen=True):
    """In which world it is run: `PLAIN`, or a machine's policy and so on.

    None: it has none of that. Plain memory has nothing but its name, and a revoker that never revokes stops nobody.
    """

    policy: str
    revoker: str | None = None
    stopper: str | None = None
    scope: str | None = None

    def on(self, axis: str) -> str | None:
        """Where it stands on an axis."""
        found: str | None = getattr(self, axis)
        return found

    def name(self, axes: Collection[str]) -> str:
        """In a word, where these axes vary: "cheribsd", or "cheribsd/none" with the revoker."""
        shown = [self.on(axis) for axis in AXES if axis == "policy" or axis in axes]
        return "/".join(name for name in shown if name is not None)


class Comparison(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """baseline: what all is compared with; a name from any axis, or `PLAIN`. Its configurations stand first."""

    cases: tuple[Case, ...]
    configurations: tuple[Configuration, ...]
    baseline: str

    def values(self, axis: str) -> list[str]:
        """What there is on an axis, but for plain memory."""
        found = [each.on(axis) for each in self.configurations if each.policy != PLAIN]
        return list(dict.fromkeys(name for name in found if name is not None))

    @property
    def axes(self) -> list[str]:
        """Those on which there are several values."""
        return [axis for axis in AXES if len(self.values(axis)) > 1]

    def name(self, configuration: Configuration) -> str:
        """In a word, with what distinguishes it here."""
        return configuration.name(self.axes)

    @property
    def references(self) -> list[str]:
        """What configurations are compared with: the baseline first, then what stands for an axis that varies."""
        found = [REFERENCES[axis] for axis in self.axes if REFERENCES[axis] in self.values(axis)]
        return list(dict.fromkeys([self.baseline, *found]))

    def counterpart(self, configuration: Configuration, reference: str) -> Configuration | None:
        """The configuration that differs from this one in having the reference on its axis; None: there is none.

        Nor is there one of the baseline itself, on the same axis.
        """
        axis = self._axis(reference)
        if configuration.on(axis) in (self.baseline, reference):
            return None
        wanted = msgspec.structs.replace(configuration, **{axis: reference})
        matching = [each for each in self.configurations if _is_alike(each, wanted) and each != configuration]
        return next(iter(matching), None)

    def _axis(self, reference: str) -> str:
        return next(axis for axis in AXES if any(each.on(axis) == reference for each in self.configurations))

    @property
    def title(self) -> str:
        """What is compared, and what all have in common: "revokers; policy cheribsd, stopper gate, scope vmspace"."""
        common = [f"{axis} {self.values(axis)[0]}" for axis in AXES if len(self.values(axis)) == 1]
        varying = [AXES[axis] for axis in self.axes]
        return "; ".join(", ".join(part) for part in (varying, common) if part)


def _is_alike(one: Configuration, other: Configuration) -> bool:
    """Wherever both have something they have the same."""
    pairs = [(one.on(axis), other.on(axis)) for axis in AXES]
    return all(own == their or None in (own, their) for own, their in pairs)
