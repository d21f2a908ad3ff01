"""Mappings as the core carries them out: objects, private memory, pages that become private, and what a fork keeps."""

import ctypes
import functools
import itertools
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from capshm import Capability, PageViolation, Permissions, StoreTagViolation, capability
from capshm._native import ffi, lib
from capshm.model.constants import ARENA_SIZE, ARENA_START
from tests.faults.isolation import isolated
from tests.faults.processes import Child, Event, join

PAGE: int = lib.PAGE_BYTES
SIZE = 64 * PAGE
ALL = lib.PAGE_READ | lib.PAGE_WRITE | lib.PAGE_LOAD_CAP | lib.PAGE_STORE_CAP
DATA = lib.PAGE_READ | lib.PAGE_WRITE
MEMORY = (
    Permissions.GLOBAL
    | Permissions.LOAD
    | Permissions.STORE
    | Permissions.LOAD_CAP
    | Permissions.STORE_CAP
    | Permissions.STORE_LOCAL
)


def attach() -> None:
    """Attach to a gate that lies behind a descriptor, as a broker's does."""
    gate = os.memfd_create("gate")
    os.ftruncate(gate, lib.capshm_gate_size())
    assert lib.capshm_attach(ARENA_START, ARENA_SIZE, gate) == lib.STATUS_OK
    os.close(gate)


class Object:
    """Memory that several mappings share: its descriptors, as a broker would keep them."""

    def __init__(self, number: int = 1, size: int = SIZE) -> None:
        self.number = number
        self.data, self.tags, self.clear = (os.memfd_create(name) for name in ("data", "tags", "clear"))
        for descriptor, length in (
            (self.data, size),
            (self.tags, lib.TWINS_OFFSET + lib.OBJECT_SIZE_MAX),
            (self.clear, lib.OBJECT_SIZE_MAX // 128),
        ):
            os.ftruncate(descriptor, length)


def place(number: int) -> int:
    """An address for the numbered mapping of a test."""
    return ARENA_START + number * 4 * SIZE


def map_at(
    address: int,
    of: Object | None = None,
    *,
    length: int = SIZE,
    offset: int = 0,
    permissions: int = ALL,
    shared: bool = True,
    kept: bool = True,
    taggable: bool = True,
) -> Capability:
    """Map an object, or private memory, and return a capability over it."""
    mapping = _mapping(address, of, length, offset, permissions, shared, kept, taggable)
    assert lib.capshm_map_object(mapping) == lib.STATUS_OK, os.strerror(ffi.errno)
    return _over(address, length)


def move(memory: Capability, of: Object, *, permissions: int = ALL, taggable: bool = True) -> int:
    """Move private memory into an object; the status."""
    mapping = _mapping(memory.address, of, memory.length, 0, permissions, True, True, taggable)
    status: int = lib.capshm_move_into_object(mapping, of.data, of.tags if taggable else -1)
    return status


def _over(address: int, length: int) -> Capability:
    return capability.make(address, lib.METADATA_ROOT, tag=True).with_bounds(length).with_permissions(MEMORY)


def _mapping(
    address: int,
    of: Object | None,
    length: int,
    offset: int,
    permissions: int,
    shared: bool,
    kept: bool,
    taggable: bool,
) -> object:
    mapping = ffi.new("struct capshm_object_mapping *")
    mapping.address, mapping.length, mapping.offset, mapping.permissions = address, length, offset, permissions
    mapping.data, mapping.tags, mapping.clear = -1, -1, -1
    if of is not None:
        mapping.data, mapping.object = of.data, of.number
        if taggable:
            mapping.tags, mapping.clear = of.tags, of.clear
    mapping.is_shared, mapping.is_tags_writable, mapping.is_kept_at_fork = shared, shared, kept
    mapping.is_clear_writable = shared
    return mapping


@pytest.mark.slow
@isolated()
def test_private_memory_is_copied_at_fork_with_its_tags() -> None:
    """F1: a child finds the tags of private memory; what either stores then, the other does not see."""
    attach()
    memory = map_at(place(0))
    memory.store_capability(0, memory)
    stored = Event()

    def body() -> None:
        stored.wait()
        assert memory.load_capability(0) == memory
        assert not memory.load_capability(16).tag
        memory.store_capability(32, memory)
        memory.write(0, b"child")

    with Child(body) as child:
        memory.store_capability(16, memory)
        stored.set()
        assert child.wait() == 0
    assert memory.load_capability(0) == memory
    assert not memory.load_capability(32).tag


@pytest.mark.slow
@isolated()
def test_a_child_loses_the_tags_of_what_is_not_kept() -> None:
    """F2 to F4, F7, F8: through an owner-bound object a child sees bytes; through a share-cap one capabilities."""
    attach()
    bound, common = Object(1), Object(2)
    owned, shared = map_at(place(0), bound, kept=False), map_at(place(1), common)
    for memory in (owned, shared):
        memory.store_capability(0, memory)
        memory.store_capability(PAGE, memory)

    def body() -> None:
        assert owned.load_capability(0) == owned.without_tag()
        with pytest.raises(StoreTagViolation):
            owned.store_capability(16, owned)
        owned.write(PAGE, owned.read(PAGE, 16))
        assert shared.load_capability(0) == shared
        shared.store_capability(16, shared)
        assert _sidebands() == 1

    with Child(body) as child:
        assert child.wait() == 0
    assert owned.load_capability(0) == owned
    assert not owned.load_capability(PAGE).tag
    assert shared.load_capability(16) == shared


def _sidebands() -> int:
    """How many mappings of tag lines this process has: they begin at the beginning of a file called tags."""
    lines = Path("/proc/self/maps").read_text(encoding="ascii").splitlines()
    return sum("/memfd:tags" in line and line.split()[2] == "00000000" for line in lines)


def _store(memory: Capability) -> None:
    memory.store_capability(16, memory)


def _write(memory: Capability) -> None:
    memory.write(16, b"x" * 16)


def _write_by_view(memory: Capability) -> None:
    memory.view(16, 16, writable=True)[:] = b"x" * 16


def _write_past_capshm(memory: Capability) -> None:
    ctypes.memset(memory.address + 16, 1, 16)


def _copy(memory: Capability) -> None:
    memory.copy_to(memory + 16, 16)


@pytest.mark.slow
@pytest.mark.parametrize("write", ["_store", "_write", "_write_by_view", "_write_past_capshm", "_copy"])
@isolated()
def test_a_private_page_parts_as_a_whole(write: str) -> None:
    """MAP_PRIVATE: the first write, however it comes, takes data and tags of its page along, and no other page."""
    attach()
    of = Object()
    origin, private = map_at(place(0), of), map_at(place(1), of, shared=False)
    origin.store_capability(0, origin)
    origin.store_capability(PAGE, origin)
    assert private.load_capability(0) == origin
    change: Callable[[Capability], None] = globals()[write]
    change(private)
    assert private.load_capability(0) == origin
    assert origin.read(16, 16) == bytes(16)
    origin.store_capability(64, origin)
    origin.write(0, b"later")
    assert private.load_capability(0) == origin
    assert not private.load_capability(64).tag
    origin.write(PAGE, b"later")
    assert not private.load_capability(PAGE).tag


@pytest.mark.slow
@isolated()
def test_private_pages_cross_a_fork() -> None:
    """F1 for MAP_PRIVATE: a child has copied pages as they were, and goes on seeing the object through the others."""
    attach()
    of = Object()
    origin, private = map_at(place(0), of), map_at(place(1), of, shared=False)
    origin.store_capability(PAGE, origin)
    private.store_capability(0, private)

    def body() -> None:
        assert private.load_capability(0) == private
        assert private.load_capability(PAGE) == origin
        private.store_capability(PAGE, private)
        ctypes.memset(private.address + 2 * PAGE, 1, 1)

    with Child(body) as child:
        assert child.wait() == 0
    assert origin.load_capability(PAGE) == private.load_capability(PAGE) == origin
    assert private.read(2 * PAGE, 1) == b"\0"


@pytest.mark.slow
@isolated()
def test_threads_that_write_one_private_page_at_once() -> None:
    """Threads that write to the same page past the library copy it once, and lose no byte."""
    attach()
    private = map_at(place(0), Object(), shared=False)
    start = threading.Barrier(4)

    def body(number: int) -> None:
        for page in range(SIZE // PAGE):
            start.wait()
            ctypes.memset(private.address + page * PAGE + number, number + 1, 1)

    threads = [threading.Thread(target=body, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        join(thread)
    assert all(private.read(page * PAGE, 5) == b"\1\2\3\4\0" for page in range(SIZE // PAGE))


@pytest.mark.slow
@isolated()
def test_a_file_mapped_privately_holds_capabilities_once_written() -> None:
    """A2, A18: pages of a file hold no tags; those that were written are private memory, and do."""
    attach()
    private = map_at(place(0), Object(), shared=False, taggable=False)
    assert not private.load_capability(0).tag
    private.store_capability(0, private)
    assert private.load_capability(0) == private
    shared = map_at(place(1), Object(), taggable=False)
    shared.write(0, b"plain")
    with pytest.raises(StoreTagViolation):
        shared.store_capability(0, shared)


@pytest.mark.slow
@isolated()
def test_a_window_of_an_object() -> None:
    """A mapping that begins in the middle of an object has the tags of that part, and no others."""
    attach()
    of = Object()
    whole, part = map_at(place(0), of), map_at(place(1), of, offset=37 * PAGE, length=PAGE)
    part.store_capability(PAGE - 16, part)
    assert whole.load_capability(38 * PAGE - 16) == part
    assert [offset for offset, tag in enumerate(whole.load_capabilities(0, SIZE // 16).tags) if tag] == [
        38 * PAGE // 16 - 1
    ]


@pytest.mark.slow
@isolated()
def test_protection_reaches_capshm_and_the_kernel() -> None:
    """B1, B4: what is taken away is refused, also past the library; what is given back works with the old tags."""
    attach()
    of = Object()
    for memory in (map_at(place(0)), map_at(place(1), of), map_at(place(2), of, shared=False)):
        memory.store_capability(0, memory)
        lib.capshm_protect(memory.address, SIZE, lib.PAGE_READ)
        assert memory.load_capability(0) == memory.without_tag()
        with pytest.raises(PageViolation):
            memory.write(0, b"x")
        with Child(functools.partial(ctypes.memset, memory.address, 1, 1)) as child:
            assert child.wait() != 0
        lib.capshm_protect(memory.address, SIZE, ALL)
        assert memory.load_capability(0) == memory
        memory.store_capability(PAGE, memory)


@pytest.mark.slow
@isolated()
def test_what_is_mapped_again_has_no_tags() -> None:
    """Memory that is unmapped takes its tags along; a new mapping in its place starts empty, whatever was there."""
    attach()
    of = Object()
    memory = map_at(place(0))
    memory.fill_capabilities(0, SIZE // 16, memory)
    assert lib.capshm_unmap_range(place(0) + PAGE, PAGE) == lib.STATUS_OK
    with pytest.raises(PageViolation):
        memory.read(PAGE, 1)
    assert memory.load_capability(2 * PAGE) == memory
    map_at(place(0), of, length=2 * PAGE)
    map_at(place(0) + 2 * PAGE, length=PAGE)
    assert not any(memory.load_capabilities(0, 3 * PAGE // 16).tags)
    assert all(memory.load_capabilities(3 * PAGE, PAGE // 16).tags)
    map_at(place(0))
    assert not any(memory.load_capabilities(0, SIZE // 16).tags)


@pytest.mark.slow
@isolated()
def test_a_stage_becomes_private_memory_of_a_child() -> None:
    """INHERIT_COPY of shared memory: a child adopts the snapshot, tags included, and shares nothing any more."""
    attach()
    memory = map_at(place(0), Object(), kept=False)
    memory.store_capability(PAGE, memory)
    lib.capshm_protect(memory.address, SIZE, 0)
    stage = ffi.new("uint64_t *")
    assert lib.capshm_stage(memory.address, SIZE, stage) == lib.STATUS_OK
    lib.capshm_protect(memory.address, SIZE, ALL)
    memory.write(0, b"after the snapshot")

    def body() -> None:
        assert lib.capshm_adopt(stage[0], memory.address, ALL) == lib.STATUS_OK
        lib.capshm_drop_stage(stage[0])
        assert memory.load_capability(PAGE) == memory
        assert memory.read(0, 5) == bytes(5)
        memory.store_capability(0, memory)

    with Child(body) as child:
        assert child.wait() == 0
    lib.capshm_drop_stage(stage[0])
    assert memory.read(0, 5) == b"after"


@pytest.mark.slow
@isolated()
def test_regions_and_areas_do_not_grow() -> None:
    """Mapping and unmapping ten thousand times leaves as many areas of the kernel as before."""
    attach()
    of = Object()
    map_at(place(1), of)

    def areas() -> int:
        return len(Path("/proc/self/maps").read_text(encoding="ascii").splitlines())

    before = areas()
    for _ in range(10_000):
        map_at(place(0), of, length=PAGE)
        lib.capshm_unmap_range(place(0), PAGE)
    assert areas() == before


@pytest.mark.slow
@isolated()
def test_detaching_takes_every_tag() -> None:
    """After a process has left its gate no capability of it is tagged, nothing is mapped, and it may join another."""
    attach()
    memory = map_at(place(0))
    memory.store_capability(0, memory)
    lib.capshm_detach()
    attach()
    assert not memory.tag
    fresh = map_at(place(0))
    assert not fresh.load_capability(0).tag
    fresh.store_capability(0, fresh)
    assert fresh.load_capability(0) == fresh


@pytest.mark.slow
@isolated()
def test_the_gate_knows_who_is_there() -> None:
    """The gate names every living process that has a slot in it."""
    attach()
    memory = map_at(place(0))
    memory.store_capability(0, memory)
    ready, go = Event(), Event()

    def body() -> None:
        memory.load_capability(0)
        ready.set()
        go.wait()

    pids = ffi.new("int32_t[]", 8)
    with Child(body) as child:
        ready.wait()
        assert sorted(pids[0 : lib.capshm_gate_processes(pids, 8)]) == sorted([os.getpid(), child.pid])
        go.set()
        assert child.wait() == 0
    assert list(pids[0 : lib.capshm_gate_processes(pids, 8)]) == [os.getpid()]


@pytest.mark.slow
@isolated()
def test_a_private_page_that_cannot_be_read_is_copied_all_the_same() -> None:
    """MAP_PRIVATE with PROT_WRITE alone: every kind of write works, and takes the page's data along."""
    attach()
    of = Object()
    origin = map_at(place(0), of)
    origin.write(0, b"before")
    private = map_at(place(1), of, shared=False, permissions=lib.PAGE_WRITE | lib.PAGE_STORE_CAP)
    private.write(16, b"by a call")
    private.store_capability(PAGE, private)
    ctypes.memset(private.address + 2 * PAGE, 1, 1)
    lib.capshm_protect(private.address, SIZE, ALL)
    assert private.read(0, 25) == b"before" + bytes(10) + b"by a call"
    assert private.load_capability(PAGE) == private
    assert private.read(2 * PAGE, 1) == b"\1"
    assert origin.read(16, 9) == bytes(9)


@pytest.mark.slow
@isolated()
def test_a_refused_store_copies_no_page() -> None:
    """A tagged store that the page does not permit leaves a page of a private mapping with its object."""
    attach()
    of = Object()
    origin, private = map_at(place(0), of), map_at(place(1), of, shared=False, permissions=DATA)
    with pytest.raises(StoreTagViolation):
        private.store_capability(16, origin)
    origin.store_capability(0, origin)
    with pytest.raises(StoreTagViolation):
        origin.copy_to(private, 16)
    origin.write(32, b"later")
    assert private.read(32, 5) == b"later"
    with pytest.raises(StoreTagViolation):
        private.store_capabilities(0, [origin.without_tag(), origin])
    origin.write(32, b"again")
    assert private.read(32, 5) == b"later"


@pytest.mark.slow
@isolated()
def test_what_is_kept_from_children_stays_so_when_its_page_becomes_private() -> None:
    """I9, I10: a page that was copied since is not even in a child whose hooks have not run."""
    attach()
    private = map_at(place(0), Object(), shared=False)
    assert lib.capshm_set_inherit(private.address, SIZE, False) == lib.STATUS_OK
    private.write(0, b"by a call")
    ctypes.memset(private.address + PAGE, 1, 1)
    assert lib.capshm_protect(private.address, SIZE, DATA) == lib.STATUS_OK
    private.write(2 * PAGE, b"after a change")
    assert _read_without_hooks(private.address, 4) == ["SIGSEGV"] * 4
    assert lib.capshm_set_inherit(private.address, SIZE, True) == lib.STATUS_OK
    private.write(3 * PAGE, b"later")
    assert _read_without_hooks(private.address, 4) == ["read"] * 4
    assert lib.capshm_set_inherit(private.address, SIZE, False) == lib.STATUS_OK
    fresh = map_at(place(0), Object(), shared=False)
    fresh.write(0, b"x")
    assert _read_without_hooks(fresh.address, 1) == ["read"]


def _read_without_hooks(address: int, pages: int) -> list[str]:
    """How children that no hook has prepared end when they read the first byte of each page."""
    ends = []
    for page in range(pages):
        pid = ctypes.PyDLL(None).fork()
        if pid == 0:
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)
            ctypes.string_at(address + page * PAGE, 1)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        ends.append(signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "read")
    return ends


@pytest.mark.slow
@isolated()
def test_private_memory_moves_into_an_object() -> None:
    """Data and tags go along, of pages that may not be read now as well; what lies past the end of a file is zero."""
    attach()
    of, new = Object(size=2 * PAGE), Object(2)
    origin, memory = map_at(place(0), of), map_at(place(1), of, shared=False, length=4 * PAGE)
    origin.store_capability(0, origin)
    memory.store_capability(PAGE, memory)
    map_at(place(1) + 3 * PAGE, length=PAGE)
    memory.store_capability(3 * PAGE + 16, memory)
    assert lib.capshm_protect(memory.address, 4 * PAGE, 0) == lib.STATUS_OK
    before = _sidebands()
    assert move(memory, new, permissions=lib.PAGE_READ) == lib.STATUS_OK
    assert _sidebands() == before
    assert memory.read(2 * PAGE, PAGE) == bytes(PAGE)
    with pytest.raises(PageViolation):
        memory.write(0, b"x")
    assert lib.capshm_protect(memory.address, 4 * PAGE, ALL) == lib.STATUS_OK
    seen = map_at(place(2), new)
    tagged = {offset: memory.load_capability(offset) for offset in range(0, 4 * PAGE, 16)}
    assert {offset: value for offset, value in tagged.items() if value.tag} == {
        0: origin,
        PAGE: memory,
        3 * PAGE + 16: memory,
    }
    memory.store_capability(2 * PAGE, memory)
    ctypes.memset(memory.address + 3 * PAGE, 7, 1)
    assert seen.load_capability(2 * PAGE) == memory
    assert seen.read(3 * PAGE, 1) == b"\7"
    assert origin.load_capability(0) == origin

    plain = map_at(place(3))
    plain.store_capability(0, plain)
    assert move(plain, Object(3), taggable=False) == lib.STATUS_OK
    assert plain.load_capability(0) == plain.without_tag()


def _areas() -> list[str]:
    """What the kernel has mapped in the arena, and of objects anywhere; not what sanitizers map for themselves."""
    lines = Path("/proc/self/maps").read_text(encoding="ascii").splitlines()
    return [line for line in lines if line.startswith(f"{place(0) >> 32:x}") or "/memfd:" in line]


@pytest.mark.slow
@isolated()
def test_a_move_that_fails_changes_nothing() -> None:
    """Where the object has no room for the copy, or the range is not the process's own, everything is as it was."""
    attach()
    shared, small = map_at(place(2), Object(2)), Object(3, size=PAGE)
    memories = [map_at(place(0)), map_at(place(1), Object(), shared=False)]
    for memory in memories:
        memory.store_capability(0, memory)
        memory.store_capability(2 * PAGE, memory)
        lib.capshm_protect(memory.address + PAGE, PAGE, lib.PAGE_WRITE)
        before = _areas()
        entries = [lib.capshm_page_entry(page) for page in range(memory.address, memory.address + SIZE, PAGE)]
        assert move(memory, small) == lib.STATUS_NO_MEMORY
        assert [lib.capshm_page_entry(page) for page in range(memory.address, memory.address + SIZE, PAGE)] == entries
        assert _areas() == before
        ctypes.memset(memory.address + 16, 1, 1)
        ctypes.memset(memory.address + PAGE, 1, 1)
        assert memory.load_capability(2 * PAGE) == memory
        with Child(functools.partial(memory.write, 0, b"child")) as child:
            assert child.wait() == 0
        assert memory.load_capability(0) == memory
    shared.store_capability(0, shared)
    assert move(shared, Object(4)) == lib.STATUS_INVALID
    assert move(_over(place(3), PAGE), Object(4)) == lib.STATUS_INVALID
    assert shared.load_capability(0) == shared


@pytest.mark.slow
@isolated()
def test_no_store_is_lost_while_memory_moves() -> None:
    """Other threads store bytes past the library and capabilities through it; each store is found again."""
    attach()
    for turn in range(1, 5):
        counted, kept = _store_while_it_moves(map_at(place(0), length=16 << 20), Object(turn, size=16 << 20))
        assert counted == ctypes.c_uint64.from_address(place(0)).value > 0
        assert kept == {True}


def _store_while_it_moves(memory: Capability, of: Object) -> tuple[int, set[bool]]:
    """How often another thread has counted in the first word, and the tags that a third found of what it stored."""
    counter = ctypes.c_uint64.from_address(memory.address)
    begun, ends = threading.Barrier(3), threading.Event()
    counted, kept = 0, set()

    def count() -> None:
        nonlocal counted
        begun.wait()
        while not ends.is_set():
            counter.value += 1
            counted += 1

    def store() -> None:
        begun.wait()
        for offset in itertools.cycle(range(PAGE, memory.length, PAGE)):
            memory.store_capability(offset, memory)
            kept.add(memory.load_capability(offset).tag)
            if ends.is_set():
                break

    threads = [threading.Thread(target=body) for body in (count, store)]
    for thread in threads:
        thread.start()
    begun.wait()
    status = move(memory, of)
    ends.set()
    for thread in threads:
        join(thread)
    assert status == lib.STATUS_OK
    return counted, kept
