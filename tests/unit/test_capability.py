"""`capshm.Capability` as a Python value: what it says, how it compares and travels, and the faults that it raises."""

import copy
import errno
import gc
import os
import pickle
import struct
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

import capshm
from capshm import Capability, Fault, Permissions, _registers, errors, sealing_root, zircon
from capshm._native import lib
from capshm.testing import Segment
from tests.faults.isolation import isolated

P = Permissions
WORD_END = 1 << 64
PAGE = 4096


@pytest.fixture
def segment() -> Iterator[Segment]:
    """Two pages."""
    with Segment(2 * PAGE) as made:
        yield made


# What it says


def test_the_root_of_a_segment(segment: Segment, root: Capability) -> None:
    """A mapping's capability covers it, points to its first byte and has what a program's data needs."""
    assert (root.address, root.base, root.top) == (root.base, root.address, root.address + segment.length)
    assert (root.length, root.offset) == (segment.length, 0)
    assert root.permissions == P.GLOBAL | P.LOAD | P.STORE | P.LOAD_CAP | P.STORE_CAP | P.STORE_LOCAL
    assert root.object_type == lib.OBJECT_TYPE_UNSEALED
    assert root.tag is True
    assert root.is_sealed is False


def test_the_address_is_the_real_one(segment: Segment, root: Capability) -> None:
    """Memory seen through the integer address is the memory of the capability."""
    root.write(8, b"capshm")
    with open("/proc/self/mem", "rb") as memory:  # noqa: PTH123 - unbuffered reading at an offset
        memory.seek(root.address + 8)
        assert memory.read(6) == b"capshm"


def test_the_sealing_root() -> None:
    """Seal and unseal over all types that are not reserved, and nothing to do with memory."""
    root = sealing_root()
    assert (root.address, root.base) == (0, 0)
    assert root.top >= lib.OBJECT_TYPE_FIRST_RESERVED  # rounded; reserved types are refused all the same
    assert root.permissions == P.GLOBAL | P.SEAL | P.UNSEAL
    assert root.tag
    with pytest.raises(capshm.PermissionViolation):
        root.read(0, 1)


def test_untouched_memory_holds_null(root: Capability) -> None:
    """What was never stored loads as the null capability, whose bounds are the whole address space."""
    null = root.load_capability(PAGE)
    assert (null.address, null.base, null.top, null.length, null.offset) == (0, 0, WORD_END, WORD_END, 0)
    assert null.permissions == P(0)
    assert null.tag is False
    assert str(null) == "0x0 [,0x0-0x10000000000000000] (invalid)"
    assert null.with_address(WORD_END - 1).offset == WORD_END - 1


def test_an_offset_may_be_negative(root: Capability) -> None:
    """The offset counts from the base, below it too."""
    part = (root + 64).with_bounds(64)
    assert (part - 16).offset == -16
    assert (part - 16).with_offset(0) == part


def test_the_length_of_malformed_bounds_is_0(root: Capability) -> None:
    """Any bits may be loaded untagged; bounds whose top lies below their base have no length."""
    encoded = struct.pack("<QQ", 0x1000, 0xFFFF_0000_0382_34BF)
    root.write(0, encoded)
    loaded = root.load_capability(0)
    assert loaded.top < loaded.base
    assert loaded.length == 0


# Text

TEXTS: dict[str, Callable[[Capability], Capability]] = {
    "0x40 [rwRW,0x0-0x40]": lambda value: value + 64,
    "0x0 [rwRW,0x0-0x40]": lambda value: value,
    "0x0 [,0x0-0x40]": lambda value: value.with_permissions(P.GLOBAL),
    "0x0 [rR,0x0-0x40]": lambda value: value.with_permissions(P.LOAD | P.LOAD_CAP | P.STORE_LOCAL),
    "0x0 [rwRW,0x0-0x40] (invalid)": Capability.without_tag,
    "0x0 [rwRW,0x0-0x40] (sealed)": lambda value: value.seal(sealing_root()),
    "0x0 [rwRW,0x0-0x40] (sentry)": Capability.seal_entry,
    "0x0 [rwRW,0x0-0x40] (invalid) (sealed)": lambda value: value.seal(sealing_root()).without_tag(),
    "0x0 [rwRW,0x0-0x40] (invalid) (sentry)": lambda value: value.seal_entry().without_tag(),
}


@pytest.mark.parametrize(("text", "make"), TEXTS.items(), ids=TEXTS.keys())
def test_text(root: Capability, text: str, make: Callable[[Capability], Capability]) -> None:
    """The text is address, procstat's letters, bounds, and what is unusual; addresses here count from the base."""
    value = make(root.with_bounds(64))
    assert str(value).replace(f"{root.base + 64:#x}", "0x40").replace(f"{root.base:#x}", "0x0") == text
    assert repr(value) == f"<Capability {value}>"


# Equality, hash, copies, pickles


def test_equality_is_of_every_bit_and_the_tag(root: Capability) -> None:
    """Two are equal when bits and tag are; the hash leaves out the tag, which a revocation may clear."""
    same = root + 16 - 16
    assert same is not root
    assert same == root
    assert hash(same) == hash(root)
    others = [root + 1, root.with_bounds(64), root.with_permissions(P.LOAD), root.seal_entry(), root.without_tag()]
    assert all(other != root for other in others)
    assert hash(root.without_tag()) == hash(root)
    assert len({root, same, root.without_tag(), *others}) == 6


@pytest.mark.parametrize("other", [None, 0, "text", object], ids=repr)
def test_nothing_else_is_equal(root: Capability, other: object) -> None:
    """A capability is not equal to the integer that is its address, nor to anything of another type."""
    assert root != other
    assert root != root.address


def test_a_copy_is_the_same_value(root: Capability) -> None:
    """Capabilities are immutable: the copy module gives the object itself, inside containers too."""
    assert copy.copy(root) is root
    assert copy.deepcopy([root])[0] is root


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_arrives_untagged(root: Capability, protocol: int) -> None:
    """All bits travel, the tag does not; sealed ones stay sealed."""
    for value in root, root.seal_entry(), root.without_tag():
        assert pickle.loads(pickle.dumps(value, protocol)) == value.without_tag()


@pytest.mark.slow
def test_a_pickle_arrives_untagged_in_another_process(root: Capability) -> None:
    """A program that never touched a capability before may receive one."""
    receive_pickle(data=pickle.dumps([root, root + 8]).hex(), text=str(root))


@isolated()
def receive_pickle(data: str, text: str) -> None:
    """In that process: the values are as they were sent, and cannot be used."""
    value, next_value = pickle.loads(bytes.fromhex(data))
    assert str(value) == f"{text} (invalid)"
    assert next_value == value + 8
    with pytest.raises(capshm.TagViolation):
        value.read(0, 1)


@pytest.mark.filterwarnings("error")
def test_none_can_be_made_up() -> None:
    """The class cannot be called, and the attempt leaves nothing behind that complains later."""
    with pytest.raises(TypeError, match="none can be made up"):
        Capability()
    gc.collect()


@pytest.mark.parametrize("name", ["address", "base", "tag", "permissions", "anything"])
def test_it_is_immutable(root: Capability, name: str) -> None:
    """No property can be set, and there are no further attributes."""
    with pytest.raises(AttributeError):
        setattr(root, name, 0)


# Arguments


class Index:
    """What stands for an int, and is nothing else."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


NUMBERS: dict[str, Callable[[Capability, Any], object]] = {
    "with_address": lambda root, n: root.with_address(root.address + n if type(n) is int else n),
    "with_offset": lambda root, n: root.with_offset(n),
    "add": lambda root, n: root + n,
    "subtract": lambda root, n: root - n,
    "with_bounds": lambda root, n: root.with_bounds(n),
    "with_exact_bounds": lambda root, n: root.with_exact_bounds(n),
    "load_capability": lambda root, n: root.load_capability(n),
    "store_capability": lambda root, n: root.store_capability(n, root),
    "load_capabilities": lambda root, n: root.load_capabilities(n, n),
    "store_capabilities": lambda root, n: root.store_capabilities(n, [root]),
    "fill_capabilities": lambda root, n: root.fill_capabilities(n, n, root),
    "read": lambda root, n: root.read(n, n),
    "write": lambda root, n: root.write(n, b"data"),
    "view": lambda root, n: root.view(n, n),
    "copy_to": lambda root, n: root.copy_to(root, n),
}
each_number = pytest.mark.parametrize("call", NUMBERS.values(), ids=NUMBERS.keys())


@each_number
@pytest.mark.parametrize("wrong", [1.0, Decimal(16), Fraction(16), "16", None, b"\x10"], ids=repr)
def test_what_is_no_int_is_a_type_error(root: Capability, call: Callable[..., object], wrong: object) -> None:
    """Addresses, offsets, lengths and counts are ints."""
    with pytest.raises(TypeError):
        call(root, wrong)


@each_number
def test_whatever_stands_for_an_int_is_taken(root: Capability, call: Callable[..., object]) -> None:
    """Integers of other libraries, which have `__index__`, are ints here."""
    call(root, Index(16))


@each_number
@pytest.mark.parametrize("wrong", [WORD_END, -WORD_END, 10**5000], ids=["2**64", "-2**64", "10**5000"])
def test_numbers_have_64_bits(root: Capability, call: Callable[..., object], wrong: int) -> None:
    """A number that no register holds is a ValueError."""
    with pytest.raises(ValueError, match=r"must be at least|Exceeds the limit"):
        call(root, wrong)


@pytest.mark.parametrize("wrong", [None, 0, "root", object], ids=repr)
def test_capabilities_are_needed(root: Capability, wrong: Any) -> None:
    """Where a capability belongs, anything else is a TypeError."""
    for call in (
        lambda: root.seal(wrong),
        lambda: root.unseal(wrong),
        lambda: root.store_capability(0, wrong),
        lambda: root.store_capabilities(0, [root, wrong]),
        lambda: root.fill_capabilities(0, 1, wrong),
        lambda: root.copy_to(wrong, 16),
        lambda: root.with_permissions(wrong),
    ):
        with pytest.raises(TypeError):
            call()
    assert root.read(0, 64) == bytes(64)


def test_a_look_alike_is_no_capability(root: Capability) -> None:
    """An object that has the private attribute of a capability, but is none, is not stored."""

    class LookAlike:
        _register = root._register

    with pytest.raises(TypeError):
        root.store_capability(0, LookAlike())  # type: ignore[arg-type]


@each_number
@pytest.mark.parametrize("wrong", ["text", WORD_END], ids=repr)
def test_a_refused_argument_costs_no_register(root: Capability, call: Callable[..., object], wrong: object) -> None:
    """A call that is refused for its arguments gives back the register that its result would have gone to."""
    call(root, 16)
    before = len(_registers.free)
    for _ in range(3):
        with pytest.raises((TypeError, ValueError)):
            call(root, wrong)
    assert len(_registers.free) == before


def test_offsets_wrap(root: Capability) -> None:
    """A negative offset counts backwards; the sum with the address is modulo 2**64, as the ISA's addition."""
    (root + 32).write(-16, b"back")
    assert root.read(16, 4) == b"back"
    assert (root + 32).read(WORD_END - 16, 4) == b"back"
    (root + 32).store_capability(-32, root)
    assert (root + 32).load_capability(WORD_END - 32) == root


# Data


@pytest.mark.parametrize("data", [b"sixteen bytes ok", bytearray(3), memoryview(b"abc"), memoryview(b"abcd").cast("H")])
def test_write_takes_any_buffer(root: Capability, data: Any) -> None:
    """Whatever is a contiguous buffer is written byte by byte."""
    root.write(5, data)
    assert root.read(5, len(bytes(data))) == bytes(data)


def test_reads_and_writes_cross_pages(root: Capability) -> None:
    """A range may begin and end anywhere."""
    data = bytes(range(256)) * 16
    root.write(PAGE - 100, data)
    assert root.read(PAGE - 100, len(data)) == data
    assert root.read(PAGE - 101, 2) == b"\0\0"


@pytest.mark.parametrize("offset", [0, 7, 2 * PAGE])
def test_nothing_may_be_read_and_written_anywhere(root: Capability, offset: int) -> None:
    """A length of 0 is allowed up to the very end, and no further."""
    assert root.read(offset, 0) == b""
    root.write(offset, b"")
    assert len(root.view(offset, 0, writable=True)) == 0
    with pytest.raises(capshm.BoundsViolation):
        root.read(2 * PAGE + 1, 0)


def test_a_view_is_the_memory_itself(root: Capability) -> None:
    """Changes are seen both ways, through any view, at once."""
    view, other = root.view(16, 32, writable=True), root.view(20, 4)
    assert (view.format, view.nbytes, view.readonly, other.readonly) == ("B", 32, False, True)
    view[4:8] = b"view"
    assert bytes(other) == b"view" == root.read(20, 4)
    root.write(20, b"back")
    assert bytes(other) == b"back"


def test_a_view_is_read_only_unless_asked(root: Capability) -> None:
    """Without `writable` a view cannot change anything, and with it STORE is needed."""
    with pytest.raises(TypeError):
        root.view(0, 16)[0] = 1
    read_only = root.with_permissions(root.permissions.without(P.STORE))
    assert read_only.view(0, 16).readonly
    with pytest.raises(capshm.PermissionViolation):
        read_only.view(0, 16, writable=True)


# Faults


def test_a_fault_says_where_and_through_what(root: Capability) -> None:
    """A fault has signal, code, address and capability, and its message names process, operation and reason."""
    with pytest.raises(capshm.BoundsViolation, match=r"process \d+: read 4 bytes at 0x.* through 0x.*bounds") as caught:
        root.with_bounds(16).read(14, 4)
    fault = caught.value
    assert (fault.signal, fault.code) == ("SIGPROT", "PROT_CHERI_BOUNDS")
    assert fault.address == root.address + 14
    assert fault.capability == root.with_bounds(16)


LACKING: dict[str, Callable[[Capability], object]] = {
    "LOAD": lambda root: root.with_permissions(P.STORE).read(0, 1),
    "STORE": lambda root: root.with_permissions(P.LOAD).write(0, b"x"),
    "STORE_CAP": lambda root: root.with_permissions(P.STORE).store_capability(0, root),
    "STORE_LOCAL": lambda root: root.with_permissions(P.STORE | P.STORE_CAP).store_capability(
        0, root.with_permissions(P.LOAD)
    ),
}


@pytest.mark.parametrize(("permission", "access"), LACKING.items(), ids=LACKING.keys())
def test_a_permission_that_lacks_is_named(
    root: Capability, permission: str, access: Callable[[Capability], object]
) -> None:
    """The first one in the order of the checks."""
    with pytest.raises(capshm.PermissionViolation, match=rf"lacks .*{permission}$"):
        access(root)


def test_text_is_not_written(root: Capability) -> None:
    """The error says what would be."""
    with pytest.raises(TypeError, match="must be bytes, or another contiguous buffer, not str"):
        root.write(0, "text")  # type: ignore[arg-type]


def test_past_the_end_of_the_object(segment: Segment, root: Capability) -> None:
    """A truncated object gives SIGBUS at the page that is gone, where it is read and where it is stored to."""
    os.truncate(segment.fd, PAGE)
    for access in (
        lambda: root.read(PAGE - 8, 16),
        lambda: root.write(PAGE - 8, bytes(16)),
        lambda: root.load_capability(PAGE),
        lambda: root.store_capability(PAGE, root),
        lambda: root.copy_to(root + PAGE, 16),
        lambda: (root + PAGE).copy_to(root, 16),
    ):
        with pytest.raises(capshm.PageViolation) as caught:
            access()
        fault = caught.value
        assert (fault.signal, fault.code, fault.address) == ("SIGBUS", "BUS_ADRERR", root.address + PAGE)
    assert root.load_capability(0).tag is False


FAULTS: list[type[Fault]] = [Fault, *Fault.__subclasses__()]
SAMPLES: dict[type[errors.CapshmError], dict[str, Any]] = {
    errors.CapshmError: {},
    **{kind: {"code": "CODE", "address": 0x1000, "capability": None} for kind in FAULTS},
    errors.PageViolation: {"code": "BUS_ADRERR", "address": 0x1000, "signal": "SIGBUS", "capability": None},
    errors.NotAttached: {},
    errors.HolderStopped: {"pid": 4711},
    errors.RevocationIncomplete: {"processes": [(4711, "inside an operation")]},
    errors.Refused: {"errno": errno.EACCES, "rule": "cheribsd:E2"},
    errors.ZxError: {"status": -30, "rule": "vmar:1.3/8e", "results": [-30]},
    errors.BrokerGone: {},
    errors.LayoutMismatch: {},
    errors.LeakFound: {"leaks": ["a process"]},
}
ALL_ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]


@pytest.mark.parametrize("kind", ALL_ERRORS)
def test_every_error_pickles(kind: type[errors.CapshmError]) -> None:
    """Message, fields and what was added later survive; so do copies."""
    fields = SAMPLES[kind]
    error = kind("what happened", **fields)
    error.add_note("and where")
    for travelled in pickle.loads(pickle.dumps(error)), copy.copy(error):
        assert type(travelled) is kind
        assert travelled.args == error.args
        assert str(travelled) == str(error)
        assert str(travelled).startswith("what happened")
        assert travelled.__notes__ == ["and where"]
        assert {name: getattr(travelled, name) for name in fields} == fields
        assert getattr(travelled, "signal", None) == getattr(error, "signal", None)


def test_the_capability_of_a_fault_arrives_untagged(root: Capability) -> None:
    """A fault that travels takes its capability along as every pickle does."""
    with pytest.raises(Fault) as caught:
        root.read(-1, 1)
    travelled = pickle.loads(pickle.dumps(caught.value))
    assert travelled.capability == root.without_tag()
    assert travelled.address == root.address - 1


@pytest.mark.parametrize("kind", ALL_ERRORS)
def test_every_error_is_public(kind: type[errors.CapshmError]) -> None:
    """Each error can be caught by a name of the package, or of the face it belongs to, and by that of their base."""
    if kind is errors.ZxError:
        assert zircon.ZxError is kind
    else:
        assert getattr(capshm, kind.__name__) is kind
        assert kind.__name__ in capshm.__all__
    assert issubclass(kind, errors.CapshmError)
