"""What a step of a walk may choose among, most of it allowed, and steps that may turn out not to be possible."""

import functools
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from capshm import cheribsd as bsd
from tests.properties.reference_machine import PAGE

numbers = st.integers(0, 1 << 16)
"""Chooses among what there is."""

READ_WRITE = bsd.PROT_READ | bsd.PROT_WRITE
accesses = st.sampled_from([READ_WRITE, READ_WRITE, READ_WRITE, bsd.PROT_READ, bsd.PROT_WRITE, bsd.PROT_NONE])
accesses |= st.sampled_from([READ_WRITE | bsd.PROT_EXEC, bsd.PROT_READ | bsd.PROT_EXEC, bsd.PROT_EXEC])
marks = st.sampled_from([0, 0, bsd.PROT_CAP, bsd.PROT_CAP, bsd.PROT_NO_CAP])


@st.composite
def protections(draw: st.DrawFn) -> int:
    """Most of them allowed, some not; a third with a maximum."""
    mark = draw(marks)
    now = draw(accesses) | mark
    how = draw(st.integers(0, 8))
    if how == 0:
        return now | draw(st.sampled_from([bsd.PROT_CAP | bsd.PROT_NO_CAP, 0x20, 0x20 << 16, bsd.PROT_CAP << 16]))
    if how <= 3:
        return now | bsd.PROT_MAX(draw(accesses) | (mark if draw(st.integers(0, 3)) else draw(marks)) | now & 7)
    return now


lengths = st.sampled_from([PAGE, PAGE, 2 * PAGE, 2 * PAGE, 3 * PAGE, 4 * PAGE, 1, 5000])
inheritances = st.sampled_from([0, 1, 2, 3, 9])
offsets = st.sampled_from([0, 0, 0, PAGE, 2 * PAGE])
how_pointed = st.sampled_from(["pointer"] * 9 + ["number", "untagged", "no SW_VMEM"])
extras = st.sampled_from([0] * 12 + [bsd.MAP_EXCL, bsd.MAP_PREFAULT_READ, bsd.MAP_SHARED | bsd.MAP_PRIVATE, 1 << 30])


class NotPossible(Exception):
    """What a step would need is not there: nothing is done."""


def need(there_is: object) -> None:
    """Go on only if it is there. (Hypothesis's assume would throw the whole run away.)"""
    if not there_is:
        raise NotPossible


def step(**drawn: Any) -> Callable[[Callable[..., None]], Any]:
    """A rule that may turn out not to be possible."""

    def decorate(function: Callable[..., None]) -> Any:
        @functools.wraps(function)
        def wrapper(self: Any, **arguments: object) -> None:
            try:
                function(self, **arguments)
            except NotPossible:
                pass

        made: Callable[[Callable[..., None]], Any] = rule(**drawn)
        return made(wrapper)

    return decorate
