"""Ray Tune schedules training runs; Ray tasks score blocks.

Tune handles about two short trials a second, Ray tasks one to two thousand (2 cores): one Tune trial per
training run, one task per block, nothing per row.

Call `ray_settings.prepare_ray` before this module is imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from bnsweep.errors import BnsweepError, StoreDamagedError, StoreUnwritableError
from bnsweep.experiment.resources import Resource
from bnsweep.store.store import Store
from bnsweep.sweep.engine import Datasets
from bnsweep.sweep.ray_cluster import RayCluster
from bnsweep.sweep.ray_data import SharedData
from bnsweep.sweep.ray_nodes import resources_of
from bnsweep.sweep.ray_trainings import Trainings
from bnsweep.sweep.ray_work import GpuLost, Score, packed_rest, packed_run, remote_score
from bnsweep.sweep.retries import ATTEMPTS, PASSING, first_line, said
from bnsweep.sweep.tasks import Failed, NetworkGone, Outcome, Scored, TrainTask, TrialTask, Waiting

__all__ = ["RayEngine"]

BLOCKS_PER_SLOT = 6  # in flight per core or GPU share: no slot waits for the driver, and Ray keeps its leases
RESULTS_PER_WAIT = 64
RESOURCES_S = 1.0  # how long the cluster's size is taken to be the same


class RayEngine:
    """Runs tasks on a Ray cluster: an existing one by `address`, else one of its own on this machine.

    `patience_s` is how long it waits when no node can work; None: for ever. `score` does a block; benchmarks give one
    that only sleeps.
    """

    def __init__(
        self,
        store: Store,
        *,
        address: str | None = None,
        cpus: int | None = None,
        patience_s: float | None = None,
        score: Score | None = None,
    ) -> None:
        self._cluster = RayCluster(address, cpus, patience_s=patience_s)
        self._nodes = self._cluster.nodes
        self._trainings = Trainings(store, self._nodes)
        self._data = SharedData({})
        self._blocks: dict[ray.ObjectRef, TrialTask] = {}
        self._score = remote_score(score)
        self._remote: tuple[tuple[str, Resource], Any, bytes] | None = None  # of the last block: the next is like it
        self._error: BnsweepError | None = None  # that a block met: raised once what came back is handed over
        self._slots = (0.0, 0)  # when the cluster was asked, and what it has

    def start(self, trainings: Sequence[TrainTask], datasets: Datasets, trial: Resource) -> None:
        self._nodes.check_fits(trial, "trial")
        self._data.loaders = datasets
        self._trainings.start(trainings, self._data)

    @property
    def room(self) -> int:
        return max(4, BLOCKS_PER_SLOT * self.slots) - len(self._blocks)

    @property
    def slots(self) -> int:
        # Asked once in a while, since nodes come and go: asking for each block would cost as much as the block's way.
        asked, slots = self._slots
        if monotonic() - asked > RESOURCES_S and self._cluster.answers():
            slots = self._nodes.slots()
            self._slots = (monotonic(), slots)
        return slots

    @property
    def busy(self) -> bool:
        return bool(self._trainings.left or self._blocks) or self._error is not None

    @property
    def works_in_wait(self) -> bool:
        return False

    def submit(self, task: TrialTask) -> None:
        resource = task.resource
        if self._remote is None or self._remote[0] != (task.run.run_id, resource):
            taken = resources_of(resource)
            remote = self._score.options(
                num_cpus=taken.pop("CPU"),
                num_gpus=taken.pop("GPU"),
                resources=taken,
                label_selector=self._nodes.selector(resource),
                name=f"trials {task.run.title}",
            )
            self._remote = (task.run.run_id, resource), remote, packed_run(task)
        _, remote, run = self._remote
        self._blocks[remote.remote(run, packed_rest(task), self._data.reference(task.run.fingerprint))] = task

    def wait(self, timeout_s: float) -> list[Outcome]:
        outcomes = self._trainings.taken()
        if not outcomes:  # what has come back is handed over before an error is
            self._trainings.check()
            if self._error is not None:
                raise self._error
        if self._blocks:
            # With runs in training as well, look into their queue often.
            timeout_s = min(timeout_s, 0.2) if self._trainings.left else timeout_s
            # What is ready is taken at once: waiting for more of it would leave slots without work.
            most = min(RESULTS_PER_WAIT, len(self._blocks))
            ready, _ = ray.wait(list(self._blocks), num_returns=most, timeout=0)
            if not ready and not outcomes:
                ready, _ = ray.wait(list(self._blocks), num_returns=1, timeout=timeout_s)
            outcomes += self._collected(ready)
        elif not outcomes and self._trainings.left:
            outcomes = self._trainings.taken(timeout_s)
        if outcomes:
            self._cluster.heard()
        elif self.busy and (why := self._cluster.look(self._wanted())):
            outcomes.append(Waiting(why))
        return outcomes

    def _wanted(self) -> dict[str, Resource]:
        """What the work that is asked for takes, by its name in the spec."""
        wanted = {}
        if self._trainings.left and self._trainings.resource:
            wanted["train"] = self._trainings.resource
        if self._blocks:
            wanted["trial"] = next(iter(self._blocks.values())).resource
        return wanted

    def finished(self) -> list[Outcome]:
        if self._cluster.gone:
            return []
        outcomes = self._trainings.taken()
        ready, _ = ray.wait(list(self._blocks), num_returns=len(self._blocks), timeout=0) if self._blocks else ([], [])
        return outcomes + self._collected(ready, again=False)

    def close(self) -> None:
        self._trainings.close()
        # A connection that is closed ends its tasks. To cancel one that ends just then aborts this process (Ray 2.60,
        # "Tried to complete task that was not pending"), and so is left for a connection that stays open, its user's.
        for ref in () if self._cluster.gone or self._cluster.ours else self._blocks:
            ray.cancel(ref, force=True)
        self._cluster.close()
        if not self._cluster.gone:
            self._trainings.join()
        self._blocks.clear()
        self._data.references.clear()
        self._trainings.forget()

    def _collected(self, refs: Sequence[ray.ObjectRef], *, again: bool = True) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for ref in refs:
            try:
                outcome = self._collect(ref, again=again)
            except BnsweepError as error:
                self._error = self._error or error
                continue
            if outcome is not None:
                outcomes.append(outcome)
        return outcomes

    def _collect(self, ref: ray.ObjectRef, *, again: bool) -> Outcome | None:
        """What became of a block; None if its node has lost the GPU: then it is done elsewhere, if `again`."""
        task = self._blocks.pop(ref)
        try:
            answer = ray.get(ref)
        except RayTaskError as error:
            if isinstance(error.cause, StoreUnwritableError):
                raise error.cause from None
            if isinstance(error.cause, StoreDamagedError):
                return NetworkGone(task, str(error.cause))
            cause = error.cause if isinstance(error.cause, Exception) else error
            return Failed(task, said(cause), ATTEMPTS if isinstance(cause, PASSING) else 1)
        except RayError as error:
            return Failed(task, f"{type(error).__name__}: {first_line(error)}", ATTEMPTS)
        if isinstance(answer, GpuLost):
            self._nodes.avoid(answer.node_id, answer.why)
            if again:
                self._nodes.check_fits(task.resource, "trial")
                self._remote = None
                self.submit(task)
            return None
        rows, seconds = answer
        return Scored(task, rows, seconds)
