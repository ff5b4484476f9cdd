"""One driver's cluster: the way there, its nodes, what is said when nothing comes back, and the end."""

from __future__ import annotations

import atexit
from collections.abc import Mapping
from types import TracebackType

import ray

from bnsweep.experiment.resources import Resource
from bnsweep.sweep.ray_connection import connect
from bnsweep.sweep.ray_nodes import Nodes
from bnsweep.sweep.ray_outage import Head, Outage, exit_at_once

__all__ = ["RayCluster"]


class RayCluster:
    """An existing cluster by `address`, else one of its own on this machine; or what this process is connected to.

    `patience_s` is how long to wait when no node can work; None: for ever.
    """

    def __init__(self, address: str | None, cpus: int | None, *, patience_s: float | None) -> None:
        self.nodes = Nodes()
        self.ours = not ray.is_initialized()  # the connection: closing it ends what runs
        if self.ours:
            connect(address, cpus)
        self._outage = Outage(self.nodes, patience_s)
        self._head = Head(ray.get_runtime_context().gcs_address)

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def gone(self) -> bool:
        """Whether its head has been silent for too long: Ray must be asked nothing more."""
        return self._head.gone

    def answers(self) -> bool:
        """Whether Ray may be asked something now. Raises EngineError once the head is gone."""
        return self._head.answers()

    def heard(self) -> None:
        """Something came back."""
        self._outage.over()

    def look(self, wanted: Mapping[str, Resource]) -> str | None:
        """While nothing comes back: what there is to tell people. `wanted`: what work takes, by its name in the spec.

        Raises:
            EngineError: patience has come to its end, or the head is gone.
        """
        return self._outage.look(wanted) if self._head.answers() else None

    def close(self) -> None:
        """Let go of it, and end it if it is ours; may be called more than once."""
        if self.gone:
            atexit.register(exit_at_once)
        elif self.ours and ray.is_initialized():
            ray.shutdown()
