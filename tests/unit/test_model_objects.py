"""`capshm.model.objects` and `opening`: rows D1 to D12, the order of checks of 1.D, and F13 to F17."""

import os

import pytest

from capshm.model import constants as c
from capshm.model.objects import Kind
from capshm.policies.isolated import Isolated
from capshm.policies.open import Open
from tests.unit.model_scene import RWC, Process, refused


def test_d1_share_cap_has_no_owner() -> None:
    """D1: O_SHARECAP at creation makes an object for everybody."""
    memory = Process().shm(is_share_cap=True)
    assert (memory.is_share_cap, memory.owner) == (True, None)


def test_d2_creator_owns() -> None:
    """D2: without O_SHARECAP the creator's address space is the owner."""
    memory = Process(serial=7).shm()
    assert (memory.is_share_cap, memory.owner) == (False, 7)


def test_d3_open_without_share_cap() -> None:
    """D3: a share-cap object is opened without O_SHARECAP, and stays one."""
    process = Process()
    memory = process.shm(is_share_cap=True, path="/a")
    plan = process.another().open("/a")
    assert plan.object is memory
    assert (plan.is_new, memory.is_share_cap) == (False, True)


def test_d4_share_cap_is_not_added() -> None:
    """D4: an object that has an owner cannot be opened with O_SHARECAP."""
    process = Process()
    process.shm(path="/a")
    with refused("D4", "EPERM"):
        process.open("/a", is_share_cap=True)


def test_d5_share_cap_again() -> None:
    """D5: a share-cap object may be opened with O_SHARECAP."""
    process = Process()
    memory = process.shm(is_share_cap=True, path="/a")
    assert process.another().open("/a", is_share_cap=True).object is memory


@pytest.mark.parametrize("kind", list(Kind))
def test_d7_tags_from_the_start(kind: Kind) -> None:
    """D7, A18: every object can hold tags but a file."""
    assert Process().objects.prepare(kind, owner=1).can_hold_capabilities == (kind is not Kind.FILE)


def test_d8_memfd_has_an_owner() -> None:
    """D8: a memfd is its creator's, and has no name."""
    memory = Process().open(None, kind=Kind.MEMFD).object
    assert (memory.kind, memory.owner, memory.name) == (Kind.MEMFD, 1, None)


def test_d11_renaming_keeps_owner_and_share_cap() -> None:
    """D11: the object travels, and whatever had the new name loses it."""
    process = Process()
    memory, other = process.shm(is_share_cap=True, path="/a"), process.shm(path="/b")
    assert process.objects.rename("/a", "/b") is other
    assert (memory.name, memory.is_share_cap, other.name, other.owner) == ("/b", True, None, 1)
    assert process.another().open("/b").object is memory


def test_d11_exchange() -> None:
    """D11: SHM_RENAME_EXCHANGE leaves both with a name."""
    process = Process()
    memory, other = process.shm(path="/a"), process.shm(path="/b")
    assert process.objects.rename("/a", "/b", c.SHM_RENAME_EXCHANGE) is None
    assert (memory.name, other.name) == ("/b", "/a")


def test_rename_refusals() -> None:
    """An absent name, a name that is taken under NOREPLACE, and flags that exclude each other."""
    process = Process()
    process.shm(path="/a")
    process.shm(path="/b")
    with refused("1.D/9", "ENOENT"):
        process.objects.rename("/c", "/d")
    with refused("MAN", "EEXIST"):
        process.objects.rename("/a", "/b", c.SHM_RENAME_NOREPLACE)
    with refused("MAN", "EINVAL"):
        process.objects.rename("/a", "/b", c.SHM_RENAME_NOREPLACE | c.SHM_RENAME_EXCHANGE)
    assert sorted(process.objects.names) == ["/a", "/b"]


def test_unlink_leaves_the_object() -> None:
    """The name is free, the object is there, and the next creation makes another."""
    process = Process()
    memory = process.shm(path="/a")
    assert process.objects.unlink("/a") is memory
    assert memory in process.objects
    assert process.shm(path="/a") is not memory
    process.objects.remove(memory)
    assert memory not in process.objects
    assert "/a" in process.objects.names


STEPS = [
    ({"shm_flags": 8, "access": os.O_WRONLY}, "1.D/1", "EINVAL"),
    ({"access": os.O_WRONLY, "unknown_flags": os.O_APPEND}, "1.D/2", "EINVAL"),
    ({"unknown_flags": os.O_APPEND, "path": "x"}, "1.D/3", "EINVAL"),
    ({"path": "x"}, "1.D/6", "EINVAL"),
    ({"path": "/" + "x" * 1023}, "1.D/6", "ENAMETOOLONG"),
    ({"path": None, "access": os.O_RDONLY}, "1.D/8", "EINVAL"),
    ({"path": "/absent", "is_create": False}, "1.D/9", "ENOENT"),
    ({"path": "/sealable", "is_exclusive": True}, "1.D/10", "EPERM"),
    ({"is_exclusive": True, "is_share_cap": True}, "1.D/10", "EEXIST"),
    ({"is_share_cap": True, "shm_flags": c.SHM_GROW_ON_WRITE}, "D4", "EPERM"),
    ({"shm_flags": c.SHM_GROW_ON_WRITE, "uid": 9}, "1.D/10", "EINVAL"),
    ({"uid": 9}, "1.D/10", "EACCES"),
]


@pytest.mark.parametrize(("request_", "rule", "errno"), STEPS, ids=[f"{rule}-{errno}" for _, rule, errno in STEPS])
def test_order_of_checks(request_: dict[str, object], rule: str, errno: str) -> None:
    """1.D: of two things that are wrong the one that is checked first is named, and nothing is made."""
    process = Process()
    process.open("/there", uid=5)
    process.open("/sealable", shm_flags=c.SHM_ALLOW_SEALING)
    with refused(rule, errno):
        process.open(**{"path": "/there", **request_})  # type: ignore[arg-type]
    assert len(process.objects.objects) == 2


def test_truncation_needs_read_write() -> None:
    """1.D: O_TRUNC acts only together with O_RDWR, and only on what was there."""
    process = Process()
    assert not process.open("/a", is_truncate=True).is_truncated
    assert process.open("/a", is_truncate=True).is_truncated
    assert not process.open("/a", is_truncate=True, access=os.O_RDONLY).is_truncated


def test_modes_let_others_in() -> None:
    """A mode for everybody lets another user read but not write."""
    process = Process()
    process.open("/a", mode=0o644, uid=5)
    assert not process.open("/a", uid=9, access=os.O_RDONLY).is_writable
    with refused("1.D/10", "EACCES"):
        process.open("/a", uid=9)


def test_d1_isolated() -> None:
    """D1 under isolated: O_SHARECAP creates nothing."""
    with refused("isolated", "EACCES"):
        Process(Isolated()).shm(is_share_cap=True)


def test_d1_open() -> None:
    """D1, D4 under open: every object is share-cap, however it was made."""
    process = Process(Open())
    assert process.shm(path="/a").is_share_cap
    assert not process.open("/a", is_share_cap=True).is_new


def test_k1_no_share_cap_object() -> None:
    """K1: a process that may not share creates nothing for everybody."""
    process = Process()
    process.knobs = process.knobs.with_process(c.PROC_SHARECAP_DISABLE)
    with refused("K1", "EACCES"):
        process.shm(is_share_cap=True)


def test_f14_what_the_child_makes_is_its_own() -> None:
    """F13, F14: the parent's objects stay the parent's, and new ones are the child's."""
    parent = Process()
    memory = parent.shm()
    child, _ = parent.fork(serial=2)
    assert (memory.owner, child.shm().owner) == (1, 2)


def test_f16_f17_an_owner_that_ends() -> None:
    """F16, F17: what it owned is nobody's, and nobody maps it with capability permission again."""
    process = Process()
    memory, shared = process.shm(), process.shm(is_share_cap=True)
    assert process.objects.end_vmspace(1) == [memory]
    assert memory.owner is None
    for survivor in (process, process.another()):
        with refused("E2", "EACCES"):
            survivor.share(memory)
        survivor.share(shared, RWC)


def test_numbers_are_never_given_again() -> None:
    """An object that is gone leaves its number behind."""
    process = Process()
    first = process.shm()
    process.objects.remove(first)
    assert process.shm().id > first.id
