"""Images batch by batch, against all at once; and pixels that are not copied."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from bnsweep.experiment.spec import Data
from bnsweep.training.datasets import load_dataset
from bnsweep.training.images import Dataset, Split
from bnsweep.training.inputs import Inputs, pixels_of


def random_set(channels: int) -> Dataset:
    numbers = np.random.default_rng(channels)
    halves = [
        Split(numbers.integers(0, 256, (count, channels, 6, 6), np.uint8), np.arange(count) % 3) for count in (50, 20)
    ]
    return Dataset("random", *halves, ("a", "b", "c"))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("half", ["train", "test"])
def test_batches_are_the_images_bit_by_bit(channels, half):
    dataset = random_set(channels)
    whole, inputs = dataset.inputs(half), Inputs(dataset, half)
    assert len(inputs) == len(whole)
    assert torch.equal(inputs[3:11], whole[3:11])
    chosen = torch.tensor([7, 0, 7, 19])
    assert torch.equal(inputs[chosen], whole[chosen])
    assert inputs[:5].is_contiguous(memory_format=torch.channels_last)
    inputs[:5].zero_()  # a network may write into what it is given
    assert torch.equal(inputs[:5], whole[:5])


@pytest.mark.parametrize("data", [Data(source="digits"), Data(source="digits", size=12), Data(source="folder")])
def test_what_was_loaded_is_worked_on_where_it_lies(data, tmp_path):
    if data.source == "folder":
        data = Data(source=f"folder:{colour_folder(tmp_path)}", size=7)
    dataset = load_dataset(data, root=tmp_path)
    buffers: list[pickle.PickleBuffer] = []
    travelling = pickle.dumps(dataset, protocol=5, buffer_callback=buffers.append)
    # As Ray does it: what is large lies beside the pickle, and cannot be written where it arrives.
    sent = pickle.loads(travelling, buffers=[buffer.raw().toreadonly() for buffer in buffers])
    assert len(travelling) < 10_000
    for each in (dataset, sent):
        for split in (each.train, each.test):
            assert np.shares_memory(pixels_of(split.images).numpy(), split.images)
    assert torch.equal(Inputs(sent, "test")[:9], dataset.inputs("test")[:9])


def colour_folder(path):
    from PIL import Image

    numbers = np.random.default_rng(0)
    for half in ("train", "test"):
        for label in "ab":
            folder = path / half / label
            folder.mkdir(parents=True)
            for number in range(3):
                Image.fromarray(numbers.integers(0, 256, (9, 9, 3), np.uint8)).save(folder / f"{number}.png")
    return path
