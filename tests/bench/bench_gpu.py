"""Which way runs trials and trainings fastest on a GPU, per network: candidates, measured before any is built in.

`python -m tests.bench.bench_gpu --models resnet20 --out FILE` measures one network in some minutes and appends each
figure to FILE as it comes (JSON lines); `--precisions bf16`, `--only trials` a part of that. `--device cpu --images 40`
shows, without a GPU, that the ways agree. `make bench` leaves it out where there is no GPU.

Trials of `images` CIFAR-sized images, noise on the weights, BN folded after the draw:

- loop: `Evaluator` as a sweep uses it, in several batch sizes; the best is the baseline of the other ways.
- draw: the noise, the measuring and the folding alone, which every way needs.
- graph: the whole pass over all images as one CUDA graph, whose weights each draw overwrites.
- compiled: the same, of a network that torch.compile has fused.
- vmap: K draws stacked, `torch.func.vmap` over the weights (convolutions become grouped ones).
- unfold: the same with each convolution as patches times a matrix, so that K draws are one batched product.
- processes: `loop` in 2 and 4 processes on one GPU.

Every way's counts are compared with the loop's. Floor: the multiply-adds at the speed of a large matrix product there,
or the bytes at that of a copy. fp32 is fp32 (TF32 switched off), tf32 is what cuDNN does unless it is told not to.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
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
from bnsweep.training.images import Dataset
from bnsweep.training.layout import layout_of
from bnsweep.training.models import build
from bnsweep.training.trainer import train
from tests.bench.bench_training import BATCH, SHAPE, random_images, recipe

MODELS = ("resnet8", "resnet20", "resnet56", "vgg-small", "vgg16")
PRECISIONS = {
    "bf16": "bf16",
    "fp32": "fp32",
    "tf32": "fp32",
}  # what matters most first; and the name that a sweep has for it
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
BATCHES = (250, 500, 1000, 2000, 5000, 10_000)
DRAWS = 8  # stacked
PROCESSES = (2, 4)
SIDE_BY_SIDE = (1, 2, 4, 8)  # trainings
ETA = 0.1
REPEATS = 5
# Share of the images by which counts of two ways may differ: sums are in another order, and are rounded more in bf16.
AGREES = {"fp32": 0.002, "tf32": 0.01, "bf16": 0.01}
SLOW_S = 30.0  # a way whose first turn takes longer is left out
Counts = list[int]  # images classified right, per seed
Way = Callable[[Sequence[int]], Counts]
Row = dict[str, Any]


class Bench:
    """One network and its images on a device; every way gives the same counts for the same seeds."""

    def __init__(self, model: str, *, images: int, precision: str, device: str, batch: int) -> None:
        use(precision)
        rng = np.random.default_rng(0)
        colours = rng.standard_normal((images, 3, 1, 1), dtype=np.float32)  # of the whole image: classes differ
        self.inputs = torch.from_numpy(colours + rng.standard_normal((images, 3, 32, 32), dtype=np.float32))
        self.device, self.precision, self.batch = device, PRECISIONS[precision], batch
        self.network = example(model).to(device)
        there, dtype = self.inputs[:4].to(device), DTYPES[self.precision]
        self.perturber = Perturber(self.network, Cell(), example=there, device=device)
        self.forward = Forward(self.perturber.network, example=there, dtype=dtype)
        self.resident = self.inputs.to(device, dtype).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():  # what the clean network says is right: then every draw counts differently
            self.forward.load(self.network)
            self.true = torch.cat([self.forward(inputs).argmax(1) for inputs in self.resident.split(batch)])

    def loop(self) -> Way:
        evaluator = Evaluator(
            self.network, self.inputs, self.true.cpu(),
            precision=self.precision, batch_size=self.batch, device=self.device,
        )  # fmt: skip
        return lambda seeds: [score.correct for score in evaluator.trials(Cell(), ETA, seeds)]

    def draw(self, seed: int) -> None:
        """Write one draw into the network that makes the passes."""
        self.perturber.perturb(ETA, seed)
        self.forward.load(self.perturber.network)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.resident.split(self.batch), self.true.split(self.batch), strict=True)

    def whole(self, *, compiled: bool) -> Way:
        """The pass over all images without any step of Python's in between: one CUDA graph, where there is CUDA."""
        module: Any = self.forward._module
        if compiled:
            torch._dynamo.reset()  # it gives up on a function that it has compiled for eight networks
        step = torch.compile(module) if compiled else module
        right = torch.zeros((), dtype=torch.int64, device=self.device)

        def score() -> None:
            right.zero_()
            for inputs, labels in self.batches():
                right.add_((step(inputs).argmax(1) == labels).sum())

        play = captured(score) if right.is_cuda else score

        def one(seed: int) -> int:
            self.draw(seed)
            play()
            return int(right)

        return lambda seeds: [one(seed) for seed in seeds]

    def stacked(self, draws: int, *, unfolded: bool) -> Way:
        """So many draws at a time, their weights stacked."""
        plain = self.forward._module
        module = without_convolutions(plain) if unfolded else plain
        stack, _ = stack_module_state([plain] * draws)
        weights = {name: values.detach().clone() for name, values in stack.items()}
        passes = vmap(lambda own, x: functional_call(module, own, (x,)), in_dims=(0, None))

        def several(seeds: Sequence[int]) -> Counts:
            for place, seed in enumerate(seeds):
                self.draw(seed)
                for name, values in plain.named_parameters():
                    weights[name][place].copy_(values)
            right = torch.zeros(draws, dtype=torch.int64, device=self.device)
            for inputs, labels in self.batches():
                right += (passes(weights, inputs).argmax(2) == labels).sum(1)
            return [int(count) for count in right[: len(seeds)]]

        return lambda seeds: [
            count for start in range(0, len(seeds), draws) for count in several(seeds[start : start + draws])
        ]


class Unfolded(nn.Module):
    """A convolution as patches times a matrix: with stacked weights, one batched product of as many as draws."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        (self.kernel, _), (self.stride, _), (self.padding, _) = conv.kernel_size, conv.stride, conv.padding  # type: ignore[misc]

    def forward(self, x: Tensor) -> Tensor:
        padded = nn.functional.pad(x, [self.padding] * 4)
        # (B, C, H, W, k, k), a view; nn.functional.unfold would start a kernel per image.
        windows = padded.unfold(2, self.kernel, self.stride).unfold(3, self.kernel, self.stride)
        count, _, height, width, *_ = windows.shape
        patches = windows.permute(1, 4, 5, 0, 2, 3).reshape(self.weight[0].numel(), -1)  # (C k k, B H W)
        out = (self.weight.flatten(1) @ patches).unflatten(1, (count, height, width)).transpose(0, 1)
        return out if self.bias is None else out + self.bias[:, None, None]


def without_convolutions(module: nn.Module) -> nn.Module:
    """The same network, sharing its parameters, with `Unfolded` in place of convolutions."""
    clone = copy.deepcopy(module, {id(values): values for values in module.parameters()})
    for name, each in list(clone.named_modules()):
        if isinstance(each, nn.Conv2d):
            clone.set_submodule(name, Unfolded(each))
    return clone


def use(precision: str) -> None:
    """Have torch compute in it: by default convolutions are TF32 and products of matrices are not."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"


def captured(work: Callable[[], None]) -> Callable[[], None]:
    """A CUDA graph of it."""
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
    """Not trained; with running statistics of its own, so that folding matters, and no class that it always names."""
    network: Any = build(model, SHAPE, seed=0).train()
    images = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        network(images)
        network.eval()
        network.output.bias.sub_(network(images).mean(0))
    return network  # type: ignore[no-any-return]


def ways(
    model: str, *, images: int, precision: str, device: str, draws: int
) -> Iterator[tuple[str, Callable[[], Way]]]:
    """Every way by name; made when it is asked for, as the memory of all at once may not be there."""
    there = partial(Bench, model, images=images, precision=precision, device=device)
    for size in [size for size in BATCHES if size <= images] or [images]:
        yield f"loop, {size:,} images a pass", lambda size=size: there(batch=size).loop()  # type: ignore[misc]
    most, few = min(2000, images), min(500, images)
    yield "graph", lambda: there(batch=most).whole(compiled=False)
    yield "compiled", lambda: there(batch=most).whole(compiled=True)
    yield f"vmap, {draws} draws", lambda: there(batch=few).stacked(draws, unfolded=False)
    yield f"unfold, {draws} draws", lambda: there(batch=few).stacked(draws, unfolded=True)


def trials_per_second(way: Way, draws: int) -> tuple[list[float], Counts]:
    """In turns of several draws, after one turn that does not count; and its counts. Reading them waits for the GPU."""
    rates: list[float] = []
    with torch.inference_mode():
        start = perf_counter()
        counts = way(range(draws))
        if (took_s := perf_counter() - start) > SLOW_S:
            raise RuntimeError(f"left out: the first {draws} draws took {took_s:.0f} s")
        for turn in range(1, REPEATS + 1):
            start = perf_counter()
            way(range(turn * draws, (turn + 1) * draws))
            rates.append(draws / (perf_counter() - start))
    return rates, counts


def floor_rate(model: str, *, images: int, precision: str, device: str) -> float:
    """Trials per second if they came down to their products, or to reading images and weights once."""
    use(precision)
    dtype = DTYPES[PRECISIONS[precision]]
    architecture = layout_of(model, SHAPE)
    matrix = torch.randn(8192, 8192, device=device).to(dtype)
    source = torch.ones(1 << 28, device=device)
    target = torch.empty_like(source)
    products = 8192**3 / timed(lambda: torch.mm(matrix, matrix))
    copied = 2 * source.numel() * source.itemsize / timed(lambda: target.copy_(source))
    moved = (images * 3 * 32 * 32 + architecture.parameters) * dtype.itemsize
    return 1 / max(architecture.multiply_adds * images / products, moved / copied)


def timed(work: Callable[[], object], repeats: int = 10) -> float:
    """The median of seconds, the device having ended."""
    seconds = []
    for _ in range(repeats + 2):
        start = perf_counter()
        work()
        torch.cuda.synchronize()
        seconds.append(perf_counter() - start)
    return median(seconds[2:])


@cache
def _loop_here(model: str, images: int, precision: str) -> Way:
    return Bench(model, images=images, precision=precision, device="cuda", batch=min(2000, images)).loop()


@cache
def _images_here(images: int) -> Dataset:
    return random_images(images)


def _trials_here(task: tuple[str, int, str, int]) -> int:
    model, images, precision, draws = task
    with torch.inference_mode():
        _loop_here(model, images, precision)(range(draws))
    return draws


def _training_here(task: tuple[str, int, str, int]) -> float:
    """Images per second of its second epoch: neither the network's making nor the copy of the images counts."""
    model, images, precision, seed = task
    use(precision)
    how = recipe(PRECISIONS[precision]).model_copy(update={"epochs": 2})
    result = train(build(model, SHAPE, seed=seed), _images_here(images), how, seed=seed, device="cuda")
    return images / float(result.epochs[-1]["duration_s"])


def draws_per_second(model: str, precision: str) -> list[float]:
    """The noise, the measuring and the folding, without a pass."""
    bench = Bench(model, images=4, precision=precision, device="cuda", batch=4)
    return [1 / timed(lambda: bench.draw(0)) for _ in range(REPEATS)]


def side_by_side(work: Callable[[Any], float], tasks: Sequence[Any], repeats: int) -> list[tuple[float, float]]:
    """The sum of what processes that work at the same time give, each of which has done its task once; seconds."""
    context = get_context("spawn")
    pools = [ProcessPoolExecutor(1, mp_context=context) for _ in tasks]
    try:
        found = []
        for _ in range(repeats + 1):
            start = perf_counter()
            done = sum(future.result() for future in [p.submit(work, t) for p, t in zip(pools, tasks, strict=True)])
            found.append((done, perf_counter() - start))
        return found[1:]
    finally:
        for pool in pools:
            pool.shutdown(cancel_futures=True)


def trials(model: str, *, images: int, precision: str, draws: int) -> Iterator[Row]:
    """One row per way; a way that fails or disagrees is said and left out."""
    what = f"gpu trials: {model}, {images:,} images, {precision}"
    floor = floor_rate(model, images=images, precision=precision, device="cuda")
    plain: list[float] = []
    wanted: Counts = []
    for name, make in ways(model, images=images, precision=precision, device="cuda", draws=draws):
        try:
            rates, counts = trials_per_second(make(), draws)
        except RuntimeError as error:
            print(f"{what}, {name}: {(str(error) or type(error).__name__).splitlines()[0]}", flush=True)
            continue
        finally:
            torch.cuda.empty_cache()
        wanted = wanted or counts
        if (apart := max(abs(a - b) for a, b in zip(counts, wanted, strict=True))) > AGREES[precision] * images:
            print(f"{what}, {name}: disagrees with the loop by up to {apart} of {images} images", flush=True)
            continue
        if name.startswith("loop"):
            plain = max(plain, rates, key=lambda each: median(each) if each else 0.0)
        yield _row(f"{what}, {name}", "trials/s", rates, plain=plain, floor=floor)
    yield _row(f"{what}, the draw alone", "trials/s", draws_per_second(model, precision), plain=plain, floor=None)
    for count in PROCESSES:
        done = side_by_side(_trials_here, [(model, images, precision, 4 * draws)] * count, REPEATS)
        rates = [scored / seconds for scored, seconds in done]
        yield _row(f"{what}, {count} processes", "trials/s", rates, plain=plain, floor=floor)


def trainings(model: str, precision: str, images: int = 50_000) -> Iterator[Row]:
    """Images per second of one and of several trainings on one GPU, an epoch each."""
    one: list[float] = []
    for count in SIDE_BY_SIDE:
        done = side_by_side(_training_here, [(model, images, precision, seed) for seed in range(count)], 1)
        rates = [images_per_s for images_per_s, _ in done]
        one = one or rates
        what = f"gpu training: {model}, {precision}, batches of {BATCH}, {count} at a time"
        yield _row(what, "images/s", rates, plain=one, floor=None)


def _row(figure: str, unit: str, rates: list[float], *, plain: list[float], floor: float | None) -> Row:
    value, baseline = median(rates), median(plain) if plain else None
    return {
        "figure": figure, "value": value, "unit": unit, "baseline": baseline,
        "ratio": value / baseline if baseline else None, "n": len(rates),
        "spread": (max(rates) - min(rates)) / value if len(rates) > 1 else None, "floor": floor,
    }  # fmt: skip


def figures(
    models: Sequence[str] = MODELS,
    images: int = 10_000,
    draws: int = DRAWS,
    precisions: Sequence[str] = tuple(PRECISIONS),
    only: str | None = None,
) -> Iterator[Row]:
    """One row per figure: figure, value, unit, baseline, ratio, floor, n, spread. None without a GPU."""
    if not torch.cuda.is_available():
        return
    for model in models:
        for precision in precisions:
            parts = {
                "trials": trials(model, images=images, precision=precision, draws=draws),
                "trainings": trainings(model, precision),
            }
            for name, part in parts.items():
                try:
                    yield from part if only in (None, name) else ()
                except (RuntimeError, OSError) as error:  # memory, or a process that was killed: the others go on
                    print(f"{model}, {precision}: {(str(error) or type(error).__name__).splitlines()[0]}", flush=True)


def main() -> None:
    """Figures on a GPU; on a CPU, whether the ways agree."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.bench_gpu")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--only", choices=("trials", "trainings"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, help="append each figure to this file")
    asked = parser.parse_args()
    if asked.device == "cpu":
        for model in asked.models:
            for name, make in ways(model, images=asked.images, precision="fp32", device="cpu", draws=asked.draws):
                with torch.inference_mode():
                    print(model, name, make()(range(asked.draws)), flush=True)
        return
    if not torch.cuda.is_available():
        parser.error("no GPU is here; --device cpu shows that the ways agree")
    for row in figures(asked.models, asked.images, asked.draws, asked.precisions, asked.only):
        line = json.dumps(row)
        print(line, flush=True)
        if asked.out:
            with asked.out.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


if __name__ == "__main__":
    main()
