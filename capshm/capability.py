"""Capabilities as Python values: `Capability`, `sealing_root`.

A `Capability` is the number of a register of this process (native/register_file.h), so revocation reaches values held
in variables. It is immutable. Every method checks first, in the order of the ISA (CHERI ISAv9); what derives never
faults but clears the tag; what touches memory raises a `Fault` and has then changed nothing, except where it says
otherwise.

Offsets count from `address`. They may be negative; the sum wraps at 2**64 as the ISA's addition does.
"""

from __future__ import annotations

import operator
import os

from capshm import _registers, encoding
from capshm._native import ffi, lib
from capshm._status import fail
from capshm.errors import NotAttached
from capshm.permissions import Permissions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol, SupportsIndex

    from typing_extensions import Buffer

    from capshm._native import CData

    class _Derivation(Protocol):
        """A function of the core: the register to derive from, operands, the register for the result."""

        def __call__(self, register: int, /, *operands: object) -> int: ...


GRANULE: int = lib.GRANULE_SIZE
"""Bytes of a capability in memory, and what has one tag."""

_WORD_END = 1 << 64
_STORES = Permissions.STORE | Permissions.STORE_CAP  # of a tagged value
_TAG: int = lib.RIGHT_TAG
_UNSEALED: int = lib.OBJECT_TYPE_UNSEALED
_SENTRY: int = lib.OBJECT_TYPE_SENTRY
_LARGE_READ = 1 << 20
_LARGE_COUNT = 1 << 16

# Bound once: single operations are measured in tens of nanoseconds.
_load = lib.capshm_load
_store = lib.capshm_store
_take = _registers.take
_give_back = _registers.give_back
_new = object.__new__


def _number(what: str, value: SupportsIndex, first: int, end: int) -> int:
    """`value` as an int, first <= value < end; TypeError or ValueError otherwise."""
    number = operator.index(value)
    if not first <= number < end:
        raise ValueError(f"{what} must be at least {first} and below {end:#x}, not {number}")
    return number


def _offset(value: SupportsIndex) -> int:
    """An offset as the 64-bit word that the core adds to the address."""
    return _number("an offset", value, -_WORD_END // 2, _WORD_END) % _WORD_END


def needed(value: object) -> Capability:
    """The value itself if it is a Capability; TypeError otherwise."""
    if not isinstance(value, Capability):
        raise TypeError(f"a Capability is needed, not {type(value).__name__}")
    return value


class Capability:
    """Unforgeable reference to memory: address, bounds, permissions, object type, and a tag that says it is valid.

    None can be made up. The first one to some memory comes from whoever maps it (`capshm.testing.Segment.root`, or its
    `map`), the first one to object types from `sealing_root`; all others are derived from these by the methods here, or
    loaded from memory where somebody stored them. As text: address, letters of the permissions, bounds; the letters are
    r LOAD, w STORE, x EXECUTE, R LOAD_CAP, W STORE_CAP.
    """

    __slots__ = ("_register",)

    _register: int

    def __new__(cls, *arguments: object, **named: object) -> Capability:
        """Refused."""
        raise TypeError(
            "capabilities are derived from others, or returned by calls that map memory; none can be made up"
        )

    def __del__(self) -> None:
        register, self._register = self._register, 0  # whoever brings it back from a dead cycle holds nobody's
        if register:
            _give_back(register)

    # What it says

    def _inspect(self) -> CData:
        held = ffi.new("struct capability_register *")
        status = lib.capshm_inspect(self._register, held)
        if status:
            fail(status, "look at a capability")
        return held

    def _words(self) -> tuple[int, int]:
        value = self._inspect().value
        return value.address, value.metadata

    def _describe(self) -> tuple[int, int, int, int, bool, bool]:
        """Address, base, top, raw permissions, tag, is_sealed: all that a broker is told, at one look."""
        held = self._inspect()
        address: int = held.value.address
        out = ffi.new("struct capshm_decoded *")
        lib.capshm_decode(held.value.metadata, address, out)
        top = out.top_carry << 64 | out.top
        return address, out.base, top, out.permissions, bool(held.rights & _TAG), out.object_type != _UNSEALED

    def _decode(self) -> encoding.Decoded:
        address, metadata = self._words()
        return encoding.decode(metadata, address)

    @property
    def address(self) -> int:
        """Where it points; for a mapping's capabilities the real virtual address."""
        return self._words()[0]

    @property
    def base(self) -> int:
        """First address of its bounds."""
        return self._decode().base

    @property
    def top(self) -> int:
        """First address past its bounds, up to 2**64."""
        return self._decode().top

    @property
    def length(self) -> int:
        """Bytes from base to top; 0 for a malformed value whose top lies below its base."""
        decoded = self._decode()
        return max(decoded.top - decoded.base, 0)

    @property
    def offset(self) -> int:
        """Bytes from base to address; negative below the base."""
        address, metadata = self._words()
        return address - encoding.decode(metadata, address).base

    @property
    def permissions(self) -> Permissions:
        """What it allows."""
        return Permissions.from_raw(self._decode().permissions)

    @property
    def object_type(self) -> int:
        """The raw 18 bits: 0x3ffff unsealed, 0x3fffe a sentry, else what it is sealed with."""
        return self._decode().object_type

    @property
    def is_sealed(self) -> bool:
        """Sealed with a type, or a sentry: neither used nor changed until it is unsealed."""
        return self.object_type != _UNSEALED

    @property
    def tag(self) -> bool:
        """Whether it is valid. Asking is an operation: a revocation that has returned is seen."""
        tag = ffi.new("uint32_t *")
        status = lib.capshm_tag(self._register, tag)
        if status:
            fail(status, "ask for the tag")
        return bool(tag[0])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Capability):
            return NotImplemented
        is_equal = ffi.new("uint32_t *")
        status = lib.capshm_equal(self._register, other._register, is_equal)
        if status:
            fail(status, "compare capabilities")
        return bool(is_equal[0])

    def __hash__(self) -> int:
        return hash(self._words())  # without the tag, which a revocation may clear at any time

    def __str__(self) -> str:
        held = self._inspect()
        decoded = encoding.decode(held.value.metadata, held.value.address)
        letters = Permissions.from_raw(decoded.permissions).letters
        text = f"{held.value.address:#x} [{letters},{decoded.base:#x}-{decoded.top:#x}]"
        if not held.rights & lib.RIGHT_TAG:
            text += " (invalid)"
        if decoded.object_type == _SENTRY:
            text += " (sentry)"
        elif decoded.object_type != _UNSEALED:
            text += " (sealed)"
        return text

    def __repr__(self) -> str:
        try:
            return f"<Capability {self}>"
        except NotAttached:  # a traceback may show what a machine that was left has left behind
            return f"<Capability of no machine: process {os.getpid()} is not attached>"

    def __reduce__(self) -> tuple[object, ...]:
        return untagged, self._words()

    def __copy__(self) -> Capability:
        return self  # immutable

    def __deepcopy__(self, memo: object) -> Capability:
        return self

    # Deriving (5.2): never a fault

    def with_address(self, address: SupportsIndex) -> Capability:
        """The same with another address. Untagged if the bounds are not representable from there, or if sealed."""
        operand = _number("an address", address, 0, _WORD_END)
        return _derived(lib.capshm_with_address, self._register, operand)

    def with_offset(self, offset: SupportsIndex) -> Capability:
        """The same with address = base + offset; as `with_address`."""
        return _derived(lib.capshm_with_address, self._register, (self.base + _offset(offset)) % _WORD_END)

    def __add__(self, increment: SupportsIndex) -> Capability:
        if not hasattr(increment, "__index__"):
            return NotImplemented
        return _derived(lib.capshm_with_increment, self._register, _offset(increment))

    def __sub__(self, decrement: SupportsIndex) -> Capability:
        if not hasattr(decrement, "__index__"):
            return NotImplemented
        return _derived(lib.capshm_with_increment, self._register, _offset(-operator.index(decrement)))

    def with_bounds(self, length: SupportsIndex) -> Capability:
        """Bounds from address on, `length` bytes, rounded outwards to the next representable ones.

        Untagged if that is not inside the present bounds, or if sealed. (ISAv9: CSetBounds)
        """
        operand = _number("a length", length, 0, _WORD_END)
        return _derived(lib.capshm_with_bounds, self._register, operand, False)

    def with_exact_bounds(self, length: SupportsIndex) -> Capability:
        """As `with_bounds`, and untagged if rounding would be needed. (ISAv9: CSetBoundsExact)"""
        operand = _number("a length", length, 0, _WORD_END)
        return _derived(lib.capshm_with_bounds, self._register, operand, True)

    def with_permissions(self, mask: Permissions) -> Capability:
        """Only those of its permissions that are in `mask`.

        Sealed: untagged (isa="rvy": only if a permission is lost; permissions that depend on a lost one fall too).
        """
        if not isinstance(mask, Permissions):
            raise TypeError(f"permissions must be a Permissions value, not {type(mask).__name__}")
        return _derived(lib.capshm_with_permissions, self._register, mask.raw)

    def without_tag(self) -> Capability:
        """The same bits, not valid any more."""
        return _derived(lib.capshm_without_tag, self._register)

    def seal(self, authority: Capability) -> Capability:
        """Sealed with the object type that is the address of `authority`.

        The authority needs SEAL and that address in its bounds. Untagged if the authority does not allow it, or if it
        is sealed already.
        """
        return _derived(lib.capshm_seal, self._register, needed(authority)._register)

    def unseal(self, authority: Capability) -> Capability:
        """Unsealed, by an `authority` with UNSEAL whose address is the object type; loses GLOBAL if that lacks it.

        Untagged if the authority does not allow it, or if it is not sealed with that type.
        """
        return _derived(lib.capshm_unseal, self._register, needed(authority)._register)

    def seal_entry(self) -> Capability:
        """Sealed as a sentry, which needs no authority. Untagged if it is sealed already."""
        return _derived(lib.capshm_seal_entry, self._register)

    # Memory (5.3)

    def load_capability(self, offset: SupportsIndex = 0) -> Capability:
        """The capability at address + offset.

        Rights: LOAD; without LOAD_CAP here or at the page the value comes untagged. Raises a `Fault`: tag, seal,
        permission, bounds, alignment, page, in this order; `HolderStopped`.
        """
        if type(offset) is not int or offset < 0:  # the usual offsets need no further look
            offset = _offset(offset)
        try:  # as _fresh, without the price of a call
            register = _take()
        except IndexError:
            register = _registers.refill()
        try:
            status = _load(self._register, offset, register)
        except OverflowError:
            _give_back(register)
            _offset(offset)  # says what is wrong with it
            raise
        if status:
            _give_back(register)
            fail(status, "load a capability", self, Permissions.LOAD)
        loaded = _new(Capability)
        loaded._register = register
        return loaded

    def store_capability(self, offset: SupportsIndex, value: Capability) -> None:
        """Store `value` at address + offset, with its tag.

        Rights: STORE; for a tagged value STORE_CAP, for a tagged one without GLOBAL also STORE_LOCAL (isa="rvy":
        without them it is stored untagged), and a page that permits it (`StoreTagViolation`). Raises as
        `load_capability`. After a `PageViolation` with SIGBUS the granule is untagged.
        """
        register = needed(value)._register
        if type(offset) is not int or offset < 0:
            offset = _offset(offset)
        try:
            status = _store(self._register, offset, register)
        except OverflowError:
            _offset(offset)  # says what is wrong with it
            raise
        if status:
            fail(status, "store a capability", self, _STORES)

    def load_capabilities(self, offset: SupportsIndex, count: SupportsIndex) -> CapabilityArray:
        """`count` capabilities from address + offset on, in one native call; rights and errors as `load_capability`."""
        number = _number("a count", count, 0, 1 << 32)
        if number > _LARGE_COUNT:
            self._check_range(offset, number * GRANULE, "load capabilities")  # before registers are set aside
        window = _registers.Window(max(number, 1))
        status = lib.capshm_load_many(self._register, _offset(offset), window.first, number) if number else 0
        if status:
            fail(status, "load capabilities", self, Permissions.LOAD)
        return array_over(window, window.first, number)

    def store_capabilities(self, offset: SupportsIndex, values: CapabilityArray | Sequence[Capability]) -> None:
        """Store all of `values` from address + offset on, in one native call; rights as `store_capability`.

        The range is checked first. A fault in the middle (a value that may not be stored, a page, a truncation): the
        elements before the fault's `address` are stored.
        """
        word = _offset(offset)
        array = values if isinstance(values, CapabilityArray) else CapabilityArray.of(values)
        if array._count == 0:
            return
        status = lib.capshm_store_many(self._register, word, array._first, array._count)
        if status:
            fail(status, "store capabilities", self, _STORES)

    def fill_capabilities(self, offset: SupportsIndex, count: SupportsIndex, value: Capability) -> None:
        """Store `value` into `count` granules from address + offset on; as `store_capabilities`."""
        number = _number("a count", count, 0, _WORD_END // GRANULE)
        word = _offset(offset)
        register = needed(value)._register
        if number == 0:
            return
        status = lib.capshm_fill(self._register, word, number, register)
        if status:
            fail(status, "fill with a capability", self, _STORES)

    def read(self, offset: SupportsIndex, length: SupportsIndex) -> bytes:
        """`length` bytes from address + offset on. Rights: LOAD and readable pages; errors as `load_capability`."""
        number = _number("a length", length, 0, _WORD_END)
        word = _offset(offset)
        if number > _LARGE_READ:
            self._check_range(word, number, "read")  # before memory is set aside for the answer
        buffer = bytearray(number)
        status = lib.capshm_read(self._register, word, ffi.from_buffer(buffer), number)
        if status:
            fail(status, f"read {number} bytes", self, Permissions.LOAD)
        return bytes(buffer)

    def write(self, offset: SupportsIndex, data: Buffer) -> None:
        """Write the bytes of `data` from address + offset on; the tag of every granule they touch is cleared first.

        Rights: STORE and writable pages. Checked as a whole; a truncation in the middle leaves the pages before it
        written.
        """
        try:
            buffer = ffi.from_buffer(data)
        except (BufferError, TypeError) as error:
            what = type(data).__name__
            raise TypeError(f"the data must be bytes, or another contiguous buffer, not {what}: {error}") from error
        status = lib.capshm_write(self._register, _offset(offset), buffer, len(buffer))
        if status:
            fail(status, f"write {len(buffer)} bytes", self, Permissions.STORE)

    def copy_to(self, destination: Capability, length: SupportsIndex) -> None:
        """Copy `length` bytes from here to `destination`, with tags where both are congruent modulo 16.

        Like a memmove made of capability loads and stores: whole granules keep their tags, but through an authority
        without LOAD_CAP, or from a page that strips, tags are lost; a tagged granule that may not be stored faults, and
        what was copied before it stays. Overlapping ranges of one mapping come out right.
        """
        number = _number("a length", length, 0, _WORD_END)
        status = lib.capshm_copy(self._register, needed(destination)._register, number)
        if status:
            operation = f"copy {number} bytes"
            if lib.capshm_fault().register_index == destination._register:
                fail(status, operation, destination, _STORES)
            fail(status, operation, self, Permissions.LOAD)

    def view(self, offset: SupportsIndex, length: SupportsIndex, *, writable: bool = False) -> memoryview:
        """The memory itself, as a memoryview: an integer pointer, not a capability.

        Rights: LOAD (and STORE), checked now and never again: revocation does not reach a view. A raw write through it
        can never leave a tag on changed bytes. Using it after the memory was unmapped, protected or truncated ends the
        process by the real signal.
        """
        number = _number("a length", length, 0, _WORD_END)
        address = self._check_range(offset, number, "view", bool(writable))
        view = memoryview(ffi.buffer(ffi.cast("char *", address), number))
        return view if writable else view.toreadonly()

    def _check_range(self, offset: SupportsIndex, length: int, operation: str, writable: bool = False) -> int:
        address = ffi.new("uint64_t *")
        status = lib.capshm_view(self._register, _offset(offset), length, writable, address)
        if status:
            needed_permissions = Permissions.LOAD | (Permissions.STORE if writable else Permissions(0))
            fail(status, f"{operation}: {length} bytes", self, needed_permissions)
        return int(address[0])


def _owning(register: int) -> Capability:
    capability = _new(Capability)
    capability._register = register
    return capability


def _fresh() -> int:
    """A register for a new value. MemoryError when there are none left."""
    try:
        return _take()
    except IndexError:
        return _registers.refill()


def _derived(native: _Derivation, register: int, *operands: object) -> Capability:
    """Apply a native derivation; its result goes to a fresh register."""
    into = _fresh()
    status = native(register, *operands, into)
    if status:
        _give_back(into)
        fail(status, "derive a capability")
    return _owning(into)


def make(address: int, metadata: int, *, tag: bool) -> Capability:
    """A capability from its words. Tagged ones are for those who map memory, and for the sealing root."""
    into = _fresh()
    status = lib.capshm_make(into, address, metadata, tag)
    if status:
        _give_back(into)
        fail(status, "make a capability")
    return _owning(into)


def over(base: int, length: int, permissions: int) -> Capability:
    """The capability to memory that the broker has granted. permissions: the raw number."""
    root = make(base, lib.METADATA_ROOT, tag=True)
    return root.with_bounds(length).with_permissions(Permissions.from_raw(permissions))


def untagged(address: int, metadata: int) -> Capability:
    """A capability with these bits: what arrives in another process."""
    return make(address, metadata, tag=False)


def sealing_root() -> Capability:
    """SEAL and UNSEAL (and GLOBAL) over all object types that are not reserved: 0 to 0x3fffb; its address is 0."""
    permissions = Permissions.GLOBAL | Permissions.SEAL | Permissions.UNSEAL
    root = make(0, lib.METADATA_ROOT, tag=True)
    return root.with_bounds(lib.OBJECT_TYPE_FIRST_RESERVED).with_permissions(permissions)


# Last, because it is made of what stands above, and used only when its time comes.
from capshm.capability_array import CapabilityArray, array_over  # noqa: E402
