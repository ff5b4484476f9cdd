"""One small network, really trained on real digits, for every test of noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bnsweep.experiment.recipe import Training
from bnsweep.experiment.spec import Data
from bnsweep.training.datasets import load_dataset
from bnsweep.training.models import build
from bnsweep.training.sites import find_sites, place
from bnsweep.training.trainer import train


@dataclass(frozen=True)
class Trained:
    network: nn.Module  # BN at every site
    partial: nn.Module  # BN at every other site, `ChannelBias` with trained-like values elsewhere
    inputs: Tensor  # (360, 1, 8, 8) test images
    labels: Tensor
    training_inputs: Tensor  # (1437, 1, 8, 8)
    training_labels: Tensor


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def trained() -> Trained:
    torch.set_num_threads(1)
    data = load_dataset(Data(source="digits"), root=Path())
    network = build("resnet8", data.shape, seed=1, init="glorot_uniform", bn_epsilon=1e-3, bn_momentum=0.1)
    recipe = Training(epochs=4, learning_rate=3e-3, augment={"shift": 0.0})
    train(network, data, recipe, seed=1, device=torch.device("cpu"), slot=None, on_epoch=None)
    sites = len(find_sites(network, data.example))
    partial = place(network, ("10" * sites)[:sites], example=data.example)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in partial.named_parameters():
            if parameter.ndim == 1 and name.endswith("bias"):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return Trained(
        network.eval(),
        partial.eval(),
        data.inputs("test"),
        torch.from_numpy(data.test.labels.astype(np.int64)),
        data.inputs("train"),
        torch.from_numpy(data.train.labels.astype(np.int64)),
    )
