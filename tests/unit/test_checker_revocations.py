"""Histories written by hand: revocation in machines, where each address space has its own, and what is kept."""

import pytest

from capshm import Permissions
from capshm.testing import Kind, Value, check_history
from tests.unit.test_checker import BASE, ONE, OTHER, ROOT, Story, capability, start


def machine() -> Story:
    """Three processes that have a page; OTHER is derived by the first alone, after it has forked the others."""
    return start().add(Kind.FORK, child=2).derive(0, ROOT, OTHER)


def revoked(story: Story, process: int = 0, kind: Kind = Kind.PASS) -> Story:
    """The first process has painted OTHER, and a process makes a pass."""
    return story.paint(OTHER).add(kind, process)


def look(story: Story, process: int, value: Value, **more: object) -> Story:
    """The process sees that it has the value."""
    return story.add(Kind.LOOK, process, value=value, **more)  # type: ignore[arg-type]


def write(story: Story, process: int, *, at: tuple[int, int | None] | None = None) -> Story:
    """The process writes bytes over the fourth granule."""
    return story.add(Kind.WRITE, process, at=at, place=BASE + 50, length=3, authority=ROOT)


def untagged(value: Value) -> Value:
    """The same bits."""
    return value._replace(tag=False)


def kept(value: Value = ONE) -> Story:
    """Two processes that have a page; `value` is kept."""
    return start().derive(0, ROOT, value).add(Kind.KEEP, place=value.address, length=64)


NO_CAPABILITIES = capability(0, 4096, permissions=Permissions.LOAD)

LAWFUL = {
    "a pass is its own process's": revoked(machine(), process=1).store(0, 3, OTHER).load(0, 3, OTHER),
    "a child that was forked before has its own copies": look(
        machine().add(Kind.FORK, child=3).paint(OTHER).add(Kind.PASS), 3, OTHER
    ),
    "a child that was forked during the pass": look(
        machine().paint(OTHER).add(Kind.FORK, child=3, at=(20, 29)).add(Kind.PASS, at=(22, 28)), 3, OTHER
    ),
    "what such a child stored is the child's": look(
        revoked(machine().add(Kind.FORK, child=3).store(3, 3, OTHER)).load(1, 3, OTHER), 1, OTHER
    ),
    "who derived the same is not concerned": look(revoked(machine().derive(1, ROOT, OTHER)), 1, OTHER),
    "nor is who has it from there": look(revoked(machine().derive(1, ROOT, OTHER)), 2, OTHER),
    "derived anew": look(revoked(machine()).derive(0, ROOT, OTHER), 0, OTHER),
    "its own paint cleared before": look(
        machine().paint(OTHER).paint(OTHER, Kind.CLEAR_PAINT).add(Kind.PASS), 0, OTHER
    ),
    "kept, and there": look(kept().store(0, 3, ONE).load(1, 3, ONE), 0, ONE),
    "what nobody keeps": look(start().store(0, 3, ONE).load(1, 3, untagged(ONE)), 0, untagged(ONE)),
    "kept, but painted": look(kept(OTHER).paint(OTHER).add(Kind.REVOKE), 0, untagged(OTHER)),
    "kept from later on": look(
        start().add(Kind.KEEP, place=ONE.address, length=64, at=(20, 30)), 0, untagged(ONE), at=(29, 31)
    ),
    "nothing was stored": kept().load(1, 3, untagged(ONE)),
    "stored meanwhile": kept().store(0, 3, ONE, at=(20, 30)).load(1, 3, untagged(ONE), at=(25, 26)),
    "what is not kept was stored over it": kept().store(0, 3, ONE).store(0, 3, OTHER).load(1, 3, untagged(OTHER)),
    "what is not kept is stored over it": kept()
    .store(0, 3, ONE)
    .store(0, 3, OTHER, at=(20, 30))
    .load(1, 3, untagged(ONE), at=(25, 26)),
    "an untagged one was stored over it": kept().store(0, 3, ONE).store(0, 3, untagged(ONE)).load(1, 3, untagged(ONE)),
    "written": write(kept().store(0, 3, ONE), 1).load(1, 3, untagged(ONE)),
    "maybe written": write(kept().store(0, 3, ONE), 1, at=(20, None))
    .store(0, 3, ONE)
    .load(1, 3, untagged(ONE)),
    "who died may have left it untagged": kept()
    .store(0, 3, ONE)
    .store(1, 3, ONE, at=(20, None))
    .load(0, 3, untagged(ONE)),
    "without the right to load tags": kept()
    .store(0, 3, ONE)
    .add(Kind.LOAD, 1, place=BASE + 48, length=16, authority=NO_CAPABILITIES, value=untagged(ONE)),
    "where tags cannot be reached": kept()
    .store(0, 3, ONE)
    .add(Kind.SHARE_DROP, 1, object=7)
    .load(1, 3, untagged(ONE)),
    "it went with the address space of who stored it": kept()
    .store(1, 3, ONE)
    .add(Kind.PASS_OF_ALL)
    .load(0, 3, untagged(ONE)),
}  # fmt: skip

UNLAWFUL = {
    "the painter's": (look(revoked(machine()), 0, OTHER), "use after revocation", "had"),
    "a later child's": (
        look(revoked(machine()).add(Kind.FORK, child=3), 3, OTHER),
        "use after revocation",
        "had",
    ),
    "a later child's child's": (
        look(revoked(machine()).add(Kind.FORK, child=3).add(Kind.FORK, 3, child=4), 4, OTHER),
        "use after revocation",
        "had",
    ),
    "what only the painter ever had, elsewhere": (
        revoked(machine().store(0, 3, OTHER)).load(1, 3, OTHER),
        "use after revocation",
        "loaded",
    ),
    "a pass of all": (
        look(revoked(machine(), 1, Kind.PASS_OF_ALL), 0, OTHER),
        "use after revocation",
        "had",
    ),
    "paint that another process cleared in its own shadow": (
        look(
            machine().paint(OTHER).add(Kind.CLEAR_PAINT, 1, place=OTHER.address, length=64).add(Kind.PASS), 0, OTHER
        ),
        "use after revocation",
        "had",
    ),
    "lost from a register": (look(kept(), 1, untagged(ONE)), "lost", "had"),
    "lost from memory": (kept().store(0, 3, ONE).load(1, 3, untagged(ONE)), "lost", "loaded"),
    "lost beside a pass": (
        kept().store(0, 3, ONE).paint(OTHER).add(Kind.PASS).load(1, 3, untagged(ONE)).load(0, 3, ONE),
        "lost",
        "loaded",
    ),
    "lost between two that are kept": (
        kept()
        .store(0, 3, ONE)
        .store(1, 3, capability(32, 16), at=(20, 30))
        .load(0, 3, untagged(ONE), at=(25, 26)),
        "lost",
        "loaded",
    ),
    "lost, though it was written before": (
        write(kept(), 1).store(0, 3, ONE).load(1, 3, untagged(ONE)),
        "lost",
        "loaded",
    ),
}  # fmt: skip


@pytest.mark.parametrize("story", LAWFUL.values(), ids=LAWFUL)
def test_lawful(story: Story) -> None:
    """What revocation does not concern may be there, and what nobody answers for may be missing."""
    assert [
        str(each) for each in check_history(story.operations) if each.rule in ("use after revocation", "lost")
    ] == []


@pytest.mark.parametrize(("story", "rule", "words"), UNLAWFUL.values(), ids=UNLAWFUL)
def test_unlawful(story: Story, rule: str, words: str) -> None:
    """Each broken rule is named once, with the operations that show it, the last of which is that of the end."""
    (found,) = [each for each in check_history(story.operations) if each.rule in ("use after revocation", "lost")]
    assert found.rule == rule
    assert words in found.message
    assert set(found.operations) <= set(story.operations)
