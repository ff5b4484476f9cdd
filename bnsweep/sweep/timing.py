"""Speeds of this machine, timed here and now, for plans whose store has no rows that tell them.

`guessed` times a matrix product, which takes a tenth of a second and no torch; `timed` a few batches of the plan's
smallest network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time

import numpy as np

from bnsweep.errors import ModelError
from bnsweep.experiment.plan import Plan
from bnsweep.training.datasets import data_shape
from bnsweep.training.origin import origin

__all__ = ["Speeds", "computes_bf16", "guessed", "timed"]

PROBE_IMAGES = 128
PROBE_REPEATS = 3
MATRIX = 1024  # side
# Seconds per multiply-add of a step and of a forward pass over those of NumPy's product, on six pairs of network and
# image size: 1.9 to 4.7 and 0.6 to 1.3 (docs/speed.md).
TRAIN_TO_PRODUCT, TRIAL_TO_PRODUCT = 2.8, 0.9


@dataclass(frozen=True, slots=True)
class Speeds:
    """Seconds of one core per multiply-add of the network and image."""

    train_s: float
    trial_s: float
    source: str


def computes_bf16() -> bool:
    """Whether this processor has instructions for bf16; without them it is up to ten times slower than fp32."""
    cpuinfo = Path("/proc/cpuinfo")
    words = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    return bool({"avx512_bf16", "amx_bf16"} & words)


def guessed() -> Speeds:
    """What convolutions take, from what a matrix product takes: right within a factor of about two."""
    matrix = np.full((MATRIX, MATRIX), 0.5, np.float32)
    seconds = []
    for _ in range(PROBE_REPEATS + 1):
        begin = process_time()  # of all threads: the product may use every core
        matrix @ matrix
        seconds.append(process_time() - begin)
    product_s = min(seconds[1:]) / MATRIX**3
    source = (
        f"guessed from a product in fp32, {1e-9 / product_s:.0f} billion multiply-adds/s and core; better: --measure"
    )
    return Speeds(product_s * TRAIN_TO_PRODUCT, product_s * TRIAL_TO_PRODUCT, source)


def timed(plan: Plan, data_root: Path) -> Speeds:
    """Time a few batches of the smallest network, one thread, in the plan's precisions, as a task would run them."""
    import torch
    from torch.nn.functional import cross_entropy

    from bnsweep.noise.evaluate import PRECISIONS
    from bnsweep.training.models import build

    run = min(plan.runs, key=lambda run: run.architecture.multiply_adds)
    shape = data_shape(run.data, root=data_root)
    recipe = run.training
    network = build(
        run.model,
        shape,
        seed=0,
        init=None if run.weights else recipe.init,
        bn_epsilon=recipe.bn_epsilon,
        bn_momentum=recipe.bn_momentum,
        allow_import=True,
    ).to(memory_format=torch.channels_last)
    images = torch.zeros(PROBE_IMAGES, shape.channels, shape.size, shape.size).to(memory_format=torch.channels_last)
    labels = torch.zeros(PROBE_IMAGES, dtype=torch.long)
    work = run.architecture.multiply_adds * PROBE_IMAGES

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
            loss = cross_entropy(network(images), labels)
        torch.autograd.backward(loss)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        step_s = _best(step)
        dtype = PRECISIONS[plan.spec.evaluation.precision]
        network, images = network.eval().requires_grad_(False).to(dtype), images.to(dtype)
        forward_s = _best(lambda: network(images))
    except Exception as error:  # whatever a network of one's own raises
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ModelError(
            f"{run.model} fails on {PROBE_IMAGES} images at once: {reason}{origin(error)} (--guess measures nothing)"
        ) from error
    finally:
        torch.set_num_threads(threads)
    return Speeds(
        step_s / work, forward_s / work, f"measured now: {PROBE_REPEATS} batches of {run.model} on this machine"
    )


def _best(call: Callable[[], object]) -> float:
    times = []
    for _ in range(PROBE_REPEATS + 1):
        begin = perf_counter()
        call()
        times.append(perf_counter() - begin)
    return min(times[1:])
