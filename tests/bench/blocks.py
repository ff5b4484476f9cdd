"""Sweeps whose blocks do nothing, or sleep: what is left is the way of a block through driver, Ray and store."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from bnsweep.experiment.plan import Plan, make_plan
from bnsweep.experiment.reading import parse_spec
from bnsweep.store.schema import SCHEMAS
from bnsweep.store.store import Store
from bnsweep.sweep.catalog import LocalCatalog
from bnsweep.sweep.driver import Driver, Summary
from bnsweep.sweep.plan_rows import record_plan
from bnsweep.sweep.progress import Silent
from bnsweep.sweep.ray_engine import RayEngine
from bnsweep.sweep.tasks import Scored, TrialTask, cell_columns, recipe_columns
from bnsweep.training.datasets import Dataset, load_dataset

CELLS, ETAS = 10, 1000  # of one run: 10,000 points of one trial each
SPEC = """
name: blocks
data: digits
models: resnet8
placements: all
train_seeds: {runs}
noise: {{targets: [weights, all], sigma_reference: [tensor_std, tensor_max, channel_max, global_rms, absolute]}}
eta: [{etas}]
trials: 1
"""
NOW = datetime(2026, 1, 5, tzinfo=UTC)


def trained_sweep(location: Path, blocks: int) -> tuple[Plan, Store]:
    """A plan of so many points, and a store that says that its networks are trained; they are empty files."""
    etas = min(ETAS, blocks // CELLS)
    text = SPEC.format(runs=-(-blocks // (CELLS * etas)), etas=", ".join(f"{n / 1000:.3f}" for n in range(etas)))
    plan = make_plan(parse_spec(text), LocalCatalog(location))
    store = Store.create(location)
    record_plan(store, plan, text=text)
    rows = []
    for run in plan.runs:
        sha256 = store.put_network(run.run_id, b"no network")
        columns = {**run.columns(), **recipe_columns(run), "status": "finished", "attempt": 1}
        rows.append({**columns, "sweep": "blocks", "checkpoint_sha256": sha256, "strata_sizes": [360]})
    store.commit({"runs": pa.Table.from_pylist(rows, schema=SCHEMAS["runs"])})
    return plan, store


class Watched(RayEngine):
    """Remembers how many blocks were in flight at most."""

    most = 0

    def submit(self, task: TrialTask) -> None:
        super().submit(task)
        self.most = max(self.most, len(self._blocks))


def run_blocks(plan: Plan, store: Store, score: Callable[[TrialTask, Dataset], Scored]) -> tuple[Summary, int]:
    """Let a driver have the blocks scored on the Ray cluster that is there; and how many were in flight at most."""
    datasets = {run.fingerprint: lambda data=run.data: load_dataset(data, root=Path()) for run in plan.runs}
    with store.claim():
        driver = Driver(plan, store, datasets=datasets, listener=Silent())
        engine = Watched(store, score=score)
        return driver.run(engine), engine.most


def nothing(task: TrialTask, dataset: Dataset) -> Scored:
    """A block that costs nothing: its row has every column."""
    return Scored(task, tuple(_row(task, number) for number in range(len(task.seeds))), 1.0)


class Sleep:
    """A block that takes so many seconds and no processor."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, task: TrialTask, dataset: Dataset) -> Scored:
        time.sleep(self.seconds)
        return nothing(task, dataset)


def _row(task: TrialTask, number: int) -> dict[str, object]:
    return {
        "sweep": task.sweep,
        "point_id": task.point.point_id,
        **task.run.columns(),
        **cell_columns(task.point, task.evaluation, task.sampling),
        "trial": task.first + number,
        "noise_seed": task.seeds[number],
        "images": 360,
        "correct": 300,
        "accuracy": 300 / 360,
        "nonfinite": 0,
        "strata_images": None,
        "strata_correct": None,
        "realised_sigma_ratio": float(task.point.eta),
        "device": "cpu",
        "worker": "bench",
        "started_at": NOW,
        "duration_s": 0.0,
        "versions": "bench",
    }
