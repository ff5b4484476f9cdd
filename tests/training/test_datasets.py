"""Data sets: the real digits, and files good and bad."""

from __future__ import annotations

import io
import json
import pickle
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bnsweep.errors import DataError, InputError, UnknownNameError
from bnsweep.experiment.spec import Data
from bnsweep.training.datasets import DataShape, check_dataset, data_shape, fingerprint, image_counts, load_dataset
from bnsweep.training.inputs import Inputs

ROOT = Path("unused")
CIFAR_PARQUET = Path(__file__).parents[3] / "shared" / "data"


def png(size: int | tuple[int, int] = 8, *, value: int = 0, mode: str = "RGB", kind: str = "PNG") -> bytes:
    side = (size, size) if isinstance(size, int) else size
    data = io.BytesIO()
    Image.new(mode, side, value if mode in ("L", "I;16") else (value,) * 3).save(data, kind)
    return data.getvalue()


def cut_off(kind: str) -> bytes:
    """Half of an image that does not compress."""
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)).save(data, kind)
    return data.getvalue()[: -100 if kind == "PNG" else -10]


def write(path: Path, images: list[bytes | None], labels: list[int | None], *, names: list[str] | None = None, **extra):
    cells = [None if image is None else {"bytes": image, "path": "x.png"} for image in images]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {"img": pa.array(cells, kind), "label": pa.array(labels, pa.int64())}
    table = pa.table({**columns, **{name: pa.array(values) for name, values in extra.items()}})
    if names:
        features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def parquet(folder: Path, images: list[bytes | None], labels: list[int | None], **options) -> Data:
    write(folder / "train.parquet", images, labels, **options)
    write(folder / "test.parquet", [png(), png()], [0, 1], **options)
    return Data(source=f"parquet:{folder}")


def test_digits_are_the_uci_images():
    digits = load_dataset(Data(source="digits"), root=ROOT)
    assert digits.shape == data_shape(Data(source="digits"), root=ROOT) == DataShape(1, 8, 10)
    assert (digits.train.images.shape, digits.test.images.shape) == ((1437, 1, 8, 8), (360, 1, 8, 8))
    assert digits.train.images.dtype == np.uint8
    assert digits.train.images.flags.c_contiguous
    assert (digits.train.images.min(), digits.train.images.max()) == (0, 255)
    # Class counts of the published set (UCI optdigits.names, test file).
    labels = np.concatenate([digits.train.labels, digits.test.labels])
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert np.bincount(digits.test.labels).tolist() == [36] * 10


def test_digits_of_the_same_class_look_alike():
    # A nearest-neighbour classifier on these 64 pixels is right for more than 97 % (optdigits.names: k = 1, 98.0 %).
    digits = load_dataset(Data(source="digits"), root=ROOT)
    train, test = (half.images.reshape(len(half), -1).astype(np.float64) for half in (digits.train, digits.test))
    nearest = ((test[:, None] - train[None]) ** 2).sum(-1).argmin(1)
    assert (digits.train.labels[nearest] == digits.test.labels).mean() > 0.97


def test_enlarged_digits_keep_their_brightness():
    small = load_dataset(Data(source="digits"), root=ROOT)
    large = load_dataset(Data(source="digits", size=16), root=ROOT)
    assert large.train.images.shape == (1437, 1, 16, 16)
    # Doubling bilinearly weighs each pixel by 4 in all, edges included; rounding is within half a level.
    assert large.train.images.mean() == pytest.approx(small.train.images.mean(), abs=0.5)
    assert large.train.images[0, 0, 0, 0] == small.train.images[0, 0, 0, 0]


def test_normalised_inputs_have_zero_mean_and_unit_deviation():
    digits = load_dataset(Data(source="digits"), root=ROOT)
    inputs = digits.inputs("train").double()
    assert float(inputs.mean()) == pytest.approx(0, abs=1e-6)
    assert float(inputs.std(correction=0)) == pytest.approx(1, abs=1e-6)
    assert digits.inputs("test", count=7).shape == (7, 1, 8, 8)
    assert digits.example.shape == (2, 1, 8, 8)


def test_images_are_scaled_as_somebody_s_network_was_trained():
    digits = load_dataset(Data(source="digits", mean=0.25, std=0.5), root=ROOT)
    pixels = digits.test.images.astype(np.float64) / 255
    for inputs in (digits.inputs("test"), Inputs(digits, "test")[:]):
        assert inputs.numpy() == pytest.approx((pixels - 0.25) / 0.5, abs=1e-6)


def test_a_data_set_survives_pickling_and_read_only_arrays():
    digits = load_dataset(Data(source="digits", test_images=20), root=ROOT)
    copy = pickle.loads(pickle.dumps(digits))
    for array in (copy.train.images, copy.test.images):
        array.flags.writeable = False  # as Ray hands them out
    assert (copy.inputs("test") == digits.inputs("test")).all()
    assert copy.classes == digits.classes


def test_a_channel_without_variation_is_not_divided_by_zero(tmp_path):
    data = parquet(tmp_path, [png(value=9), png(value=9)], [0, 1])
    mean, deviation = load_dataset(data, root=ROOT).normalisation
    assert mean == pytest.approx([9 / 255] * 3)
    assert deviation.tolist() == [1, 1, 1]


def test_parquet_in_hugging_face_layout(tmp_path):
    data = parquet(tmp_path, [png(value=3), png(value=4, kind="JPEG"), png(value=5)], [1, 0, 1], names=["cat", "dog"])
    loaded = load_dataset(data, root=ROOT)
    assert loaded.name == tmp_path.name
    assert loaded.classes == ("cat", "dog")
    assert loaded.shape == data_shape(data, root=ROOT) == DataShape(3, 8, 2)
    assert loaded.train.labels.tolist() == [1, 0, 1]
    assert loaded.train.images[:, 0, 0, 0].tolist() == [3, 4, 5]


def test_a_prefix_decodes_nothing_else(tmp_path):
    data = parquet(tmp_path, [png(), png(), b"broken"], [0, 1, 1], names=["a", "b"])
    assert len(load_dataset(data.model_copy(update={"train_images": 2}), root=ROOT).train) == 2
    with pytest.raises(DataError, match=r"train.parquet row 2 is neither a JPEG nor a PNG image"):
        load_dataset(data, root=ROOT)


def test_several_files_of_one_half(tmp_path):
    write(tmp_path / "train-00000-of-00002.parquet", [png(value=1)], [0])
    write(tmp_path / "train-00001-of-00002.parquet", [png(value=2)], [1])
    write(tmp_path / "test.parquet", [png()], [1])
    loaded = load_dataset(Data(source=f"parquet:{tmp_path}"), root=ROOT)
    assert loaded.train.images[:, 0, 0, 0].tolist() == [1, 2]
    assert loaded.classes == ("0", "1")


def test_size_brings_images_to_one_size(tmp_path):
    data = parquet(tmp_path, [png(8), png((12, 9))], [0, 1])
    resized = load_dataset(data.model_copy(update={"size": 6}), root=ROOT)
    assert resized.train.images.shape == (2, 3, 6, 6)
    with pytest.raises(DataError, match=r"row 1 is 12x9 pixels, but the first image is 8x8; set `size`"):
        load_dataset(data, root=ROOT)


def huge_png() -> bytes:
    """A PNG of a few bytes whose header promises 30,000 x 30,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ([png(), cut_off("PNG")], [0, 1], "row 1 is damaged: "),
        ([png(), cut_off("JPEG")], [0, 1], "row 1 is damaged: "),
        ([png(), png()[:35]], [0, 1], "row 1 is neither a JPEG nor a PNG image, or is cut off in its header"),
        ([png(), None], [0, 1], "row 1: no image bytes"),
        ([png(), png()], [0, -1], "row 1: label -1 is outside"),
        ([png(), png()], [0, None], "rows without a label"),
        ([png(), huge_png()], [0, 1], "row 1 claims"),
        ([huge_png()], [0], "row 0 claims"),
        ([png((8, 9)), png()], [0, 1], "row 0 is 8x9 pixels.*set `size`"),
        ([png(mode="L"), png()], [0, 1], "row 1 is in colour"),
        ([png(mode="I;16")], [0], "pixels of mode 'I;16'"),
        ([], [], "train.parquet has no rows"),
    ],
)
def test_bad_rows_are_named(tmp_path, images, labels, message):
    with pytest.raises(DataError, match=message):
        load_dataset(parquet(tmp_path, images, labels), root=ROOT)


def test_a_label_beyond_the_class_names_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"train.parquet row 1: label 2 is outside 0..1"):
        load_dataset(parquet(tmp_path, [png(), png()], [0, 2], names=["a", "b"]), root=ROOT)


def test_label_columns(tmp_path):
    data = parquet(tmp_path, [png(), png()], [0, 1], coarse=[1, 0])
    with pytest.raises(DataError, match="which column is the label.*label, coarse"):
        data_shape(data, root=ROOT)
    with pytest.raises(DataError, match=r"no integer column 'fine'; its integer columns: label, coarse"):
        load_dataset(data.model_copy(update={"label": "fine"}), root=ROOT)
    assert load_dataset(data.model_copy(update={"label": "coarse"}), root=ROOT).train.labels.tolist() == [1, 0]


def test_files_that_are_no_data_set(tmp_path):
    data = parquet(tmp_path, [png(), png()], [0, 1])
    train = tmp_path / "train.parquet"
    whole = train.read_bytes()
    for damaged in (
        whole[: len(whole) // 2],
        b"",
        b"PAR1" + bytes(100) + b"PAR1",
        whole[:-8] + b"\xff\xff\xff\x7fPAR1",
    ):
        train.write_bytes(damaged)
        with pytest.raises(DataError, match=r"train.parquet cannot be read as Parquet"):
            load_dataset(data, root=ROOT)
    pq.write_table(pa.table({"label": [1], "text": ["a"]}), train)
    with pytest.raises(DataError, match=r"no column img or image.*its columns: label: int64, text: string"):
        data_shape(data, root=ROOT)
    train.unlink()
    with pytest.raises(DataError, match=r"holds no train.parquet"):
        fingerprint(data, root=ROOT)
    with pytest.raises(DataError, match=r"absent: no such directory"):
        data_shape(Data(source=f"parquet:{tmp_path}/absent"), root=ROOT)


def test_too_large_a_set_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr("bnsweep.training.decoding.MOST_BYTES", 2 * 3 * 8 * 8)
    data = parquet(tmp_path, [png()] * 3, [0, 1, 0])
    with pytest.raises(DataError, match="3 images of 8x8 take .* GiB.*set a smaller `size`"):
        load_dataset(data, root=ROOT)
    assert len(load_dataset(data.model_copy(update={"train_images": 2}), root=ROOT).train) == 2


def image_folder(folder: Path) -> Data:
    for half in ("train", "test"):
        for label, name in enumerate(("ant", "bee")):
            (folder / half / name).mkdir(parents=True)
            for index in range(4):
                (folder / half / name / f"{index}.png").write_bytes(png(value=100 * label + index))
    return Data(source=f"folder:{folder}")


def test_image_folders(tmp_path):
    data = image_folder(tmp_path)
    loaded = load_dataset(data, root=ROOT)
    assert loaded.shape == data_shape(data, root=ROOT) == DataShape(3, 8, 2)
    assert loaded.classes == ("ant", "bee")
    values = loaded.train.images[:, 0, 0, 0]
    assert (loaded.train.labels == (values >= 100)).all()
    assert sorted(values.tolist()) == [0, 1, 2, 3, 100, 101, 102, 103]
    assert values.tolist() != sorted(values.tolist())  # mixed, so that a prefix holds both classes


def test_image_folders_with_faults(tmp_path):
    data = image_folder(tmp_path)
    (tmp_path / "test" / "wasp").mkdir()
    with pytest.raises(DataError, match=r"class 'wasp' is none of the training classes ant, bee"):
        load_dataset(data, root=ROOT)
    (tmp_path / "test" / "wasp").rmdir()
    broken = tmp_path / "train" / "bee" / "2.png"
    broken.write_bytes(cut_off("PNG"))
    with pytest.raises(DataError, match=r"bee.2\.png is damaged"):
        load_dataset(data, root=ROOT)
    broken.unlink()
    with pytest.raises(DataError, match="asks for more than the 8 images"):
        load_dataset(data.model_copy(update={"test_images": 9}), root=ROOT)
    with pytest.raises(DataError, match="no directory"):
        load_dataset(Data(source=f"folder:{tmp_path}/test"), root=ROOT)


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_a_path_that_the_system_refuses_is_said(kind):
    with pytest.raises(DataError, match="aaa.* cannot be read: File name too long"):
        data_shape(Data(source=f"{kind}:/tmp/{'a' * 300}"), root=ROOT)
    with pytest.raises(InputError, match=r"no home directory for '~nosuch/x': write it in full, or with \./"):
        data_shape(Data(source=f"{kind}:~nosuch/x"), root=ROOT)


def test_all_bad_images_are_named_at_once(tmp_path):
    data = image_folder(tmp_path)
    for half, name in (("train", "ant"), ("test", "bee")):
        (tmp_path / half / name / "0.png").write_bytes(cut_off("PNG"))
        (tmp_path / half / name / "1.png").write_bytes(png(9))
    with pytest.raises(DataError) as caught:
        load_dataset(data, root=ROOT)
    head, *named = str(caught.value).splitlines()
    assert head == "4 images cannot be used:"
    assert sorted(Path(line.split()[0]).relative_to(tmp_path).as_posix() for line in named) == [
        f"{folder}/{number}.png" for folder in ("test/bee", "train/ant") for number in (0, 1)
    ]
    for number in range(20):
        (tmp_path / "test" / "bee" / f"x{number}.png").write_bytes(png(9))
    with pytest.raises(DataError, match=r"24 images cannot be used:(\n  [^\n]+){10}\n  and 14 more$"):
        load_dataset(data, root=ROOT)


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_a_look_at_headers_finds_what_loading_does_but_for_damage_behind_them(kind, tmp_path):
    folder = image_folder(tmp_path)

    def data(second):
        if kind == "parquet":
            return parquet(tmp_path, [png(), second], [0, 1])
        (tmp_path / "test" / "bee" / "0.png").write_bytes(second)
        return folder

    check_dataset(data(png()))
    for second in (png(12), b"no image"):
        bad = data(second)
        with pytest.raises(DataError) as loading:
            load_dataset(bad, root=ROOT)
        with pytest.raises(DataError) as looking:
            check_dataset(bad)
        assert str(looking.value) == str(loading.value)
    behind = data(cut_off("PNG"))
    check_dataset(behind)
    with pytest.raises(DataError, match="truncated"):
        load_dataset(behind, root=ROOT)


def test_a_class_without_images_is_refused(tmp_path):
    data = image_folder(tmp_path)
    (tmp_path / "train" / "wasp").mkdir()
    with pytest.raises(DataError, match=r"every class must have images in .*, but .*train has none of wasp"):
        image_counts(data)
    (tmp_path / "train" / "wasp" / "0.png").write_bytes(png())
    (tmp_path / "test" / "bee").rename(tmp_path / "test" / ".aside")
    with pytest.raises(DataError, match=r"but .*test has none of bee, wasp: add some, or take the class out of both"):
        image_counts(data)


def test_labels_that_no_image_has_are_refused(tmp_path):
    named = parquet(tmp_path / "named", [png()] * 3, [0, 2, 1], names=["ant", "bee", "wasp"])
    with pytest.raises(DataError, match=r"but .*named: test has none of wasp: add some, or take the class out of both"):
        image_counts(named)
    from_one = parquet(tmp_path / "from_one", [png(), png()], [1, 2])
    with pytest.raises(DataError, match=r"every class must have images in .*, but .*from_one: train has none of 0:"):
        image_counts(from_one)
    with pytest.raises(DataError, match=r"train.parquet has no rows"):
        image_counts(parquet(tmp_path / "empty", [], []))


def test_a_fingerprint_stands_for_content_not_for_place(tmp_path):
    data = parquet(tmp_path / "a", [png(), png()], [0, 1])
    same = parquet(tmp_path / "b", [png(), png()], [0, 1])
    other = parquet(tmp_path / "c", [png(), png(value=1)], [0, 1])
    prints = [fingerprint(each, root=ROOT) for each in (data, same, other)]
    assert prints[0] == prints[1] != prints[2]
    scaled = [{"mean": (0.5,) * 3, "std": (0.5,) * 3}, {"mean": (0.5,) * 3, "std": (0.25,) * 3}]
    changed = [{"size": 6}, {"train_images": 1}, {"test_images": 1}, {"label": "label"}, *scaled]
    assert len({fingerprint(data.model_copy(update=change), root=ROOT) for change in changed} | {prints[0]}) == 7
    named = [fingerprint(Data(source=name), root=ROOT) for name in ("digits", "cifar10", "cifar100")]
    assert len(set(named)) == 3
    assert all(len(text) == 16 and int(text, 16) for text in named)


def test_names_and_prefixes_are_checked():
    for ask in (load_dataset, data_shape, fingerprint):
        with pytest.raises(
            UnknownNameError, match=r"unknown data set 'digit'. Did you mean 'digits'.*folder:DIRECTORY"
        ):
            ask(Data(source="digit"), root=ROOT)
    with pytest.raises(DataError, match="train_images of digits: 2000 is more than the 1437"):
        load_dataset(Data(source="digits", train_images=2000), root=ROOT)
    with pytest.raises(DataError, match="`label` goes with parquet"):
        load_dataset(Data(source="digits", label="label"), root=ROOT)


def test_cifar_offline_says_which_file_goes_where(tmp_path, monkeypatch):
    def refuse(*_args, **_options):
        raise OSError("network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert data_shape(Data(source="cifar100"), root=tmp_path) == DataShape(3, 32, 100)
    with pytest.raises(DataError, match=r"Put the official cifar-10-python.tar.gz \(MD5 c58f.*cifar-10-batches-py"):
        load_dataset(Data(source="cifar10"), root=tmp_path / "data")


@pytest.mark.parametrize(("name", "label", "classes"), [("cifar10", "label", 10), ("cifar100", "fine_label", 100)])
def test_real_cifar_images(name, label, classes):
    if not (CIFAR_PARQUET / name).is_dir():
        pytest.skip("the project's CIFAR Parquet files are not on this machine")
    data = Data(source=f"parquet:{CIFAR_PARQUET / name}", label=label, train_images=200, test_images=100)
    loaded = load_dataset(data, root=ROOT)
    assert loaded.shape == data_shape(data, root=ROOT) == DataShape(3, 32, classes)
    assert loaded.classes[0] in ("airplane", "apple")
    # CIFAR's means are about 0.49, 0.48, 0.45; 200 images of standard deviation 0.15 between them give 0.01.
    assert loaded.normalisation[0] == pytest.approx([0.49, 0.48, 0.45], abs=0.06)
