"""Images in one folder per class.

PATH/train/CLASS/*.png and PATH/test/CLASS/*.png (or .jpg, .jpeg). Classes are the sorted names of the
folders in train. Within a half, files are ordered by the SHA-256 of CLASS/NAME, so that a prefix
(`train_images: N`) is a fair sample and not the first class alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bnsweep.errors import DataError
from bnsweep.training.decoding import Frame, allocate, decode_all, faults_at_once, frame_of
from bnsweep.training.images import DataShape, Split, looked_at, refuse_without_images

__all__ = ["ImageFolder"]

SUFFIXES = (".png", ".jpg", ".jpeg")
MOST_FILE_BYTES = 1 << 28  # of one encoded image


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """One folder with `train` and `test`."""

    path: Path
    size: int | None = None

    def files(self) -> list[Path]:
        """Every file that belongs to the data set, in order."""
        classes = self._classes()
        return self._files("train", classes) + self._files("test", classes)

    def shape(self) -> DataShape:
        """From the first image and the folders' names."""
        classes = self._classes()
        frame = self._frame(classes)
        return DataShape(frame.channels, frame.size, len(classes))

    def counts(self) -> tuple[int, int]:
        """Files of both halves. Raises DataError for a class that has none in one of them."""
        classes = self._classes()
        train, test = self._files("train", classes), self._files("test", classes)
        for half, files in (("train", train), ("test", test)):
            refuse_without_images(classes, {file.parent.name for file in files}, str(self.path / half))
        return len(train), len(test)

    def load(
        self, *, train_images: int | None, test_images: int | None, pixels: bool = True
    ) -> tuple[Split, Split, tuple[str, ...]]:
        """Decode the first images of both halves; without `pixels` only look at their headers."""
        classes = self._classes()
        frame = self._frame(classes)
        with faults_at_once() as faults:
            train = self._split("train", frame, classes, train_images, faults, pixels=pixels)
            test = self._split("test", frame, classes, test_images, faults, pixels=pixels)
        return train, test, classes

    def _classes(self) -> tuple[str, ...]:
        train = self.path / "train"
        with looked_at(train):
            if not train.is_dir():
                raise DataError(
                    f"folder:{self.path}: no directory {train}; it should hold one folder of images per class"
                )
            classes = tuple(sorted(entry.name for entry in train.iterdir() if entry.is_dir() and entry.name[0] != "."))
        if not classes:
            raise DataError(f"{train} holds no folders; it should hold one folder of images per class")
        return classes

    def _files(self, half: str, classes: tuple[str, ...]) -> list[Path]:
        folder = self.path / half
        with looked_at(folder):
            found = list(self._images(folder, classes))
        if not found:
            raise DataError(f"{folder} holds no images in {folder}/CLASS/ ({', '.join(SUFFIXES)})")
        return sorted(found, key=_order)

    def _images(self, folder: Path, classes: tuple[str, ...]) -> Iterator[Path]:
        if not folder.is_dir():
            raise DataError(f"folder:{self.path}: no directory {folder}")
        for entry in folder.iterdir():
            if entry.is_dir() and entry.name[0] != "." and entry.name not in classes:
                raise DataError(f"{entry}: class {entry.name!r} is none of the training classes {', '.join(classes)}")
        for name in classes:
            if (folder / name).is_dir():
                for entry in (folder / name).iterdir():
                    if entry.suffix.lower() in SUFFIXES and entry.name[0] != ".":
                        yield entry

    def _frame(self, classes: tuple[str, ...]) -> Frame:
        first = self._files("train", classes)[0]
        return frame_of(_read(first), size=self.size, where=str(first))

    def _split(
        self,
        half: str,
        frame: Frame,
        classes: tuple[str, ...],
        wanted: int | None,
        faults: list[str],
        *,
        pixels: bool,
    ) -> Split:
        files = self._files(half, classes)
        if wanted is not None and wanted > len(files):
            raise DataError(
                f"`{half}_images: {wanted}` asks for more than the {len(files)} images in {self.path / half}"
            )
        files = files[:wanted]
        images = allocate(len(files), frame, where=str(self.path))
        decode_all(_encoded(files), images, frame, faults, pixels=pixels)
        return Split(images, np.array([classes.index(file.parent.name) for file in files], np.int64))


def _order(file: Path) -> bytes:
    return hashlib.sha256(f"{file.parent.name}/{file.name}".encode(errors="surrogateescape")).digest()


def _encoded(files: list[Path]) -> Iterator[tuple[str, bytes]]:
    for file in files:
        yield str(file), _read(file)


def _read(file: Path) -> bytes:
    try:
        if file.stat().st_size > MOST_FILE_BYTES:
            raise DataError(f"{file} is larger than {MOST_FILE_BYTES >> 20} MiB")
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from None
