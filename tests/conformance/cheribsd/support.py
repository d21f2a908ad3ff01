"""What the tests of rows share: a machine around a test, memory of every kind, and checks that cannot pass by accident.

A value "comes untagged" only where the same granule was seen tagged through another mapping before, and a store "faults
for its tag" only with a value that has one: the checks below see to that.
"""

import contextlib
import functools
import inspect
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from capshm import Capability, Machine, PageViolation, Permissions, Refused, StoreTagViolation, encoding
from capshm import cheribsd as bsd
from tests.faults.isolation import isolated, print_traceback
from tests.faults.processes import Child

T = TypeVar("T")

PAGE = 4096
R = bsd.PROT_READ
RW = bsd.PROT_READ | bsd.PROT_WRITE
RC = R | bsd.PROT_CAP
RWC = RW | bsd.PROT_CAP
RWN = RW | bsd.PROT_NO_CAP
PRIVATE_ANON = bsd.MAP_ANON | bsd.MAP_PRIVATE
SHARED_ANON = bsd.MAP_ANON | bsd.MAP_SHARED
UNREPRESENTABLE = (16 << 20) + PAGE
"""A length whose bounds are rounded up by several pages."""
PADDED = encoding.representable_length(UNREPRESENTABLE)
OWNED_KINDS = pytest.mark.parametrize("kind", ["shm", "memfd"])
"""Objects that belong to the address space of whoever made them."""
ONLY_V9 = pytest.mark.parametrize("isa", ["v9"], indirect=True)
ONLY_RVY = pytest.mark.parametrize("isa", ["rvy"], indirect=True)
_ROOT = Path(__file__).resolve().parents[3]


def emulated(
    policy: str = "cheribsd", *, revoker: str = "stop-the-world", scope: str = "vmspace"
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a test the first process of a machine, in an interpreter of its own, from which it may fork; so it is slow.

    A parameter `machine` of the test is that machine; a parametrized `policy` or `scope` is the machine's.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(function)

        def body(**arguments: object) -> None:
            chosen = {name: str(arguments.get(name, usual)) for name, usual in (("policy", policy), ("scope", scope))}
            with Machine(policy=chosen["policy"], revoker=revoker, scope=chosen["scope"]) as machine:
                if "machine" in signature.parameters:
                    arguments["machine"] = machine
                try:
                    function(**arguments)
                except Exception as error:
                    print_traceback(error)  # while capabilities can still be looked at
                    sys.exit(1)

        functools.update_wrapper(body, function)
        del vars(body)["__wrapped__"]  # the interpreter of the test runs `body`, and not the function alone
        given = [each for name, each in signature.parameters.items() if name != "machine"]
        vars(body)["__signature__"] = signature.replace(parameters=given)
        slow: Callable[..., None] = pytest.mark.slow(isolated()(body))
        return slow

    return decorate


# Refusals and faults


@contextlib.contextmanager
def refused(rule: str, errno: int) -> Iterator[None]:
    """The body is refused, by that rule and with that number."""
    with pytest.raises(Refused) as caught:
        yield
    assert (caught.value.rule, caught.value.errno) == (rule, errno), str(caught.value)


def check_no_store(memory: Capability, offset: int = 0) -> None:
    """A tagged store there faults as a store of a tag, at that address, and leaves the memory as it was."""
    value = new_value()
    before = memory.read(offset, 16)
    with pytest.raises(StoreTagViolation) as caught:
        memory.store_capability(offset, value)
    assert (caught.value.signal, caught.value.code) == ("SIGSEGV", "SEGV_STORETAG")
    assert caught.value.address == memory.address + offset
    assert memory.read(offset, 16) == before
    assert not memory.load_capability(offset).tag


def check_absent(memory: Capability, code: str = "SEGV_MAPERR", offset: int = 0) -> None:
    """Nothing can be read there; code: whether that is for want of a mapping or of permission."""
    with pytest.raises(PageViolation) as caught:
        memory.read(offset, 1)
    assert (caught.value.signal, caught.value.code) == ("SIGSEGV", code)


def store(memory: Capability, offset: int = 0) -> Capability:
    """Store a tagged value, which is returned, and see it there with its tag."""
    value = new_value()
    memory.store_capability(offset, value)
    check_tagged(memory, value, offset)
    return value


def check_tagged(memory: Capability, value: Capability, offset: int = 0) -> None:
    """The value is loaded there with its tag."""
    loaded = memory.load_capability(offset)
    assert loaded.tag
    assert loaded == value


def check_stripped(memory: Capability, value: Capability, offset: int = 0) -> None:
    """The bits of the value are loaded there, without its tag."""
    loaded = memory.load_capability(offset)
    assert not loaded.tag
    assert loaded == value.without_tag()


# Memory

_values: list[Capability] = []


def new_value() -> Capability:
    """A tagged capability to memory of this process that is nothing else's, different from those before."""
    if not _values or _values[-1].address + 16 >= _values[-1].top:
        _values.append(anonymous())
    _values.append(_values[-1] + 16)
    value = _values[-1]
    assert value.tag
    return value


def bits(value: Capability) -> bytes:
    """The sixteen bytes of a capability."""
    scratch = anonymous()
    scratch.store_capability(0, value)
    return scratch.read(0, 16)


def anonymous(prot: int = RW, length: int = PAGE, flags: int = PRIVATE_ANON) -> Capability:
    """Memory without descriptor."""
    return bsd.mmap(None, length, prot, flags)


def guard(pages: int = 3) -> Capability:
    """A reservation in which nothing is mapped, whose pointer may read and write what will be."""
    return bsd.mmap(None, pages * PAGE, bsd.PROT_MAX(RW), bsd.MAP_GUARD)


def without_vmem(memory: Capability) -> Capability:
    """The pointer as an allocator would hand it out."""
    return memory.with_permissions(memory.permissions.without(Permissions.SW_VMEM))


def free_address() -> int:
    """Where nothing is reserved."""
    return anonymous().base + (1 << 30)


def new_object(kind: str = "shm", length: int = PAGE) -> int:
    """A descriptor of a new object: "shm", "share-cap", "memfd", "file" or "zero" (/dev/zero)."""
    if kind == "zero":
        return os.open("/dev/zero", os.O_RDWR)
    if kind == "memfd":
        descriptor = bsd.memfd_create("object")
    elif kind == "file":
        descriptor = os.open("/tmp", os.O_RDWR | os.O_TMPFILE, 0o600)
    else:
        flags = {"shm": 0, "share-cap": bsd.O_SHARECAP}[kind]
        descriptor = bsd.shm_open(bsd.SHM_ANON, os.O_RDWR | flags)
    os.ftruncate(descriptor, length)
    return descriptor


def new_named(path: str, flags: int = 0, length: int = PAGE) -> int:
    """A descriptor of a new object with that name."""
    descriptor = bsd.shm_open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | flags)
    os.ftruncate(descriptor, length)
    return descriptor


def shared(descriptor: int, prot: int = RWC, length: int = PAGE) -> Capability:
    """Map it MAP_SHARED, from its beginning."""
    return bsd.mmap(None, length, prot, bsd.MAP_SHARED, descriptor)


def private(descriptor: int, prot: int = RW, length: int = PAGE) -> Capability:
    """Map it MAP_PRIVATE, from its beginning."""
    return bsd.mmap(None, length, prot, bsd.MAP_PRIVATE, descriptor)


# Processes


@contextlib.contextmanager
def receiver(body: Callable[[socket.socket], object]) -> Iterator[socket.socket]:
    """A child, forked before the with-block makes anything, runs `body` with a socket whose other end is yielded.

    It must end well.
    """
    ours, theirs = socket.socketpair()
    with Child(functools.partial(body, theirs)) as child, ours:
        theirs.close()
        yield ours
        assert child.wait() == 0


def send_descriptor(end: socket.socket, descriptor: int) -> None:
    """By SCM_RIGHTS."""
    socket.send_fds(end, [b"!"], [descriptor])


def receive_descriptor(end: socket.socket) -> int:
    """What `send_descriptor` sent at the other end."""
    text, (descriptor,), _, _ = socket.recv_fds(end, 1, 1)
    assert text == b"!"
    return descriptor


def run_program(
    machine: Machine, name: str, *arguments: int | str, descriptors: Sequence[int] = (), are_closed: bool = True
) -> object:
    """What a function of programs.py returns that runs in a new program, one that no process of the test has forked.

    descriptors: those that it gets; without `are_closed` all that are not close-on-exec.
    """
    command = [sys.executable, "-W", "error", "-m", "tests.conformance.cheribsd.programs", name]
    with machine.spawn(
        [*command, json.dumps(arguments)],
        cwd=_ROOT,
        pass_fds=tuple(descriptors),
        close_fds=are_closed,
        stdout=subprocess.PIPE,
    ) as program:
        output, _ = program.communicate()
    assert program.returncode == 0
    return json.loads(output)


def wait_until(is_so: Callable[[], bool]) -> None:
    """Return when it is so: for what another process does by itself in the end."""
    while not is_so():
        os.sched_yield()
