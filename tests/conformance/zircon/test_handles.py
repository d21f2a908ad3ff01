"""vmar:3.S, and of 3.D what is about handles: information, handles, channels, and the rights of VMOs."""

import pytest

from capshm import Machine
from capshm import zircon as zx
from tests.conformance.zircon.support import (
    BEYOND,
    CAN_ALL,
    CAN_MAP,
    PAGE,
    READ_ONLY,
    RW,
    SPECIFIC,
    STREAM,
    WRITABLE,
    Calls,
    R,
    emulated,
    probes,
    refused,
    streaming,
)
from tests.conformance.zircon.witness import check
from tests.faults.machines import wait_until_alone
from tests.faults.processes import Child, ask_child

INVALID = zx.ERR_INVALID_ARGS
DENIED = zx.ERR_ACCESS_DENIED
BAD_HANDLE = zx.ERR_BAD_HANDLE
SAME = zx.RIGHT_SAME_RIGHTS


def moved(handle: zx.Handle, kind: int = zx.OBJ_TYPE_NONE, rights: int = SAME) -> zx.Disposition:
    """To be moved."""
    return zx.Disposition(zx.HANDLE_OP_MOVE, handle, kind, rights)


def duplicated(handle: zx.Handle, rights: int = SAME) -> zx.Disposition:
    """To be duplicated."""
    return zx.Disposition(zx.HANDLE_OP_DUPLICATE, handle, zx.OBJ_TYPE_NONE, rights)


def is_valid(handle: zx.Handle) -> bool:
    """Whether the value is a handle of this process."""
    try:
        zx.handle_check_valid(handle)
    except zx.ZxError as error:
        if error.rule != "vmar:1.8/4":
            raise
        return False
    return True


@emulated()
def test_D19_a_handle_without_the_right_in_another_process(machine: Machine) -> None:
    """D19: a VMAR's handle without OP_CHILDREN is sent to a process: it cannot protect a grandchild there, but map."""
    k = Calls(machine)
    vmar, start = k.allocate(pages=2)
    child, _ = k.allocate(vmar, 1)
    address = k.map(child, 0)
    ours, theirs = zx.channel_create()
    zx.channel_write(ours, b"", [k.bare(vmar)])

    def use() -> int:
        _, (received,) = zx.channel_read(theirs)
        with refused("1.3/8d", INVALID):
            zx.vmar_protect(received, R, address, PAGE)
        return zx.vmar_map(received, RW, 0, zx.vmo_create(PAGE), 0, PAGE)

    mapped = ask_child(use)
    assert k.current(address) == ["rw"]
    assert start <= mapped < start + 2 * PAGE
    assert k.current(mapped) == ["rw"]
    assert probes(mapped) == WRITABLE


@emulated()
def test_D21_a_right_that_was_given_up(machine: Machine) -> None:
    """D21: OP_CHILDREN cannot be regained."""
    k = Calls(machine)
    bare = k.bare(k.root)
    with refused("1.8/3", INVALID):
        zx.handle_duplicate(bare, bare.rights | zx.RIGHT_OP_CHILDREN)


@emulated()
def test_D25_rights_of_a_new_vmar(machine: Machine) -> None:
    """D25: CAN_MAP_READ only, and all three."""
    k = Calls(machine)
    assert k.allocate(options=zx.VM_CAN_MAP_READ)[0].rights == 0x208007
    assert k.allocate(options=CAN_MAP)[0].rights == 0x20801F


@emulated()
def test_S01_what_a_vmar_tells(machine: Machine) -> None:
    """S01: base and length."""
    k = Calls(machine)
    vmar, base = k.allocate(pages=10)
    assert zx.object_get_info(vmar, zx.INFO_VMAR) == zx.VmarInfo(base, 10 * PAGE)


@emulated()
def test_S02_faults_beyond_the_stream_need_to_be_allowed(machine: Machine) -> None:
    """S02: FAULT_BEYOND_STREAM_SIZE without ALLOW_FAULTS."""
    k = Calls(machine)
    with refused("1.2/9", INVALID):
        k.map(k.root, options=R | zx.VM_FAULT_BEYOND_STREAM_SIZE)


@emulated()
def test_S04_a_stream_of_half_a_page(machine: Machine) -> None:
    """S04: all of the page that holds the stream size can be used, the next faults; so when mapped read-only."""
    k = Calls(machine)
    vmar, base = k.allocate(pages=4)
    vmo = streaming(PAGE // 2, 4)
    for options, first in ((RW, WRITABLE), (R, READ_ONLY)):
        k.map(vmar, 0, 4, options | STREAM | zx.VM_SPECIFIC_OVERWRITE, vmo)
        assert probes(base + PAGE - 1) == first
        assert zx.probe_read(base + PAGE) == zx.ERR_OUT_OF_RANGE
    assert zx.probe_write(base + PAGE) == DENIED
    with refused("1.3/4", INVALID):
        k.vmar_protect(vmar, STREAM, base, PAGE)


@emulated()
def test_stream_mappings_follow_the_stream_size(machine: Machine) -> None:
    """1.10: what the stream grows over can be used, with what the VMO holds there; what it shrinks from faults again.

    The VMO's size is a limit to the stream; a plain mapping of the same VMO sees all of it.
    """
    k = Calls(machine)
    vmo = streaming(PAGE, 8)
    plain, address = k.map(k.root, pages=8, vmo=vmo), k.map(k.root, pages=8, options=RW | STREAM, vmo=vmo)
    k.vmar_protect(k.root, R, address + 2 * PAGE, 2 * PAGE)
    zx.process_write_memory(k.me, plain + 2 * PAGE, b"kept")
    for size, pages in ((3 * PAGE + 1, 4), (PAGE, 1), (0, 0), (8 * PAGE, 8), (2 * PAGE - 1, 2)):
        k.vmo_set_stream_size(vmo, size)
        found = [zx.probe_read(address + page * PAGE) for page in range(8)]
        assert found == [zx.OK] * pages + [zx.ERR_OUT_OF_RANGE] * (8 - pages)
    assert [zx.probe_write(address + page * PAGE) for page in range(4)] == [zx.OK, zx.OK, DENIED, DENIED]
    assert [probes(plain + page * PAGE) for page in range(8)] == [WRITABLE] * 8
    with refused("VMO/3", zx.ERR_OUT_OF_RANGE):
        k.vmo_set_stream_size(vmo, 8 * PAGE + 1)
    resizable = zx.vmo_create(2 * PAGE, zx.VMO_RESIZABLE)
    other = k.map(k.root, pages=3, options=RW | STREAM, vmo=resizable)
    k.vmo_set_size(resizable, PAGE)
    assert [probes(other + page * PAGE) for page in range(3)] == [WRITABLE, BEYOND, BEYOND]
    k.vmo_set_size(resizable, 3 * PAGE)
    assert [probes(other + page * PAGE) for page in range(3)] == [WRITABLE] * 3


@emulated()
def test_a_stream_mapping_in_another_process(machine: Machine) -> None:
    """It is refused to change the stream size while a child has such a mapping; a change within the page is none."""
    k = Calls(machine)
    vmo = streaming(PAGE, 2)
    address = k.map(k.root, pages=2, options=RW | STREAM, vmo=vmo)

    def resize() -> tuple[int, int]:
        zx.vmo_set_stream_size(vmo, PAGE - 1)
        with refused("host", zx.ERR_NOT_SUPPORTED):
            zx.vmo_set_stream_size(vmo, 2 * PAGE)
        return zx.probe_read(address), zx.probe_read(address + PAGE)

    assert ask_child(resize) == (zx.OK, zx.ERR_OUT_OF_RANGE)
    wait_until_alone(machine)
    assert zx.vmo_get_stream_size(vmo) == PAGE - 1
    k.vmo_set_stream_size(vmo, 2 * PAGE)
    assert probes(address + PAGE) == WRITABLE


@emulated()
def test_S06_the_topic_of_a_vmar(machine: Machine) -> None:
    """S06, as far as no C buffers are concerned: self, no handle, other types of object."""
    k = Calls(machine)
    assert isinstance(zx.object_get_info(k.root, zx.INFO_VMAR), zx.VmarInfo)
    with refused("1.7/1", BAD_HANDLE):
        zx.object_get_info(0, zx.INFO_VMAR)
    for other in (k.me, k.vmo(), zx.channel_create()[0]):
        with refused("1.7/1", zx.ERR_WRONG_TYPE):
            zx.object_get_info(other, zx.INFO_VMAR)


@emulated()
def test_S09_the_maps_of_a_destroyed_vmar(machine: Machine) -> None:
    """S09: BAD_STATE."""
    k = Calls(machine)
    vmar, _ = k.allocate()
    k.vmar_destroy(vmar)
    with refused("1.7/3", zx.ERR_BAD_STATE):
        zx.object_get_info(vmar, zx.INFO_VMAR_MAPS)


@emulated()
def test_S10_the_maps_of_a_tree(machine: Machine) -> None:
    """S10: parents first, by address; depths, ranges, permissions; after each call, as in all of these tests."""
    k = Calls(machine)
    vmar, base = k.allocate(pages=8)
    vmo = k.vmo(2)
    k.map(vmar, 0, options=R, vmo=vmo)
    child, start = k.allocate(vmar, 4, CAN_ALL | SPECIFIC, page=2)
    k.map(child, 1, 2, vmo=vmo)
    rows = zx.object_get_info(vmar, zx.INFO_VMAR_MAPS)
    assert isinstance(rows, list)
    assert [(row.depth, row.base, row.size, row.type, row.mmu_flags, row.vmo_koid) for row in rows] == [
        (0, base, 8 * PAGE, zx.INFO_MAPS_TYPE_VMAR, 0, 0),
        (1, base, PAGE, zx.INFO_MAPS_TYPE_MAPPING, R, vmo.koid),
        (1, start, 4 * PAGE, zx.INFO_MAPS_TYPE_VMAR, 0, 0),
        (2, start + PAGE, 2 * PAGE, zx.INFO_MAPS_TYPE_MAPPING, RW, vmo.koid),
    ]
    whole = zx.object_get_info(k.me, zx.INFO_PROCESS_MAPS)
    assert isinstance(whole, list)
    assert [row.type for row in whole[:2]] == [zx.INFO_MAPS_TYPE_ASPACE, zx.INFO_MAPS_TYPE_VMAR]
    assert [row.depth for row in whole] == [0, 1, 2, 3, 3, 4]


@emulated()
def test_S12_the_maps_need_inspect(machine: Machine) -> None:
    """S12: of a VMAR and of a process."""
    k = Calls(machine)
    for handle, topic in ((k.root, zx.INFO_VMAR_MAPS), (k.me, zx.INFO_PROCESS_MAPS)):
        with refused("1.7/1", DENIED):
            zx.object_get_info(k.without(handle, zx.RIGHT_INSPECT), topic)


@emulated()
def test_S13_replace(machine: Machine) -> None:
    """S13: with fewer rights; the old value is none any more."""
    k = Calls(machine)
    vmar, _ = k.allocate()
    new = zx.handle_replace(vmar, zx.RIGHT_READ)
    assert (new.koid, new.rights) == (vmar.koid, zx.RIGHT_READ)
    assert not is_valid(vmar)


@emulated()
def test_S15_the_same_object_arrives(machine: Machine) -> None:
    """S15: moved or duplicated, it has the same koid, rights and type; what was moved is gone here."""
    k = Calls(machine)
    ours, theirs = zx.channel_create()
    first, second = k.vmo(), k.vmo()
    zx.channel_write_etc(ours, b"two", [moved(first), duplicated(second)])

    def read() -> list[tuple[int, int, int]]:
        data, handles = zx.channel_read(theirs)
        assert data == b"two"
        return [(each.koid, each.rights, each.type) for each in handles]

    assert ask_child(read) == [(each.koid, each.rights, each.type) for each in (first, second)]
    assert not is_valid(first)
    assert is_valid(second)


@emulated()
def test_S17_a_refused_write_delivers_nothing(machine: Machine) -> None:
    """S17: another type than announced: WRONG_TYPE; the reader finds nothing, and what was to be moved is gone."""
    k = Calls(machine)
    ours, theirs = zx.channel_create()
    good, bad = k.vmo(), k.vmo()
    with pytest.raises(zx.ZxError) as caught:
        zx.channel_write_etc(ours, b"!", [moved(good), moved(bad, zx.OBJ_TYPE_VMAR)])
    assert (caught.value.rule, caught.value.status) == ("vmar:1.8/11", zx.ERR_WRONG_TYPE)
    assert caught.value.results == [zx.OK, zx.ERR_WRONG_TYPE]
    with refused("1.8/13", zx.ERR_SHOULD_WAIT):
        zx.channel_read(theirs)
    assert not is_valid(good)
    assert not is_valid(bad)


@pytest.mark.parametrize("rights", [zx.RIGHT_READ | zx.RIGHT_MAP, zx.RIGHT_NONE])
@emulated()
def test_S18_fewer_rights_arrive(machine: Machine, rights: int) -> None:
    """S18: some, or none: the receiver has exactly these."""
    k = Calls(machine)
    ours, theirs = zx.channel_create()
    zx.channel_write_etc(ours, b"", [moved(k.vmo(), zx.OBJ_TYPE_VMO, rights)])
    assert [each.rights for each in zx.channel_read(theirs)[1]] == [rights]


@emulated()
def test_S20_handles_that_cannot_be_sent(machine: Machine) -> None:
    """S20: the same one twice, the channel through itself, 65; and one without TRANSFER."""
    k = Calls(machine)
    ours, theirs = zx.channel_create()
    vmo = k.vmo()
    with refused("1.8/10", BAD_HANDLE):
        zx.channel_write_etc(ours, b"", [moved(vmo), moved(vmo)])
    with refused("1.8/8", DENIED):
        zx.channel_write(ours, b"", [zx.handle_duplicate(k.vmo(), zx.RIGHT_READ)])
    with refused("1.8/6", zx.ERR_OUT_OF_RANGE):
        zx.channel_write(ours, b"", [k.vmo()] * 65)
    with refused("1.8/6", zx.ERR_OUT_OF_RANGE):
        zx.channel_write(ours, bytes(65_537))
    for no_bytes in (5, "five"):
        with pytest.raises(TypeError, match="bytes-like object"):
            zx.channel_write(ours, no_bytes)  # type: ignore[arg-type]
    zx.channel_write(ours, bytes(65_536))
    assert zx.channel_read(theirs) == (bytes(65_536), [])
    with refused("1.8/9", zx.ERR_NOT_SUPPORTED):
        zx.channel_write(ours, b"", [ours])
    assert not is_valid(ours)
    with refused("1.8/7", zx.ERR_PEER_CLOSED):
        zx.channel_write(theirs, b"")


@emulated()
def test_S21_rights_of_a_vmo_that_is_mapped(machine: Machine) -> None:
    """S21: without MAP nothing can be; WRITE alone is no permission; nothing needs nothing."""
    k = Calls(machine)
    vmo = zx.vmo_create(PAGE)
    write = zx.VM_PERM_WRITE
    for rights in (0, zx.RIGHT_READ, zx.RIGHT_WRITE, zx.RIGHT_READ | zx.RIGHT_WRITE):
        for options in (0, R, write, RW):
            with refused("1.2/3", DENIED):
                k.map(k.root, options=options, vmo=zx.handle_duplicate(vmo, rights))
            handle = zx.handle_duplicate(vmo, rights | zx.RIGHT_MAP)
            needed = (zx.RIGHT_READ if options & R else 0) | (zx.RIGHT_WRITE if options & write else 0)
            if options == write:
                with refused("1.2/5", INVALID):
                    k.map(k.root, options=options, vmo=handle)
            elif needed & ~rights:
                with refused("1.2/8", DENIED):
                    k.map(k.root, options=options, vmo=handle)
            else:
                k.map(k.root, options=options, vmo=handle)


@emulated()
def test_S07_the_maps_of_a_fresh_process(machine: Machine) -> None:
    """S07: one entry, the root VMAR at depth 0; and Linux has nothing else there either."""
    process, root = zx.process_create("fresh")
    whole = zx.object_get_info(root, zx.INFO_VMAR)
    assert isinstance(whole, zx.VmarInfo)
    assert zx.object_get_info(root, zx.INFO_VMAR_MAPS) == [
        zx.MapsEntry("root", whole.base, whole.length, 0, zx.INFO_MAPS_TYPE_VMAR, 0, 0, 0)
    ]
    assert check(machine, process.pid) == []


@emulated()
def test_S25_require_non_resizable(machine: Machine) -> None:
    """S25: a resizable VMO is refused, one of fixed size is not; and that cannot be resized."""
    k = Calls(machine)
    with refused("1.2/11", zx.ERR_NOT_SUPPORTED):
        k.map(k.root, options=R | zx.VM_REQUIRE_NON_RESIZABLE, vmo=k.vmo(1, zx.VMO_RESIZABLE))
    fixed = k.vmo()
    k.map(k.root, options=R | zx.VM_REQUIRE_NON_RESIZABLE, vmo=fixed)
    with refused("VMO/1", DENIED):
        zx.vmo_set_size(fixed, 2 * PAGE)


@emulated()
def test_S26_a_mapped_vmo_grows_and_shrinks(machine: Machine) -> None:
    """S26: 8 pages mapped of a VMO of 2, which grows to 6.5: 7 can be used; and after shrinking, fewer again."""
    k = Calls(machine)
    vmo = zx.vmo_create(2 * PAGE, zx.VMO_RESIZABLE)
    address = k.map(k.root, pages=8, vmo=vmo)
    assert [probes(address + page * PAGE) for page in range(8)] == [WRITABLE] * 2 + [BEYOND] * 6
    zx.vmo_set_size(vmo, 6 * PAGE + PAGE // 2)
    assert zx.vmo_get_size(vmo) == 7 * PAGE
    assert zx.vmo_get_stream_size(vmo) == 6 * PAGE + PAGE // 2
    assert [probes(address + page * PAGE) for page in range(8)] == [WRITABLE] * 7 + [BEYOND]
    zx.process_write_memory(k.me, address + 7 * PAGE - 4, b"last")
    assert zx.vmo_read(vmo, 7 * PAGE - 4, 4) == b"last"
    zx.vmo_set_size(vmo, PAGE)
    assert probes(address + PAGE) == BEYOND
    k.look()


@emulated()
def test_S28_past_the_end_of_a_vmo(machine: Machine) -> None:
    """S28, as far as no C buffers are concerned: a length past the VMO, read and written; nothing is."""
    vmo = zx.vmo_create(PAGE)
    with refused("VMO/3", zx.ERR_OUT_OF_RANGE):
        zx.vmo_read(vmo, 1, PAGE)
    with refused("VMO/3", zx.ERR_OUT_OF_RANGE):
        zx.vmo_write(vmo, 1, b"x" * PAGE)
    assert zx.vmo_read(vmo, 0, PAGE) == bytes(PAGE)


@emulated()
def test_fork_copies_handles_and_the_tree(machine: Machine) -> None:
    """A child has the parent's handles, which name the parent's objects; its own root is over a copy of the tree."""
    k = Calls(machine)
    vmar, _ = k.allocate(pages=2)
    vmo = zx.vmo_create(PAGE)
    address = k.map(vmar, 0, vmo=vmo)

    def child() -> None:
        root = zx.vmar_root_self()
        assert root.koid != k.root.koid
        rows = zx.object_get_info(root, zx.INFO_VMAR_MAPS)
        assert isinstance(rows, list)
        assert [row.depth for row in rows] == [0, 1, 2]
        zx.vmar_protect(root, R, address, PAGE)
        assert probes(address) == (zx.OK, DENIED)
        with refused("1.3/8e", DENIED):
            zx.vmar_protect(root, RW, address, PAGE)
        zx.vmo_write(vmo, 0, b"child")

    with Child(child) as process:
        assert process.wait() == 0
    assert probes(address) == WRITABLE
    assert zx.vmo_read(vmo, 0, 5) == b"child"
    k.look()
