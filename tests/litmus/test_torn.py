"""No torn capability and no tag over a mixture, whatever other processes do to the granule (tests/native/litmus.c)."""

import pytest

from tests.litmus import programs

MILLION = 1_000_000
BESIDE_STORES = ["pair", "values"]  # only tagged values are written: no load may ever be untagged
BESIDE_OVERWRITES = ["raw", "writes", "all", "sweeps"]

cores = pytest.mark.parametrize("core", programs.CORES)


def _check(mode: str, core: str, loads: int, *, bound: float = 250) -> None:
    """Run the mode and assert that each load was explained by some order, and that it was a test at all."""
    outcome = programs.run(programs.build("litmus", core), mode, loads, bound=bound)
    (result,) = outcome.results
    assert (result["torn"], result["forged"], result["lost"]) == (0, 0, 0)
    assert outcome.status == 0, outcome.text
    assert int(result["loads"]) >= loads
    assert 0 < int(result["tagged"]) <= int(result["loads"])
    assert (result["tagged"] == result["loads"]) == (mode in BESIDE_STORES)
    assert (int(result["swept"]) > 0) == (mode == "sweeps")


@pytest.mark.slow
@cores
@pytest.mark.parametrize("mode", [*BESIDE_STORES, *BESIDE_OVERWRITES])
def test_no_load_is_torn(mode: str, core: str) -> None:
    """What loads with a tag was stored there as a capability, whole; where nothing untags, no load is untagged."""
    _check(mode, core, 5 * MILLION)


@pytest.mark.slow
@cores
def test_two_operations_at_once_leave_what_an_order_explains(core: str) -> None:
    """After a store beside another operation on its granule, tag and bytes are those of one of the two orders."""
    _check("settled", core, MILLION // 5)


@pytest.mark.slow
@cores
def test_control_tears(core: str) -> None:
    """The same detector finds torn values where nothing is between two 8-byte stores and two 8-byte loads."""
    outcome = programs.run(programs.build("litmus", core), "control", 5 * MILLION)
    (result,) = outcome.results
    assert int(result["torn"]) > 0
    assert outcome.status == 0, outcome.text


@pytest.mark.soak
@cores
@pytest.mark.parametrize("mode", [*BESIDE_STORES, *BESIDE_OVERWRITES])
def test_no_load_is_torn_for_long(mode: str, core: str) -> None:
    """The same for 100 million loads of each kind."""
    _check(mode, core, 100 * MILLION, bound=7200)


@pytest.mark.soak
@cores
def test_two_operations_at_once_leave_what_an_order_explains_for_long(core: str) -> None:
    """The same for ten million rounds."""
    _check("settled", core, 10 * MILLION, bound=7200)
