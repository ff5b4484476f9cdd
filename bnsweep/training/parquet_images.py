"""Images in Parquet files, in the layout of Hugging Face image data sets.

    PATH/train.parquet   (or train-00000-of-00002.parquet, ...)
    PATH/test.parquet
        img | image: struct<bytes: binary, path: string>, label: an integer type
        schema metadata "huggingface": names of the classes, if the writer gave them

Row order is the files' order; `train_images` and `test_images` take a prefix and decode nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bnsweep.errors import DataError
from bnsweep.training.decoding import Frame, allocate, decode_all, faults_at_once, frame_of
from bnsweep.training.images import DataShape, Labels, Split, looked_at, refuse_without_images

__all__ = ["ParquetImages"]

MOST_CLASSES = 100_000
ROWS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class ParquetImages:
    """One folder with `train` and `test`."""

    path: Path
    label: str | None = None
    size: int | None = None

    def files(self) -> list[Path]:
        """Every file that belongs to the data set, in order."""
        return self._files("train") + self._files("test")

    def shape(self) -> DataShape:
        """From the first image, and from class names or, without them, the label column."""
        frame = self._frame()
        return DataShape(frame.channels, frame.size, len(self._classes()))

    def counts(self) -> tuple[int, int]:
        """Rows of both halves, from their label columns. Raises DataError for a class that has none in one of them."""
        classes = self._classes()
        return self._count("train", classes), self._count("test", classes)

    def _count(self, half: str, classes: tuple[str, ...]) -> int:
        total = 0
        there: set[str] = set()
        for path in self._files(half):
            with _opened(path) as file:
                column = file.read(columns=[label := self._label_column(file.schema_arrow, path)])[label]
            labels = _labels(column, path, len(classes))
            total += len(labels)
            there.update(classes[label] for label in np.unique(labels))
        refuse_without_images(classes, there, f"{self.path}: {half}")
        return total

    def load(
        self, *, train_images: int | None, test_images: int | None, pixels: bool = True
    ) -> tuple[Split, Split, tuple[str, ...]]:
        """Decode the first images of both halves; without `pixels` only look at their headers."""
        frame, classes = self._frame(), self._classes()
        with faults_at_once() as faults:
            train = self._split("train", frame, len(classes), train_images, faults, pixels=pixels)
            test = self._split("test", frame, len(classes), test_images, faults, pixels=pixels)
        return train, test, classes

    def _files(self, half: str) -> list[Path]:
        with looked_at(self.path):
            if not self.path.is_dir():
                raise DataError(
                    f"parquet:{self.path}: no such directory; it should hold train.parquet and test.parquet"
                )
            single = self.path / f"{half}.parquet"
            found = [single] if single.is_file() else sorted(self.path.glob(f"{half}-*.parquet"))
        if not found:
            raise DataError(f"{self.path} holds no {half}.parquet (nor {half}-*.parquet)")
        return found

    def _frame(self) -> Frame:
        path = self._files("train")[0]
        with _opened(path) as file:
            column = _image_column(file.schema_arrow, path)
            for batch in file.iter_batches(batch_size=1, columns=[column]):
                name, encoded = next(_encoded(batch[column], 0, path))
                return frame_of(encoded, size=self.size, where=name)
        raise DataError(f"{path} has no rows")

    def _classes(self) -> tuple[str, ...]:
        """Names from the metadata; otherwise the numbers up to the largest training label."""
        first, *_ = files = self._files("train")
        with _opened(first) as file:
            schema = file.schema_arrow
            label = self._label_column(schema, first)
        if names := _class_names(schema, label):
            return names
        largest = -1
        for path in files:
            with _opened(path) as file:
                labels = _labels(file.read(columns=[label])[label], path, MOST_CLASSES)
                largest = max(largest, int(labels.max(initial=-1)))
        if largest < 0:
            raise DataError(f"{first} has no rows")
        return tuple(map(str, range(largest + 1)))

    def _label_column(self, schema: pa.Schema, path: Path) -> str:
        integers: list[str] = [field.name for field in schema if pa.types.is_integer(field.type)]
        if self.label is None and len(integers) == 1:
            return integers[0]
        if self.label is not None and self.label in integers:
            return self.label
        choice = f"its integer columns: {', '.join(integers) or '(none)'}"
        if self.label is None:
            raise DataError(f"{path}: which column is the label? Set `label` to one of {choice}")
        raise DataError(f"{path} has no integer column {self.label!r}; {choice}")

    def _split(
        self, half: str, frame: Frame, classes: int, wanted: int | None, faults: list[str], *, pixels: bool
    ) -> Split:
        files = self._files(half)
        count = 0
        for path in files:
            with _opened(path) as file:
                rows = file.metadata.num_rows
            if rows < 0:
                raise DataError(f"{path} is damaged: it announces {rows} rows")
            count += rows
        if wanted is not None and wanted > count:
            raise DataError(f"`{half}_images: {wanted}` asks for more than the {count} images in {self.path}")
        if not count:
            raise DataError(f"{files[0]} has no rows")
        count = wanted or count
        images = allocate(count, frame, where=str(self.path))
        labels: list[Labels] = []
        decoded = decode_all(self._rows(files, count, classes, labels), images, frame, faults, pixels=pixels)
        if decoded != count:
            raise DataError(f"{files[-1]} is damaged: it announces {count} rows and holds {decoded}")
        return Split(images, np.concatenate(labels))

    def _rows(self, files: list[Path], count: int, classes: int, labels: list[Labels]) -> Iterator[tuple[str, bytes]]:
        """Encoded images of the first `count` rows; their labels go to `labels` on the way."""
        left = count
        for path in files:
            row = 0
            with _opened(path) as file:
                image = _image_column(file.schema_arrow, path)
                label = self._label_column(file.schema_arrow, path)
                for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=[image, label]):
                    part = batch.slice(0, left)
                    labels.append(_labels(part[label], path, classes, first_row=row))
                    yield from _encoded(part[image], row, path)
                    row += len(part)
                    left -= len(part)
                    if not left:
                        return


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file whose faults name it."""
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last: a column's name
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} cannot be read as Parquet (truncated or damaged?): {reason}") from None


def _image_column(schema: pa.Schema, path: Path) -> str:
    found: list[str] = [
        field.name
        for field in schema
        if pa.types.is_struct(field.type) and any(part.name == "bytes" and _is_binary(part.type) for part in field.type)
    ]
    for name in ("img", "image", *found[:1]):
        if name in found and (len(found) == 1 or name in ("img", "image")):
            return name
    columns = ", ".join(f"{field.name}: {field.type}" for field in schema)
    raise DataError(f"{path} has no column img or image of struct<bytes: binary, path: string>; its columns: {columns}")


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _encoded(column: Any, first_row: int, path: Path) -> Iterator[tuple[str, bytes]]:
    for row, cell in enumerate(column.to_pylist(), start=first_row):
        encoded = cell["bytes"] if cell else None
        if encoded is None:
            raise DataError(f"{path} row {row}: no image bytes; images must be inside the file, not beside it")
        yield f"{path} row {row}", encoded


def _labels(column: Any, path: Path, classes: int, *, first_row: int = 0) -> Labels:
    if column.null_count:
        raise DataError(f"{path} has rows without a label")
    labels = np.asarray(column.to_numpy()).astype(np.int64)
    if (wrong := np.flatnonzero((labels < 0) | (labels >= classes))).size:
        row = int(wrong[0])
        raise DataError(f"{path} row {first_row + row}: label {labels[row]} is outside 0..{classes - 1}")
    return labels


def _class_names(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (KeyError, ValueError, TypeError):
        return None
    if not isinstance(names, list) or not 0 < len(names) <= MOST_CLASSES:
        return None
    return tuple(map(str, names))
