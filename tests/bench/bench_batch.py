"""How many images a forward pass should take at once, by network and precision: where `BATCHES` comes from.

`python -m tests.bench batch`: the best batch size of each network and precision, against the default of a spec. Small
batches waste time per layer, large ones leave the caches between two layers. One thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from bnsweep.experiment.spec import Evaluation
from bnsweep.training.layout import layout_of
from bnsweep.training.sites import fold
from tests.bench import machine
from tests.bench.bench_trials import SHAPE, bare_pass, example_network, interleaved, spread

SIZES = (25, 50, 100, 250, 500)
MODELS = {"resnet20": 1000, "vgg-small": 1000, "resnet18": 250}  # and images
REPEATS = 5


def best_batch(model: str, precision: str, images: int) -> dict[str, Any]:
    """The quickest batch size, as a row."""
    network, dtype = example_network(model), machine.DTYPES[precision]
    inputs = torch.randn(images, SHAPE.channels, SHAPE.size, SHAPE.size)
    bare = fold(network, example=inputs[:2]).to(dtype).to(memory_format=torch.channels_last)
    laid_out = inputs.to(dtype).to(memory_format=torch.channels_last)
    sizes = [size for size in SIZES if size <= images]
    works = {str(size): partial(bare_pass, bare, list(laid_out.split(size))) for size in sizes}
    seconds = interleaved(works, repeats=REPEATS)
    rates = {int(size): [images / value for value in values] for size, values in seconds.items()}
    print({size: round(max(values)) for size, values in rates.items()})
    default = min(Evaluation().batch_size, max(sizes))
    best = max(rates, key=lambda size: max(rates[size]))
    return {
        "figure": f"batch: {model}, {precision}, {best} images a pass, against {default}",
        "value": max(rates[best]),
        "unit": "images/s",
        "baseline": max(rates[default]),
        "ratio": max(rates[best]) / max(rates[default]),
        "floor": machine.speeds(1).products[precision] / layout_of(model, SHAPE).multiply_adds,
        "n": REPEATS,
        "spread": spread(rates[best]),
    }


def figures() -> Iterator[dict[str, Any]]:
    """One row per figure: figure, value, unit, baseline, ratio, floor, n, spread."""
    with machine.torch_threads(1):
        for name, images in MODELS.items():
            for precision in machine.precisions():
                yield best_batch(name, precision, images)
