"""Whatever is handed to any public name, or to the core itself: an answer or a documented error, never a crash.

The public surface is found by looking: a function, class or method is called with values for each of its parameters,
good and bad ones mixed. What a parameter is called says which values are good for it, so a new method of known
parameters is tested by itself, and one with a new parameter fails here until `World.good` knows it.
"""

import inspect
import random
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, chdir, suppress
from decimal import Decimal
from fractions import Fraction
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as with_seed
from hypothesis import strategies as st

import capshm
from capshm import CapabilityArray, Permissions, encoding, errors, sealing_root, testing
from capshm._native import ffi, lib
from capshm.testing import Segment, Shadow, closed_gate
from tests.faults.isolation import isolated

PAGE = 4096
WORD_END = 1 << 64
ALLOWED = (errors.CapshmError, TypeError, ValueError, OSError, MemoryError)

pytestmark = pytest.mark.slow


# What to call

SPECIAL = {"__add__", "__sub__", "__eq__", "__hash__", "__str__", "__repr__", "__getitem__", "__len__", "__iter__"}
SPECIAL |= {"__contains__", "__reversed__", "__copy__", "__deepcopy__", "__reduce__", "__enter__"}


def members(name: str, kind: type) -> Iterator[tuple[str, Callable[..., object]]]:
    """The class itself and its public methods and properties, with the object as the parameter `self`."""
    yield name, kind
    for attribute, value in vars(kind).items():
        if attribute.startswith("_") and attribute not in SPECIAL:
            continue
        if isinstance(value, property):
            assert value.fget is not None
            yield f"{name}.{attribute}", value.fget
        elif isinstance(value, classmethod):
            yield f"{name}.{attribute}", getattr(kind, attribute)
        elif inspect.isfunction(value):
            yield f"{name}.{attribute}", value


def public_names(module: ModuleType) -> list[str]:
    """What a module offers: what it lists, or what it defines without an underscore."""
    listed: list[str] | None = getattr(module, "__all__", None)
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    return listed or [name for name in own if not name.startswith("_")]


def surface(module: ModuleType) -> dict[str, Callable[..., object]]:
    """Everything in a module that can be called, by its name; modules in it have a surface of their own."""
    found: dict[str, Callable[..., object]] = {}
    for name in public_names(module):
        if name in MACHINE | RECORDS:
            continue
        value = getattr(module, name)
        if isinstance(value, type) and (module is errors or not issubclass(value, Exception)):
            found.update(members(name, value))
        elif inspect.isfunction(value):
            found[name] = value
    return found


# These start processes: tests/unit/test_machine.py and tests/faults/test_broker.py have their bad arguments.
MACHINE = {"Machine", "Facts", "attach", "current"}

# What a history consists of: users read these, and make none.
RECORDS = {"Kind", "Operation", "Result", "Value", "Violation"}

MODULES = {module.__name__: module for module in (capshm, encoding, errors, testing)}


def parameters(call: Callable[..., object]) -> dict[str, inspect.Parameter]:
    """Its public parameters by name. What classes inherit from Python itself is not asked."""
    if isinstance(call, type) and not any("__init__" in vars(base) for base in own_bases(call)):
        return {"raw": inspect.Parameter("raw", inspect.Parameter.POSITIONAL_ONLY)}
    named = inspect.signature(call).parameters
    return {name: parameter for name, parameter in named.items() if not name.startswith("_")}


def own_bases(kind: type) -> list[type]:
    """The class and those of its bases that are ours."""
    return [base for base in kind.__mro__ if base.__module__.startswith("capshm")]


# What to call it with


class Index:
    """What stands for an int, and is nothing else."""

    def __index__(self) -> int:
        return 16


def edges() -> list[int]:
    """Numbers around which something changes."""
    powers = [1 << bit for bit in (0, 4, 10, 12, 16, 24, 31, 32, 34, 36, 60, 63, 64, 65, 200)]
    return [0, -1, *[power + delta for power in powers for delta in (-1, 0, 1)], *[-power for power in powers]]


class World:
    """A segment, the objects that calls are made on and with, and the values for parameters."""

    def __init__(self) -> None:
        self.segment = Segment(2 * PAGE)
        root = self.root = self.segment.root
        with Segment(PAGE) as closed:
            pass
        root.store_capabilities(0, [root, root.seal_entry(), root.without_tag()])
        self.capabilities = [
            root,
            root + 8,
            (root + PAGE).with_bounds(64),
            root.with_bounds(0),
            root.without_tag(),
            root.seal_entry(),
            root.seal(sealing_root()),
            root.with_permissions(Permissions(0)),
            root.with_address(WORD_END - 1),
            self.segment.map("r"),
            self.segment.map("rwR"),
            closed.root,
            sealing_root(),
            root.load_capability(PAGE),
        ]
        self.addresses = range(root.base - PAGE, root.top + PAGE)
        arrays = [CapabilityArray.of([]), root.load_capabilities(0, 5), root.load_capabilities(0, 5)[::-2]]
        segments = [self.segment, closed]
        self.history = testing.History(capacity=1 << 16)
        capability, array = st.sampled_from(self.capabilities), st.sampled_from(arrays)
        permissions = st.sampled_from([*Permissions, Permissions(0)])
        self.receivers: dict[str, st.SearchStrategy[Any]] = {
            "Capability": capability,
            "Refused": st.just(errors.Refused("refused", errno=13, rule="cheribsd:E2")),
            "ZxError": st.just(errors.ZxError("refused", status=-30, rule="vmar:1.3/8e")),
            "CapabilityArray": array,
            "Permissions": permissions,
            "Segment": st.sampled_from(segments),
            "Shadow": st.just(Shadow()),
            "History": st.just(self.history),
            "SweepCounts": st.just(testing.SweepCounts(0, 0, 0)),
            "Decoded": st.just(encoding.decode(0, 0)),
        }
        number = st.integers(-64, 3 * PAGE) | st.sampled_from(edges())
        lists = st.lists(capability, max_size=5)
        self.good: dict[str, st.SearchStrategy[Any]] = {
            **dict.fromkeys(["offset", "address", "new_address", "increment", "decrement", "index"], number),
            **dict.fromkeys(["length", "count", "size", "metadata", "raw", "tag", "pid", "errno", "status"], number),
            **dict.fromkeys(
                ["lines", "found", "cleared", "base", "top", "start", "end", "object_type", "is_valid"], number
            ),
            **dict.fromkeys(["authority", "destination", "capability", "value", "held"], capability),
            **dict.fromkeys(["writable", "new_epoch", "is_of_all"], st.booleans()),
            **dict.fromkeys(["timeout", "lock_timeout"], st.floats(0, 10)),
            **dict.fromkeys(["message", "code", "signal", "rule", "folder"], st.text(max_size=5)),
            "values": lists | lists.map(tuple) | array,
            "mask": permissions,
            "other": capability | permissions | array,
            "data": st.binary(max_size=64) | st.binary(max_size=64).map(bytearray),
            "memo": st.just({}),
            "call": st.just(bool),
            "fd": st.none() | st.just(self.segment.fd),
            "isa": st.sampled_from([None, "v9"]),  # the other one needs all segments closed
            "permissions": st.text("rwRWx", max_size=5),
            "kernel": st.sampled_from(["automatic", "portable", "avx2", "avx512"]),
            "processes": st.just([(1, "reason")]),
            "leaks": st.just(["a process"]),
            "results": st.just([0, -30]),
            "capacity": st.integers(-1, 1 << 12),
            "source": capability,
            "method": st.just(capshm.Capability.without_tag),
            "descriptor": st.none() | st.just(self.segment.fd),
            "segments": st.sampled_from(segments),
            "path": st.sampled_from(["/dev/null", "/nowhere/at/all", "/"]),
            "history": st.just(self.history),
        }
        numbers = st.integers() | st.sampled_from([*edges(), 10**5000]) | st.floats() | st.booleans()
        others = [None, Index(), Decimal("16.5"), Fraction(1, 3), 1j, object(), int, print, {}, {1: 2}, (), [], [None]]
        others += [[1], range(3), slice(1), memoryview(bytes(8))[::2], bytearray(), iter(()), Ellipsis, Exception()]
        objects = st.sampled_from([*others, Shadow(), *self.capabilities, *arrays, *segments])
        self.bad = numbers | st.text(max_size=5) | st.binary(max_size=5) | objects

    def check(self) -> None:
        """After any call the memory is as usable as before, and the gate is open."""
        assert not lib.capshm_gate_is_mine(), "the gate was left closed"
        if self.segment.fd >= 0:
            self.root.store_capability(0, self.root)
            self.root.write(64, b"works")
            assert self.root.load_capability(0) == self.root
            assert self.root.read(64, 5) == b"works"

    def close(self) -> None:
        self.segment.close()
        self.history.close()


def draw_call(data: st.DataObject, world: World, name: str, call: Callable[..., object]) -> Callable[[], object]:
    """The call with values drawn for its parameters, good and bad ones, and now and then one too many."""
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for key, parameter in parameters(call).items():
        if key == "self":
            a_fault = st.just(errors.Fault("a fault", code="CODE", address=0))
            positional.append(data.draw(world.receivers.get(name.partition(".")[0], a_fault), "self"))
        elif parameter.default is parameter.empty or data.draw(st.booleans()):
            value = data.draw(world.good[key] | world.bad, key)
            if parameter.kind is parameter.KEYWORD_ONLY:
                named[key] = value
            else:
                positional.append(value)
    if data.draw(st.integers(0, 30)) == 30:
        positional.append(None)
    return lambda: call(*positional, **named)


def carry_out(call: Callable[[], object], is_inside: bool) -> None:
    """Make the call, and do with the answer what it is for; documented errors are fine."""
    with suppress(*ALLOWED):
        if is_inside:
            with closed_gate():
                call()
        else:
            result = call()
            if isinstance(result, Segment | testing.History):
                result.close()
            elif isinstance(result, AbstractContextManager) and not isinstance(result, memoryview):
                with result:
                    pass
            elif isinstance(result, Iterator):
                list(result)


def try_call(name: str, call: Callable[..., object], seed: int) -> None:
    """Make many calls in one world."""
    world = World()
    expected = (IndexError,) if name.endswith("__getitem__") else ()

    @with_seed(seed)
    @settings(max_examples=100, deadline=None, print_blob=True, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def check(data: st.DataObject) -> None:
        nonlocal world
        drawn = draw_call(data, world, name, call)
        is_inside = "sweep" in name and data.draw(st.booleans(), "inside the gate")
        try:
            with suppress(*expected):
                carry_out(drawn, is_inside)
            world.check()
        finally:
            lib.capshm_gate_open(True)
            if world.segment.fd < 0:
                world = World()

    try:
        check()
    finally:
        world.close()


@isolated(bound=280)
def any_arguments(module: str, seed: int) -> None:
    """In a process of its own, because a crash ends it: the last line then says what was called."""
    wrong: list[str] = []
    sys.unraisablehook = lambda ignored: wrong.append(f"{ignored.object}: {ignored.exc_value!r}")
    with tempfile.TemporaryDirectory() as folder, chdir(folder):  # any text may be the name of a file
        for name, call in surface(MODULES[module]).items():
            print(f"calling {name}", flush=True)
            try:
                try_call(name, call, seed)
            except BaseException as error:  # an assertion of the core, or a group of several errors
                wrong.append(name)
                traceback.print_exception(error, limit=-6)
    assert not wrong, f"seed {seed}: {sorted(set(wrong))}"


@pytest.mark.parametrize("module", MODULES)
def test_any_arguments(module: str) -> None:
    """Each call returns, or raises one of the documented errors, and afterwards everything still works."""
    any_arguments(module=module, seed=random.randrange(1 << 32))


@pytest.mark.parametrize("module", MODULES)
def test_the_whole_surface_is_known(module: str) -> None:
    """Every parameter of everything that is public has values here: a new one must be given some."""
    found = surface(MODULES[module])
    assert found
    world = World()
    world.close()
    named = {key: name for name, call in found.items() for key in parameters(call)}
    assert {key: name for key, name in named.items() if key not in {"self", *world.good}} == {}


# The core's own entry points

NOT_FOR_RANDOM_NUMBERS = {
    **dict.fromkeys(["capshm_map", "capshm_map_memory", "capshm_unmap_memory"], "addresses of this process's memory"),
    **dict.fromkeys((name for name in dir(lib) if name.startswith("capshm_fork_")), "belong around a fork"),
    **dict.fromkeys(["capshm_plan_child"], "belongs around a fork"),
    **dict.fromkeys(["capshm_block_signals", "capshm_restore_signals"], "the watchdog's signal would be kept off"),
    "capshm_canary": "takes its time, and no numbers",
    "capshm_detach": "there would be nothing left for the others",
    "capshm_gate_close": "what comes after it waits",
    "capshm_keep_gate": "makes a broker of the process, in which nothing else works",
    **dict.fromkeys(["capshm_interruption", "capshm_set_interruption"], "a function, not numbers"),
    "capshm_release": "gives away registers that others hold",
    "capshm_set_lock_timeout": "may be centuries",
    **dict.fromkeys(["capshm_stamp_at", "sweep_by_origin"], "look at memory that only a broker writes"),
    "capshm_populate": "maps memory that the caller has just mapped",
    **dict.fromkeys(["capshm_remote_hold", "capshm_remote_release"], "belong around a request, in pairs"),
    "capshm_remote_take": "takes a packet, whose length recvmsg has said",
}
BUFFER = 1 << 16  # bytes
BOUNDED = {
    "capshm_read": 3,
    "capshm_write": 3,
    "capshm_tags": 1,
    "capshm_gather": 1,
    "capshm_reserve": 0,
    "capshm_gate_processes": 1,
    "capshm_paint_ranges": 1,
}
"""Which argument is the length of a buffer, or takes what others need."""
HARMLESS = {"capshm_step_arm": 2, "capshm_paint": 1, "capshm_paint_ranges": 2, "capshm_make": 3}
"""Which argument is 0, so that nothing is armed, painted (the arena is large) or made up."""


def entry_points() -> list[str]:
    """All functions of the core that take nothing but numbers and places for answers."""
    functions = [name for name in dir(lib) if name.startswith(("capshm_", "sweep_"))]
    return [name for name in functions if name not in NOT_FOR_RANDOM_NUMBERS]


def native_argument(chance: random.Random, world: World, kind: Any) -> Any:
    """A value in the range of this C type; numbers are those of registers, of addresses, or any."""
    if kind.kind == "pointer":
        return ffi.from_buffer(kind, bytearray(BUFFER))
    number = chance.choice(
        [
            chance.choice(world.capabilities)._register,
            chance.choice(world.capabilities)._register,
            chance.randrange(600),
            chance.choice(world.addresses),
            chance.choice(edges()),
            chance.getrandbits(64),
        ]
    )
    return bool(number % 2) if kind.cname == "_Bool" else int(ffi.cast(kind, number))


@isolated()
def native_numbers(seed: int) -> None:
    """Many calls in a row on the same registers and memory: what one leaves behind the next must bear."""
    chance = random.Random(seed)
    names = entry_points()
    for _ in range(200):
        world = World()
        for _ in range(50):
            name = chance.choice(names)
            kinds = ffi.typeof(getattr(lib, name)).args
            arguments = [native_argument(chance, world, kind) for kind in kinds]
            if name in BOUNDED:
                arguments[BOUNDED[name]] %= BUFFER // 64
            if name in HARMLESS:
                arguments[HARMLESS[name]] = 0
            print(f"seed {seed}: {name}{tuple(arguments)}", flush=True)  # the last line before a crash
            getattr(lib, name)(*arguments)
        world.close()


def test_native_entry_points() -> None:
    """The core answers any numbers in the range of C: it reads and writes nothing that is not there."""
    native_numbers(seed=random.randrange(1 << 32))
