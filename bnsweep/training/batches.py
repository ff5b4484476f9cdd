"""Batches and augmentation, on the device: the whole set lies there as uint8, a batch is one gather.

Shift and mirror images come from the same gather as the batch itself, so augmentation costs an index
computation; pixels shifted in from outside are zero after normalisation, i.e. the mean colour.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bnsweep.training.images import Dataset, normalise
from bnsweep.training.inputs import pixels_of
from bnsweep.training.streams import stream

if TYPE_CHECKING:
    from bnsweep.experiment.recipe import Augment

__all__ = ["Batches", "batch_bounds"]


def batch_bounds(images: int, batch_size: int) -> list[tuple[int, int]]:
    """(start, end) of each batch of an epoch. Every image is used; the last batch may be smaller.

    A last batch of a single image joins the one before it: BN has no variance over one value.
    """
    starts = list(range(0, images, batch_size))
    if len(starts) > 1 and images - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], images], strict=True))


@dataclass(frozen=True, slots=True)
class _Draw:
    """One epoch's random numbers; all (N,) int64, in the order in which images are used."""

    order: Tensor
    down: Tensor  # pixels
    right: Tensor  # pixels
    mirrored: Tensor  # 0 or 1


class Batches:
    """The training images of a data set on a device."""

    def __init__(self, dataset: Dataset, batch_size: int, *, augment: Augment, seed: int, device: torch.device) -> None:
        images = dataset.train.images
        count, self.channels, self.size, _ = images.shape
        # Rows of pixels with the channels innermost: a gathered batch is channels-last without another copy.
        self._pixels = pixels_of(images).to(device).view(-1, self.channels)
        self._labels = torch.tensor(dataset.train.labels).to(device)
        mean, deviation = dataset.normalisation
        self._mean, self._deviation = torch.tensor(mean, device=device), torch.tensor(deviation, device=device)
        self._side = torch.arange(self.size, device=device)
        self.augment, self.seed, self.device = augment, seed, device
        self.count = count
        self.bounds = batch_bounds(count, batch_size)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of (images (B, C, H, W) float32 channels-last, labels (B,) int64).

        Order and augmentation are functions of (seed, epoch number) alone.
        """
        draw = self._draw(number)
        for start, end in self.bounds:
            part = slice(start, end)
            chosen = draw.order[part]
            yield self._images(chosen, draw, part), self._labels[chosen]

    def plain(self, chosen: Tensor) -> Tensor:
        """Images by index, (B,) int64 -> (B, C, H, W) float32 channels-last, as they are in the data set."""
        pixels = self._pixels.view(self.count, self.size, self.size, self.channels).index_select(0, chosen)
        return normalise(pixels.permute(0, 3, 1, 2).float(), self._mean, self._deviation)

    @property
    def labels(self) -> Tensor:
        """(N,) int64, on the device."""
        return self._labels

    def _draw(self, number: int) -> _Draw:
        numbers = stream("batches", self.seed, number)
        reach = round(self.augment.shift * self.size)
        order = numbers.permutation(self.count)
        down, right = numbers.integers(-reach, reach + 1, (2, self.count))
        mirrored = numbers.integers(0, 2, self.count) * bool(self.augment.flip)
        return _Draw(*(torch.from_numpy(values).to(self.device) for values in (order, down, right, mirrored)))

    def _images(self, chosen: Tensor, draw: _Draw, part: slice) -> Tensor:
        """Gather the chosen images, each at its own offset and mirrored or not."""
        row = self._side - draw.down[part, None]  # (B, H): the source row of each target row
        column = self._side - draw.right[part, None]
        inside = _within(row, self.size)[:, :, None] & _within(column, self.size)[:, None, :]
        column = torch.where(draw.mirrored[part, None].bool(), self.size - 1 - column, column)
        row, column = row.clamp(0, self.size - 1), column.clamp(0, self.size - 1)
        source = (chosen[:, None] * self.size + row)[:, :, None] * self.size + column[:, None, :]
        gathered = self._pixels.index_select(0, source.view(-1))
        pixels = gathered.view(*source.shape, self.channels).permute(0, 3, 1, 2).float()
        pixels = normalise(pixels, self._mean, self._deviation)
        return pixels.mul_(inside[:, None]) if self.augment.shift else pixels


def _within(index: Tensor, size: int) -> Tensor:
    return (index >= 0) & (index < size)
