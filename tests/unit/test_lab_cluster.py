"""What a cluster is refused for, and what its cells are spared. Real ones: tests/faults/test_compare_cluster.py."""

from pathlib import Path

import dask
import pytest

from capshm.lab.choice import Choice
from capshm.lab.plan import complete
from capshm.lab.runner import cluster

PLAN = complete(Choice(workloads=("ring",)))


@pytest.mark.slow
@pytest.mark.parametrize("address", ["nonsense", "tcp://127.0.0.1:x", "carrier-pigeon://127.0.0.1:1"])
def test_what_is_no_address_is_refused(address: str) -> None:
    """At once, with the address."""
    with (
        pytest.raises(cluster.ClusterError, match=f"there is no scheduler at {address}: "),
        cluster.connect(address, PLAN),
    ):
        pass


def test_a_worker_says_which_files_it_lacks(tmp_path: Path) -> None:
    """Missing ones, and others of the same name."""
    same, changed, missing = (tmp_path / name for name in ("same", "changed", "missing"))
    for path in (same, changed, missing):
        path.write_bytes(b"a trace")
    files = {str(path): cluster._digest(str(path)) for path in (same, changed, missing)}
    changed.write_bytes(b"another")
    missing.unlink()
    facts, lacking = cluster._look(files)
    assert facts.processors > 0
    assert lacking == [str(changed), str(missing)]


def test_cells_do_not_get_what_dask_sets_for_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """An allocator that gives memory back early, for one, would be measured, too; what others have set stays."""
    given = dask.config.get("distributed.nanny.pre-spawn-environ")
    for name, value in given.items():
        monkeypatch.setenv(name, str(value))
    assert "MALLOC_TRIM_THRESHOLD_" in given
    assert given.keys().isdisjoint(cluster._environment())
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "7")
    assert cluster._environment()["MALLOC_TRIM_THRESHOLD_"] == "7"
