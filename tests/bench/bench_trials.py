"""How fast trials run: against what research code does, and against a bare forward pass.

`python -m tests.bench.bench_trials [IMAGES]` prints the figures; one thread, since a task has one core.

- Baseline: deep copy, noise on every kernel, fp32, default layout, a DataLoader that converts and normalises
  each 32x32 image with torchvision, batches of 250.
- Floor: a bare forward pass of the same network in the best layout found (BN folded beforehand, channels last,
  batches that stay in the cache), and below that the multiply-adds at the speed of a large matrix product.
Repetitions of all are interleaved, and each figure is the best one: other work on the machine only ever slows.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from bnsweep.noise.curve import Cell
from bnsweep.noise.evaluate import Evaluator
from bnsweep.noise.forward import Forward
from bnsweep.noise.perturb import Perturber
from bnsweep.training.datasets import DataShape
from bnsweep.training.models import build, describe
from bnsweep.training.sites import fold

REPEATS = 5
BATCH = 50  # ResNet-20's activations of 50 images fit into the caches of a core
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
SHAPE = DataShape(3, 32, 10)


class Pictures(Dataset[tuple[Tensor, int]]):
    """What torchvision's data sets are: one PIL image and label at a time, transformed on the way."""

    def __init__(
        self,
        pixels: np.ndarray[Any, Any],
        labels: np.ndarray[Any, Any],
        *,
        mean: tuple[float, ...] = MEAN,
        std: tuple[float, ...] = STD,
    ) -> None:
        self.pixels, self.labels = pixels, labels
        self.transform = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), int(self.labels[index])


@torch.no_grad()
def research_trial(network: nn.Module, pictures: Pictures, eta: float) -> int:
    """One trial as research code does it."""
    noisy = copy.deepcopy(network).eval()
    for module in noisy.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.weight.add_(torch.randn_like(module.weight) * module.weight.std() * eta)
    right = 0
    for images, labels in DataLoader(pictures, batch_size=250):
        right += int((noisy(images).argmax(1) == labels).sum())
    return right


@torch.inference_mode()
def bare_pass(network: nn.Module, batches: list[Tensor]) -> None:
    for batch in batches:
        network(batch)


def matrix_product(size: int = 1024) -> float:
    """Multiply-adds per second of a large matrix product, fp32."""
    a = torch.randn(size, size)
    return size**3 / min(timed(lambda: a @ a) for _ in range(5))


def timed(work: Callable[[], object]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start


def interleaved(works: dict[str, Callable[[], object]], repeats: int = REPEATS) -> dict[str, list[float]]:
    """Seconds of each, in turns, after one turn that does not count."""
    for work in works.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            seconds[name].append(timed(work))
    return seconds


def example_network(name: str = "resnet20") -> nn.Module:
    """Not trained, since that does not change the time; but with running statistics of its own."""
    network = build(name, SHAPE, seed=0, init="glorot_uniform", bn_epsilon=1e-3, bn_momentum=0.1).train()
    with torch.no_grad():
        network(torch.randn(64, 3, 32, 32))
    return network.eval()


def trials(images: int, model: str = "resnet20", eta: float = 0.1) -> list[dict[str, Any]]:
    pixels, labels = _pictures(images)
    network = example_network(model)
    pictures = Pictures(pixels, labels)
    inputs = torch.stack([pictures[i][0] for i in range(images)])
    evaluator = Evaluator(network, inputs, torch.from_numpy(labels), batch_size=BATCH)
    bare = fold(network, example=inputs[:2]).to(memory_format=torch.channels_last)
    batches = list(inputs.to(memory_format=torch.channels_last).split(BATCH))
    seeds = iter(range(1_000_000))
    seconds = interleaved(
        {
            "ours": lambda: evaluator.trials(Cell(), eta, [next(seeds)]),
            "bare": partial(bare_pass, bare, batches),
            "research": partial(research_trial, network, pictures, eta),
        }
    )
    arithmetic = describe(model, SHAPE).multiply_adds * images / matrix_product()
    ours = rates(seconds["ours"])
    print({name: [round(value, 3) for value in values] for name, values in seconds.items()}, f"{arithmetic:.3f}")
    what = f"{model}, {images} images, 1 thread"
    return [
        _row(f"trials: {what}, against research code", ours, rates(seconds["research"]), 1 / arithmetic),
        _row(f"trials: {what}, against a bare forward pass", ours, rates(seconds["bare"]), 1 / arithmetic),
    ]


def two_cores(images: int, model: str = "resnet20", eta: float = 0.1) -> list[dict[str, Any]]:
    """Two tasks of one thread each, as a sweep runs them, against one research loop with two threads."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        ours = []
        for turn in range(REPEATS + 1):
            start = perf_counter()
            done = list(pool.map(_trial_in_a_process, [(images, model, eta, 2 * turn + core) for core in range(2)]))
            ours.append((perf_counter() - start) / len(done))
    pixels, labels = _pictures(images)
    network, pictures = example_network(model), Pictures(pixels, labels)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        research = [timed(lambda: research_trial(network, pictures, eta)) for _ in range(REPEATS)]
    finally:
        torch.set_num_threads(before)
    arithmetic = describe(model, SHAPE).multiply_adds * images / matrix_product() / 2
    name = f"trials: {model}, {images} images, 2 cores, against research code"
    return [_row(name, rates(ours[1:]), rates(research), 1 / arithmetic)]


@cache
def _evaluator(images: int, model: str) -> Evaluator:
    torch.set_num_threads(1)
    pixels, labels = _pictures(images)
    pictures = Pictures(pixels, labels)
    inputs = torch.stack([pictures[i][0] for i in range(images)])
    return Evaluator(example_network(model), inputs, torch.from_numpy(labels), batch_size=BATCH)


def _trial_in_a_process(task: tuple[int, str, float, int]) -> int:
    images, model, eta, seed = task
    return _evaluator(images, model).trials(Cell(), eta, [seed])[0].correct


def _pictures(images: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (images, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, images)


@torch.inference_mode()
def preparation(model: str = "resnet20") -> list[dict[str, Any]]:
    """What a trial does besides the forward pass (draw, perturb, measure, fold) against its pass over 10,000 images."""
    network, inputs = example_network(model), torch.randn(BATCH, 3, 32, 32)
    perturber = Perturber(network, Cell(), example=inputs[:2])
    forward = Forward(network, example=inputs[:2], dtype=torch.float32)
    batch = inputs.to(memory_format=torch.channels_last)
    seeds = iter(range(1_000_000))

    def prepare() -> None:
        perturber.perturb(0.1, next(seeds))
        forward.load(perturber.network)

    seconds = interleaved({"prepare": prepare, "pass": lambda: forward(batch)}, repeats=20)
    alone, full = min(seconds["prepare"]), min(seconds["pass"]) * 10_000 / BATCH
    row = {"figure": f"trials: {model}, all but the forward pass over 10,000 images", "value": alone, "unit": "s"}
    return [
        {**row, "baseline": full, "ratio": full / alone, "n": 20, "spread": _spread(seconds["prepare"]), "floor": 0.0}
    ]


def rates(seconds: list[float]) -> list[float]:
    return [1 / value for value in seconds]


def _row(figure: str, ours: list[float], other: list[float], floor: float) -> dict[str, Any]:
    value, baseline = max(ours), max(other)
    shared = {"figure": figure, "value": value, "unit": "trials/s", "baseline": baseline, "ratio": value / baseline}
    return {**shared, "n": len(ours), "spread": _spread(ours), "floor": floor}


def _spread(values: list[float]) -> float:
    return float((max(values) - min(values)) / np.median(values))


def figures(images: int = 1000) -> list[dict[str, Any]]:
    """One row per figure: figure, value, unit, baseline, ratio, n, spread, floor."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [*trials(images), *preparation(), *two_cores(images)]
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    for row in figures(int(sys.argv[1]) if len(sys.argv) > 1 else 1000):
        print(row)
