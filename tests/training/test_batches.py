"""Batches and augmentation against plain indexing."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bnsweep.training.batches import Batches, batch_bounds
from bnsweep.training.images import Dataset, Split

CPU = torch.device("cpu")


def batches(dataset: Dataset, *, size: int = 32, flip: bool = False, shift: float = 0.0, seed: int = 0) -> Batches:
    return Batches(dataset, size, augment=SimpleNamespace(flip=flip, shift=shift), seed=seed, device=CPU)


@pytest.mark.parametrize(
    ("images", "size", "lengths"),
    [(10, 5, [5, 5]), (10, 4, [4, 4, 2]), (9, 4, [4, 5]), (3, 128, [3]), (1, 128, [1]), (5, 1, [1, 1, 1, 2])],
)
def test_every_image_is_used_and_no_last_batch_is_alone(images, size, lengths):
    assert [end - start for start, end in batch_bounds(images, size)] == lengths


def test_an_epoch_is_the_set_in_another_order(digits):
    inputs = digits.inputs("train")
    seen = list(batches(digits).epoch(0))
    labels = torch.cat([labels for _, labels in seen])
    assert labels.bincount().tolist() == np.bincount(digits.train.labels).tolist()
    images = torch.cat([images for images, _ in seen])
    # Sorted by content, both are the same list of images, bit by bit.
    key = [tuple(image.flatten().tolist()) for image in images]
    assert sorted(key) == sorted(tuple(image.flatten().tolist()) for image in inputs)
    assert seen[0][0].is_contiguous(memory_format=torch.channels_last)


def test_order_is_a_function_of_seed_and_epoch(digits):
    def labels(seed: int, epoch: int) -> list[int]:
        return torch.cat([labels for _, labels in batches(digits, seed=seed, flip=True).epoch(epoch)]).tolist()

    assert labels(0, 3) == labels(0, 3)
    assert labels(0, 3) != labels(0, 4)
    assert labels(0, 3) != labels(1, 3)


def one_image(size: int = 10, copies: int = 400) -> Dataset:
    """Copies of an image whose every pixel differs, in two channels."""
    image = np.arange(2 * size * size, dtype=np.uint8).reshape(1, 2, size, size)
    split = Split(np.repeat(image, copies, 0), np.zeros(copies, np.int64))
    return Dataset("one", split, split, ("only",))


def test_shifts_and_mirror_images_are_the_possible_ones_in_equal_parts():
    dataset = one_image()
    original = dataset.inputs("train", count=1)[0]
    padded = torch.nn.functional.pad(original, (2, 2, 2, 2))  # zeros after normalisation
    possible = {}
    for flip in (False, True):
        for down in range(5):
            for right in range(5):
                # Mirror the image, then shift it.
                source = torch.nn.functional.pad(original.flip(-1), (2, 2, 2, 2)) if flip else padded
                window = source[:, down : down + 10, right : right + 10]
                possible[tuple(window.flatten().tolist())] = 0
    assert len(possible) == 2 * 5 * 5
    for images, _ in batches(dataset, flip=True, shift=0.2).epoch(0):
        for image in images:
            possible[tuple(image.flatten().tolist())] += 1  # KeyError: an image that must not occur
    counts = np.array(list(possible.values()))
    # 400 draws over 50 cells: chi-square has 49 degrees of freedom; 99.9 % of its values are below 85.4.
    assert ((counts - 8) ** 2 / 8).sum() < 85.4


def test_no_augmentation_leaves_pixels_alone():
    dataset = one_image(copies=4)
    for images, _ in batches(dataset).epoch(0):
        assert torch.equal(images, dataset.inputs("train"))
