"""Tasks done, as functions of their arguments: train one network, score one block.

Both run anywhere the store can be reached: in this process, or in a Ray worker. A trained network is
written to the store by whoever trained it, under the digest of its bytes; rows go back to the driver.
"""

from __future__ import annotations

import os
import socket
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bnsweep.experiment.plan import TrainingRun
from bnsweep.experiment.resources import Resource
from bnsweep.experiment.spec import Evaluation
from bnsweep.noise.evaluate import Evaluator, calibration_subset
from bnsweep.store.checkpoints import Checkpoints
from bnsweep.store.location import open_files
from bnsweep.sweep.gpu import require_gpu
from bnsweep.sweep.tasks import Row, Scored, Trained, TrainTask, TrialTask, cell_columns, recipe_columns, versions
from bnsweep.training.checkpoint import from_bytes, to_bytes
from bnsweep.training.images import Dataset
from bnsweep.training.inputs import Inputs
from bnsweep.training.models import build
from bnsweep.training.origin import located
from bnsweep.training.sites import place
from bnsweep.training.trainer import train
from bnsweep.training.weights import put_in

__all__ = ["score_block", "train_run"]


@located()
def train_run(
    task: TrainTask,
    dataset: Dataset,
    *,
    on_epoch: Callable[[Row], None] | None = None,
    on_resume: Callable[[Row], None] | None = None,
) -> Trained:
    """Train one network, from where an earlier attempt stopped, and put it into the store.

    `on_epoch` hears of each epoch by its row, `on_resume` before them of those that an earlier attempt has done.
    """
    run, started = task.run, datetime.now(UTC)
    begin = monotonic()
    checkpoints = Checkpoints(open_files(task.store))
    device = _device(task.resource)
    with _threads(task.resource):
        network = _network(run, dataset, allow_import=task.allow_import, checkpoints=checkpoints)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        called = monotonic()
        result = train(
            network,
            dataset,
            run.training,
            seed=run.train_seed,
            device=device,
            slot=checkpoints.slot(run.run_id),
            probes=task.probes,
            on_epoch=on_epoch,
            on_resume=on_resume,
        )
        earlier_s = max(0.0, result.duration_s - (monotonic() - called))  # before it was interrupted
        sha256, strata_sizes = None, None
        if result.test_correct is not None:
            # Sweeps that score in other precisions or batches share these strata: they are the network's.
            scorer = _scorer(network, dataset, Evaluation(), device)
            strata_sizes = scorer.strata_sizes()
            content = to_bytes(network, metadata={"run_id": run.run_id}, strata=scorer.strata())
            sha256 = checkpoints.put_network(run.run_id, content)
    row = {
        "sweep": task.sweep,
        **run.columns(),
        **recipe_columns(run),
        "data_fingerprint": run.fingerprint,
        "train_images": len(dataset.train.labels),
        "test_images": len(dataset.test.labels),
        "classes": len(dataset.classes),
        "parameters": parameters,
        "multiply_adds": run.architecture.multiply_adds,
        "status": result.status,
        "reason": "; ".join(filter(None, (result.reason, _begun_with(run), task.again))),
        "epochs_run": result.epochs_run,
        "train_loss": result.train_loss,
        "train_accuracy": result.train_accuracy,
        "test_correct": result.test_correct,
        "checkpoint_sha256": sha256,
        "strata_sizes": strata_sizes,
        "attempt": task.attempt,
        **where_and_when(device, started - timedelta(seconds=earlier_s), earlier_s + monotonic() - begin),
    }
    epochs, probes = (tuple({"run_id": run.run_id, **each} for each in rows) for rows in (result.epochs, result.probes))
    return Trained(task, row, epochs, probes)


@located()
def score_block(task: TrialTask, dataset: Dataset) -> Scored:
    """Score one block of trials on its run's trained network.

    Raises:
        StoreDamagedError: the network's file is missing or not what its digest says.
    """
    begin, point = monotonic(), task.point
    device = _device(task.resource)
    with _threads(task.resource):
        evaluator = _evaluator(task, dataset, device)
        samples = task.images if task.allocation is None else task.allocation
        started = datetime.now(UTC)
        scores = evaluator.trials(point.cell, point.eta, task.seeds, samples=samples)
    shared = {
        "sweep": task.sweep,
        "point_id": point.point_id,
        **task.run.columns(),
        **cell_columns(point, task.evaluation, task.sampling),
    }
    rows = []
    for trial, (seed, score) in enumerate(zip(task.seeds, scores, strict=True), start=task.first):
        when = where_and_when(device, started, score.duration_s)
        started += timedelta(seconds=score.duration_s)  # trials of a block follow one another
        rows.append({**shared, "trial": trial, "noise_seed": seed, **asdict(score), **when})
    return Scored(task, tuple(rows), monotonic() - begin)


def where_and_when(device: torch.device, started: datetime, duration_s: float) -> Row:
    """The volatile columns."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {
        "device": name,
        "worker": f"{socket.gethostname()}:{os.getpid()}",
        "started_at": started,
        "duration_s": duration_s,
        "versions": versions(),
    }


def _network(
    run: TrainingRun, dataset: Dataset, *, allow_import: bool, checkpoints: Checkpoints | None = None
) -> torch.nn.Module:
    """The run's network as it begins; without `checkpoints`, of one that has `weights`, with any values."""
    recipe, weights = run.training, run.weights
    network = build(
        run.model,
        dataset.shape,
        seed=run.train_seed,
        init=None if weights else recipe.init,
        bn_epsilon=recipe.bn_epsilon,
        bn_momentum=recipe.bn_momentum,
        allow_import=allow_import,
    )
    if weights and checkpoints:
        put_in(network, checkpoints.get_weights(weights.sha256), source=weights.path)
    return place(network, run.bn_mask, example=dataset.example)


def _begun_with(run: TrainingRun) -> str:
    return f"began with weights {run.weights}" if run.weights else ""


def _device(resource: Resource) -> torch.device:
    if resource.gpu == 0:
        return torch.device("cpu")
    require_gpu(resource.gpu)
    if resource.memory_fraction < 1:
        torch.cuda.set_per_process_memory_fraction(resource.memory_fraction)
    torch.backends.cudnn.allow_tf32 = False  # `precision: fp32` says what it is, on every kind of GPU
    return torch.device("cuda")


@contextmanager
def _threads(resource: Resource) -> Iterator[None]:
    """The task's number of threads: sums of floats depend on it, so it follows from the spec alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(resource.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# One process scores many blocks of few networks: keep the last ones, with the images laid out for them.
_CACHED_EVALUATORS = 2
_evaluators: OrderedDict[tuple[Any, ...], Evaluator] = OrderedDict()


def _evaluator(task: TrialTask, dataset: Dataset, device: torch.device) -> Evaluator:
    cell = task.point.cell
    calibration = cell.images_for_recalibration if cell.bn_treatment == "recalibrated" else 0
    key = (task.store, task.run.run_id, task.checkpoint_sha256, task.evaluation, calibration, str(device))
    if key in _evaluators:
        _evaluators.move_to_end(key)
        return _evaluators[key]
    network = _network(task.run, dataset, allow_import=task.allow_import)
    checkpoints = Checkpoints(open_files(task.store))
    strata = from_bytes(network, checkpoints.get_network(task.run.run_id, task.checkpoint_sha256))
    evaluator = _scorer(network, dataset, task.evaluation, device, calibration=calibration, strata=strata)
    _evaluators[key] = evaluator
    while len(_evaluators) > _CACHED_EVALUATORS:
        _evaluators.popitem(last=False)
    return evaluator


def _scorer(
    network: torch.nn.Module,
    dataset: Dataset,
    evaluation: Evaluation,
    device: torch.device,
    *,
    calibration: int = 0,
    strata: NDArray[np.int64] | None = None,
) -> Evaluator:
    return Evaluator(
        network,
        Inputs(dataset, "test"),
        torch.from_numpy(dataset.test.labels.copy()),
        precision=evaluation.precision,
        batch_size=evaluation.batch_size,
        device=device,
        calibration_inputs=_calibration_inputs(dataset, calibration) if calibration else None,
        strata=strata,
    )


def _calibration_inputs(dataset: Dataset, count: int) -> torch.Tensor:
    return Inputs(dataset, "train")[calibration_subset(count, len(dataset.train))]
