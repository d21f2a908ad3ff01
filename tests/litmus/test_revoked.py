"""Revocation beside a load, a store, a move among registers and a fork: what revoked.c forbids never occurs."""

import pytest

from tests.litmus import programs

MILLION = 1_000_000

cores = pytest.mark.parametrize("core", programs.CORES)


def check(core: str, rounds: int, forks: int, *, bound: float = 250) -> None:
    """Play so many rounds, of which one in `forks` is a fork, and assert that there were rounds of each kind."""
    outcome = programs.run(programs.build("revoked", core), rounds, forks, bound=bound)
    assert outcome.status == 0, outcome.text
    (result,) = outcome.results
    played = [int(result[name]) for name in ("load", "store", "move", "fork")]
    assert all(played)
    assert sum(played) == result["rounds"] == rounds


@pytest.mark.slow
@cores
def test_what_is_revoked_is_gone_and_what_is_not_stays(core: str) -> None:
    """After each of some thousand rounds no register and no memory has the value, and all still have the other."""
    check(core, 4000, 100)


@pytest.mark.soak
@cores
def test_what_is_revoked_is_gone_and_what_is_not_stays_for_long(core: str) -> None:
    """The same for a million rounds."""
    check(core, MILLION, 500, bound=7200)
