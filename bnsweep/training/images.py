"""What a data set is: whole uint8 arrays with a fixed train/test split.

torch is imported where tensors are made: a plan asks for shapes and counts alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from bnsweep.errors import DataError

if TYPE_CHECKING:
    import torch

__all__ = ["DataShape", "Dataset", "Labels", "Split", "looked_at", "normalise", "refuse_without_images"]

COUNTED_AT_ONCE = 1000  # images

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class DataShape:
    """What a network must know of its data."""

    channels: int
    size: int  # side of the square images, pixels
    classes: int


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """The training or the test half."""

    images: Pixels  # (N, C, H, W) uint8; best with the channels innermost in memory, see `inputs.py`
    labels: Labels  # (N,) int64, 0 <= label < classes

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Dataset:
    """One data set, in memory."""

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    given_normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None  # not the images' own

    @property
    def shape(self) -> DataShape:
        """Channels, side and number of classes."""
        _, channels, size, _ = self.train.images.shape
        return DataShape(channels, size, len(self.classes))

    @cached_property
    def normalisation(self) -> tuple[Floats, Floats]:
        """Mean and standard deviation of each channel: those given, else those over the training images.

        Both (C,) float32, of pixels scaled to [0, 1]. A channel that never changes gets a deviation of 1.
        """
        if self.given_normalisation:
            return np.array(self.given_normalisation[0], np.float32), np.array(self.given_normalisation[1], np.float32)
        images = self.train.images
        # Counts of the 256 values give exact sums, whatever the order or the number of threads. In parts, as counting
        # takes eight bytes a pixel.
        counts = np.zeros((images.shape[1], 256), np.int64)
        for start in range(0, len(images), COUNTED_AT_ONCE):
            part = images[start : start + COUNTED_AT_ONCE]
            counts += [np.bincount(part[:, c].reshape(-1), minlength=256) for c in range(images.shape[1])]
        values = np.arange(256) / 255
        share = counts / max(1, images[:, 0].size)
        mean = share @ values
        deviation = np.sqrt(np.maximum(share @ values**2 - mean**2, 0.0))
        deviation[deviation < 1e-6] = 1.0
        return mean.astype(np.float32), deviation.astype(np.float32)

    def inputs(self, half: Literal["train", "test"], *, count: int | None = None) -> torch.Tensor:
        """The first `count` images (default: all) as a network takes them: (N, C, H, W) float32, normalised."""
        import torch

        images = (self.train if half == "train" else self.test).images[:count]
        # astype copies: arrays that Ray shares between processes are read-only.
        pixels = torch.from_numpy(images.astype(np.float32))
        mean, deviation = (torch.from_numpy(values) for values in self.normalisation)
        return normalise(pixels, mean, deviation)

    @cached_property
    def example(self) -> torch.Tensor:
        """Two normalised images, (2, C, H, W) float32: what a forward pass that looks at a network is fed."""
        return self.inputs("train", count=2)

    def __getstate__(self) -> dict[str, Any]:
        # The example is cheap to make and would otherwise travel along.
        return {key: value for key, value in self.__dict__.items() if key != "example"}


@contextmanager
def looked_at(path: Path) -> Iterator[None]:
    """Turn what the system says of a folder (a name too long, no permission) into a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def refuse_without_images(classes: tuple[str, ...], there: Collection[str], where: str) -> None:
    """An accuracy over some of the classes would be taken for one over all of them.

    Raises DataError for the `classes` of one half, which lies `where`, that are not `there`.
    """
    if without := [name for name in classes if name not in there]:
        shown = ", ".join([*without[:10], *([f"and {len(without) - 10} more"] if len(without) > 10 else [])])
        raise DataError(
            f"every class must have images in train and in test, but {where} has none of {shown}: add some, or take "
            "the class out of both"
        )


def normalise(pixels: torch.Tensor, mean: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
    """Scale float pixels (N, C, H, W) in 0..255 to [0, 1], subtract the mean, divide by the deviation; in place."""
    return pixels.div_(255).sub_(mean.view(1, -1, 1, 1)).div_(deviation.view(1, -1, 1, 1))
