"""P2 under attack: no revoked capability is used after the call has returned, and nothing that is kept is lost."""

import random

import pytest

from capshm.testing import Kind, check_history
from tests.faults.isolation import isolated
from tests.faults.revocation_attack import ATTACKERS, attack, count

COMBINATIONS = [(stopper, scope) for stopper in ("gate", "signal", "sigstop") for scope in ("vmspace", "machine")]


def check(stopper: str, scope: str, seed: int, rounds: int) -> None:
    """Attack, judge, and see that there was something to judge."""
    operations = attack(stopper, scope, seed=seed, rounds=rounds)
    assert count(operations, Kind.PASS) >= ATTACKERS * rounds
    assert count(operations, Kind.PASS_OF_ALL) == rounds
    for tag in (True, False):
        assert count(operations, Kind.LOAD, tag=tag) > rounds // 2
        assert count(operations, Kind.LOOK, tag=tag) > rounds
    violations = check_history(operations)
    print(f"{len(operations)} operations, {count(operations, Kind.FORK)} forks, {len(violations)} violations")
    assert not violations, "\n".join(map(str, violations[:5]))


@pytest.mark.slow
@pytest.mark.parametrize(("stopper", "scope"), COMBINATIONS)
@isolated()
def test_nothing_revoked_is_used_and_nothing_kept_is_lost(stopper: str, scope: str) -> None:
    """Attackers store, load, write, copy, pass descriptors, fork, exec and die while all of them revoke."""
    check(stopper, scope, random.randrange(1 << 32), rounds=25)


@pytest.mark.soak
@pytest.mark.parametrize(("stopper", "scope"), COMBINATIONS)
@isolated(bound=7200)
def test_nothing_revoked_is_used_and_nothing_kept_is_lost_for_long(stopper: str, scope: str) -> None:
    """The same for long, with many seeds."""
    for _ in range(20):
        check(stopper, scope, random.randrange(1 << 32), rounds=200)
