"""Speeds that were measured: what a store's rows in a plan's precisions say of the machines that they were made on.

Rows of other precisions say nothing: bf16 takes half of fp32's time, or ten times as much. Nor do those of networks of
another size: what is not multiply-adds may take most of a small network's time, and next to nothing of a large one's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from bnsweep.experiment.plan import Plan
from bnsweep.experiment.resources import Resource
from bnsweep.noise.sampling import DRAW_COST
from bnsweep.store.store import Store

__all__ = ["ALIKE", "Measured", "measured_training", "measured_trials"]

# Times: how much larger or smaller networks may be whose rows tell a plan's speeds. Rows of ResNet-20 just tell those
# of the paper's networks, up to VGG16, of which a pass takes 13 % less than they say (docs/cluster.md).
ALIKE = 5.0


@dataclass(slots=True)
class Measured:
    """The rows of one machine type, be it of trainings or of trials."""

    device: str  # "cpu", or the GPU's name
    rows: int = 0
    seconds: float = 0.0
    work: float = 0.0  # multiply-adds

    @property
    def task_s(self) -> float:
        """Seconds of one task per multiply-add."""
        return self.seconds / self.work


def measured_training(store: Store, plan: Plan) -> Measured | None:
    """Of what the plan's trainings will run on; None if no row speaks of it. A step counts as one forward pass."""
    columns = ["device", "multiply_adds", "train_images", "epochs_run", "duration_s", "train_precision"]
    smallest, largest = _alike(plan)
    precision = _precision(plan)
    found: dict[str, Measured] = {}
    for row in store.read("runs", columns=columns).to_pylist():
        timed = row["device"] and row["duration_s"] and row["epochs_run"]
        alike = timed and smallest <= row["multiply_adds"] <= largest
        if alike and row["train_precision"] == precision:
            device = found.setdefault(row["device"], Measured(row["device"]))
            device.rows += 1
            device.seconds += row["duration_s"]
            device.work += row["multiply_adds"] * row["train_images"] * row["epochs_run"]
    return _slowest(found.values(), plan.spec.resources.train)


def measured_trials(store: Store, plan: Plan) -> Measured | None:
    """Of what the plan's trials will run on; None if no row with noise speaks of it."""
    smallest, largest = _alike(plan)
    runs = store.read("runs", columns=["run_id", "multiply_adds"]).to_pylist()
    sizes = {row["run_id"]: row["multiply_adds"] for row in runs if smallest <= row["multiply_adds"] <= largest}
    sums = _trials(store, precision=plan.spec.evaluation.precision).group_by(["run_id", "device"])
    found: dict[str, Measured] = {}
    for row in sums.aggregate([("worth", "sum"), ("duration_s", "sum"), ("worth", "count")]).to_pylist():
        if row["run_id"] in sizes:
            device = found.setdefault(row["device"], Measured(row["device"]))
            device.rows += row["worth_count"]
            device.seconds += row["duration_s_sum"]
            device.work += sizes[row["run_id"]] * row["worth_sum"]
    return _slowest(found.values(), plan.spec.resources.trial)


def _alike(plan: Plan) -> tuple[float, float]:
    """Multiply-adds of the smallest and of the largest network that is like those which do most of the plan's work."""
    sizes = [run.architecture.multiply_adds for run in plan.runs]
    typical = sum(size * size for size in sizes) / max(sum(sizes), 1)
    return typical / ALIKE, typical * ALIKE


def _precision(plan: Plan) -> str:
    """In which most of a plan's training is done: a model may have one of its own."""
    work: Counter[str] = Counter()
    for run in plan.runs:
        work[run.training.precision] += run.architecture.multiply_adds * run.training.epochs
    return max(work, key=work.__getitem__, default=plan.spec.training.precision)


def _trials(store: Store, *, precision: str) -> pa.Table:
    """Trials with noise: run_id, device, duration_s, and the images that each was worth."""
    names = ["run_id", "device", "duration_s", "eta", "precision", "images", "recalibration_images", "bn_kept"]
    rows = store.read("trials", columns=names)
    noisy = (pc.field("precision") == precision) & (pc.field("eta").cast("float64") > 0)
    rows = rows.filter(noisy & pc.field("device").is_valid())
    again = pc.if_else(pc.greater(rows["bn_kept"], 0), rows["recalibration_images"], 0)
    worth = pc.add(pc.add(rows["images"], again), DRAW_COST)
    return rows.select(["run_id", "device", "duration_s"]).append_column("worth", worth)


def _slowest(measured: Iterable[Measured], resource: Resource) -> Measured | None:
    """Of the machine types that a task may run on, a CPU or the wanted GPU."""
    fitting = [
        each
        for each in measured
        if each.seconds
        and each.work
        and (each.device == "cpu") == (resource.gpu == 0)
        and (resource.accelerator is None or resource.accelerator.lower() in each.device.lower())
    ]
    return max(fitting, key=lambda each: each.task_s, default=None)
