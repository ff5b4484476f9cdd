"""How fast networks are trained on two cores: against a plain PyTorch loop.

`python -m tests.bench.bench_training [IMAGES]` prints the figures.

- Baseline: fp32, default layout, a DataLoader with two workers and torchvision transforms per image, two threads.
- Ours: two runs side by side with one thread each, as a sweep has them; fp32, and bf16 where the processor computes it.
- Floor: three times the multiply-adds of a forward pass (forward, gradient of the input, gradient of the weights) at
  the speed of a matrix product in that precision on two threads.
Images per second of training steps, test images not counted; the best of the repetitions, which take turns. The figures
per core are of processor time, of one thread and no workers: they are the same on a busy machine, and flatter the plain
loop, whose threads and workers share work less than perfectly.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from bnsweep.experiment.recipe import Augment, Training
from bnsweep.training.batches import Batches
from bnsweep.training.images import Dataset as Images
from bnsweep.training.images import DataShape, Split
from bnsweep.training.layout import layout_of
from bnsweep.training.models import build
from bnsweep.training.sites import find_sites, place
from bnsweep.training.trainer import train
from tests.bench import machine
from tests.bench.bench_trials import MEAN, STD, interleaved, spread

REPEATS = 5
BATCH = 128
SHAPE = DataShape(3, 32, 10)
FEW_TEST_IMAGES = 16  # scored after each epoch; not what is measured


class Augmented(Dataset[tuple[torch.Tensor, int]]):
    """CIFAR images as a tutorial has them: PIL, crop, flip, tensor, normalise."""

    def __init__(self, pixels: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> None:
        self.pixels, self.labels = pixels, labels
        self.transform = v2.Compose(
            [
                v2.RandomCrop(32, padding=3),
                v2.RandomHorizontalFlip(),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), int(self.labels[index])


class PlainLoop:
    """Epochs of an everyday training loop."""

    def __init__(self, model: str, images: int, *, workers: int, bn: bool = True) -> None:
        data = random_images(images)
        pixels = np.ascontiguousarray(data.train.images.transpose(0, 2, 3, 1))
        self.loader = DataLoader(
            Augmented(pixels, data.train.labels),
            BATCH,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        self.network = network_of(model, bn=bn)
        self.optimizer = torch.optim.Adam(self.network.parameters(), 1e-3)

    def epoch(self) -> None:
        self.network.train()
        for inputs, labels in self.loader:
            self.optimizer.zero_grad()
            cross_entropy(self.network(inputs), labels).backward()
            self.optimizer.step()


def network_of(model: str, *, bn: bool) -> torch.nn.Module:
    network = build(model, SHAPE)
    if bn:
        return network
    example = torch.zeros(2, SHAPE.channels, SHAPE.size, SHAPE.size)
    return place(network, "0" * len(find_sites(network, example)), example=example)


def random_images(images: int) -> Images:
    rng = np.random.default_rng(0)

    def half(count: int) -> Split:
        return Split(rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8), rng.integers(0, 10, count))

    return Images("random", half(images), half(FEW_TEST_IMAGES), tuple("0123456789"))


def recipe(precision: str) -> Training:
    return Training(epochs=1, batch_size=BATCH, precision=precision, augment=Augment(flip=True, shift=0.1))


def one_run(task: tuple[str, int, str, int]) -> int:
    """One epoch in a process of its own, one thread."""
    model, images, precision, seed = task
    torch.set_num_threads(1)
    train(build(model, SHAPE, seed=seed), random_images(images), recipe(precision), seed=seed)
    return images


def two_cores(model: str, images: int) -> list[dict[str, Any]]:
    rates: dict[str, list[float]] = {name: [] for name in ("plain", *machine.precisions())}
    plain = PlainLoop(model, images, workers=2)
    plain.epoch()  # starts the workers
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool, machine.torch_threads(2):
        for precision in machine.precisions():
            list(pool.map(one_run, [(model, BATCH, precision, core) for core in range(2)]))
        for turn in range(REPEATS):
            start = perf_counter()
            plain.epoch()
            rates["plain"].append(images / (perf_counter() - start))
            for precision in machine.precisions():
                start = perf_counter()
                done = sum(pool.map(one_run, [(model, images, precision, 2 * turn + core) for core in range(2)]))
                rates[precision].append(done / (perf_counter() - start))
    return [
        _row(f"training: {model}, {name}, 2 cores, against a plain loop", model, name, rates, 2)
        for name in machine.precisions()
    ]


def one_core(model: str, images: int, *, bn: bool = True) -> list[dict[str, Any]]:
    """Processor time of one epoch, ours and the plain loop's."""
    plain = PlainLoop(model, images, workers=0, bn=bn)
    data = random_images(images)
    works: dict[str, Callable[[], object]] = {"plain": plain.epoch}
    for name in machine.precisions():
        works[name] = lambda name=name: train(network_of(model, bn=bn), data, recipe(name), seed=0)  # type: ignore[misc]
    with machine.torch_threads(1):
        seconds = interleaved(works, repeats=REPEATS)
    rates = {name: [images / value for value in values] for name, values in seconds.items()}
    which = model if bn else f"{model} without BN"
    return [
        _row(f"training: {which}, {name}, per core, against a plain loop", model, name, rates, 1)
        for name in machine.precisions()
    ]


def _row(figure: str, model: str, precision: str, rates: dict[str, list[float]], threads: int) -> dict[str, Any]:
    value, baseline = max(rates[precision]), max(rates["plain"])
    return {
        "figure": figure,
        "value": value,
        "unit": "images/s",
        "baseline": baseline,
        "ratio": value / baseline,
        "floor": machine.speeds(threads).products[precision] / (3 * layout_of(model, SHAPE).multiply_adds),
        "n": REPEATS,
        "spread": spread(rates[precision]),
    }


def augmentation(images: int = 6_400) -> list[dict[str, Any]]:
    """Batches of images alone: gathered, shifted and mirrored, against torchvision's transforms; one thread."""
    data = random_images(images)
    batches = Batches(data, BATCH, augment=Augment(flip=True, shift=0.1), seed=0, device=torch.device("cpu"))
    pixels = np.ascontiguousarray(data.train.images[:1000].transpose(0, 2, 3, 1))
    plain = DataLoader(Augmented(pixels, data.train.labels[:1000]), BATCH, shuffle=True)
    works: dict[str, Callable[[], object]] = {
        "ours": lambda: deque(batches.epoch(0), maxlen=0),
        "plain": lambda: deque(plain, maxlen=0),
    }
    with machine.torch_threads(1):
        seconds = interleaved(works, repeats=REPEATS)
    ours, theirs = [images / value for value in seconds["ours"]], [1000 / value for value in seconds["plain"]]
    moved = 32 * 32 * 3 * (1 + 4)  # bytes read, floats written
    return [
        {
            "figure": "training: augmented batches alone, 1 thread, against torchvision",
            "value": max(ours),
            "unit": "images/s",
            "baseline": max(theirs),
            "ratio": max(ours) / max(theirs),
            "floor": machine.speeds(1).copy / moved,
            "n": REPEATS,
            "spread": spread(ours),
        }
    ]


def figures(images: int = 1280) -> Iterator[dict[str, Any]]:
    """One row per figure: figure, value, unit, baseline, ratio, floor, n, spread."""
    yield from augmentation()
    yield from one_core("resnet20", images)
    yield from one_core("resnet20", images, bn=False)
    yield from two_cores("resnet20", images)


if __name__ == "__main__":
    for row in figures(int(sys.argv[1]) if len(sys.argv) > 1 else 1280):
        print(row)
