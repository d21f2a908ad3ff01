"""`capshm.testing`: what is painted in the shadow, the gate, and the sweeps that take it."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from capshm import (
    BoundsViolation,
    Capability,
    CapshmError,
    Permissions,
    RevocationIncomplete,
    TagViolation,
    sealing_root,
)
from capshm._native import lib
from capshm.testing import Segment, Shadow, SweepCounts, closed_gate, sweep_registers
from tests.faults.isolation import isolated
from tests.faults.processes import Child, Event

P = Permissions
GRANULE = 16
PAGE = 4096
shadow = Shadow()


@pytest.fixture
def painted(root: Capability) -> Iterator[Capability]:
    """A painted capability to the second page."""
    with paint((root + PAGE).with_bounds(256)) as capability:
        yield capability


@contextlib.contextmanager
def paint(capability: Capability) -> Iterator[Capability]:
    """Paint it meanwhile: the shadow belongs to the process and outlives every segment."""
    shadow.paint(capability)
    try:
        yield capability
    finally:
        shadow.clear(capability)


# Shadow


@pytest.mark.parametrize(
    ("start", "length", "granules"),
    [
        (0, 16, range(1)),
        (0, 1, range(1)),
        (8, 16, range(2)),
        (15, 2, range(2)),
        (16, 4096, range(1, 257)),
        (0, 0, range(0)),
        (8, 0, range(0)),
    ],
)
def test_painting(root: Capability, start: int, length: int, granules: range) -> None:
    """Every granule that the bounds touch is painted, wherever the address is, and cleared again; no other is."""
    capability = (root + start).with_bounds(length) + 5
    everywhere = range(300)
    with paint(capability):
        assert {number for number in everywhere if shadow.is_painted(root.base + number * GRANULE)} == set(granules)
        assert all(shadow.is_painted(root.base + number * GRANULE + 15) for number in granules)
        assert Shadow().is_painted(root.base) is (0 in granules)  # there is one shadow
    assert not any(shadow.is_painted(root.base + number * GRANULE) for number in everywhere)


def test_painting_needs_no_tag(root: Capability) -> None:
    """What was revoked can be cleared: neither tag nor seal nor permission is looked at."""
    for capability in root.without_tag(), root.seal_entry(), root.with_permissions(P(0)):
        with paint(capability):
            assert shadow.is_painted(root.base)


@pytest.mark.parametrize("action", [shadow.paint, shadow.clear])
def test_painting_outside_the_arena(root: Capability, action: Callable[[Capability], None]) -> None:
    """Bounds that are not inside the arena are refused whole."""
    null = root.load_capability(0)
    for capability in sealing_root(), null:
        with pytest.raises(BoundsViolation):
            action(capability)


@pytest.mark.parametrize("action", [shadow.paint, shadow.clear])
@pytest.mark.parametrize("wrong", [None, 0, "all"], ids=repr)
def test_painting_what_is_no_capability(action: Any, wrong: object) -> None:
    """Only capabilities are painted."""
    with pytest.raises(TypeError):
        action(wrong)


@pytest.mark.parametrize("address", [0, -1, 1 << 63, (1 << 64) - 1])
def test_nothing_outside_the_arena_is_painted(address: int) -> None:
    """Any other address is not painted."""
    assert shadow.is_painted(address) is False


@pytest.mark.parametrize("address", [None, "0", 1.5], ids=repr)
def test_an_address_is_an_int(address: Any) -> None:
    """An address of a wrong type is a TypeError."""
    with pytest.raises(TypeError):
        shadow.is_painted(address)


# Gate and sweep

KERNELS = ["automatic", "portable", "avx2", "avx512"]


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_sweep_takes_what_is_painted(segment: Segment, root: Capability, painted: Capability, kernel: str) -> None:
    """Tags of capabilities whose base is painted go, from memory and registers; everything else stays."""
    number = {"automatic": lib.SWEEP_AUTOMATIC, "portable": lib.SWEEP_PORTABLE, "avx2": lib.SWEEP_AVX2}
    if not lib.sweep_kernel_is_available(number.get(kernel, lib.SWEEP_AVX512)):
        pytest.skip(f"this processor has no {kernel}")
    inside = (root + PAGE + 240).with_bounds(64)
    kept = [root, (root + PAGE - 16).with_bounds(64), (root + PAGE + 256).with_bounds(16)]
    gone = [painted, painted.seal_entry(), inside, painted + 4000]
    no_memory = painted.with_permissions(P.GLOBAL)
    root.store_capabilities(0, [*kept, *gone, no_memory])
    with closed_gate():
        assert segment.sweep(kernel=kernel) == SweepCounts(lines=16, found=8, cleared=4)
        assert segment.sweep(kernel=kernel) == SweepCounts(lines=16, found=4, cleared=0)
    assert root.load_capabilities(0, 8).tags == b"\1\1\1\0\0\0\0\1"
    assert [value.tag for value in [*kept, *gone, no_memory]] == [True] * 3 + [False] * 4 + [True]
    assert not painted.tag
    with pytest.raises(TagViolation):
        painted.read(0, 1)


def test_registers_are_swept_after_an_epoch(painted: Capability) -> None:
    """A new epoch reaches registers by itself; without one they are swept only where they are asked to be."""
    array = [painted, painted.seal_entry()]
    with closed_gate(new_epoch=False):
        pass
    assert all(value.tag for value in array)
    with closed_gate(new_epoch=False):
        counts = sweep_registers()
        assert counts.found >= counts.cleared >= 2
        assert counts.lines == 0
    assert not any(value.tag for value in array)


def test_sw_vmem_is_out_of_reach() -> None:
    """cheribsd:2.3: a capability with SW_VMEM, such as mmap returns, survives."""
    from capshm.capability import make

    with Segment(PAGE) as segment, paint(segment.root):
        almighty = make(segment.root.base, int(lib.METADATA_ROOT), tag=True).with_bounds(PAGE)
        kept = almighty.with_permissions(P.LOAD | P.SW_VMEM)
        with closed_gate():
            pass
        assert kept.tag
        assert not segment.root.tag


@pytest.mark.parametrize("sweep", [Segment.sweep, lambda _: sweep_registers()], ids=["memory", "registers"])
def test_a_sweep_needs_the_gate(segment: Segment, sweep: Callable[[Segment], SweepCounts]) -> None:
    """Outside the gate, before and after, a sweep is refused."""
    for _ in range(2):
        with pytest.raises(CapshmError, match="closed_gate"):
            sweep(segment)
        with closed_gate():
            sweep(segment)


@pytest.mark.parametrize("kernel", ["fast", "", None, 1, "AVX2"])
def test_kernels_that_do_not_exist(segment: Segment, kernel: Any) -> None:
    """An unknown kernel is refused, with the names of those that this machine has."""
    with pytest.raises(ValueError, match="portable"):
        segment.sweep(kernel=kernel)


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt, GeneratorExit])
def test_exceptions_open_the_gate(root: Capability, error: type[BaseException]) -> None:
    """However the block is left, the gate is open behind it."""
    with pytest.raises(error), closed_gate():
        raise error
    assert not lib.capshm_gate_is_mine()
    assert root.load_capability(0).tag is False


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf"), 1e30, "1", None], ids=repr)
def test_timeouts_that_are_refused(root: Capability, timeout: Any) -> None:
    """A timeout is a number of seconds; a refused one leaves the gate open."""
    with pytest.raises((ValueError, TypeError)), closed_gate(timeout=timeout):
        pass
    assert not lib.capshm_gate_is_mine()
    assert root.tag


@pytest.mark.slow
@isolated()
def test_a_wrong_epoch_argument_does_not_leave_the_gate_closed() -> None:
    """Whatever is given for `new_epoch`: the call is refused before the gate closes, or it is open afterwards."""
    wrong: Any
    for wrong in (None, 2, "yes", (), 1.0):
        with contextlib.suppress(ValueError, TypeError), closed_gate(new_epoch=wrong):
            pass
        assert not lib.capshm_gate_is_mine(), wrong


@pytest.mark.slow
@isolated(bound=30)
def test_a_gate_that_is_closed_already() -> None:
    """Closing it again in the same thread is an error at once: nobody else could open it."""
    with Segment(PAGE) as segment, closed_gate(timeout=0.01):
        with pytest.raises(CapshmError), closed_gate(timeout=0.01):
            pass
        assert lib.capshm_gate_is_mine()
        segment.sweep()


@pytest.mark.slow
@isolated(bound=30)
def test_an_operation_of_the_closer() -> None:
    """An operation by the thread that has closed the gate is an error at once: it would wait for itself for ever."""
    with Segment(PAGE) as segment:
        root = segment.root
        for operation in (
            lambda: root.load_capability(0),
            lambda: root.read(0, 1),
            lambda: root.tag,
            lambda: root + 1,
            lambda: str(root),
            lambda: shadow.paint(root),
        ):
            with closed_gate(), pytest.raises(CapshmError):
                operation()
        assert root.tag


@pytest.mark.slow
@isolated(bound=30)
def test_somebody_else_has_closed_it() -> None:
    """A second closer waits for its timeout and names the first; after the opening it succeeds."""
    with Segment(PAGE) as segment:
        closed, open_it = Event(), Event()

        def body() -> None:
            with closed_gate():
                closed.set()
                open_it.wait()

        with Child(body) as child:
            closed.wait()
            with pytest.raises(RevocationIncomplete) as caught, closed_gate(timeout=0.01):
                pass
            assert [pid for pid, _ in caught.value.processes] == [child.pid]
            open_it.set()
            assert child.wait() == 0
            with closed_gate(timeout=0.01):
                segment.sweep()


@pytest.mark.slow
@isolated()
def test_an_epoch_reaches_other_processes() -> None:
    """A child's registers are swept before its next operation, and what went from memory is gone for it, too."""
    with Segment(PAGE) as segment:
        root = segment.root
        value = (root + 256).with_bounds(16)
        root.store_capability(0, value)
        ready, swept = Event(), Event()

        def body() -> None:
            own = value + 1
            assert own.tag is True
            ready.set()
            swept.wait()
            assert [own.tag] == [False]
            assert not root.load_capability(0).tag

        with Child(body) as child:
            ready.wait()
            shadow.paint(value)
            with closed_gate():
                assert segment.sweep().cleared == 1
            swept.set()
            assert child.wait() == 0
        assert value.tag is False
