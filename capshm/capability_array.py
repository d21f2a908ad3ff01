"""`CapabilityArray`: what the bulk operations of a `Capability` load and store."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from capshm import _registers
from capshm._native import ffi, lib
from capshm._status import fail
from capshm.capability import Capability, needed, untagged
from capshm.errors import CapshmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import SupportsIndex, TypeAlias, overload

    _Slice: TypeAlias = slice[SupportsIndex | None, SupportsIndex | None, SupportsIndex | None]
else:

    def overload(form: object) -> object:
        """For type checkers alone: the last form is what runs."""
        return form


_new = object.__new__


class _Element(Capability):
    """A capability whose register is part of an array's window, and keeps that alive."""

    __slots__ = ("_window",)

    _window: _registers.Window

    def __del__(self) -> None:
        pass  # the register is not its own


class CapabilityArray(Sequence[Capability]):
    """A window of the register file: what the bulk forms load and store. Objects are made on access.

    The capabilities stay where they are as long as the array, a slice of it, or an element is alive; revocation reaches
    them.
    """

    __slots__ = ("_count", "_first", "_window")

    _window: _registers.Window
    _first: int
    _count: int

    def __init__(self) -> None:
        raise TypeError("arrays are loaded with load_capabilities, or made with CapabilityArray.of")

    @classmethod
    def of(cls, values: Sequence[Capability]) -> CapabilityArray:
        """An array with copies of `values`."""
        kept = [needed(value) for value in values]  # some sequences make their values on access
        registers = [value._register for value in kept]
        window = _registers.Window(max(len(registers), 1))
        status = lib.capshm_gather(ffi.new("uint32_t[]", registers), len(registers), window.first)
        if status:
            fail(status, "gather capabilities")
        return array_over(window, window.first, len(registers))

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: SupportsIndex) -> Capability: ...
    @overload
    def __getitem__(self, index: _Slice) -> CapabilityArray: ...  # noqa: F811
    def __getitem__(  # noqa: F811
        self, index: SupportsIndex | _Slice
    ) -> Capability | CapabilityArray:
        if isinstance(index, slice):
            start, stop, step = index.indices(self._count)
            if step != 1:
                return CapabilityArray.of([self._at(i) for i in range(start, stop, step)])
            return array_over(self._window, self._first + start, max(stop - start, 0))
        number = operator.index(index)
        if not -self._count <= number < self._count:
            raise IndexError(f"index {number} of an array of {self._count} capabilities")
        return self._at(number % self._count)

    def _at(self, number: int) -> Capability:
        element = _new(_Element)
        element._register = self._first + number
        element._window = self._window
        return element

    def __iter__(self) -> Iterator[Capability]:
        return map(self._at, range(self._count))

    @property
    def tags(self) -> bytes:
        """A byte for each capability: 1 tagged, 0 not."""
        tags = bytearray(self._count)
        status = lib.capshm_tags(self._first, self._count, ffi.from_buffer(tags)) if self._count else 0
        if status:
            fail(status, "ask for tags")
        return bytes(tags)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CapabilityArray):
            return NotImplemented
        return len(self) == len(other) and all(one == another for one, another in zip(self, other, strict=True))

    def __reduce__(self) -> tuple[object, ...]:
        return _untagged_array, ([element._words() for element in self],)

    def __copy__(self) -> CapabilityArray:
        return self  # immutable

    def __deepcopy__(self, memo: object) -> CapabilityArray:
        return self

    __hash__ = None  # type: ignore[assignment]  # equality asks for tags, which change

    def __repr__(self) -> str:
        try:
            return f"<CapabilityArray of {self._count}, {sum(self.tags)} tagged>"
        except CapshmError:
            return f"<CapabilityArray of {self._count} in a process that is not attached>"


def _untagged_array(words: list[tuple[int, int]]) -> CapabilityArray:
    return CapabilityArray.of([untagged(*pair) for pair in words])


def array_over(window: _registers.Window, first: int, count: int) -> CapabilityArray:
    """An array of the `count` registers from `first` on, which are part of the window."""
    array = _new(CapabilityArray)
    array._window = window
    array._first = first
    array._count = count
    return array
