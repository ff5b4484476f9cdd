"""Ray Tune schedules training runs; Ray tasks score blocks.

Tune handles about two short trials a second, Ray tasks about nine hundred (2 cores): one Tune trial per
training run, one task per block, nothing per row. Tune runs in a thread of its own and its callback
puts ended runs into a queue, so that blocks go out while other networks are still being trained.

Call `ray_settings.prepare_ray` before this module is imported.
"""

from __future__ import annotations

import atexit
import pickle
import queue
import secrets
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from time import monotonic
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError, RayTaskError

from bnsweep.errors import BnsweepError, EngineError, GpuLostError, StoreDamagedError, StoreUnwritableError
from bnsweep.experiment.plan import TrainingRun
from bnsweep.experiment.spec import Resource
from bnsweep.store.store import Store
from bnsweep.sweep.engine import ATTEMPTS, Datasets
from bnsweep.sweep.ray_connection import connect, first_line
from bnsweep.sweep.ray_nodes import Nodes, resources_of
from bnsweep.sweep.ray_outage import Head, Outage, exit_at_once
from bnsweep.sweep.tasks import (
    Failed,
    NetworkGone,
    Outcome,
    Progressed,
    Scored,
    Trained,
    TrainTask,
    TrialTask,
    Waiting,
)
from bnsweep.training.datasets import Dataset

__all__ = ["RayEngine"]

RUNS_PER_EXPERIMENT = 1000  # Tune slows down with thousands of trials in one experiment
BLOCKS_PER_SLOT = 6  # in flight per core or GPU share: no slot waits for the driver, and Ray keeps its leases
RESULTS_PER_WAIT = 64
RESOURCES_S = 1.0  # how long the cluster's size is taken to be the same
TUNE_GRACE_S = 5.0  # after which every result that Tune reported has been taken


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
        score: Callable[[TrialTask, Dataset], Scored] | None = None,
    ) -> None:
        self._owns_ray = not ray.is_initialized()
        self._store = store
        self._outcomes: queue.SimpleQueue[Outcome | StoreUnwritableError] = queue.SimpleQueue()
        self._datasets: Datasets = {}
        self._refs: dict[str, ray.ObjectRef] = {}
        self._blocks: dict[ray.ObjectRef, TrialTask] = {}
        self._trainings_left: set[str] = set()  # run ids
        self._training: Resource | None = None  # what each of them takes
        self._score = _remote(score)
        self._remote: tuple[tuple[str, Resource], Any, bytes] | None = None  # of the last block: the next is like it
        self._slots = (0.0, 0)  # when the cluster was asked, and what it has
        self._nodes = Nodes()
        self._closing = threading.Event()
        self._checked = False  # that some node can run a block
        self._tune_error: BaseException | None = None
        self._tune_thread: threading.Thread | None = None
        if self._owns_ray:
            connect(address, cpus)
        self._outage = Outage(self._nodes, patience_s)
        self._head = Head(ray.get_runtime_context().gcs_address)

    def start(self, trainings: Sequence[TrainTask], datasets: Datasets) -> None:
        self._datasets = datasets
        for task in trainings[:1]:
            self._nodes.check_fits(task.resource, "train")
            self._training = task.resource
        self._trainings_left = {task.run.run_id for task in trainings}
        if not trainings:
            return
        if self._tune_thread is not None:  # the runs of an earlier call have all come back
            self._tune_thread.join()
        for task in trainings:
            self._reference(task)
        self._tune_thread = threading.Thread(target=self._tune, args=(list(trainings),), name="tune", daemon=True)
        self._tune_thread.start()

    @property
    def room(self) -> int:
        return max(4, BLOCKS_PER_SLOT * self.slots) - len(self._blocks)

    @property
    def slots(self) -> int:
        # Asked once in a while, since nodes come and go: asking for each block would cost as much as the block's way.
        asked, slots = self._slots
        if monotonic() - asked > RESOURCES_S and self._head.answers():
            slots = self._nodes.slots()
            self._slots = (monotonic(), slots)
        return slots

    @property
    def busy(self) -> bool:
        return bool(self._trainings_left or self._blocks)

    def submit(self, task: TrialTask) -> None:
        resource = task.resource
        if not self._checked:
            self._nodes.check_fits(resource, "trial")
            self._checked = True
        if self._remote is None or self._remote[0] != (task.run.run_id, resource):
            taken = resources_of(resource)
            remote = self._score.options(
                num_cpus=taken.pop("CPU"),
                num_gpus=taken.pop("GPU"),
                resources=taken,
                label_selector=self._nodes.selector(resource),
                name=f"trials {task.run.title}",
            )
            self._remote = (task.run.run_id, resource), remote, pickle.dumps(task.run)
        _, remote, run = self._remote
        rest = pickle.dumps(replace(task, run=None))  # type: ignore[arg-type]
        self._blocks[remote.remote(run, rest, self._reference(task))] = task

    def wait(self, timeout_s: float) -> list[Outcome]:
        outcomes = self._drain()
        if isinstance(self._tune_error, GpuLostError):
            raise self._tune_error
        if self._tune_error is not None:
            raise EngineError(
                f"Ray Tune stopped: {first_line(self._tune_error)}; what has landed is kept, run again to go on"
            )
        if self._blocks:
            # With runs in training as well, look into their queue often.
            timeout_s = min(timeout_s, 0.2) if self._trainings_left else timeout_s
            ready, _ = ray.wait(
                list(self._blocks),
                num_returns=min(RESULTS_PER_WAIT, len(self._blocks)),
                timeout=0 if outcomes else 0.01,
            )
            if not ready and not outcomes:
                ready, _ = ray.wait(list(self._blocks), num_returns=1, timeout=timeout_s)
            outcomes += self._collected(ready)
        elif not outcomes and self._trainings_left:
            outcomes = self._drain(timeout_s)
        if outcomes:
            self._outage.over()
        elif self.busy and self._head.answers() and (said := self._outage.look(self._wanted())):
            outcomes.append(Waiting(said))
        return outcomes

    def _wanted(self) -> dict[str, Resource]:
        """What the work that is asked for takes, by its name in the spec."""
        wanted = {}
        if self._trainings_left and self._training:
            wanted["train"] = self._training
        if self._blocks:
            wanted["trial"] = next(iter(self._blocks.values())).resource
        return wanted

    def finished(self) -> list[Outcome]:
        outcomes = self._drain()
        ready, _ = ray.wait(list(self._blocks), num_returns=len(self._blocks), timeout=0) if self._blocks else ([], [])
        return outcomes + self._collected(ready, again=False)

    def close(self) -> None:
        self._closing.set()
        if self._head.gone:
            atexit.register(exit_at_once)
        else:
            self._leave()
        self._blocks.clear()
        self._refs.clear()
        if self._tune_thread is not None:
            # Tune's own state is of no use to anybody: the store is what a sweep goes on from.
            with suppress(OSError):
                self._store.filesystem.delete_dir(self._store.files.path("tune"))

    def _leave(self) -> None:
        for ref in self._blocks:
            ray.cancel(ref, force=True)
        if self._owns_ray and ray.is_initialized():
            ray.shutdown()
        if self._tune_thread is not None:
            self._tune_thread.join(timeout=5)

    def _drain(self, timeout_s: float = 0) -> list[Outcome]:
        """What Tune's thread has heard; waits for the first of it."""
        outcomes: list[Outcome] = []
        while True:
            try:
                outcome = self._outcomes.get(timeout=0 if outcomes else timeout_s)
            except queue.Empty:
                return outcomes
            if isinstance(outcome, StoreUnwritableError):
                raise outcome
            if isinstance(outcome, (Trained, Failed)):
                # A worker that dies after it has reported makes Tune try again: the run comes back twice.
                if outcome.task.run.run_id not in self._trainings_left:
                    continue
                self._trainings_left.remove(outcome.task.run.run_id)
            outcomes.append(outcome)

    def _reference(self, task: TrainTask | TrialTask) -> ray.ObjectRef:
        """The data set in the object store: put once, one copy per node."""
        fingerprint = task.run.fingerprint
        if fingerprint not in self._refs:
            self._refs[fingerprint] = ray.put(self._datasets[fingerprint]())
        return self._refs[fingerprint]

    def _collected(self, refs: Sequence[ray.ObjectRef], *, again: bool = True) -> list[Outcome]:
        return [outcome for ref in refs if (outcome := self._collect(ref, again=again)) is not None]

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
            return Failed(task, _text(error.cause if isinstance(error.cause, Exception) else error), 1)
        except RayError as error:
            return Failed(task, f"{type(error).__name__}: {first_line(error)}", ATTEMPTS)
        if isinstance(answer, _GpuLost):
            self._nodes.avoid(answer.node_id, answer.why)
            if again:
                self._nodes.check_fits(task.resource, "trial")
                self._remote = None
                self.submit(task)
            return None
        rows, seconds = answer
        return Scored(task, rows, seconds)

    def _tune(self, trainings: list[TrainTask]) -> None:
        try:
            todo = deque(trainings)
            while todo:
                batch = [todo.popleft() for _ in range(min(RUNS_PER_EXPERIMENT, len(todo)))]
                todo.extendleft(self._fit(batch))
            self._closing.wait(TUNE_GRACE_S)
            if not self._closing.is_set() and self._trainings_left and self._outcomes.empty():
                raise EngineError(f"{len(self._trainings_left)} training runs ended without a result")
        except BaseException as error:  # noqa: BLE001 - the driver's thread must hear of it
            if not self._closing.is_set():
                self._tune_error = error

    def _fit(self, trainings: list[TrainTask]) -> list[TrainTask]:
        """Train; returns what must be trained elsewhere, because nodes have lost their GPU."""
        resource = trainings[0].resource
        self._nodes.check_fits(resource, "train")
        selector = self._nodes.selector(resource)
        tasks = {task.run.run_id: task for task in trainings}
        ended = _Ended(self._outcomes, tasks, self._nodes)
        # Tune's search space holds ids alone: it replaces objects by placeholders of its own.
        trainable = tune.with_resources(
            tune.with_parameters(_train, tasks=tasks, references=dict(self._refs)),
            tune.PlacementGroupFactory(
                [resources_of(resource)], bundle_label_selector=[selector] if selector else None
            ),
        )
        tuner = tune.Tuner(
            trainable,
            param_space={"run_id": tune.grid_search(list(tasks))},
            tune_config=tune.TuneConfig(
                trial_dirname_creator=lambda trial: trial.config["run_id"],
                trial_name_creator=lambda trial: trial.config["run_id"],
                # A fresh process per run costs seconds of imports; on a GPU it is what frees the memory.
                reuse_actors=resource.gpu == 0,
            ),
            run_config=tune.RunConfig(
                name=f"tune-{secrets.token_hex(4)}",
                # Every node must see it, so it lies beside the rows.
                storage_path=self._store.files.path("tune"),
                storage_filesystem=self._store.filesystem,
                callbacks=[ended],
                failure_config=tune.FailureConfig(max_failures=ATTEMPTS - 1),
                verbose=0,
            ),
        )
        tuner.fit()
        return ended.elsewhere


@dataclass(frozen=True, slots=True)
class _GpuLost:
    """What a task says instead of an answer: its node has no GPU that works."""

    node_id: str
    why: str

    @classmethod
    def here(cls, error: GpuLostError) -> _GpuLost:
        return cls(ray.get_runtime_context().get_node_id(), str(error))


class _Ended(tune.Callback):  # type: ignore[misc]  # ray has no types
    """Hands ended runs to the driver's thread."""

    def __init__(
        self,
        outcomes: queue.SimpleQueue[Outcome | StoreUnwritableError],
        tasks: Mapping[str, TrainTask],
        nodes: Nodes,
    ) -> None:
        self._outcomes = outcomes
        self._tasks = tasks
        self._nodes = nodes
        self.elsewhere: list[TrainTask] = []

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        if isinstance(lost := result.get("outcome"), _GpuLost):
            self._nodes.avoid(lost.node_id, lost.why)
            self.elsewhere.append(self._tasks[trial.config["run_id"]])
        elif "outcome" in result:
            self._outcomes.put(result["outcome"])
        elif "epoch" in result:
            self._outcomes.put(Progressed(trial.config["run_id"], result["epoch"]))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        # Called after each failure; only the last one ends the run.
        if trial.num_failures > ATTEMPTS - 1:
            error = trial.get_pickled_error() or RuntimeError("the worker died")
            cause = getattr(error, "cause", None) or error
            self._outcomes.put(Failed(self._tasks[trial.config["run_id"]], _text(cause), trial.num_failures))

    # Tune pickles its callbacks with the experiment's state; a queue cannot and need not be in there.
    def __getstate__(self) -> dict[str, Any]:
        return {}


def _train(config: Mapping[str, Any], tasks: Mapping[str, TrainTask], references: Mapping[str, Any]) -> None:
    task = tasks[config["run_id"]]
    try:
        dataset: Dataset = ray.get(references[task.run.fingerprint])
        with _gpu().guarded():
            outcome: Outcome | StoreUnwritableError | _GpuLost = _work().train_run(
                task, dataset, on_epoch=lambda epoch: tune.report({"epoch": epoch["epoch"]})
            )
    except StoreUnwritableError as error:
        outcome = error
    except GpuLostError as error:
        outcome = _GpuLost.here(error)
    except BnsweepError as error:
        outcome = Failed(task, str(error), 1)
    tune.report({"outcome": outcome})


def _work() -> Any:
    """What does tasks, imported by the workers alone: the driver's process has no need of torch."""
    from bnsweep.sweep import work

    return work


def _gpu() -> Any:
    from bnsweep.sweep import gpu

    return gpu


def _remote(score: Callable[[TrialTask, Dataset], Scored] | None) -> Any:
    """What scores a block, as a function that Ray calls elsewhere; the task itself need not come back."""

    # max_calls=0: by default a task with a GPU gets a new process, and CUDA starts anew for each block.
    @ray.remote(max_calls=0, max_retries=ATTEMPTS - 1, retry_exceptions=[OSError, MemoryError])  # type: ignore[untyped-decorator]
    def block(run: bytes, rest: bytes, dataset: Dataset) -> tuple[tuple[dict[str, Any], ...], float] | _GpuLost:
        task = replace(pickle.loads(rest), run=_unpickled(run))  # noqa: S301 - our own driver's, as all of Ray's
        if score:
            scored = score(task, dataset)
            return scored.rows, scored.duration_s
        try:
            with _gpu().guarded():
                scored = _work().score_block(task, dataset)
        except GpuLostError as error:
            return _GpuLost.here(error)
        return scored.rows, scored.duration_s

    return block


@lru_cache(maxsize=8)
def _unpickled(run: bytes) -> TrainingRun:
    # Pickling a block whole, as Ray does, takes a third of the driver's time; its run is that of many blocks.
    unpickled: TrainingRun = pickle.loads(run)  # noqa: S301 - our own driver's, as all of Ray's
    return unpickled


def _text(error: BaseException) -> str:
    return str(error) if isinstance(error, BnsweepError) else f"{type(error).__name__}: {first_line(error)}"
