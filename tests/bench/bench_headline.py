"""From a trained ResNet-20 to its curve over five eta, each within one point: bnsweep against the research loop.

`python -m tests.bench.bench_headline` trains the network on digits enlarged to 32x32 (about a minute), then takes the
curve on 10,000 test images: the 360 real ones and shifted copies, since the cost per image is what matters here.

The research loop (deep copy, fp32, DataLoader, whole test set) is timed for one trial and multiplied by the draws that
a t interval of that half-width needs, given the variance between draws that bnsweep's rows show; 2 at least.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student_t
from torch import nn

from bnsweep.experiment.recipe import Augment, Training
from bnsweep.experiment.spec import Data
from bnsweep.noise.curve import Cell
from bnsweep.noise.evaluate import Evaluator, Score
from bnsweep.noise.sampling import Design, Stop, _Summary, interval, rounds
from bnsweep.training.datasets import Dataset, load_dataset
from bnsweep.training.models import build
from bnsweep.training.trainer import train
from tests.bench.bench_trials import BATCH, Pictures, research_trial, timed

ETAS = (0.01, 0.1, 0.2, 0.3, 0.4)
HALF_WIDTH = 0.01
IMAGES = 10_000
MOST = 4_000  # trials: draws of this network differ by up to 20 points, where 1,000 do not reach a point


def trained(epochs: int = 8) -> tuple[nn.Module, Dataset]:
    data = load_dataset(Data(source="digits", size=32), root=Path())
    recipe = Training(epochs=epochs, learning_rate=3e-3, augment=Augment(shift=0.1))
    network = build("resnet20", data.shape, seed=0, init=recipe.init, bn_epsilon=1e-3, bn_momentum=0.1)
    train(network, data, recipe, seed=0, device=torch.device("cpu"), slot=None, on_epoch=None)
    return network.eval(), data


def many_images(data: Dataset) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(10,000, 32, 32) uint8 and labels: the test images, and copies shifted by up to 4 pixels."""
    rng = np.random.default_rng(0)
    picks = np.arange(IMAGES) % len(data.test.labels)
    images = data.test.images[picks, 0]
    shifts = rng.integers(-4, 5, (IMAGES, 2)) * (np.arange(IMAGES) >= len(data.test.labels))[:, None]
    moved = [np.roll(image, tuple(shift), (0, 1)) for image, shift in zip(images, shifts, strict=True)]
    return np.stack(moved), data.test.labels[picks]


def to_half_width(evaluator: Evaluator, eta: float) -> tuple[list[Score], Design]:
    """Trials at one eta until the interval is narrow enough."""
    design = Design(
        HALF_WIDTH,
        max=MOST,
        aim=MOST,
        images="auto",
        test_images=IMAGES,
        strata_sizes=evaluator.strata_sizes(),
        clean_accuracy=evaluator.baseline().accuracy,
    )
    scores: list[Score] = []
    for step in rounds(design, scores):
        if isinstance(step, Stop):
            break
        scores += evaluator.trials(Cell(), eta, step.trials, samples=step.allocation)
    return scores, design


def draws_needed(scores: list[Score], design: Design) -> int:
    deviation = _Summary(design, scores).between ** 0.5
    return next(m for m in count(2) if student_t.ppf(0.975, m - 1) * deviation / m**0.5 <= HALF_WIDTH)


def figures() -> list[dict[str, Any]]:
    """One row per figure: figure, value, unit, baseline, ratio, n, spread, floor."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        network, data = trained()
        pixels, labels = many_images(data)
        mean, deviation = (float(values[0]) for values in data.normalisation)
        inputs = ((torch.from_numpy(pixels)[:, None].float() / 255) - mean) / deviation
        start = perf_counter()
        evaluator = Evaluator(network, inputs, torch.from_numpy(labels), batch_size=BATCH)
        evaluator.baseline()
        found = {eta: to_half_width(evaluator, eta) for eta in ETAS}
        ours = perf_counter() - start
        pictures = Pictures(pixels[:1000], labels[:1000], mean=(mean,), std=(deviation,))
        one = timed(lambda: research_trial(network, pictures, 0.1)) * IMAGES / 1000
    finally:
        torch.set_num_threads(before)
    needed = {eta: draws_needed(scores, design) for eta, (scores, design) in found.items()}
    for eta, (scores, design) in found.items():
        accuracy, images = np.mean([score.accuracy for score in scores]), np.mean([score.images for score in scores])
        print(
            f"eta {eta}: accuracy {accuracy:.3f} ± {interval(design, scores).half_width:.4f}, {len(scores)} trials of "
            f"{images:.0f} images; research: {needed[eta]} of {IMAGES}"
        )
    research = one * (1 + sum(needed.values()))
    name = "headline: resnet20, five eta to a half-width of 1 point"
    shared = {"n": 1, "spread": 0.0, "floor": None}
    return [{"figure": name, "value": ours, "unit": "s", "baseline": research, "ratio": research / ours, **shared}]


if __name__ == "__main__":
    print(figures())
