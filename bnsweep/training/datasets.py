"""Data sets: `digits`, `cifar10`, `cifar100`, `parquet:DIRECTORY` and `folder:DIRECTORY`.

Whole sets are uint8 arrays with a fixed train/test split. `train_images` and `test_images` take a prefix.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from bnsweep.errors import DataError, UnknownNameError
from bnsweep.paths import home_expanded
from bnsweep.training.builtin import CIFAR, load_cifar, load_digits
from bnsweep.training.decoding import resize
from bnsweep.training.images import Dataset, DataShape, Split

if TYPE_CHECKING:
    from bnsweep.experiment.spec import Data
    from bnsweep.training.image_folder import ImageFolder
    from bnsweep.training.parquet_images import ParquetImages

__all__ = [
    "SOURCES",
    "DataShape",
    "Dataset",
    "Split",
    "check_dataset",
    "data_shape",
    "download_note",
    "fingerprint",
    "image_counts",
    "load_dataset",
]

SOURCES = ("digits", "cifar10", "cifar100", "parquet:DIRECTORY", "folder:DIRECTORY")
FINGERPRINT_VERSION = "data-1"  # changes when the same files would give other arrays


def load_dataset(data: Data, *, root: Path) -> Dataset:
    """The data set in memory.

    Args:
        data: what to load; `size` scales the images, `train_images` and `test_images` take a prefix.
        root: where CIFAR's official files lie or are downloaded to.

    Raises:
        UnknownNameError: no such data set.
        DataError: files are missing, truncated or of another layout; the message names them.
    """
    if files := _from_files(data):
        train, test, classes = files.load(train_images=data.train_images, test_images=data.test_images)
    else:
        train, test, classes = load_digits() if data.source == "digits" else load_cifar(data.source, root)
        train = _prefix(train, data.train_images, data.size, f"train_images of {data.source}")
        test = _prefix(test, data.test_images, data.size, f"test_images of {data.source}")
    given = (data.mean, data.std) if data.mean is not None and data.std is not None else None
    return Dataset(data.dataset, train, test, classes, given)


def check_dataset(data: Data) -> None:
    """Raise what `load_dataset` would of files that are there, but for damage behind an image's header."""
    if files := _from_files(data):
        files.load(train_images=data.train_images, test_images=data.test_images, pixels=False)


def download_note(data: Data, *, root: Path) -> str | None:
    """What a sweep will do to have the data set, if it does not lie under `root`."""
    cifar = CIFAR.get(data.source)
    if cifar is None or (root / cifar.folder).exists() or (root / cifar.archive).exists():
        return None
    return (
        f"{cifar.dataset} is not in {root}: a sweep that runs here downloads it (170 MB); without a network, put the "
        f"official {cifar.archive} there, or take the images from elsewhere with --data"
    )


def data_shape(data: Data, *, root: Path) -> DataShape:
    """Channels, side and classes, without decoding the images.

    Raises as `load_dataset` does, and DataError if `mean` and `std` are of another number of channels.
    """
    if files := _from_files(data):
        shape = files.shape()
    else:
        own = DataShape(1, 8, 10) if data.source == "digits" else CIFAR[data.source].shape
        shape = DataShape(own.channels, data.size or own.size, own.classes)
    if data.mean is not None and len(data.mean) != shape.channels:
        raise DataError(
            f"`mean` and `std` have a number per channel: the images of {data.source} have {shape.channels}, but got "
            f"{len(data.mean)}"
        )
    return shape


def image_counts(data: Data) -> tuple[int, int]:
    """Training and test images that the data set stands for, without decoding any.

    Raises as `load_dataset` does, and DataError if fewer images are there than asked for.
    """
    if files := _from_files(data):
        there = files.counts()
    else:
        there = (1437, 360) if data.source == "digits" else (50_000, 10_000)
    for half, count, wanted in zip(("train", "test"), there, (data.train_images, data.test_images), strict=True):
        if wanted is not None and wanted > count:
            raise DataError(f"`{half}_images <= {count}` must hold for {data.source}, but got {half}_images={wanted}")
    return data.train_images or there[0], data.test_images or there[1]


def fingerprint(data: Data, *, root: Path) -> str:
    """16 hex digits that stand for the images and labels: file names and bytes, and what is taken of them, and how.

    Where the files lie does not matter. Raises as `load_dataset` does when they are missing.
    """
    digest = hashlib.sha256(FINGERPRINT_VERSION.encode())
    if files := _from_files(data):
        for path in files.files():
            content = _file_digest(path)
            parts = (
                (path.name, content) if data.source.startswith("parquet:") else (path.parent.name, path.name, content)
            )
            digest.update("\x1f".join(("", *parts)).encode(errors="surrogateescape"))
    else:
        version = "optdigits.tes 1437+360" if data.source == "digits" else CIFAR[data.source].md5
        digest.update(f"\x1f{data.source}\x1f{version}".encode())
    digest.update(f"\x1e{data.size}\x1f{data.train_images}\x1f{data.test_images}\x1f{data.label}".encode())
    if data.mean is not None:
        digest.update(f"\x1e{data.mean}\x1f{data.std}".encode())
    return digest.hexdigest()[:16]


def _from_files(data: Data) -> ParquetImages | ImageFolder | None:
    """The reader of a data set that lies in files; None for those with a name."""
    kind, colon, path = data.source.partition(":")
    if colon and path and kind == "parquet":
        from bnsweep.training.parquet_images import ParquetImages

        return ParquetImages(home_expanded(path), data.label, data.size)
    if data.label is not None:
        raise DataError(f"`label` goes with parquet: data, but the source is {data.source!r}")
    if colon and path and kind == "folder":
        from bnsweep.training.image_folder import ImageFolder

        return ImageFolder(home_expanded(path), data.size)
    if data.source != "digits" and data.source not in CIFAR:
        raise UnknownNameError("data set", data.source, SOURCES)
    return None


def _prefix(split: Split, count: int | None, size: int | None, what: str) -> Split:
    if count is not None and count > len(split):
        raise DataError(f"{what}: {count} is more than the {len(split)} there are")
    images = split.images[:count]
    return Split(resize(images, size or images.shape[-1]), split.labels[:count])


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
