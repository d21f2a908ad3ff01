"""Where cells run, one at a time in each place: here, or on the workers of a cluster (capshm.lab.runner.cluster)."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import NamedTuple, ParamSpec, Protocol, TypeVar

from capshm.lab.plan import Cell
from capshm.lab.results import facts
from capshm.lab.results.facts import Facts
from capshm.lab.results.results import Failed, Measured
from capshm.lab.runner import measuring

P = ParamSpec("P")
T = TypeVar("T")


class Measure(Protocol):
    """capshm.lab.runner.measuring.measure, or what goes around it in such a place."""

    def __call__(self, number: int, machine: int, cell: Cell, timeout: int) -> Measured | Failed:
        """Run one cell of a round."""


class Place(NamedTuple):
    """name: for people. executor: has things done there. is_there: whether it still can."""

    name: str
    facts: Facts
    executor: Executor
    measure: Measure
    is_there: Callable[[], bool]


class Here(Executor):
    """Does at once, in the calling process, whatever it is given. So Ctrl-C ends it there and then."""

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Return when it is done."""
        future: Future[T] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def here() -> Place:
    """This machine."""
    return Place("this machine", facts.gather(), Here(), measuring.measure, lambda: True)
