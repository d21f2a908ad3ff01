"""The quarantine of malloc: what waits, for how long, who decides that, and what a fork makes of it."""

import errno
import os

import pytest

import capshm
from capshm import CapshmError, RevocationIncomplete
from capshm import cheribsd as bsd
from capshm.cheribsd import quarantine
from tests.conformance.cheribsd.support import emulated
from tests.faults.processes import ask_child
from tests.faults.revoking import revoke
from tests.unit.heap_scene import reuse_at_once

pytestmark = pytest.mark.slow


@emulated()
def test_without_a_revoker() -> None:
    """What is freed is used again at once; a flush has nothing to do, and says so if it is asked to."""
    reuse_at_once()
    pointer = bsd.malloc(64)
    bsd.free(pointer)
    assert bsd.malloc(64).base == pointer.base
    assert not bsd.malloc_revoke_enabled()
    with pytest.raises(capshm.Refused) as caught:
        bsd.malloc_revoke_quarantine_force_flush()
    assert caught.value.errno == errno.ENOTSUP
    assert "needed: a machine whose revoker revokes" in str(caught.value)
    bsd.malloc_revoke()


@emulated()
def test_nothing_is_used_again_before_it_is_revoked() -> None:
    """What is freed keeps its tags, in registers and memory, and its place; after a flush it has neither."""
    quarantine.revoke_by(revoke)
    assert bsd.malloc_revoke_enabled()
    keeper = bsd.malloc(1024)
    freed = [bsd.malloc(48) for _ in range(64)]
    for number, pointer in enumerate(freed):
        keeper.store_capability(16 * number, pointer)
        bsd.free(pointer)
        with pytest.raises(CapshmError, match="freed before"):
            bsd.free(pointer)
    places = {pointer.base for pointer in freed}
    assert all(bsd.malloc(48).base not in places for _ in range(2000))
    assert all(pointer.tag for pointer in freed)
    assert quarantine.statistics().quarantine == 64 * 48
    bsd.malloc_revoke()
    assert not any(pointer.tag for pointer in freed)
    assert not any(keeper.load_capability(16 * number).tag for number in range(64))
    assert keeper.tag
    assert quarantine.statistics().quarantine == 0
    assert {bsd.malloc(48).base for _ in range(64)} == places


@emulated()
def test_the_policy() -> None:
    """An allocation runs a pass when the heap is 8 MiB and a quarter of it waits; a free never does."""
    quarantine.revoke_by(revoke)
    size = 32 << 10
    pointers = [bsd.malloc(size) for _ in range(255)]
    while pointers:
        bsd.free(pointers.pop())
    bsd.malloc(16)
    assert quarantine.statistics().passes == 0  # below the floor, though nearly all of it waits
    bsd.malloc_revoke()
    pointers = [bsd.malloc(size) for _ in range(1024)]
    for _ in range(256):
        assert quarantine.statistics().passes == 1
        bsd.malloc(16)
        bsd.free(pointers.pop())
    while quarantine.statistics().quarantine * 4 < quarantine.statistics().heap:
        bsd.malloc(16)
        bsd.free(pointers.pop())
    assert quarantine.statistics().passes == 1
    bsd.malloc(16)
    assert quarantine.statistics().passes == 2
    assert quarantine.statistics().quarantine == 0


@pytest.mark.parametrize(
    ("variables", "is_enabled", "expected"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"_RUNTIME_REVOCATION_DISABLE": ""}, True, False),
        ({"_RUNTIME_REVOCATION_ENABLE": ""}, False, True),
        ({"_RUNTIME_REVOCATION_ENABLE": "", "_RUNTIME_REVOCATION_DISABLE": ""}, True, False),
    ],
)
@emulated()
def test_the_environment_comes_first(variables: dict[str, str], is_enabled: bool, expected: bool) -> None:
    """Whether there is a quarantine: DISABLE, then ENABLE, then what the process and the machine say."""
    os.environ.update(variables)
    quarantine.revoke_by(revoke, is_enabled=is_enabled)
    assert bsd.malloc_revoke_enabled() is expected


@emulated(revoker="none")
def test_the_share_comes_from_the_environment() -> None:
    """Half the heap may wait if the variables say so; what is no number from 1 to 256 ends the process with 7."""
    for value in ("0", "257", "", "a quarter", "-1"):
        os.environ["_RUNTIME_QUARANTINE_DENOMINATOR"] = value
        with pytest.raises(SystemExit) as caught:
            quarantine.revoke_by(revoke)
        assert caught.value.code == 7
        assert not bsd.malloc_revoke_enabled()
    os.environ["_RUNTIME_QUARANTINE_NUMERATOR"] = "0x80"
    os.environ["_RUNTIME_QUARANTINE_DENOMINATOR"] = "256"
    quarantine.revoke_by(revoke)
    pointers = [bsd.malloc(32 << 10) for _ in range(512)]
    for pointer in pointers[:255]:
        bsd.free(pointer)
    bsd.malloc(16)
    assert quarantine.statistics().passes == 0
    for pointer in pointers[255:257]:
        bsd.free(pointer)
    bsd.malloc(16)
    assert quarantine.statistics().passes == 1


@emulated()
def test_every_free() -> None:
    """A pass after each free, if the environment asks for it."""
    os.environ["_RUNTIME_REVOCATION_EVERY_FREE_ENABLE"] = ""
    quarantine.revoke_by(revoke)
    for number in range(3):
        pointer = bsd.malloc(64)
        bsd.free(pointer)
        assert not pointer.tag
        assert quarantine.statistics() == (0, 0, number + 1)


@emulated()
def test_a_pass_that_does_not_complete() -> None:
    """Nothing leaves quarantine, allocations go on with other memory, a flush says so; the next pass has all of it."""
    seen: list[int] = []
    failures: list[BaseException] = []

    def try_to_revoke(pairs: memoryview) -> None:
        seen.append(len(pairs) // 2)
        if failures:
            raise failures[-1]
        revoke(pairs)

    quarantine.revoke_by(try_to_revoke)
    incomplete = RevocationIncomplete("not everyone was stopped", processes=[(1, "inside an operation")])
    failures.append(incomplete)
    pointers = [bsd.malloc(32 << 10) for _ in range(512)]
    for pointer in pointers[:256]:
        bsd.free(pointer)
    places = {pointer.base for pointer in pointers}
    fresh = bsd.malloc(32 << 10)
    assert fresh.base not in places
    assert seen == [256]
    bsd.free(pointers[256])
    with pytest.raises(RevocationIncomplete):
        bsd.malloc_revoke_quarantine_force_flush()
    failures.append(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        bsd.malloc_revoke_quarantine_force_flush()
    assert quarantine.statistics() == (514 * (32 << 10) - (32 << 10), 257 * (32 << 10), 0)
    assert all(pointer.tag for pointer in pointers)
    failures.clear()
    bsd.free(pointers[257])
    bsd.malloc_revoke_quarantine_force_flush()
    assert seen == [256, 257, 257, 258]
    assert quarantine.statistics() == (255 * (32 << 10), 0, 1)


@emulated()
def test_what_is_freed_during_a_pass_waits_for_the_next() -> None:
    """Allocations and frees go on while a pass runs; only the first thread runs it."""
    calls: list[int] = []

    def free_more(pairs: memoryview) -> None:
        calls.append(len(pairs) // 2)
        if len(calls) == 1:
            bsd.free(late)
            bsd.malloc_revoke()  # one is under way already: nothing
            assert bsd.malloc(64).base != late.base
        revoke(pairs)

    first, late = bsd.malloc(64), bsd.malloc(64)
    quarantine.revoke_by(free_more)
    bsd.free(first)
    bsd.malloc_revoke()
    assert [first.tag, late.tag] == [False, True]
    assert quarantine.statistics()[1:] == (64, 1)
    bsd.malloc_revoke()
    assert not late.tag
    assert calls == [1, 1]


@emulated()
def test_a_fork_copies_heap_and_quarantine() -> None:
    """Each side frees, revokes and reuses its own; what the other does is not seen."""
    quarantine.revoke_by(revoke)
    kept, freed = bsd.malloc(64), bsd.malloc(64)
    kept.write(0, b"parent")
    kept.store_capability(16, freed)
    bsd.free(freed)
    before = quarantine.statistics()

    def in_child() -> tuple[bool, bool, bytes, tuple[int, int, int]]:
        assert quarantine.statistics() == before
        bsd.malloc_revoke_quarantine_force_flush()
        was_revoked = not freed.tag and not kept.load_capability(16).tag
        is_reused = bsd.malloc(64).base == freed.base
        content = kept.read(0, 6)
        kept.write(0, b"child!")
        bsd.free(kept)
        return was_revoked, is_reused, content, quarantine.statistics()

    assert ask_child(in_child) == (True, True, b"parent", (128, 64, 1))
    assert quarantine.statistics() == before
    assert freed.tag
    assert kept.load_capability(16).tag
    assert kept.read(0, 6) == b"parent"
    bsd.free(kept)
    with pytest.raises(CapshmError, match="freed before"):
        bsd.free(kept)
