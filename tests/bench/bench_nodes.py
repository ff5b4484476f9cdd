"""Does a sweep get faster with nodes? 1, 2 and 4 Ray nodes on this machine, blocks that sleep instead of computing.

`python -m tests.bench.bench_nodes` prints the figures. A sleeping block takes no processor, so four nodes can stand on
two cores, and what keeps a slot from being busy is the way of blocks through driver, Ray and store.

Value: blocks per second. Floor: every slot asleep all the time. `of floor` is the efficiency.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

from tests.bench.blocks import Sleep, run_blocks, trained_sweep

NODES = (1, 2, 4)
SLOTS = 2  # per node
SLEEP_S = 2.0
BLOCKS = 20  # per slot
TOLD = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}


def figures() -> list[dict[str, Any]]:
    """One row per figure: figure, value, unit, baseline, ratio, floor, n, spread."""
    rates = {nodes: _rate(nodes) for nodes in NODES}
    return [
        {
            "figure": f"nodes: {nodes} of {SLOTS} slots, blocks asleep for {SLEEP_S:g} s, against 1 node",
            "value": rate,
            "unit": "blocks/s",
            "baseline": rates[1],
            "ratio": rate / rates[1],
            "floor": nodes * SLOTS / SLEEP_S,
            "n": nodes * SLOTS * BLOCKS,
            "spread": None,
        }
        for nodes, rate in rates.items()
    ]


def _rate(nodes: int) -> float:
    for name, value in TOLD.items():
        os.environ.setdefault(name, value)
    from bnsweep.sweep.ray_settings import prepare_ray

    prepare_ray(own_cluster=False)
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=SLOTS)
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        with tempfile.TemporaryDirectory() as folder:
            run_blocks(*trained_sweep(Path(folder) / "warm-up", 40 * nodes), Sleep(0.5))  # starts every worker
            blocks = nodes * SLOTS * BLOCKS
            plan, store = trained_sweep(Path(folder) / "store", blocks)
            begin = perf_counter()
            summary, _ = run_blocks(plan, store, Sleep(SLEEP_S))
            if summary.trials_done != blocks:
                raise RuntimeError(f"{blocks} blocks were planned, but {summary.trials_done} came back")
            return blocks / (perf_counter() - begin)
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    for row in figures():
        print(row)
