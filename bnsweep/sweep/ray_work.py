"""What Ray's workers run: a training run as a trial of Tune, a block as a task.

They alone import what does the work: the driver's process has no need of torch.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import ray

from bnsweep.errors import BnsweepError, GpuLostError, StoreUnreadableError, StoreUnwritableError
from bnsweep.experiment.plan import TrainingRun
from bnsweep.sweep.retries import ATTEMPTS, PASSING
from bnsweep.sweep.tasks import Failed, Outcome, Row, Scored, TrainTask, TrialTask
from bnsweep.training.datasets import Dataset

__all__ = ["GpuLost", "Score", "packed_rest", "packed_run", "remote_score", "train"]

Score = Callable[[TrialTask, Dataset], Scored]


@dataclass(frozen=True, slots=True)
class GpuLost:
    """What a task says instead of an answer: its node has no GPU that works."""

    node_id: str
    why: str

    @classmethod
    def here(cls, error: GpuLostError) -> GpuLost:
        """From the node in question."""
        return cls(ray.get_runtime_context().get_node_id(), str(error))


def train(config: Mapping[str, Any], tasks: Mapping[str, TrainTask], references: Mapping[str, Any]) -> None:
    """One training run, as Tune calls it; reports epochs, then the outcome."""
    from ray import tune

    from bnsweep.sweep import gpu, work

    task = tasks[config["run_id"]]
    outcome: Outcome | StoreUnwritableError | GpuLost
    try:
        dataset: Dataset = ray.get(references[task.run.fingerprint])
        with gpu.guarded():
            outcome = work.train_run(task, dataset, on_epoch=lambda epoch: tune.report({"epoch": epoch["epoch"]}))
    except StoreUnwritableError as error:
        outcome = error
    except GpuLostError as error:
        outcome = GpuLost.here(error)
    except StoreUnreadableError:
        raise  # Tune starts the run once more
    except BnsweepError as error:
        outcome = Failed(task, str(error), 1)
    tune.report({"outcome": outcome})


def remote_score(score: Score | None) -> Any:
    """What scores a block, as a function that Ray calls elsewhere; the task itself need not come back."""

    # max_calls=0: by default a task with a GPU gets a new process, and CUDA starts anew for each block.
    @ray.remote(max_calls=0, max_retries=ATTEMPTS - 1, retry_exceptions=list(PASSING))  # type: ignore[untyped-decorator]
    def block(run: bytes, rest: bytes, dataset: Dataset) -> tuple[tuple[Row, ...], float] | GpuLost:
        task = replace(pickle.loads(rest), run=_unpacked(run))  # noqa: S301 - our own driver's, as all of Ray's
        if score:
            scored = score(task, dataset)
            return scored.rows, scored.duration_s
        from bnsweep.sweep import gpu, work

        try:
            with gpu.guarded():
                scored = work.score_block(task, dataset)
        except GpuLostError as error:
            return GpuLost.here(error)
        return scored.rows, scored.duration_s

    return block


def packed_run(task: TrialTask) -> bytes:
    """A block's run, which many blocks share: pickling it with each, as Ray would, takes a third of a driver's time."""
    return pickle.dumps(task.run)


def packed_rest(task: TrialTask) -> bytes:
    """A block without its run."""
    return pickle.dumps(replace(task, run=None))  # type: ignore[arg-type]


@lru_cache(maxsize=8)
def _unpacked(run: bytes) -> TrainingRun:
    unpickled: TrainingRun = pickle.loads(run)  # noqa: S301 - our own driver's, as all of Ray's
    return unpickled
