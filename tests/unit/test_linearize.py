"""The search for an order of what happened at one granule, against a search through all orders."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capshm.testing import HistoryTooDense, Kind, Operation, Result, Value, linearize
from capshm.testing.linearize import Access, unexplained

VALUES = [Value(16 * i, 1, True) for i in range(1, 4)]
ONE, OTHER, THIRD = VALUES


def access(number: int, what: str, value: Value | None, begin: int, end: int | None) -> Access:
    """An operation at the granule."""
    kind = Kind.LOAD if what == "load" else Kind.STORE
    result = Result.UNKNOWN if end is None else Result.DONE
    return Access(Operation(number, kind, 0, 0, begin, end, result, value=value), what == "load", value)


def history(*parts: tuple[str, Value | None, int, int | None]) -> list[Access]:
    """Operations, numbered as they come."""
    return [access(number, *part) for number, part in enumerate(parts)]


def has_order(accesses: list[Access]) -> bool:
    """Whether some order of all of them, less some of those that may not have been done, explains all loads."""
    seen = set()
    stack: list[tuple[frozenset[int], Value | None]] = [(frozenset(range(len(accesses))), None)]
    while stack:
        left, state = stack.pop()
        if (left, state) in seen:
            continue
        seen.add((left, state))
        if all(accesses[i].operation.end is None for i in left):
            return True
        first_end = min(end for i in left if (end := accesses[i].operation.end) is not None)
        for i in left:
            one = accesses[i]
            if one.operation.begin > first_end or (one.is_load and one.value != state):
                continue
            stack.append((left - {i}, one.value))
    return False


@st.composite
def histories(draw: st.DrawFn) -> list[Access]:
    """Few values, and stamps that often overlap or are equal."""
    parts = []
    for _ in range(draw(st.integers(1, 9))):
        what = draw(st.sampled_from(["load", "store", "store"]))
        value = draw(st.sampled_from(VALUES if what == "load" else [*VALUES, None]))
        begin = draw(st.integers(0, 14))
        is_dead = what == "store" and draw(st.integers(0, 5)) == 0
        parts.append((what, value, begin, None if is_dead else begin + draw(st.integers(0, 9))))
    return history(*parts)


@pytest.mark.slow
@given(histories())
def test_agrees_with_a_search_through_all_orders(accesses: list[Access]) -> None:
    """A load is reported if and only if no order explains all loads."""
    assert (not unexplained(accesses)) == has_order(accesses)


LEGAL = {
    "nothing": history(),
    "a load beside the store": history(("store", ONE, 0, 10), ("load", ONE, 2, 4)),
    "a load before others see the old value": history(
        ("store", ONE, 0, 1), ("store", OTHER, 2, 9), ("load", OTHER, 3, 8), ("load", ONE, 4, 7)
    ),
    "a clear that hides under a store": history(("store", None, 0, 10), ("store", ONE, 1, 3), ("load", ONE, 4, 20)),
    "a store that died, and was seen": history(("store", ONE, 0, None), ("load", ONE, 90, 91)),
    "a store that died, and was not": history(
        ("store", ONE, 0, 1), ("store", OTHER, 2, None), ("load", ONE, 90, 91), ("load", OTHER, 92, 93)
    ),
    "the same value twice": history(
        ("store", ONE, 0, 1), ("store", OTHER, 2, 3), ("load", OTHER, 4, 5), ("store", ONE, 6, 7), ("load", ONE, 8, 9)
    ),
    "an end and a begin at the same time": history(("store", ONE, 0, 5), ("store", OTHER, 5, 9), ("load", ONE, 10, 11)),
}
ILLEGAL = {
    "never stored": history(("load", ONE, 0, 1)),
    "stored later": history(("load", ONE, 0, 1), ("store", ONE, 2, 3)),
    "replaced": history(("store", ONE, 0, 1), ("store", OTHER, 2, 3), ("load", ONE, 4, 5)),
    "cleared": history(("store", ONE, 0, 1), ("store", None, 2, 3), ("load", ONE, 4, 5)),
    "new, then old": history(("store", ONE, 0, 1), ("store", OTHER, 2, 20), ("load", OTHER, 3, 4), ("load", ONE, 5, 6)),
    "one store, seen twice": history(
        ("store", ONE, 0, 20), ("store", OTHER, 0, 20), ("load", ONE, 1, 2), ("load", OTHER, 3, 4), ("load", ONE, 5, 6)
    ),
    "a dead store that comes twice": history(
        ("store", ONE, 0, None), ("load", ONE, 1, 2), ("store", None, 3, 4), ("load", ONE, 5, 6)
    ),
}


@pytest.mark.parametrize("accesses", LEGAL.values(), ids=LEGAL)
def test_legal(accesses: list[Access]) -> None:
    """What some order explains is not reported."""
    assert unexplained(accesses) == []


@pytest.mark.parametrize("accesses", ILLEGAL.values(), ids=ILLEGAL)
def test_illegal(accesses: list[Access]) -> None:
    """The last load of these is reported, and only that."""
    loads = [one for one in accesses if one.is_load]
    assert unexplained(accesses) == [loads[-1]]


def test_goes_on_after_a_violation() -> None:
    """After a load that nothing explains, what it returned may be there, and what was before may be: none is new."""
    wrong = history(("store", OTHER, 0, 1), ("load", ONE, 2, 3), ("load", ONE, 4, 5))
    assert unexplained(wrong) == wrong[1:2]
    wrong = history(("store", OTHER, 0, 1), ("load", ONE, 2, 3), ("load", OTHER, 4, 5))
    assert unexplained(wrong) == wrong[1:2]


def test_too_dense_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where not all orders can be tried there is no verdict."""
    monkeypatch.setattr(linearize, "_LARGEST", 50)
    stores = [("store", Value(16 * i, 1, True), 0, 100) for i in range(8)]
    loads = [("load", Value(16 * i, 1, True), 1, 99) for i in range(8)]
    with pytest.raises(HistoryTooDense):
        unexplained(history(*stores, *loads))
