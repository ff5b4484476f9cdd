"""A cluster for several tests: a head without work and one node of one core. Its network takes 0.1 s for each trial."""

from __future__ import annotations

import pytest
from buckets import ACCOUNT
from clusters import Cluster, MemoryLimit

MEMORY_BYTES = 3 << 30  # of the node, of which Ray lets its workers use 80 %
NO_LIMIT = MemoryLimit.missing()
KINDS = ["crash", "deadly"] + ([] if NO_LIMIT else ["hungry"])  # networks that die: in training, in scoring, of hunger


class SharedCluster:
    """Started by who asks first."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders
        self._made: list[Cluster] = []

    def __enter__(self) -> SharedCluster:
        return self

    def __exit__(self, *_: object) -> None:
        for cluster in self._made:
            cluster.__exit__(None, None, None)

    def ready(self) -> Cluster:
        """With what an earlier test has killed replaced."""
        if not self._made or self._made[-1].head.poll() is not None:
            self._made.append(Cluster(self._folders.mktemp("cluster")))
        if all(node.poll() is not None for node in self._made[-1].nodes[1:]):
            add_node(self._made[-1])
        return self._made[-1]


def add_node(cluster: Cluster) -> None:
    """The node that works. Its networks misbehave as long as a file of that name is in the cluster's folder."""
    faults = {f"FAULT_{kind.upper()}": str(cluster.folder / kind.upper()) for kind in KINDS}
    memory = {"RAY_memory_usage_threshold": "0.8", "RAY_memory_monitor_refresh_ms": "100"}
    cluster.add(
        cpus=1, memory_bytes=None if NO_LIMIT else MEMORY_BYTES, FAULT_WAIT_S="0.1", **faults, **memory, **ACCOUNT
    )
