"""Histories written by hand, and made up: each violation is found and named, and what is lawful is accepted."""

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capshm import Permissions, encoding
from capshm._native import lib
from capshm.testing import Kind, Operation, Result, Value, check_history

GRANULE = 16
BASE = 0x5500_0000_0000
ALL = Permissions.from_raw(0x3F)


def capability(start: int, length: int, *, permissions: Permissions = ALL, tag: bool = True) -> Value:
    """A capability to memory from BASE + start on."""
    whole = encoding.set_bounds(lib.METADATA_ROOT, BASE + start, True, length)[0]
    return Value(BASE + start, with_permissions(whole, permissions), tag)


def with_permissions(metadata: int, permissions: Permissions) -> int:
    """The same with other permissions: hardware ones are bits 48 to 59, software ones 60 to 63."""
    return metadata & ~(0xFFFF << 48) | (permissions.raw & 0xFFF | permissions.raw >> 15 << 12) << 48


ROOT = capability(0, 4096, permissions=ALL | Permissions.SW_VMEM)
ONE, OTHER = capability(0, 64), capability(1024, 64)
OWN = capability(1024, 64, permissions=ALL | Permissions.SW_VMEM)


@dataclass
class Story:
    """Operations that follow one another, two ticks each, if they do not say when they were."""

    operations: list[Operation] = field(default_factory=list)
    now: int = 0

    def add(
        self,
        kind: Kind,
        process: int = 0,
        *,
        at: tuple[int, int | None] | None = None,
        result: Result = Result.DONE,
        place: int = 0,
        length: int = 0,
        object: int = 0,
        child: int = 0,
        authority: Value | None = None,
        value: Value | None = None,
    ) -> "Story":
        begin, end = at or (self.now, self.now + 1)
        self.now = max(self.now, begin + 2, (end or 0) + 1)
        if end is None:
            result = Result.UNKNOWN
        number = len(self.operations)
        self.operations.append(
            Operation(
                number, kind, process, 100 + process, begin, end, result, place, length, object, child, authority, value
            )
        )
        return self

    def granted(self, process: int = 0, value: Value = ROOT) -> "Story":
        return self.add(Kind.GRANT, process, place=BASE, length=4096, object=7, value=value)

    def store(self, process: int, granule: int, value: Value, **more: object) -> "Story":
        place = BASE + granule * GRANULE
        return self.add(Kind.STORE, process, place=place, length=16, authority=ROOT, value=value, **more)  # type: ignore[arg-type]

    def load(self, process: int, granule: int, value: Value | None, **more: object) -> "Story":
        place = BASE + granule * GRANULE
        return self.add(Kind.LOAD, process, place=place, length=16, authority=ROOT, value=value, **more)  # type: ignore[arg-type]

    def derive(self, process: int, source: Value, value: Value, **more: object) -> "Story":
        return self.add(Kind.DERIVE, process, authority=source, value=value, **more)  # type: ignore[arg-type]

    def paint(self, value: Value, kind: Kind = Kind.PAINT) -> "Story":
        return self.add(kind, place=value.address, length=64)

    def rules(self) -> list[str]:
        return [violation.rule for violation in check_history(self.operations)]


def start() -> Story:
    """A process that has a page, and a child of it."""
    return Story().granted().add(Kind.FORK, child=1)


LAWFUL = {
    "nothing": Story(),
    "what was stored is loaded": start().store(0, 3, ONE).load(1, 3, ONE),
    "untagged is never wrong": start().store(0, 3, ONE).load(1, 3, ONE._replace(tag=False)),
    "a refused store changes nothing": start()
    .store(0, 3, ONE)
    .store(0, 3, OTHER, result=Result.REFUSED)
    .load(1, 3, ONE),
    "a store whose process died": start().store(1, 3, ONE, at=(10, None)).load(0, 3, ONE),
    "a write beside the load": start()
    .store(0, 3, ONE)
    .add(Kind.WRITE, 1, place=BASE + 50, length=3, authority=ROOT, at=(20, 30))
    .load(0, 3, ONE, at=(22, 40)),
    "a write next to it": start()
    .store(0, 3, ONE)
    .add(Kind.WRITE, 1, place=BASE + 64, length=3, authority=ROOT)
    .load(0, 3, ONE),
    "a write of nothing": start()
    .store(0, 3, ONE)
    .add(Kind.WRITE, 1, place=BASE + 48, length=0, authority=ROOT)
    .load(0, 3, ONE),
    "a child that is faster than its parent": Story()
    .granted()
    .add(Kind.FORK, child=1, at=(5, 20))
    .store(1, 3, ONE, at=(7, 9)),
    "a parent that died in the fork": Story().granted().add(Kind.FORK, child=1, at=(5, None)).store(1, 3, ONE),
    "narrowed": start().derive(0, ROOT, ONE).derive(0, ONE, capability(16, 16)).store(0, 3, capability(16, 16)),
    "fewer permissions": start().derive(0, ONE, capability(0, 64, permissions=Permissions.LOAD)),
    "a load of what is derived meanwhile": start()
    .derive(0, ROOT, ONE, at=(11, 12))
    .store(0, 3, ONE, at=(13, 14))
    .load(1, 3, ONE, at=(10, 15)),
    "granted later": Story().granted().granted(1).store(1, 3, ONE),
    "an alias elsewhere": Story()
    .granted()
    .add(Kind.GRANT, place=BASE + 8192, length=4096, object=7, value=capability(8192, 4096))
    .store(0, 3, ONE)
    .add(Kind.LOAD, place=BASE + 8192 + 48, length=16, authority=capability(8192, 4096), value=ONE),
    "a load before the revocation": start().store(0, 3, ONE).paint(ONE).load(1, 3, ONE).add(Kind.REVOKE),
    "a load beside the revocation": start()
    .store(0, 3, ONE)
    .paint(ONE)
    .add(Kind.REVOKE, at=(20, 30))
    .load(1, 3, ONE, at=(29, 31)),
    "a revocation that was refused": start()
    .store(0, 3, ONE)
    .paint(ONE)
    .add(Kind.REVOKE, result=Result.REFUSED)
    .load(1, 3, ONE),
    "cleared before the revocation": start()
    .store(0, 3, ONE)
    .paint(ONE)
    .paint(ONE, Kind.CLEAR_PAINT)
    .add(Kind.REVOKE)
    .load(1, 3, ONE),
    "another base": start().store(0, 3, OTHER).paint(ONE).add(Kind.REVOKE).load(1, 3, OTHER),
    "the owner's own": start().granted(0, OWN).store(0, 3, OWN).paint(OWN).add(Kind.REVOKE).load(1, 3, OWN),
    "dropped and granted again": start().store(0, 3, ONE).add(Kind.SHARE_DROP, 1, object=7).granted(1).load(1, 3, ONE),
}

UNLAWFUL = {
    "never stored": (start().load(1, 3, ONE), "tag from nowhere", "nobody ever stored"),
    "stored elsewhere": (start().store(0, 4, ONE).load(1, 3, ONE), "tag from nowhere", "nobody ever stored"),
    "stored later": (
        start().load(1, 3, ONE, at=(10, 11)).store(0, 3, ONE, at=(12, 13)),
        "tag from nowhere",
        "only later",
    ),
    "stored, but refused": (
        start().store(0, 3, ONE, result=Result.REFUSED).load(1, 3, ONE),
        "tag from nowhere",
        "nobody ever stored",
    ),
    "another address under the same bounds": (
        start().store(0, 3, ONE).load(1, 3, ONE._replace(address=ONE.address + 4)),
        "tag from nowhere",
        "nobody ever stored",
    ),
    "replaced": (start().store(0, 3, ONE).store(1, 3, OTHER).load(0, 3, ONE), "tag from nowhere", "replaced by #3"),
    "written": (
        start().store(0, 3, ONE).add(Kind.WRITE, 1, place=BASE + 63, length=1, authority=ROOT).load(0, 3, ONE),
        "tag from nowhere",
        "cleared by #3",
    ),
    "written past the library": (
        start().store(0, 3, ONE).add(Kind.RAW_WRITE, 1, place=BASE + 40, length=9, authority=ROOT).load(0, 3, ONE),
        "tag from nowhere",
        "cleared by #3",
    ),
    "new, then old": (
        start()
        .store(0, 3, ONE)
        .store(1, 3, OTHER, at=(20, 90))
        .load(0, 3, OTHER, at=(30, 31))
        .load(0, 3, ONE, at=(32, 33)),
        "tag from nowhere",
        "no order",
    ),
    "derived more": (start().derive(0, ONE, capability(0, 128)), "rights grew", "more than"),
    "derived another permission": (
        start().derive(0, capability(0, 64, permissions=Permissions.LOAD), ONE),
        "rights grew",
        "more than",
    ),
    "derived a tag": (start().derive(0, ONE._replace(tag=False), ONE), "rights grew", "had none"),
    "loaded more than there is": (
        start().load(0, 3, capability(0, 8192)),
        "rights grew",
        "nobody ever held",
    ),
    "loaded after revocation": (
        start().store(0, 3, OTHER).paint(OTHER).add(Kind.REVOKE).load(1, 3, OTHER),
        "use after revocation",
        "revocation #4",
    ),
    "derived after revocation": (
        start().paint(OTHER).add(Kind.REVOKE).derive(1, OTHER, OTHER),
        "use after revocation",
        "revocation #3",
    ),
    "derived anew, and revoked again": (
        start()
        .paint(OTHER)
        .add(Kind.REVOKE)
        .derive(0, ROOT, OTHER)
        .store(0, 3, OTHER)
        .add(Kind.REVOKE)
        .load(1, 3, OTHER),
        "use after revocation",
        "revocation #6",
    ),
    "never granted": (
        Story().granted().add(Kind.STORE, 1, place=BASE, length=16, value=ONE),
        "never granted",
        "stored",
    ),
    "used without a grant": (Story().granted().load(1, 3, None), "never granted", "used"),
    "granted after the fork": (
        Story().add(Kind.FORK, child=1).granted(0).load(1, 3, None),
        "never granted",
        "used",
    ),
    "dropped": (
        start().store(0, 3, ONE).add(Kind.SHARE_DROP, 1, object=7).load(1, 3, ONE),
        "never granted",
        "could not reach",
    ),
    "dropped, in its child": (
        start().store(0, 3, ONE).add(Kind.SHARE_DROP, 1, object=7).add(Kind.FORK, 1, child=2).load(2, 3, ONE),
        "never granted",
        "could not reach",
    ),
}


@pytest.mark.parametrize("story", LAWFUL.values(), ids=LAWFUL)
def test_lawful(story: Story) -> None:
    """What a memory without a fault may do is accepted."""
    assert check_history(story.operations) == []


@pytest.mark.parametrize(("story", "rule", "words"), UNLAWFUL.values(), ids=UNLAWFUL)
def test_unlawful(story: Story, rule: str, words: str) -> None:
    """Each broken rule is named, with the operations that show it."""
    found = [violation for violation in check_history(story.operations) if violation.rule == rule]
    assert len(found) == 1
    assert words in found[0].message
    assert set(found[0].operations) <= set(story.operations)
    assert all(f"#{operation.number} " in str(found[0]) for operation in found[0].operations)


def test_derived_anew_after_revocation() -> None:
    """The same bits, derived since from a base elsewhere, are another capability, also narrowed once more."""
    part = capability(1024, 64, permissions=Permissions.LOAD)
    story = start().store(0, 3, OTHER).paint(OTHER).add(Kind.REVOKE)
    story.derive(0, ROOT, OTHER).derive(0, OTHER, part).store(0, 3, part).load(1, 3, part)
    assert story.rules() == []


def test_order_of_arguments_does_not_matter() -> None:
    """Operations may come in any order: their stamps count."""
    story = start().store(0, 3, ONE).store(1, 3, OTHER).load(0, 3, OTHER).load(1, 3, ONE)
    shuffled = random.Random(1).sample(story.operations, len(story.operations))
    assert check_history(shuffled) == check_history(story.operations)
    assert len(check_history(shuffled)) == 1


# Histories that are made up

STORED = [capability(64 * i, 64) for i in range(6)]
NEVER_STORED = capability(3000, 16)
PLACES = 3


@st.composite
def simulated(draw: st.DrawFn) -> Story:
    """What three processes may see of a memory in which everything happens at a moment of its own, in turn.

    Each operation's stamps lie around its moment, and so overlap with others of other processes.
    """
    story = Story().granted().add(Kind.FORK, child=1).add(Kind.FORK, child=2)
    memory: list[Value | None] = [None] * PLACES
    ends = dict.fromkeys(range(3), story.now)  # of each process's last operation
    for moment in range(story.now + 100, story.now + 100 + 100 * draw(st.integers(1, 20)), 100):
        process, granule = draw(st.integers(0, 2)), draw(st.integers(0, PLACES - 1))
        begin = max(ends[process] + 1, moment - draw(st.integers(0, 400)))
        if begin > moment:
            continue
        end = moment + draw(st.integers(0, 400))
        kind = draw(st.sampled_from([Kind.STORE, Kind.STORE, Kind.LOAD, Kind.LOAD, Kind.WRITE]))
        is_last = kind is not Kind.LOAD and draw(st.integers(0, 15)) == 0  # its process dies, done or not
        is_done = not is_last or draw(st.booleans())
        stamps = (begin, None if is_last else end)
        if kind is Kind.STORE:
            value = draw(st.sampled_from(STORED))
            story.store(process, granule, value, at=stamps)
            memory[granule] = value if is_done else memory[granule]
        elif kind is Kind.LOAD:
            story.load(process, granule, memory[granule], at=stamps)
        else:
            place = BASE + GRANULE * granule + 3
            story.add(kind, process, place=place, length=2, authority=ROOT, at=stamps)
            memory[granule] = None if is_done else memory[granule]
        ends[process] = 1 << 60 if is_last else end
    return story


@pytest.mark.slow
@given(simulated())
def test_what_a_memory_did_is_accepted(story: Story) -> None:
    """No history that an order explains is refused."""
    assert check_history(story.operations) == []


@pytest.mark.slow
@given(simulated(), st.data())
def test_a_value_from_nowhere_is_found(story: Story, data: st.DataObject) -> None:
    """The same history with a value in one load that was stored nowhere is refused, for that load."""
    loads = [i for i, operation in enumerate(story.operations) if operation.kind is Kind.LOAD]
    if not loads:
        story.load(0, 0, None)
        loads = [len(story.operations) - 1]
    chosen = data.draw(st.sampled_from(loads))
    mutant = story.operations[chosen]._replace(value=NEVER_STORED)
    story.operations[chosen] = mutant
    (violation,) = check_history(story.operations)
    assert violation.rule == "tag from nowhere"
    assert mutant in violation.operations
