"""Which way runs trials and trainings fastest on a GPU, per network: candidates, measured before any is built in.

`python -m tests.bench.bench_gpu [--models NAME ...] [--images N] [--draws K] [--device cpu]`. `make bench` leaves it
out where there is no GPU; on a CPU it only shows that the ways agree.

Trials of `images` CIFAR-sized images, noise on the weights, BN folded after the draw:

- loop: `Evaluator` as a sweep uses it, the best of several batch sizes; the baseline of the other ways.
- graph: the whole pass over all images as one CUDA graph, whose weights each draw overwrites.
- compiled: the same, of a network that torch.compile has fused.
- vmap: K draws stacked, `torch.func.vmap` over the weights (convolutions become grouped ones).
- unfold: the same with each convolution as unfolded patches times a matrix, so that K draws are one batched product.
- processes: `loop` in 2 and 4 processes on one GPU.

Floor: the multiply-adds at the speed of a large matrix product there, or the bytes at that of a copy.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from bnsweep.noise.curve import Cell
from bnsweep.noise.evaluate import Evaluator
from bnsweep.noise.forward import Forward
from bnsweep.noise.perturb import Perturber
from bnsweep.training.layout import layout_of
from bnsweep.training.models import build
from bnsweep.training.trainer import train
from tests.bench.bench_training import BATCH, SHAPE, random_images, recipe

MODELS = ("resnet8", "resnet20", "resnet56", "vgg-small", "vgg16")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
BATCHES = (500, 1000, 2000, 5000, 10_000)
DRAWS = 8  # stacked
PROCESSES = (2, 4)
SIDE_BY_SIDE = (1, 2, 4, 8)  # trainings
ETA = 0.1
REPEATS = 5
Counts = list[int]  # images classified right, per seed


class Bench:
    """One network and its images on a device; every way gives the same counts for the same seeds."""

    def __init__(self, model: str, images: int, precision: str, device: str, batch: int) -> None:
        rng = np.random.default_rng(0)
        self.network = example(model)
        colours = rng.standard_normal((images, 3, 1, 1), dtype=np.float32)  # of the whole image: classes differ
        self.inputs = torch.from_numpy(colours + rng.standard_normal((images, 3, 32, 32), dtype=np.float32))
        self.device, self.precision, self.dtype, self.batch = device, precision, DTYPES[precision], batch
        there = self.inputs[:4].to(device)
        self.perturber = Perturber(self.network, Cell(), example=there, device=device)
        self.forward = Forward(self.perturber.network, example=there, dtype=self.dtype)
        self.resident = self.inputs.to(device, self.dtype).contiguous(memory_format=torch.channels_last)
        self.true = self.predicted()
        self.labels = self.true.cpu()

    @torch.inference_mode()
    def predicted(self) -> Tensor:
        """What the clean network says: then every draw counts differently."""
        self.forward.load(self.network.to(self.device))
        return torch.cat([self.forward(inputs).argmax(1) for inputs in self.resident.split(self.batch)])

    def loop(self, batch: int) -> Callable[[Sequence[int]], Counts]:
        evaluator = Evaluator(
            self.network, self.inputs, self.labels, precision=self.precision, batch_size=batch, device=self.device
        )
        return lambda seeds: [score.correct for score in evaluator.trials(Cell(), ETA, seeds)]

    def whole(self, *, compiled: bool, graph: bool) -> Callable[[Sequence[int]], Counts]:
        """The pass over all images as one call, without any step of Python's in between if it is a graph."""
        module: Any = self.forward._module
        step = torch.compile(module) if compiled else module
        right = torch.zeros((), dtype=torch.int64, device=self.device)

        def score() -> None:
            right.zero_()
            for inputs, labels in zip(self.resident.split(self.batch), self.true.split(self.batch), strict=True):
                right.add_((step(inputs).argmax(1) == labels).sum())

        play = captured(score) if graph else score

        def ways(seeds: Sequence[int]) -> Counts:
            found = []
            for seed in seeds:
                self.perturber.perturb(ETA, seed)
                self.forward.load(self.perturber.network)
                play()
                found.append(int(right))
            return found

        return ways

    def stacked(self, draws: int, *, unfolded: bool) -> Callable[[Sequence[int]], Counts]:
        """So many draws at a time, their weights stacked."""
        module = without_convolutions(self.forward._module) if unfolded else self.forward._module
        weights, buffers = stack_module_state([module] * draws)
        weights = {name: values.detach().clone() for name, values in weights.items()}
        passes = vmap(lambda w, x: functional_call(module, (w, buffers_of(buffers)), (x,)), in_dims=(0, None))

        def ways(seeds: Sequence[int]) -> Counts:
            found: list[Tensor] = []
            for start in range(0, len(seeds), draws):
                some = seeds[start : start + draws]
                for place, seed in enumerate(some):
                    self.perturber.perturb(ETA, seed)
                    self.forward.load(self.perturber.network)
                    for name, values in self.forward._module.named_parameters():
                        weights[name][place].copy_(values.view_as(weights[name][place]))
                right = torch.zeros(draws, dtype=torch.int64, device=self.device)
                for inputs, labels in zip(self.resident.split(self.batch), self.true.split(self.batch), strict=True):
                    right += (passes(weights, inputs).argmax(2) == labels).sum(1)
                found.extend(right[: len(some)])
            return [int(count) for count in found]

        return ways


class Unfolded(nn.Module):
    """A convolution as a product of unfolded patches with a matrix: with stacked weights, one batched product."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.how = {"kernel_size": conv.kernel_size, "stride": conv.stride, "padding": conv.padding}

    def forward(self, x: Tensor) -> Tensor:
        patches = nn.functional.unfold(x, **self.how)  # (B, C k k, places)
        out = self.weight.flatten(1) @ patches
        if self.bias is not None:
            out = out + self.bias[:, None]
        side = [(size + 2 * p - k) // s + 1 for size, p, k, s in zip(x.shape[2:], *self._sizes(), strict=True)]
        return out.unflatten(2, side)

    def _sizes(self) -> tuple[Any, Any, Any]:
        return self.how["padding"], self.how["kernel_size"], self.how["stride"]


def without_convolutions(module: nn.Module) -> nn.Module:
    """The same network, sharing its parameters, with `Unfolded` in place of convolutions."""
    memo: dict[int, Any] = {id(values): values for values in module.parameters()}
    clone = copy.deepcopy(module, memo)
    for name, each in list(clone.named_modules()):
        if isinstance(each, nn.Conv2d):
            clone.set_submodule(name, Unfolded(each))
    return clone


def buffers_of(stacked: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those of one network: folding leaves none that differ."""
    return {name: values[0] for name, values in stacked.items()}


def captured(work: Callable[[], None]) -> Callable[[], None]:
    """A CUDA graph of it; by itself where there is no GPU."""
    if not torch.cuda.is_available():
        return work
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def example(model: str) -> nn.Module:
    """Not trained; with running statistics of its own, so that folding matters."""
    network = build(model, SHAPE, seed=0).train()
    with torch.no_grad():
        network(torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    return network.eval()


def trials_per_second(way: Callable[[Sequence[int]], Counts], draws: int) -> list[float]:
    """In turns of several draws, after one that does not count. Every count is read, which waits for the device."""
    rates = []
    with torch.inference_mode():
        for turn in range(REPEATS + 1):
            start = perf_counter()
            way(range(turn * draws, (turn + 1) * draws))
            rates.append(draws / (perf_counter() - start))
    return rates[1:]


def ways(model: str, images: int, precision: str, device: str, draws: int) -> Iterator[tuple[str, Any]]:
    """Every way by name; made when it is asked for, as the memory of all at once may not be there."""
    sizes = [size for size in BATCHES if size <= images] or [images]
    for size in sizes:
        yield (
            f"loop, {size:,} images a pass",
            partial(lambda b: b.loop(b.batch), Bench(model, images, precision, device, size)),
        )
    bench = Bench(model, images, precision, device, min(2000, images))
    yield "graph", partial(bench.whole, compiled=False, graph=True)
    yield "compiled", partial(bench.whole, compiled=True, graph=True)
    few = Bench(model, images, precision, device, min(500, images))
    yield f"vmap, {draws} draws", partial(few.stacked, draws, unfolded=False)
    yield f"unfold, {draws} draws", partial(few.stacked, draws, unfolded=True)


def floor_rate(model: str, images: int, precision: str, device: str) -> float:
    """Trials per second if they came down to their products, or to reading images and weights once."""
    architecture, width = layout_of(model, SHAPE), DTYPES[precision].itemsize
    matrix = torch.randn(8192, 8192, device=device).to(DTYPES[precision])
    source = torch.ones(1 << 28, device=device)
    target = torch.empty_like(source)
    products = 8192**3 / timed(lambda: torch.mm(matrix, matrix), device)
    copied = 2 * source.numel() * 4 / timed(lambda: target.copy_(source), device)
    moved = (images * 3 * 32 * 32 + architecture.parameters) * width
    return 1 / max(architecture.multiply_adds * images / products, moved / copied)


def timed(work: Callable[[], object], device: str, repeats: int = 10) -> float:
    """The median of seconds, the device having ended."""
    seconds = []
    for _ in range(repeats + 2):
        start = perf_counter()
        work()
        torch.cuda.synchronize(device)
        seconds.append(perf_counter() - start)
    return median(seconds[2:])


def _in_a_process(task: tuple[str, int, str, str, int, int]) -> int:
    model, images, precision, device, batch, draws = task
    Bench(model, images, precision, device, batch).loop(batch)(range(draws))
    return draws


def _one_training(task: tuple[str, int, str, str, int]) -> int:
    model, images, precision, device, seed = task
    train(build(model, SHAPE, seed=seed), random_images(images), recipe(precision), seed=seed, device=device)
    return images


def side_by_side(work: Callable[[Any], int], tasks: Sequence[Any]) -> float:
    """Units per second of processes that work at the same time, once each has started and warmed up."""
    with ProcessPoolExecutor(len(tasks), mp_context=get_context("spawn")) as pool:
        list(pool.map(work, tasks))
        start = perf_counter()
        done = sum(pool.map(work, tasks))
        return done / (perf_counter() - start)


def trials(model: str, images: int, precision: str, device: str, draws: int) -> Iterator[dict[str, Any]]:
    """One row per way."""
    floor = floor_rate(model, images, precision, device)
    plain: list[float] = []
    for name, make in ways(model, images, precision, device, draws):
        try:
            rates = trials_per_second(make(), draws)
        except (RuntimeError, torch.OutOfMemoryError) as error:
            print(f"{model} {precision} {name}: {str(error).splitlines()[0]}")
            continue
        plain = max(plain, rates, key=lambda each: median(each) if each else 0.0) if name.startswith("loop") else plain
        yield _row(f"gpu trials: {model}, {images:,} images, {precision}, {name}", "trials/s", rates, plain, floor)
        torch.cuda.empty_cache()
    for count in PROCESSES:
        tasks = [(model, images, precision, device, min(2000, images), 4 * draws)] * count
        rates = [side_by_side(_in_a_process, tasks) for _ in range(2)]
        name = f"gpu trials: {model}, {images:,} images, {precision}, {count} processes"
        yield _row(name, "trials/s", rates, plain, floor)


def trainings(model: str, precision: str, device: str, images: int = 50_000) -> Iterator[dict[str, Any]]:
    """Images per second of one and of several trainings on one GPU."""
    one: list[float] = []
    for count in SIDE_BY_SIDE:
        rates = [side_by_side(_one_training, [(model, images, precision, device, seed) for seed in range(count)])]
        one = one or rates
        yield _row(
            f"gpu training: {model}, {precision}, batches of {BATCH}, {count} runs", "images/s", rates, one, None
        )


def _row(figure: str, unit: str, rates: list[float], plain: list[float], floor: float | None) -> dict[str, Any]:
    value, baseline = median(rates), median(plain) if plain else None
    return {
        "figure": figure, "value": value, "unit": unit, "baseline": baseline,
        "ratio": value / baseline if baseline else None, "n": len(rates),
        "spread": (max(rates) - min(rates)) / value, "floor": floor,
    }  # fmt: skip


def figures(models: Sequence[str] = MODELS, images: int = 10_000, draws: int = DRAWS) -> Iterator[dict[str, Any]]:
    """One row per figure: figure, value, unit, baseline, ratio, floor, n, spread. None without a GPU."""
    if not torch.cuda.is_available():
        return
    for model in models:
        for precision in DTYPES:
            yield from trials(model, images, precision, "cuda", draws)
            yield from trainings(model, precision, "cuda")


def main() -> None:
    """Figures on a GPU; on a CPU, whether the ways agree."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.bench_gpu")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--device", default="cuda")
    asked = parser.parse_args()
    if asked.device == "cuda":
        for row in figures(asked.models, asked.images, asked.draws):
            print(row, flush=True)
        return
    for model in asked.models:
        for name, make in ways(model, asked.images, "fp32", asked.device, asked.draws):
            with torch.inference_mode():
                print(model, name, make()(range(asked.draws)), flush=True)


if __name__ == "__main__":
    main()
