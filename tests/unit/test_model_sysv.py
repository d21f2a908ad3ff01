"""`capshm.model.sysv`: System V segments, rows H1 and H4 to H6."""

import pytest

from capshm.model import constants as c
from capshm.model.knobs import Knobs
from capshm.model.mapping import commit_map, commit_unmap
from capshm.model.pointer import Address, Pointer
from capshm.model.sysv import GetRequest, Segment, SegmentTable, attachments, plan_attach, plan_detach
from capshm.policies.isolated import Isolated
from capshm.policies.open import Open
from tests.unit.model_scene import ANON, PAGE, Process, moved, refused, untagged, without_vmem

KEY = 0x1234


def get(
    table: SegmentTable, process: Process, key: int = KEY, size: int = PAGE, flags: int = 0, uid: int = 0
) -> Segment:
    """shmget."""
    request = GetRequest(key, size, flags, process.space.serial, uid)
    segment, is_new = table.plan_get(process.policy, request)
    if is_new:
        table.commit_get(segment)
    return segment


def attach(process: Process, segment: Segment, address: Address = None, flags: int = 0, uid: int = 0) -> Pointer:
    """shmat."""
    plan = plan_attach(process.space, process.policy, process.knobs, segment, address, flags, uid)
    commit_map(process.space, plan)
    process.space.check()
    start = plan.entry.start
    return Pointer(start, start, start + plan.length, plan.permissions, True, False)


def detach(process: Process, address: Address) -> None:
    """shmdt."""
    commit_unmap(process.space, plan_detach(process.space, address))
    process.space.check()


@pytest.fixture
def process() -> Process:
    """A process under policy cheribsd."""
    return Process()


@pytest.fixture
def table(process: Process) -> SegmentTable:
    """The machine's segments."""
    return SegmentTable(process.objects)


@pytest.fixture
def segment(table: SegmentTable, process: Process) -> Segment:
    """One of three pages."""
    return get(table, process, size=3 * PAGE, flags=c.IPC_CREAT | 0o600)


def test_keys(table: SegmentTable, process: Process, segment: Segment) -> None:
    """A key names one segment, IPC_PRIVATE always a new one."""
    assert get(table, process.another()) is segment
    assert get(table, process, c.IPC_PRIVATE) is not get(table, process, c.IPC_PRIVATE)


def test_refusals_of_shmget(table: SegmentTable, process: Process, segment: Segment) -> None:
    """A key that is taken, absent, or of a segment that is too small; a size that is none; another's segment."""
    for key, size, flags, uid, errno in (
        (KEY, PAGE, c.IPC_CREAT | c.IPC_EXCL, 0, "EEXIST"),
        (KEY + 1, PAGE, 0, 0, "ENOENT"),
        (KEY, 4 * PAGE, 0, 0, "EINVAL"),
        (KEY + 1, 0, c.IPC_CREAT, 0, "EINVAL"),
        (KEY, PAGE, 0o600, 9, "EACCES"),
    ):
        with refused("MAN", errno):
            get(table, process, key, size, flags, uid)
    assert list(table.segments.values()) == [segment]


@pytest.mark.parametrize("policy", [None, Open()], ids=["cheribsd", "open"])
def test_h1_always_share_cap(policy: Open | None) -> None:
    """H1: unrelated processes attach with capability permission; read-only ones load only."""
    process = Process(policy)
    segment = get(SegmentTable(process.objects), process, size=PAGE, flags=c.IPC_CREAT | 0o600)
    assert segment.object.is_share_cap
    for one in (process, process.another()):
        assert one.letters(attach(one, segment)) == "rwRW/rwRW"
    assert process.letters(attach(process, segment, flags=c.SHM_RDONLY)) == "rR/rR"


def test_h1_isolated() -> None:
    """H1 under isolated: shmat always asks for capability permission, and is refused."""
    process = Process(Isolated())
    segment = get(SegmentTable(process.objects), process, size=PAGE, flags=c.IPC_CREAT | 0o600)
    with refused("isolated", "EACCES"):
        attach(process, segment)


def test_h1_k1(process: Process, segment: Segment) -> None:
    """K1: a process that may not share attaches nothing."""
    process.knobs = Knobs(process=c.PROC_SHARECAP_DISABLE)
    with refused("K1", "EACCES"):
        attach(process, segment)


def test_another_users_segment(process: Process, segment: Segment) -> None:
    """Mode bits are looked at when a segment is attached."""
    with refused("MAN", "EACCES"):
        attach(process, segment, uid=9)


def test_h4_a_child_stays_attached(process: Process, segment: Segment) -> None:
    """H4: with capability permission (F8)."""
    pointer = attach(process, segment)
    child, plan = process.fork()
    assert (child.letters(pointer), plan.drops) == ("rwRW/rwRW", [])
    assert attachments(child.space, segment.object) == 1


def test_h5_shmdt_needs_the_pointer(process: Process, segment: Segment) -> None:
    """H5: no tag, no SW_VMEM, a number, or memory that is no segment: EPROT; not its start: EINVAL."""
    pointer = attach(process, segment)
    wrong: list[Address] = [untagged(pointer), without_vmem(pointer), pointer.address, None, process.mmap()]
    for one in wrong:
        with refused("H5", "EPROT"):
            detach(process, one)
    with refused("MAN", "EINVAL"):
        detach(process, moved(pointer, PAGE))
    assert attachments(process.space, segment.object) == 1
    detach(process, pointer)
    assert process.letters(pointer) == ""
    with refused("H5", "EPROT"):
        detach(process, pointer)


def test_detaching_takes_all_parts(process: Process, segment: Segment) -> None:
    """A segment that was split by mprotect goes as a whole, and no other attachment with it."""
    first, second = attach(process, segment), attach(process, segment)
    process.mprotect(moved(first, PAGE), c.PROT_READ)
    assert attachments(process.space, segment.object) == 2
    detach(process, first)
    assert (attachments(process.space, segment.object), process.letters(second)) == (1, "rwRW/rwRW")


def test_h6_a_fixed_address(process: Process, segment: Segment) -> None:
    """H6: free, or inside one's own reservation; anything else is EINVAL, a stale pointer, too."""
    there, stale = process.mmap(length=3 * PAGE), process.mmap(length=3 * PAGE)
    process.munmap(stale, 3 * PAGE)
    wrong: list[Address] = [there.base, there.base + 1, untagged(there), without_vmem(there), moved(there, PAGE), stale]
    for one in wrong:
        with refused("H6", "EINVAL"):
            attach(process, segment, one)
    assert attach(process, segment, there).base == there.base
    assert attach(process, segment, stale.base).base == stale.base


def test_h6_rounding(process: Process, segment: Segment) -> None:
    """H6: SHM_RND rounds a number and a pointer down to a page; zero is no address."""
    place = process.mmap(length=3 * PAGE, flags=ANON)
    assert attach(process, segment, moved(place, 5), c.SHM_RND).base == place.base
    assert attach(process, segment, place.top + 16 * PAGE + 5, c.SHM_RND).base == place.top + 16 * PAGE
    assert attach(process, segment, 0).base


def test_removing(table: SegmentTable, process: Process, segment: Segment) -> None:
    """IPC_RMID frees the key at once; the segment goes when it is forgotten; strangers remove nothing."""
    with refused("MAN", "EPERM"):
        table.mark_removed(segment.number, uid=9)
    pointer = attach(process, segment)
    assert table.mark_removed(segment.number).is_removed
    assert get(table, process, flags=c.IPC_CREAT | 0o600) is not segment
    assert process.letters(pointer) == "rwRW/rwRW"
    table.forget(segment)
    with refused("MAN", "EINVAL"):
        table.find(segment.number, "shmat")
