"""One training run: a flat loop over epochs and batches.

The same seed gives the same weights, bit by bit, on the same kind of processor with the same number of
threads, whether or not the run was interrupted between two epochs and went on in another process. On a GPU
that holds as far as cuDNN's layers go; a few of torch's own (adaptive pooling, attention) add in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from math import isfinite, sqrt
from statistics import NormalDist
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bnsweep.errors import DataError, InputError, ModelError
from bnsweep.training.batches import Batches
from bnsweep.training.images import Dataset
from bnsweep.training.inputs import Inputs
from bnsweep.training.lending import biases_lent
from bnsweep.training.optimizers import OPTIMIZERS, parameter_groups
from bnsweep.training.probes import GradientWatch, Moment, measure, moments, sizes
from bnsweep.training.resume import RunState, Slot, identity, restore, snapshot
from bnsweep.training.schedules import Progress, rate_factor
from bnsweep.training.streams import stream

if TYPE_CHECKING:
    from bnsweep.experiment.recipe import Training
    from bnsweep.experiment.spec import Probes

__all__ = ["Slot", "TrainingResult", "chance_bound", "train"]

CHANCE_CONFIDENCE = 0.999  # a network that guesses is taken for a learning one with a probability of 0.001
TEST_BATCH = 500  # images

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """How a run ended. Columns of the `runs` and `epochs` tables."""

    status: str  # converged, finished or diverged
    reason: str
    epochs_run: int
    train_loss: float | None  # mean cross-entropy over the last epoch, nats; None: no epoch
    train_accuracy: float | None  # over the last epoch, augmented images; None: no epoch
    test_correct: int | None  # None: diverged, there is no network worth keeping
    epochs: tuple[Row, ...]
    probes: tuple[Row, ...]
    duration_s: float


def train(
    network: nn.Module,
    dataset: Dataset,
    recipe: Training,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    slot: Slot | None = None,
    probes: Probes | None = None,
    on_epoch: Callable[[Row], None] | None = None,
    on_resume: Callable[[Row], None] | None = None,
    slot_interval_s: float = 10.0,
) -> TrainingResult:
    """Train the network in place; it stays on `device`, channels-last, in evaluation mode.

    Args:
        network: takes (N, C, H, W) float32 normalised images, gives (N, classes) logits.
        dataset: its training half is trained on; its test half is scored after each epoch.
        recipe: with `augment` spelled out.
        seed: of the order of images and of augmentation (and of dropout, where a network has any).
        device: where to train.
        slot: keeps what is needed to go on after an interruption; whoever keeps what came of it deletes it then.
        probes: what else to measure on the way; the weights are the same with and without.
        on_epoch: called after each epoch with its row. If it raises, the state is kept and training stops.
        on_resume: called first, with the row of each epoch that was done before an interruption.
        slot_interval_s: shortest time between two writes to the slot, seconds.

    Raises:
        InputError: the recipe says `augment: auto`.
        ModelError: the network cannot be trained on such batches.
        DataError: there are no training images.
    """
    run = _Run(network, dataset, recipe, seed=seed, device=torch.device(device))
    probing = _Probing(run, probes) if probes else None
    progress = run.resume(slot)
    if on_resume:
        for row in progress.rows:
            on_resume(row)
    begin, last_write = monotonic() - progress.duration_s, monotonic()
    with _repeatable(), biases_lent(run.network, example=run.example):
        ending = run.ending(progress)
        if probing and not progress.rows:
            probing.after(progress, ending)
        while ending is None:
            watch = probing.watch(len(progress.rows) + 1) if probing else None
            progress.rows.append(row := run.epoch(progress, watch))
            ending = run.ending(progress)
            if probing:
                probing.after(progress, ending, watch)
            progress.duration_s = monotonic() - begin
            if slot and ending is None and monotonic() - last_write >= slot_interval_s:
                slot.write(run.snapshot(progress))
                last_write = monotonic()
            if on_epoch:
                with _kept_on_failure(slot, run, progress):
                    on_epoch(row)
        status, reason = ending
        correct = None if status == "diverged" else run.test_correct(progress)
    network.eval()
    last = progress.rows[-1] if progress.rows else {}
    return TrainingResult(
        status,
        reason,
        len(progress.rows),
        last.get("train_loss"),
        last.get("train_accuracy"),
        correct,
        tuple(progress.rows),
        tuple(progress.probes),
        monotonic() - begin,
    )


class _Run:
    """Network, data and optimizer of one run, on its device."""

    def __init__(
        self, network: nn.Module, dataset: Dataset, recipe: Training, *, seed: int, device: torch.device
    ) -> None:
        if isinstance(recipe.augment, str):
            raise InputError(f"`augment: {recipe.augment}` must be spelled out for the data set before training")
        if not len(dataset.train):
            raise DataError(f"{dataset.name} has no training images")
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.recipe, self.seed, self.device = recipe, seed, device
        self.batches = Batches(dataset, recipe.batch_size, augment=recipe.augment, seed=seed, device=device)
        self.optimizer = OPTIMIZERS[recipe.optimizer](
            parameter_groups(network, recipe.weight_decay), recipe.learning_rate
        )
        self.test = Inputs(dataset, "test", device=device)
        self.test_labels = torch.tensor(dataset.test.labels).to(device)
        self.chance = chance_bound(dataset.train.labels)
        self.belongs_to = identity(network, recipe, seed=seed, images=len(dataset.train))

    @property
    def example(self) -> Tensor:
        """(up to 4, C, H, W) float32 training images."""
        return self.batches.plain(torch.arange(min(4, self.batches.count), device=self.device))

    def resume(self, slot: Slot | None) -> RunState:
        """Go back to where the slot says, or to the beginning."""
        data = slot.read() if slot else None
        if data is None:
            return RunState()
        return restore(data, self.network, self.optimizer, belongs_to=self.belongs_to) or RunState()

    def snapshot(self, progress: RunState) -> bytes:
        """What `resume` reads."""
        return snapshot(self.network, self.optimizer, progress, belongs_to=self.belongs_to)

    def epoch(self, progress: RunState, watch: GradientWatch | None = None) -> Row:
        """Train one epoch and score the test images; updates the count of epochs without progress."""
        begin, done = monotonic(), len(progress.rows)
        self.network.train()
        losses: list[Tensor] = []
        hits: list[Tensor] = []
        with _seeded(self.seed, done, self.device):
            for index, (images, labels) in enumerate(self.batches.epoch(done)):
                now = Progress(done * len(self.batches.bounds) + index, len(self.batches.bounds), self.recipe.epochs)
                rate = self.recipe.learning_rate * rate_factor(self.recipe.schedule, now)
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                logits = self._step(images, labels, watch)
                # Sums stay on the device: reading one here would make a GPU wait at every step.
                losses.append(logits[0])
                hits.append(logits[1])
        loss = float(torch.stack(losses).double().sum()) / self.batches.count
        if loss < progress.best_loss - self.recipe.min_delta:
            progress.best_loss, progress.stale_epochs = loss, 0
        else:
            progress.stale_epochs += 1
        return {
            "epoch": done + 1,
            "train_loss": loss,
            "train_accuracy": int(torch.stack(hits).sum()) / self.batches.count,
            "test_correct": self._score(),
            "test_images": len(self.test_labels),
            "learning_rate": rate,
            "duration_s": monotonic() - begin,
        }

    def ending(self, progress: RunState) -> tuple[str, str] | None:
        """(status, reason) if the run is over."""
        recipe, done = self.recipe, len(progress.rows)
        if done:
            last = progress.rows[-1]
            if not isfinite(last["train_loss"]):
                return "diverged", f"the training loss became {last['train_loss']} in epoch {done}"
            accuracy = last["train_accuracy"]
            if recipe.chance_epochs is not None and done >= recipe.chance_epochs and accuracy <= self.chance:
                return "diverged", f"training accuracy {accuracy:.4f} is no better than chance after {done} epochs"
            if recipe.patience is not None and progress.stale_epochs >= recipe.patience:
                return "converged", f"no lower training loss for {progress.stale_epochs} epochs"
        return ("finished", f"all {done} epochs done") if done >= recipe.epochs else None

    def test_correct(self, progress: RunState) -> int:
        """Test images classified right by the network as it is now."""
        return int(progress.rows[-1]["test_correct"]) if progress.rows else self._score()

    def _step(self, images: Tensor, labels: Tensor, watch: GradientWatch | None) -> tuple[Tensor, Tensor]:
        """One update; (sum of the losses, number of right answers) of the batch, on the device."""
        with self._precision():
            logits = self._forward(images)
        loss = functional.cross_entropy(logits.float(), labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if watch:
            watch.step()
        self.optimizer.step()
        return loss.detach() * len(labels), (logits.detach().argmax(1) == labels).sum()

    def _forward(self, images: Tensor) -> Tensor:
        try:
            logits: Tensor = self.network(images)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ModelError("BN cannot be trained on a batch of one image; set `batch_size` to 2 or more") from None
        return logits

    @torch.no_grad()
    def _score(self) -> int:
        self.network.eval()
        hits = torch.zeros((), dtype=torch.int64, device=self.device)
        for start in range(0, len(self.test), TEST_BATCH):
            part = slice(start, start + TEST_BATCH)
            images = self.test[part].to(memory_format=torch.channels_last)
            with self._precision():
                hits += (self.network(images).argmax(1) == self.test_labels[part]).sum()
        return int(hits)

    def _precision(self) -> Any:
        if self.recipe.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()


class _Probing:
    """Measures on the way, at the epochs that the spec names and at the end of a run that ends before its last one."""

    def __init__(self, run: _Run, probes: Probes) -> None:
        recipe, images = run.recipe, run.batches.count
        self._run = run
        self._moments = moments(probes.at, recipe.epochs)
        self._at_end = recipe.epochs in self._moments
        self._size = sizes(
            cost_frac=probes.cost_frac,
            epochs=recipe.epochs,
            images=images,
            batch_size=recipe.batch_size,
            moments=len(self._moments),
            precision=recipe.precision,
        )

    def watch(self, epoch: int) -> GradientWatch | None:
        """What reads the gradients of an epoch that is measured."""
        return GradientWatch(self._run.network) if epoch in self._moments else None

    def after(self, progress: RunState, ending: tuple[str, str] | None, watch: GradientWatch | None = None) -> None:
        """Measure, if it is time."""
        run, moment = self._run, Moment(len(progress.rows), self._run.seed)
        if watch:
            progress.probes += watch.rows(moment)
        wanted = moment.epoch in self._moments or (ending is not None and self._at_end)
        if wanted and (ending is None or ending[0] != "diverged"):
            with _seeded(run.seed, moment.epoch, run.device):
                progress.probes += measure(
                    run.network,
                    run.batches.plain,
                    run.batches.labels,
                    moment,
                    size=self._size,
                    batch_size=run.recipe.batch_size,
                )


def chance_bound(labels: np.ndarray[Any, np.dtype[np.int64]]) -> float:
    """Up to which accuracy on these labels a network may be guessing.

    Always naming the most frequent class is right with probability p, its share; guesses are then right
    n p times, with a standard deviation of sqrt(n p (1 - p)) (binomial). The bound is the 99.9 % quantile
    of that, by the normal approximation.
    """
    images = len(labels)
    share = float(np.bincount(labels).max()) / images
    quantile = NormalDist().inv_cdf(CHANCE_CONFIDENCE)
    return min(share + quantile * sqrt(share * (1 - share) / images), 1 - 1 / (images + 1))


@contextmanager
def _kept_on_failure(slot: Slot | None, run: _Run, progress: RunState) -> Iterator[None]:
    """Whatever stops the run between two epochs, no finished epoch is lost."""
    try:
        yield
    except BaseException:
        if slot:
            slot.write(run.snapshot(progress))
        raise


@contextmanager
def _seeded(seed: int, epoch: int, device: torch.device) -> Iterator[None]:
    """Seed what torch itself draws (dropout) as a function of (seed, epoch); as they were afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(stream("torch", seed, epoch).integers(2**63)))
        yield


@contextmanager
def _repeatable() -> Iterator[None]:
    """On a GPU: algorithms that give the same bits again."""
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before
