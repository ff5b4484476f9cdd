"""The two kinds of task and what becomes of them, as values, and the columns of rows that follow from them alone.

A driver needs these and no torch: `work.py` does the tasks, wherever they are done.
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bnsweep._version import __version__
from bnsweep.experiment.identity import canonical_json
from bnsweep.experiment.plan import Plan, Point, TrainingRun
from bnsweep.experiment.resources import Resource
from bnsweep.experiment.spec import Evaluation, Probes
from bnsweep.sweep.ledger import TrainedRun
from bnsweep.sweep.points import Request

__all__ = [
    "Failed",
    "NetworkGone",
    "Outcome",
    "Progressed",
    "Row",
    "Scored",
    "TrainTask",
    "Trained",
    "TrialTask",
    "Waiting",
    "cell_columns",
    "failed_run_row",
    "recipe_columns",
    "versions",
]

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TrainTask:
    """One training run to do."""

    sweep: str
    store: str
    run: TrainingRun
    resource: Resource
    probes: Probes | None = None
    allow_import: bool = False
    attempt: int = 1
    again: str = ""  # why a run that had a network is trained once more


@dataclass(frozen=True, slots=True)
class TrialTask:
    """One block: trials `first`, `first + 1`, ... of one point, one seed each."""

    sweep: str
    store: str
    run: TrainingRun
    point: Point
    checkpoint_sha256: str
    first: int
    seeds: tuple[int, ...]
    resource: Resource
    evaluation: Evaluation
    sampling: str = "full"
    images: int | None = None  # random: test images per trial
    allocation: tuple[int, ...] | None = None  # strata: test images per stratum and trial
    allow_import: bool = False

    @classmethod
    def of(
        cls,
        plan: Plan,
        run: TrainingRun,
        *,
        trained: TrainedRun,
        point: Point,
        request: Request,
        store: str,
        resource: Resource,
        allow_import: bool,
    ) -> TrialTask:
        """What a point requests of a trained network, scored as the plan has it."""
        return cls(
            plan.spec.name,
            store,
            run,
            point,
            str(trained.checkpoint_sha256),
            first=request.first,
            seeds=tuple(plan.noise_seed(run, trial) for trial in request.trials),
            resource=resource,
            evaluation=plan.spec.evaluation,
            sampling=plan.sampling,
            images=request.images,
            allocation=request.allocation,
            allow_import=allow_import,
        )


@dataclass(frozen=True, slots=True)
class Progressed:
    """An epoch of a run is over."""

    run_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Trained:
    """A run ended, well or not."""

    task: TrainTask
    row: Row
    epochs: tuple[Row, ...]
    probes: tuple[Row, ...] = ()

    def fresh(self, known: TrainedRun | None, *, other: bool) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
        """Rows of epochs and of probes that no earlier attempt has left, whose epochs were the same.

        `other`: the network is another one than that attempt's, so that all of them are new.
        """
        landed = 0 if known is None or other else known.epochs
        epochs = tuple(row for row in self.epochs if row["epoch"] > landed)
        probes = tuple(row for row in self.probes if not landed or row["epoch"] > landed)  # epoch 0: before the first
        return epochs, probes


@dataclass(frozen=True, slots=True)
class Scored:
    """A block is done."""

    task: TrialTask
    rows: tuple[Row, ...]
    duration_s: float


@dataclass(frozen=True, slots=True)
class Failed:
    """A task was given up."""

    task: TrainTask | TrialTask
    error: str
    attempts: int


@dataclass(frozen=True, slots=True)
class NetworkGone:
    """A block could not be scored: its run's network is lost or damaged."""

    task: TrialTask
    error: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """Nothing can go on until somebody does something about the cluster, or what there was is over."""

    why: str


Outcome = Progressed | Trained | Scored | Failed | NetworkGone | Waiting


def failed_run_row(task: TrainTask, error: str, attempts: int) -> Row:
    """The `runs` row of a training run that was given up."""
    run = task.run
    return {
        "sweep": task.sweep,
        **run.columns(),
        **recipe_columns(run),
        "data_fingerprint": run.fingerprint,
        "multiply_adds": run.architecture.multiply_adds,
        "status": "failed",
        "reason": error,
        "attempt": task.attempt + attempts - 1,
        "versions": versions(),
    }


def recipe_columns(run: TrainingRun) -> Row:
    """The training recipe as columns of the `runs` table.

    Networks that somebody else has trained go by their label: those that belong together differ in their seeds alone.
    """
    training = run.training
    begun = {"weights": run.weights.label} if run.weights else {}
    return {
        "epochs": training.epochs,
        "batch_size": training.batch_size,
        "optimizer": training.optimizer,
        "learning_rate": training.learning_rate,
        "schedule": training.schedule.kind,
        "weight_decay": training.weight_decay,
        "train_precision": training.precision,
        "recipe": canonical_json({**training.model_dump(mode="json"), **begun}),
    }


def cell_columns(point: Point, evaluation: Evaluation, sampling: str) -> Row:
    """The noise cell as columns of the `points` and `trials` tables."""
    cell = point.cell
    recalibrated = cell.bn_treatment == "recalibrated"
    return {
        "noise_model": cell.model,
        "sigma_reference": cell.sigma_reference,
        "targets": cell.targets,
        "bn_treatment": cell.bn_treatment,
        "recalibration_images": cell.images_for_recalibration if recalibrated else 0,
        "eta": point.eta,
        "precision": evaluation.precision,
        "sampling": sampling,
    }


def versions() -> str:
    """What computed a row: bnsweep, torch and Python."""
    return f"bnsweep {__version__}, torch {_torch_version()}, python {platform.python_version()}"


@cache
def _torch_version() -> str:
    """`torch.__version__`, which says more than the package's (the CUDA it was built for), without importing torch."""
    found = find_spec("torch")
    if found and found.origin:
        text = Path(found.origin).with_name("version.py").read_text(encoding="utf-8")
        if match := re.search(r"^__version__ = '([^']+)'", text, re.MULTILINE):
            return match[1]
    return version("torch")
