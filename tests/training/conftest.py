"""Small real data and the threads that the suite allows itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bnsweep.experiment.spec import Data
from bnsweep.training.datasets import Dataset, load_dataset


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """300 real digits to train on, 100 to test on."""
    return load_dataset(Data(source="digits", train_images=300, test_images=100), root=Path("unused"))
