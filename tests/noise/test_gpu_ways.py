"""The ways of running trials that `tests/bench/bench_gpu.py` measures run the same trials."""

from __future__ import annotations

import pytest
import torch

from tests.bench.bench_gpu import ways

DRAWS = 3


@pytest.mark.parametrize("model", ["resnet20", "vgg-small"])
def test_every_way_counts_the_same(model):
    counts = {}
    with torch.inference_mode():
        for name, make in ways(model, images=40, precision="fp32", device="cpu", draws=DRAWS):
            if name != "compiled":  # takes a compiler and most of a minute
                counts[name] = make()(range(2 * DRAWS - 1))
    assert len(counts) == 4
    first, *others = counts.values()
    assert len(set(first)) > 1
    assert all(other == first for other in others), counts
