"""Networks as bytes."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from safetensors import safe_open

from bnsweep.errors import ModelError, StoreDamagedError
from bnsweep.training.checkpoint import from_bytes, to_bytes
from bnsweep.training.images import DataShape
from bnsweep.training.models import build

SHAPE = DataShape(1, 8, 10)
METADATA = {f"key{index}": "value" for index in range(20)}


def test_a_network_comes_back_bit_by_bit():
    network, other = (build("resnet8", SHAPE, seed=seed) for seed in (0, 1))
    network.to(memory_format=torch.channels_last)
    network(torch.randn(4, 1, 8, 8))
    assert from_bytes(other, to_bytes(network, metadata=METADATA)) is None
    for name, values in network.state_dict().items():
        assert torch.equal(values, other.state_dict()[name]), name


def test_strata_travel_with_the_network():
    network, other = (build("resnet8", SHAPE, seed=seed) for seed in (0, 1))
    strata = np.array([0, 3, 11, 3])
    assert from_bytes(other, to_bytes(network, strata=strata)).tolist() == strata.tolist()
    assert torch.equal(network.output.weight, other.output.weight)


def test_the_same_network_gives_the_same_bytes():
    digests = set()
    for _ in range(5):
        data = to_bytes(build("resnet8", SHAPE, seed=0), metadata=METADATA)
        digests.add(hashlib.sha256(data).hexdigest())
    assert len(digests) == 1


def test_any_safetensors_reader_reads_it(tmp_path):
    network = build("resnet8", SHAPE, seed=0)
    (tmp_path / "network.safetensors").write_bytes(to_bytes(network, metadata=METADATA))
    with safe_open(tmp_path / "network.safetensors", framework="pt") as file:
        assert file.metadata() == METADATA
        assert torch.equal(file.get_tensor("output.weight"), network.output.weight)


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:100], lambda b: b"", lambda b: b"\xff" * 8 + b[8:]])
def test_damaged_bytes(damage):
    network = build("resnet8", SHAPE, seed=0)
    with pytest.raises(StoreDamagedError, match=r"the checkpoint \(\d+ bytes\) is damaged"):
        from_bytes(network, damage(to_bytes(network)))


def test_another_network_is_refused_and_left_alone():
    network = build("resnet8", SHAPE, seed=0)
    before = network.output.weight.detach().clone()
    with pytest.raises(ModelError, match=r"does not fit this ResNet.*is not part of the network.*more differences"):
        from_bytes(network, to_bytes(build("resnet20", SHAPE, seed=0)))
    with pytest.raises(
        ModelError, match=r"stem.conv.weight is torch.float32 \(16, 3, 3, 3\) instead of .*\(16, 1, 3, 3\)"
    ):
        from_bytes(network, to_bytes(build("resnet8", DataShape(3, 8, 10), seed=1)))
    assert torch.equal(network.output.weight, before)
