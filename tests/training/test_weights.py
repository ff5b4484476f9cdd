"""Networks that somebody has trained elsewhere: their files, in the forms that training scripts write."""

import hashlib
import os
import pickle
import shutil

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bnsweep.errors import ModelError
from bnsweep.training.checkpoint import to_bytes, unpack
from bnsweep.training.images import DataShape
from bnsweep.training.models import build
from bnsweep.training.weights import portable, put_in

SHAPE = DataShape(1, 8, 10)
IMAGES = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def network():
    made = build("resnet8", SHAPE, seed=3)
    with torch.no_grad():  # as if trained: nothing as it begins
        for number, value in enumerate(made.state_dict().values()):
            value.copy_(value + number % 7 + 1)
    return made.eval()


@pytest.mark.parametrize(
    "written",
    [
        lambda network, path: torch.save(network.state_dict(), path),
        lambda network, path: torch.save({"epoch": 3, "state_dict": network.state_dict(), "lr": 0.1}, path),
        lambda network, path: torch.save({"model": nn.DataParallel(network).state_dict()}, path),
        lambda network, path: torch.save({f"_orig_mod.{k}": v for k, v in network.state_dict().items()}, path),
        lambda network, path: torch.save({f"module._orig_mod.{k}": v for k, v in network.state_dict().items()}, path),
        lambda network, path: torch.save({f"_orig_mod.module.{k}": v for k, v in network.state_dict().items()}, path),
        lambda network, path: torch.save({"model": "resnet8", "net": network.state_dict()}, path),
        lambda network, path: torch.save(network.state_dict(), path, _use_new_zipfile_serialization=False),
    ],
    ids=["state_dict", "nested", "DataParallel", "compiled", "either", "order", "named", "old format"],
)
def test_what_training_scripts_write_is_read(network, written, tmp_path):
    written(network, tmp_path / "net.pt")
    data = portable(str(tmp_path / "net.pt"))
    put_in(other := build("resnet8", SHAPE, seed=0).eval(), data, source="net.pt")
    assert torch.equal(other(IMAGES), network(IMAGES))


def test_either_kind_of_file_gives_the_same_bytes_whatever_it_is_called(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "net.pt")
    save_file(dict(network.state_dict()), tmp_path / "net.safetensors")
    shutil.copy(tmp_path / "net.pt", tmp_path / "torch.safetensors")
    shutil.copy(tmp_path / "net.safetensors", tmp_path / "safe.bin")
    names = ("net.pt", "net.safetensors", "torch.safetensors", "safe.bin")
    assert len({portable(str(tmp_path / name)) for name in names}) == 1


def test_a_network_whose_only_child_is_called_as_a_wrapper(tmp_path):
    network = nn.Module()
    network.module = nn.Linear(2, 3)
    torch.save(network.state_dict(), tmp_path / "net.pt")
    other = nn.Module()
    other.module = nn.Linear(2, 3)
    put_in(other, portable(str(tmp_path / "net.pt")), source="net.pt")
    assert torch.equal(other.module.weight, network.module.weight)


@pytest.mark.parametrize(
    ("name", "number"),
    [("output.bias", float("nan")), ("stem.conv.weight", float("inf")), ("stem.site.running_var", float("nan"))],
)
def test_a_network_that_diverged_is_none(network, name, number, tmp_path):
    values = {key: value.clone() for key, value in network.state_dict().items()}
    values[name].view(-1)[0] = number
    torch.save(values, tmp_path / "net.pt")
    with pytest.raises(ModelError, match=f"no network to score: {name} has values that are not finite"):
        put_in(build("resnet8", SHAPE), portable(str(tmp_path / "net.pt")), source="net.pt")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.ones(3).to_sparse(), "hold 'a', which is no plain array of numbers"),
        (torch.ones(3, device="meta"), "'a', which is no plain array|they hold more than tensors"),
        (torch.zeros(1).expand(200_000, 200_000), "stand for far more numbers than they hold"),
    ],
    ids=["sparse", "meta", "bomb"],
)
def test_tensors_that_are_no_arrays(value, said, tmp_path):
    torch.save({"a": value}, tmp_path / "net.pt")
    with pytest.raises(ModelError, match=said):
        portable(str(tmp_path / "net.pt"))


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelError, match="weights are a file, but '.*pipe' is none"):
        portable(str(tmp_path / "pipe"))


def test_a_network_of_a_store_is_read_without_its_strata(network, tmp_path):
    (tmp_path / "net.safetensors").write_bytes(
        to_bytes(network, metadata={"run_id": "a"}, strata=torch.arange(9).numpy())
    )
    torch.save(network.state_dict(), tmp_path / "net.pt")
    assert portable(str(tmp_path / "net.safetensors")) == portable(str(tmp_path / "net.pt"))


def test_other_precisions_and_old_files_fit(network, tmp_path):
    values = {
        name: value.half() if value.is_floating_point() else value for name, value in network.state_dict().items()
    }
    values = {name: value for name, value in values.items() if not name.endswith("num_batches_tracked")}
    torch.save(values, tmp_path / "net.pt")
    put_in(other := build("resnet8", SHAPE, seed=0).eval(), portable(str(tmp_path / "net.pt")), source="net.pt")
    for name, value in values.items():
        assert torch.equal(other.state_dict()[name], value.to(other.state_dict()[name].dtype))
    assert {value.dtype for value in other.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda values: values.pop("output.bias"), "not fit this ResNet: output.bias is missing"),
        (lambda values: values.update(extra=torch.zeros(1)), "extra is not part of the network"),
        (
            lambda values: values.update({"output.bias": torch.zeros(11)}),
            r"output.bias is torch.float32 \(11,\) instead of",
        ),
        (lambda values: values.update({"output.bias": torch.zeros(10, dtype=torch.int64)}), "is torch.int64"),
        (
            lambda values: [values.pop(name) for name in list(values) if name.startswith("stages")],
            r"stages.0.0.conv1.weight is missing; .* and \d+ more differences",
        ),
    ],
    ids=["missing", "more", "shape", "integers", "many"],
)
def test_values_of_another_network_change_nothing(network, change, said, tmp_path):
    values = dict(network.state_dict())
    change(values)
    torch.save(values, tmp_path / "net.pt")
    other = build("resnet8", SHAPE, seed=0).eval()
    before = to_bytes(other)
    with pytest.raises(ModelError, match=f"what is in 'net.pt' does.*{said}"):
        put_in(other, portable(str(tmp_path / "net.pt")), source="net.pt")
    assert to_bytes(other) == before


class _Evil:
    def __reduce__(self):
        return eval, ("__import__('os').mkdir('was-run')",)


def test_nothing_in_a_file_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"a": _Evil()}))
    torch.save({"a": _Evil()}, tmp_path / "zipped.pt")
    torch.save(build("resnet8", SHAPE), tmp_path / "whole.pt")
    for name in ("evil.pt", "zipped.pt", "whole.pt"):
        with pytest.raises(ModelError, match=r"hold more than tensors.*torch.save\(network.state_dict\(\), PATH\)"):
            portable(str(tmp_path / name))
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("net.pt", b"", "they are no safetensors file"),
        ("net.pt", b"not a network", "they are no safetensors file"),
        ("net.pt", b"PK\x03\x04" + bytes(100), "torch.save has not written them"),
        ("net.pt", b"\x80\x02" + bytes(100), "torch.save has not written them"),
        ("there/net.pt", None, "cannot be read: No such file"),
        ("x" * 300, None, "cannot be read: File name too long"),
        (".", None, "weights are a file, but '.*' is none"),
        ("a\nb", None, "cannot be read: No such file"),
        ("a\0b", None, "cannot be read: "),
    ],
)
def test_files_that_hold_no_network(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=said) as refused:
        portable(str(tmp_path / name))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "content",
    [
        {},
        [1.0],
        {"a": 1},
        {"state_dict": {"a": "b"}},
        torch.zeros(3),
        {1: torch.zeros(1), "1": torch.ones(1)},
        {"__metadata__": torch.zeros(1)},
    ],
    ids=str,
)
def test_tensors_without_names_are_no_network(tmp_path, content):
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(ModelError, match="are no state_dict, a mapping of names to tensors"):
        portable(str(tmp_path / "net.pt"))


def test_every_cut_of_a_file_is_refused_or_whole(network, tmp_path):
    for ending, write in (("pt", torch.save), ("safetensors", save_file)):
        write(dict(network.state_dict()), tmp_path / f"net.{ending}")
        whole = (tmp_path / f"net.{ending}").read_bytes()
        for share in (0.01, 0.3, 0.6, 0.9, 0.999):
            (tmp_path / f"cut.{ending}").write_bytes(whole[: int(share * len(whole))])
            with pytest.raises(ModelError):
                portable(str(tmp_path / f"cut.{ending}"))


def test_values_are_named_by_what_they_are(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "net.pt")
    data = portable(str(tmp_path / "net.pt"))
    assert {name: tuple(value.shape) for name, value in unpack(data).items()} == {
        name: tuple(value.shape) for name, value in network.state_dict().items()
    }
    changed = dict(network.state_dict()) | {"output.bias": network.output.bias.detach() + 1e-6}
    torch.save(changed, tmp_path / "other.pt")
    assert hashlib.sha256(data).digest() != hashlib.sha256(portable(str(tmp_path / "other.pt"))).digest()
