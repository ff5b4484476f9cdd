"""Which nodes of a Ray cluster can do a task: there or still to be added, and with a GPU that works."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import ray
from ray._private.state import state

from bnsweep.errors import GpuLostError, InputError
from bnsweep.experiment.resources import Resource

__all__ = ["Nodes", "asked", "resources_of"]

NODE_ID = "ray.io/node-id"  # a label that Ray gives to every node
ACCELERATOR = "accelerator_type:"  # a resource that Ray gives to nodes with GPUs, followed by their name
MOST_SLOTS = 5_000  # an autoscaler may have no limit of its own
A_LITTLE = 0.001  # of that resource: it says where a task may run, not how many


class Nodes:
    """The nodes, as one driver sees them. Safe to use from several threads."""

    def __init__(self) -> None:
        self._avoided: dict[str, str] = {}  # address and what happened, by node id

    def avoid(self, node_id: str, why: str) -> None:
        """Give no more work with a GPU to this node. Once restarted it has another id and is another node."""
        addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
        self._avoided.setdefault(node_id, f"{addresses.get(node_id, '?')} (node {node_id[:8]}): {why}")

    def selector(self, resource: Resource) -> dict[str, str]:
        """A label selector that leaves out the avoided nodes; tasks without a GPU avoid none."""
        if resource.gpu == 0 or not self._avoided:
            return {}
        return {NODE_ID: f"!in({', '.join(sorted(self._avoided))})"}

    def slots(self) -> int:
        """CPUs, and four for each GPU, of the nodes that are there or that the autoscaler may add."""
        ready = ray.cluster_resources()
        most = state.get_max_resources_from_cluster_config() or {}
        cpus, gpus = (max(ready.get(name, 0), most.get(name, 0)) for name in ("CPU", "GPU"))
        return int(min(cpus + 4 * gpus, MOST_SLOTS))

    def check_fits(self, resource: Resource, what: str) -> None:
        """Ray would wait for ever, and say nothing, for what no node has. A head alone has no say: its nodes may come.

        Raises:
            InputError: no node is large enough, or of the wanted type.
            GpuLostError: there were such nodes, and all have lost their GPU.
        """
        nodes = list(self._nodes())
        able = [node_id for node_id, node in nodes if _fits(resource, node)]
        if any(resource.gpu == 0 or node_id not in self._avoided for node_id in able):
            return
        if able:
            raise GpuLostError(
                f"no node with a GPU for `resources.{what}` has one that works. What has landed is kept; repair or "
                "restart them, then run again\n  " + "\n  ".join(self._avoided.values())
            )
        if not any(node.get("CPU", 0) or node.get("GPU", 0) for _, node in nodes):
            return
        most = {name: max((node.get(name, 0.0) for _, node in nodes), default=0.0) for name in ("CPU", "GPU")}
        called = ""
        if resource.accelerator:
            types = {key.removeprefix(ACCELERATOR) for _, node in nodes for key in node if key.startswith(ACCELERATOR)}
            called = f" (of type: {', '.join(sorted(types)) or 'unknown'})"
        raise InputError(
            f"`resources.{what}` asks for {asked(resource)}, but no node has more than "
            f"{most['CPU']:g} CPUs and {most['GPU']:g} GPUs{called}. "
            "Ask for less, or use another cluster (--address)"
        )

    def there(self, resource: Resource) -> bool:
        """Whether a node that is up can do such a task."""
        return any(
            node_id and _fits(resource, node) and (resource.gpu == 0 or node_id not in self._avoided)
            for node_id, node in self._nodes()
        )

    def _nodes(self) -> Iterator[tuple[str, Mapping[str, float]]]:
        """(id, resources) of each node that is up, and of one of each kind that may be added; those have no id yet."""
        for node in ray.nodes():
            if node["Alive"]:
                yield node["NodeID"], node["Resources"]
        config = state.get_cluster_config()
        for group in config.node_group_configs if config else ():
            if group.max_count != 0:
                yield "", dict(group.resources)


def asked(resource: Resource) -> str:
    """What a task takes, as a spec says it."""
    named = f", accelerator: {resource.accelerator}" if resource.accelerator else ""
    return f"cpu: {resource.cpu:g}, gpu: {resource.gpu:g}{named}"


def _fits(resource: Resource, node: Mapping[str, float]) -> bool:
    named = resource.accelerator is None or f"{ACCELERATOR}{resource.accelerator}" in node
    return resource.cpu <= node.get("CPU", 0) and resource.gpu <= node.get("GPU", 0) and named


def resources_of(resource: Resource) -> dict[str, Any]:
    """What a task takes, as Ray's placement groups want it."""
    taken: dict[str, Any] = {"CPU": resource.cpu, "GPU": resource.gpu}
    if resource.accelerator:
        taken[f"{ACCELERATOR}{resource.accelerator}"] = A_LITTLE
    return taken
