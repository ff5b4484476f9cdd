"""Data set files of which any byte may be a lie: a data set comes out, or one clear error, and soon."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bnsweep.errors import DataError
from bnsweep.experiment.spec import Data
from bnsweep.training.datasets import load_dataset

SIZE = 8
CHANGES = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=4)
CUTS = st.one_of(st.none(), st.integers(0, 1 << 20))


def image(kind: str, seed: int) -> bytes:
    data = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    Image.fromarray(pixels).save(data, kind)
    return data.getvalue()


def parquet_bytes(images: list[bytes]) -> bytes:
    cells = pa.array(
        [{"bytes": data, "path": "x"} for data in images], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"img": cells, "label": pa.array(range(len(images)), pa.int64())}), sink)
    return bytes(sink.getvalue())


def spoilt(data: bytes, changes: list[tuple[int, int]], cut: int | None) -> bytes:
    changed = bytearray(data)
    for place, value in changes:
        changed[place % len(changed)] = value
    return bytes(changed[: None if cut is None else cut % len(changed)])


def announced(data: bytes) -> int | None:
    """Rows by the file's own word; None: it cannot be read."""
    try:
        return pq.ParquetFile(pa.BufferReader(data)).metadata.num_rows
    except (OSError, pa.ArrowException):
        return None


def load_or_refuse(folder: Path, train: bytes, test: bytes) -> None:
    (folder / "train.parquet").write_bytes(train)
    (folder / "test.parquet").write_bytes(test)
    begin = time.process_time()
    try:
        loaded = load_dataset(Data(source=f"parquet:{folder}"), root=folder)
    except DataError as error:
        assert str(folder) in str(error)
    else:
        assert loaded.train.images.dtype == np.uint8
        assert len(loaded.train.images) == len(loaded.train.labels) > 0
    assert time.process_time() - begin < 5


GOOD = parquet_bytes([image("PNG", 0), image("JPEG", 1), image("PNG", 2)])


@settings(max_examples=150, deadline=None)
@given(changes=CHANGES, cut=CUTS)
def test_a_parquet_file_with_changed_bytes(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], cut: int | None
) -> None:
    load_or_refuse(tmp_path_factory.getbasetemp(), spoilt(GOOD, changes, cut), GOOD)


def test_a_parquet_file_that_announces_fewer_rows_than_none(tmp_path: Path) -> None:
    lies = (spoilt(GOOD, [(place, 1)], None) for place in range(len(GOOD)) if GOOD[place] == 6)  # zigzag: 3, and -1
    (lying,) = (data for data in lies if announced(data) == -1)
    (tmp_path / "train.parquet").write_bytes(lying)
    (tmp_path / "test.parquet").write_bytes(GOOD)
    with pytest.raises(DataError, match="train.parquet is damaged: it announces -1 rows"):
        load_dataset(Data(source=f"parquet:{tmp_path}"), root=tmp_path)


@pytest.mark.parametrize("name", [b"img", b"bytes", b"label"])
def test_a_parquet_file_with_a_column_whose_name_is_no_text(tmp_path: Path, name: bytes) -> None:
    (tmp_path / "train.parquet").write_bytes(GOOD.replace(name, b"\x80" + name[1:]))
    (tmp_path / "test.parquet").write_bytes(GOOD)
    with pytest.raises(DataError, match=r"train\.parquet cannot be read as Parquet"):
        load_dataset(Data(source=f"parquet:{tmp_path}"), root=tmp_path)


@settings(max_examples=100, deadline=None)
@given(kind=st.sampled_from(["PNG", "JPEG"]), changes=CHANGES, cut=CUTS)
def test_an_image_with_changed_bytes(
    tmp_path_factory: pytest.TempPathFactory, kind: str, changes: list[tuple[int, int]], cut: int | None
) -> None:
    train = parquet_bytes([image(kind, 0), spoilt(image(kind, 1), changes, cut)])
    load_or_refuse(tmp_path_factory.getbasetemp(), train, GOOD)


def footer_with(data: bytes, rows: int, claimed: int) -> bytes:
    """The file with every count of its footer that says `rows` saying `claimed`: zigzag varints of two bytes."""

    def varint(value: int) -> bytes:
        return bytes([(2 * value & 0x7F) | 0x80, 2 * value >> 7])

    length = int.from_bytes(data[-8:-4], "little")
    footer = data[-8 - length : -8]
    assert footer.count(varint(rows)) >= 2
    return data[: -8 - length] + footer.replace(varint(rows), varint(claimed)) + data[-8:]


@pytest.mark.parametrize("claimed", [101, 8000])
def test_a_parquet_file_that_announces_more_rows_than_it_holds(tmp_path: Path, claimed: int) -> None:
    data = parquet_bytes([image("PNG", 0)] * 100)
    (tmp_path / "test.parquet").write_bytes(data)
    (tmp_path / "train.parquet").write_bytes(footer_with(data, 100, claimed))
    with pytest.raises(DataError, match="is damaged|cannot be read as Parquet"):
        load_dataset(Data(source=f"parquet:{tmp_path}"), root=tmp_path)


@pytest.mark.parametrize("side", [5000, 65_000])
def test_a_jpeg_whose_header_promises_more_pixels_than_it_holds(tmp_path: Path, side: int) -> None:
    data = bytearray(image("JPEG", 0))
    start = data.index(b"\xff\xc0") + 5  # height and width follow the marker, the length and the precision
    data[start : start + 4] = side.to_bytes(2, "big") * 2
    (tmp_path / "test.parquet").write_bytes(GOOD)
    for images in ([image("JPEG", 0), bytes(data)], [bytes(data)]):
        (tmp_path / "train.parquet").write_bytes(parquet_bytes(images))
        with pytest.raises(DataError, match="claims .*pixels"):
            load_dataset(Data(source=f"parquet:{tmp_path}"), root=tmp_path)
