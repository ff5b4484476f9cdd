"""Training runs of a sweep through Ray Tune, in a thread of their own, which is done with them one after the other.

Ended runs come out of a queue, so that blocks go out while other networks are still being trained.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any

from ray import tune

from bnsweep.errors import EngineError, GpuLostError, StoreUnwritableError
from bnsweep.experiment.resources import Resource
from bnsweep.store.store import Store
from bnsweep.sweep import ray_tune
from bnsweep.sweep.ray_data import SharedData
from bnsweep.sweep.ray_nodes import Nodes
from bnsweep.sweep.ray_work import GpuLost, train
from bnsweep.sweep.retries import first_line, said
from bnsweep.sweep.tasks import Failed, Outcome, Progressed, Trained, TrainTask

__all__ = ["Trainings"]

RUNS_PER_EXPERIMENT = 1000  # Tune slows down with thousands of trials in one experiment
GRACE_S = 5.0  # after which every result that Tune reported has been taken
LOOK_S = 0.1  # between looks whether it has


class Trainings:
    """What is to be trained, and what has come back."""

    def __init__(self, store: Store, nodes: Nodes) -> None:
        self._store, self._nodes = store, nodes
        self._outcomes: queue.SimpleQueue[Outcome | StoreUnwritableError] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self.left: set[str] = set()  # run ids
        self.resource: Resource | None = None  # what each of them takes

    def start(self, tasks: Sequence[TrainTask], data: SharedData) -> None:
        """Begin with these; those of an earlier call have all come back."""
        if self._thread is not None:
            self._thread.join()  # first: it would take these for runs of its own that have brought no result
        self.left = {task.run.run_id for task in tasks}
        if not tasks:
            return
        self.resource = tasks[0].resource
        self._nodes.check_fits(self.resource, "train")
        references = {task.run.fingerprint: data.reference(task.run.fingerprint) for task in tasks}
        self._thread = threading.Thread(target=self._run, args=(list(tasks), references), name="tune", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise what has ended Tune, if it has ended before its work, or what ended a training for want of a disk."""
        if isinstance(self._error, (GpuLostError, StoreUnwritableError)):
            raise self._error
        if self._error is not None:
            raise EngineError(
                f"Ray Tune stopped: {first_line(self._error)}; what has landed is kept, run again to go on"
            )

    def taken(self, timeout_s: float = 0) -> list[Outcome]:
        """What has come back; waits for the first of it."""
        outcomes: list[Outcome] = []
        while True:
            try:
                outcome = self._outcomes.get(timeout=0 if outcomes else timeout_s)
            except queue.Empty:
                return outcomes
            if isinstance(outcome, StoreUnwritableError):
                self._error = outcome  # `check` raises it, once what came with it has been taken
                continue
            if isinstance(outcome, (Trained, Failed)):
                # A worker that dies after it has reported makes Tune try again: the run comes back twice.
                if outcome.task.run.run_id not in self.left:
                    continue
                self.left.remove(outcome.task.run.run_id)
            outcomes.append(outcome)

    def close(self) -> None:
        """From now on whatever stops Tune's thread is no news."""
        self._closing.set()

    def join(self) -> None:
        """Wait for the thread, but not for long."""
        if self._thread is not None:
            self._thread.join(timeout=5)

    def forget(self) -> None:
        """Delete what Tune wrote."""
        if self._thread is not None:
            ray_tune.forget(self._store)

    def _run(self, tasks: list[TrainTask], references: Mapping[str, Any]) -> None:
        try:
            todo = deque(tasks)
            while todo:
                batch = [todo.popleft() for _ in range(min(RUNS_PER_EXPERIMENT, len(todo)))]
                todo.extendleft(self._fit(batch, references))
            until = monotonic() + GRACE_S
            while self.left and monotonic() < until and not self._closing.wait(LOOK_S):
                pass
            if not self._closing.is_set() and self.left and self._outcomes.empty():
                raise EngineError(f"{len(self.left)} training runs ended without a result")
        except BaseException as error:  # noqa: BLE001 - the driver's thread must hear of it
            if not self._closing.is_set():
                self._error = error

    def _fit(self, tasks: list[TrainTask], references: Mapping[str, Any]) -> list[TrainTask]:
        """Train; returns what must be trained elsewhere, because nodes have lost their GPU."""
        resource = tasks[0].resource
        self._nodes.check_fits(resource, "train")
        named = {task.run.run_id: task for task in tasks}
        ended = _Ended(self._outcomes, named, self._nodes)
        ray_tune.fit(
            train,
            {"tasks": named, "references": references},
            store=self._store,
            resource=resource,
            selector=self._nodes.selector(resource),
            callback=ended,
            # Ids alone: Tune replaces objects in its search space by placeholders of its own.
            param_space={"run_id": tune.grid_search(list(named))},
        )
        return ended.elsewhere


class _Ended(tune.Callback):  # type: ignore[misc]  # ray has no types
    """Hands ended runs to the driver's thread."""

    def __init__(
        self,
        outcomes: queue.SimpleQueue[Outcome | StoreUnwritableError],
        tasks: Mapping[str, TrainTask],
        nodes: Nodes,
    ) -> None:
        self._outcomes, self._tasks, self._nodes = outcomes, tasks, nodes
        self.elsewhere: list[TrainTask] = []

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        if isinstance(lost := result.get("outcome"), GpuLost):
            self._nodes.avoid(lost.node_id, lost.why)
            self.elsewhere.append(self._tasks[trial.config["run_id"]])
        elif "outcome" in result:
            self._outcomes.put(result["outcome"])
        elif "epoch" in result:
            self._outcomes.put(Progressed(trial.config["run_id"], result["epoch"]))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        # Called after each failure; only the last one ends the run.
        if (error := ray_tune.last_error(trial)) is not None:
            self._outcomes.put(Failed(self._tasks[trial.config["run_id"]], said(error), trial.num_failures))

    # Tune pickles its callbacks with the experiment's state; a queue cannot and need not be in there.
    def __getstate__(self) -> dict[str, Any]:
        return {}
