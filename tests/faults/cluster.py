"""A dask cluster of this machine: `python -m tests.faults.cluster WORKERS` until standard input ends.

It prints a line of JSON: the scheduler's address, and the pids of the workers.
"""

import json
import sys

from distributed import LocalCluster


def main() -> None:
    """Make it, say where it is, wait."""
    with LocalCluster(
        n_workers=int(sys.argv[1]),
        threads_per_worker=2,
        host="127.0.0.1",
        dashboard_address=None,
        worker_dashboard_address=None,
    ) as cluster:
        workers = [nanny.pid for nanny in cluster.workers.values()]
        print(json.dumps({"address": cluster.scheduler_address, "workers": workers}), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
