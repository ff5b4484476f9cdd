"""Data sets by name: digits, which the package ships, and CIFAR through torchvision."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np

from bnsweep.errors import DataError
from bnsweep.training.images import DataShape, Split

__all__ = ["CIFAR", "load_cifar", "load_digits"]


def load_digits() -> tuple[Split, Split, tuple[str, ...]]:
    """UCI optical digits: train (1437, 1, 8, 8), test (360, 1, 8, 8); see data/digits.txt for source and split."""
    import pyarrow.parquet as pq

    with as_file(files("bnsweep.training") / "data" / "digits.parquet") as path:
        # Plain columns: the installed file's folder must not be read as a partition.
        table = pq.ParquetFile(path).read()
    counts = np.asarray(table["pixels"].combine_chunks().flatten()).reshape(-1, 1, 8, 8)
    # 0..16 cells with ink become 0..255, rounded.
    images = ((counts.astype(np.uint16) * 255 + 8) // 16).astype(np.uint8)
    labels = np.asarray(table["label"]).astype(np.int64)
    train = np.asarray(table["split"].to_pylist()) == "train"
    return (
        Split(np.ascontiguousarray(images[train]), labels[train]),
        Split(np.ascontiguousarray(images[~train]), labels[~train]),
        tuple("0123456789"),
    )


@dataclass(frozen=True, slots=True)
class Cifar:
    """One of the two CIFAR sets."""

    dataset: str  # class in torchvision.datasets
    classes: int
    archive: str
    folder: str
    md5: str  # of the archive: identifies the version

    @property
    def shape(self) -> DataShape:
        return DataShape(3, 32, self.classes)


CIFAR = {
    "cifar10": Cifar(
        "CIFAR10",
        classes=10,
        archive="cifar-10-python.tar.gz",
        folder="cifar-10-batches-py",
        md5="c58f30108f718f92721af3b95e74349a",
    ),
    "cifar100": Cifar(
        "CIFAR100",
        classes=100,
        archive="cifar-100-python.tar.gz",
        folder="cifar-100-python",
        md5="eb9058c3a382ffc7106e4002c42a8d85",
    ),
}


def load_cifar(name: str, root: Path) -> tuple[Split, Split, tuple[str, ...]]:
    """CIFAR: train (50000, 3, 32, 32), test (10000, 3, 32, 32), class names. Downloaded into `root` on first use.

    Raises:
        DataError: the files are neither there nor to be had; the message says which file goes where.
    """
    train, test = (_official(CIFAR[name], root, train=train) for train in (True, False))
    return _split(train), _split(test), tuple(train.classes)


def _official(cifar: Cifar, root: Path, *, train: bool) -> Any:
    from torchvision import datasets

    factory = getattr(datasets, cifar.dataset)
    # torchvision compares MD5 sums before it reads anything; only then is its pickle opened.
    with contextlib.suppress(RuntimeError, OSError):
        return factory(root=str(root), train=train, download=False)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with contextlib.redirect_stdout(io.StringIO()):
            return factory(root=str(root), train=train, download=True)
    except (OSError, RuntimeError, EOFError) as error:  # URLError is an OSError
        raise DataError(
            f"{cifar.dataset} is not in {root} and could not be downloaded ({error}). Put the official "
            f"{cifar.archive} (MD5 {cifar.md5}) into {root}, or its unpacked folder at {root / cifar.folder}"
        ) from None


def _split(official: Any) -> Split:
    return Split(np.asarray(official.data, np.uint8).transpose(0, 3, 1, 2), np.asarray(official.targets, np.int64))
