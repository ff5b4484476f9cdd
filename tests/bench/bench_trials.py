"""How fast trials run: against what research code does, and against a bare forward pass.

`python -m tests.bench.bench_trials [IMAGES]` prints the figures; one thread, since a task has one core.

- Baselines: deep copy, noise on every kernel, fp32, default layout, a DataLoader that converts and normalises
  each 32x32 image with torchvision, batches of 250; and a bare forward pass of the same network in the best layout
  found (BN folded beforehand, channels last, batches that stay in the cache), in the same precision.
- Floor: the multiply-adds at the speed of a large matrix product in that precision, or the images' and weights' bytes
  at the speed of a copy, whichever takes longer. bf16 only where the processor computes it.
Repetitions of all are interleaved, and each figure is the best one: other work on the machine only ever slows. On one
thread it is processor time that is measured, on two cores wall time.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from time import perf_counter, process_time
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
from bnsweep.training.images import Dataset as Images
from bnsweep.training.images import DataShape, Split
from bnsweep.training.inputs import Inputs
from bnsweep.training.layout import layout_of
from bnsweep.training.models import build
from bnsweep.training.sites import fold
from tests.bench import machine

REPEATS = 5
BATCHES = {"fp32": 50, "bf16": 100}  # the quickest by `python -m tests.bench batch`
BATCH = BATCHES["fp32"]
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


def floor_s(model: str, images: int, precision: str, *, threads: int) -> float:
    """Seconds of one trial if it came down to its products, or to reading images and weights once."""
    architecture, width = layout_of(model, SHAPE), {"fp32": 4, "bf16": 2}[precision]
    numbers = images * SHAPE.channels * SHAPE.size**2 + architecture.parameters
    return machine.speeds(threads).floor_s(architecture.multiply_adds * images, numbers * width, precision)


def timed(work: Callable[[], object]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start


def interleaved(works: dict[str, Callable[[], object]], repeats: int = REPEATS) -> dict[str, list[float]]:
    """Processor seconds of each, in turns, after one turn that does not count."""
    for work in works.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            start = process_time()
            work()
            seconds[name].append(process_time() - start)
    return seconds


def example_network(name: str = "resnet20") -> nn.Module:
    """Not trained, since that does not change the time; but with running statistics of its own."""
    network = build(name, SHAPE, seed=0, init="glorot_uniform", bn_epsilon=1e-3, bn_momentum=0.1).train()
    with torch.no_grad():
        network(torch.randn(64, 3, 32, 32))
    return network.eval()


def trials(images: int, model: str = "resnet20", eta: float = 0.1) -> list[dict[str, Any]]:
    """One thread: ours and a bare pass in each precision, and research code."""
    pixels, labels = _pictures(images)
    network, pictures = example_network(model), Pictures(pixels, labels)
    inputs = torch.stack([pictures[i][0] for i in range(images)])
    seeds = iter(range(1_000_000))
    works: dict[str, Callable[[], object]] = {"research": partial(research_trial, network, pictures, eta)}
    for name in machine.precisions():
        batch, dtype = BATCHES[name], machine.DTYPES[name]
        evaluator = _evaluator_of(network, pixels, labels, name)
        works[f"ours {name}"] = lambda evaluator=evaluator: evaluator.trials(Cell(), eta, [next(seeds)])  # type: ignore[misc]
        bare = fold(network, example=inputs[:2]).to(dtype).to(memory_format=torch.channels_last)
        batches = list(inputs.to(dtype).to(memory_format=torch.channels_last).split(batch))
        works[f"bare {name}"] = partial(bare_pass, bare, batches)
    rates = {name: [1 / value for value in seconds] for name, seconds in interleaved(works).items()}
    rows = []
    for name in machine.precisions():
        what, floor = f"trials: {model}, {images} images, {name}, 1 thread", 1 / floor_s(model, images, name, threads=1)
        rows.append(_row(f"{what}, against research code", rates[f"ours {name}"], rates["research"], floor))
        rows.append(_row(f"{what}, against a bare pass", rates[f"ours {name}"], rates[f"bare {name}"], floor))
    return rows


def two_cores(images: int, model: str = "resnet20", eta: float = 0.1) -> list[dict[str, Any]]:
    """Two tasks of one thread each, as a sweep runs them, against one research loop with two threads."""
    pixels, labels = _pictures(images)
    network, pictures = example_network(model), Pictures(pixels, labels)
    seconds: dict[str, list[float]] = {name: [] for name in ("research", *machine.precisions())}
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool, machine.torch_threads(2):
        for turn in range(REPEATS + 1):  # the first one does not count
            seconds["research"].append(timed(lambda: research_trial(network, pictures, eta)))
            for name in machine.precisions():
                start = perf_counter()
                tasks = [(images, model, name, eta, 2 * turn + core) for core in range(2)]
                done = list(pool.map(_trial_in_a_process, tasks))
                seconds[name].append((perf_counter() - start) / len(done))
    rates = {name: [1 / value for value in values[1:]] for name, values in seconds.items()}
    what = f"trials: {model}, {images} images"
    return [
        _row(
            f"{what}, {name}, 2 cores, against research code",
            rates[name],
            rates["research"],
            1 / floor_s(model, images, name, threads=2),
        )
        for name in machine.precisions()
    ]


@cache
def _evaluator(images: int, model: str, precision: str) -> Evaluator:
    torch.set_num_threads(1)
    return _evaluator_of(example_network(model), *_pictures(images), precision)


def _evaluator_of(
    network: nn.Module, pixels: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], precision: str
) -> Evaluator:
    """As a worker makes it, from pixels that it shares with others."""
    split = Split(pixels.transpose(0, 3, 1, 2), labels)
    inputs = Inputs(Images("random", split, split, tuple("0123456789")), "test")
    return Evaluator(network, inputs, torch.from_numpy(labels), batch_size=BATCHES[precision], precision=precision)


def _trial_in_a_process(task: tuple[int, str, str, float, int]) -> int:
    images, model, precision, eta, seed = task
    return _evaluator(images, model, precision).trials(Cell(), eta, [seed])[0].correct


def _pictures(images: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (images, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, images)


@torch.inference_mode()
def preparation(model: str = "resnet20") -> list[dict[str, Any]]:
    """What a trial does besides the forward pass (draw, perturb, measure, fold) against its pass over 10,000 images.

    The floor is that of reading and writing each parameter once.
    """
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
    floor = 2 * 4 * layout_of(model, SHAPE).parameters / machine.speeds(1).copy
    return [
        {**row, "baseline": full, "ratio": full / alone, "n": 20, "spread": spread(seconds["prepare"]), "floor": floor}
    ]


def _row(figure: str, ours: list[float], other: list[float], floor: float) -> dict[str, Any]:
    value, baseline = max(ours), max(other)
    shared = {"figure": figure, "value": value, "unit": "trials/s", "baseline": baseline, "ratio": value / baseline}
    return {**shared, "n": len(ours), "spread": spread(ours), "floor": floor}


def spread(values: list[float]) -> float:
    return float((max(values) - min(values)) / np.median(values))


def figures(images: int = 1000) -> Iterator[dict[str, Any]]:
    """One row per figure: figure, value, unit, baseline, ratio, floor, n, spread."""
    with machine.torch_threads(1):
        yield from trials(images)
        yield from preparation()
        yield from preparation("vgg16")
        yield from two_cores(images)


if __name__ == "__main__":
    for row in figures(int(sys.argv[1]) if len(sys.argv) > 1 else 1000):
        print(row)
