"""Images as networks take them, made batch by batch from pixels that stay where they are.

On a CPU nothing is copied, so that all processes of a node can work on one data set in shared memory. A batch is always
new: a network may write into what it is given.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bnsweep.training.images import Dataset, normalise

__all__ = ["Inputs", "pixels_of"]


def pixels_of(images: NDArray[np.uint8]) -> Tensor:
    """(N, C, H, W) uint8 -> (N, H, W, C), to be read only: the array's own memory if that is how it lies there."""
    return _over(np.ascontiguousarray(images.transpose(0, 2, 3, 1)))


class Inputs:
    """One half of a data set on a device; `inputs[part]` is what `Dataset.inputs` has there, bit by bit."""

    def __init__(self, dataset: Dataset, half: Literal["train", "test"], *, device: torch.device | str = "cpu") -> None:
        self._pixels = pixels_of((dataset.train if half == "train" else dataset.test).images).to(device)
        self._mean, self._deviation = (torch.tensor(values, device=device) for values in dataset.normalisation)

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, part: slice | Tensor) -> Tensor:
        """(B, C, H, W) float32, normalised, channels innermost in memory; by a slice or by (B,) int64 indices."""
        pixels = self._pixels[part] if isinstance(part, slice) else self._pixels.index_select(0, part)
        count, side, _, channels = pixels.shape
        # One channel can be read in either order, and its strides say which: that of a plain tensor.
        images = pixels.view(count, 1, side, side) if channels == 1 else pixels.permute(0, 3, 1, 2)
        return normalise(images.float(), self._mean, self._deviation)

    def to(self, device: torch.device) -> Inputs:
        """The same on another device."""
        moved = object.__new__(Inputs)
        moved._pixels, moved._mean, moved._deviation = (
            tensor.to(device) for tensor in (self._pixels, self._mean, self._deviation)
        )
        return moved


def _over(array: NDArray[Any]) -> Tensor:
    with warnings.catch_warnings():
        # Arrays that Ray shares between processes cannot be written; nobody here does.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
