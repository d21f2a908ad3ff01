"""Whether what was loaded from one granule has an explanation: `unexplained`.

A granule is a register that holds one tagged value or none. A store of a tagged value sets it; a data write, a store of
an untagged value and a raw write that changes bytes clear it; a load that returned a tagged value must come, in some
order of all operations that respects real time, directly after the value was set. A load without a tag says nothing:
the tag may be missing for many lawful reasons (rights, a sweep, a death, a clear that is under way).

Method. With values that are stored once each, this could be decided from intervals alone (Gibbons and Korach 1997);
with repeated values it is NP-complete, and programs do store the same capability twice. So: just-in-time linearization
(Wing and Gong 1993, Lowe 2017), made lazy. Stamps are gone through in order, with a set of *configurations*, each of
which is a way in which everything that has ended so far can have happened:

    state     what the granule holds
    loose     stores and clears that have begun and have not been put into the order yet, and must be when they end
    hidden    the same, but something was put into the order while they were under way: they may have come directly
              before that, unseen by anyone
    wanting   loads under way whose value the granule has not held since they began

A load is satisfied as soon as the state is its value. A store is put into the order only when it must be: when a load
that wants its value ends, or when it ends itself while loose. (Hidden, it may do either: stay unseen, or come now.) In
front of it may come others that satisfy a wanting load each; what comes without satisfying anybody would be hidden.

Why that is right. *No false alarm*: take an order that explains everything, and move each store that some load sees as
late as its first such load's end or its own end allow, and each other store directly before the next seen one, or to
its own end. No load loses its explanation, for those that saw the earlier state were under way, or had begun, before.
What is left is one of the paths taken. *No false acquittal*: each path is an order, for every operation is placed
between its stamps. A store whose end is unknown (its process died) is hidden from the beginning and never ends: it is
used if a load needs it, as the death may have come after it, and else not at all.

Cost. Linear where operations do not overlap; exponential only in how many stores of wanted values are under way at one
granule at one time, which is less than the number of threads. tests/unit/test_linearize.py compares it with a search
through all orders.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from capshm.errors import CapshmError
from capshm.testing.operations import Operation, Value

_LARGEST = 50_000  # configurations; a granule that 12 threads store to at once has a few thousand


class HistoryTooDense(CapshmError):
    """So many operations overlap at one granule that all their orders cannot be tried: nothing was decided."""


class Access(NamedTuple):
    """An operation as one granule sees it: a load of `value`, a store of it, or (None) a clear."""

    operation: Operation
    is_load: bool
    value: Value | None


class _Configuration(NamedTuple):
    state: Value | None
    loose: frozenset[int]
    hidden: frozenset[int]
    wanting: frozenset[int]


_START = _Configuration(None, frozenset(), frozenset(), frozenset())


def unexplained(accesses: Sequence[Access]) -> list[Access]:
    """The loads that no order explains; after each, the granule may hold what was loaded, or else.

    HistoryTooDense: nothing was decided.
    """
    # A clear that may not have been done explains nothing, and a load whose end is unknown returned nothing.
    known = [one for one in accesses if one.operation.end is not None or (one.value is not None and not one.is_load)]
    values = [one.value for one in known]
    readers = Counter(one.value for one in known if one.is_load)  # that have not ended yet
    found = []
    ways = {_START}
    for is_end, i in _stamps(known):
        access = known[i]
        if access.is_load:
            if not is_end:
                ways = {_with_load(way, i, access.value) for way in ways}
                continue
            left = {after for way in ways for after in _end_load(way, i, values)}
            readers[access.value] -= 1
            if not left:
                found.append(access)
                left = {way._replace(wanting=way.wanting - {i}) for way in ways}
                left |= {_put(way, None, access.value, values) for way in ways}
            ways = left
        elif not is_end:
            is_sure = access.operation.end is not None
            ways = {_with_store(way, i, is_sure) for way in ways}
        else:
            ways = {after for way in ways for after in _end_store(way, i, values, readers[access.value] > 0)}
        if len(ways) > _LARGEST:
            raise HistoryTooDense(f"more than {_LARGEST} ways to order what overlaps at {access.operation}")
    return found


def _stamps(accesses: Sequence[Access]) -> list[tuple[bool, int]]:
    """Begins and ends in order; of equal stamps begins come first, so that such operations overlap."""
    stamps = [(one.operation.begin, False, i) for i, one in enumerate(accesses)]
    stamps += [(one.operation.end, True, i) for i, one in enumerate(accesses) if one.operation.end is not None]
    return [(is_end, i) for _, is_end, i in sorted(stamps)]


def _with_load(way: _Configuration, load: int, value: Value | None) -> _Configuration:
    return way if way.state == value else way._replace(wanting=way.wanting | {load})


def _with_store(way: _Configuration, store: int, is_sure: bool) -> _Configuration:
    if is_sure:
        return way._replace(loose=way.loose | {store})
    return way._replace(hidden=way.hidden | {store})


def _end_load(way: _Configuration, load: int, values: Sequence[Value | None]) -> Iterator[_Configuration]:
    if load not in way.wanting:
        yield way
        return
    for before in _preludes(way, values):
        if load not in before.wanting:
            continue  # satisfied on the way: that order is found with its last store as the final one
        for store in before.loose | before.hidden:
            if values[store] == values[load]:
                yield _put(before, store, values[store], values)


def _end_store(
    way: _Configuration, store: int, values: Sequence[Value | None], is_wanted: bool
) -> Iterator[_Configuration]:
    if store in way.hidden:
        yield way._replace(hidden=way.hidden - {store})
        if not is_wanted:
            return  # nobody would see it
    elif store not in way.loose:
        yield way  # it has its place
        return
    for before in _preludes(way, values):
        if store in before.loose or store in before.hidden:
            yield _put(before, store, values[store], values)


def _preludes(way: _Configuration, values: Sequence[Value | None]) -> set[_Configuration]:
    """The ways to go on from here in which each store that is put into the order satisfies a load that wants it."""
    reached = {way}
    new = [way]
    while new:
        one = new.pop()
        wanted = {values[load] for load in one.wanting}
        for store in one.loose | one.hidden:
            if values[store] in wanted:
                after = _put(one, store, values[store], values)
                if after not in reached:
                    reached.add(after)
                    new.append(after)
        if len(reached) > _LARGEST:
            raise HistoryTooDense(f"more than {_LARGEST} ways to order what overlaps at one granule")
    return reached


def _put(way: _Configuration, store: int | None, value: Value | None, values: Sequence[Value | None]) -> _Configuration:
    """Put a store next into the order: all that are under way may have come directly before it."""
    hidden = way.hidden | {one for one in way.loose if values[one] is not None} if way.loose else way.hidden
    if store is not None:
        hidden -= {store}
    wanting = frozenset(load for load in way.wanting if values[load] != value) if way.wanting else way.wanting
    return _Configuration(value, frozenset(), hidden, wanting)
