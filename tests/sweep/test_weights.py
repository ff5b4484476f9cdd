"""Sweeps over networks that were trained elsewhere: really trained here by plain PyTorch, and read from their files."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import sweep_helpers as helpers
import torch
from torch.nn import functional

from bnsweep import noise_curve
from bnsweep.analysis.database import open_database
from bnsweep.analysis.inputs import read_inputs
from bnsweep.analysis.sentences import headline
from bnsweep.errors import InputError, SpecError
from bnsweep.experiment.plan import make_plan
from bnsweep.experiment.reading import parse_spec
from bnsweep.experiment.spec import Data
from bnsweep.store.export import copy_rows
from bnsweep.store.store import Store
from bnsweep.store.verify import verify_location
from bnsweep.sweep.catalog import LocalCatalog
from bnsweep.sweep.driver import Driver
from bnsweep.sweep.notes import notes
from bnsweep.sweep.search.expected import plan_of_any
from bnsweep.training.checkpoint import from_bytes
from bnsweep.training.datasets import load_dataset

NETS = """\
from torch import nn
def make(classes, channels, size):
    return nn.Sequential(nn.Conv2d(channels, 8, 3), nn.BatchNorm2d(8, eps=0.125), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, classes))
"""
MEAN, STD = 0.25, 0.5
SPEC = f"""\
name: given
data: {{source: digits, test_images: 200, mean: {MEAN}, std: {STD}}}
models: {{name: "import:given_nets:make", weights: [FOLDER/net0.pt, FOLDER/net1.pt]}}
train_seeds: 2
noise: {{bn_treatment: [stale, folded]}}
eta: [0, 0.2]
trials: 30
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with given_nets.py, net0.pt and net1.pt; the networks; test images as they take them, and labels."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "given_nets.py").write_text(NETS)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    make = importlib.import_module("given_nets").make
    data = load_dataset(Data(source="digits", test_images=200), root=folder)

    def inputs(split):
        return (torch.tensor(split.images).float() / 255 - MEAN) / STD, torch.tensor(split.labels)

    images, labels = inputs(data.train)
    networks = []
    for seed in range(2):
        torch.manual_seed(seed)
        network = make(10, 1, 8)
        optimizer = torch.optim.Adam(network.parameters(), 0.02)
        for _ in range(4):
            for part in torch.randperm(len(images)).split(50):
                optimizer.zero_grad()
                functional.cross_entropy(network(images[part]), labels[part]).backward()
                optimizer.step()
        torch.save(network.eval().state_dict(), folder / f"net{seed}.pt")
        networks.append(network)
    yield folder, networks, inputs(data.test)
    sys.path.remove(str(folder))


@pytest.fixture
def spec(trained, tmp_path):
    """The spec's text; its files may be changed."""
    for number in range(2):
        shutil.copy(trained[0] / f"net{number}.pt", tmp_path)
    return SPEC.replace("FOLDER", str(tmp_path))


def planned(text, folder):
    return make_plan(parse_spec(text), LocalCatalog(folder, allow_import=True))


def test_rows_are_about_the_very_networks_in_the_files(trained, spec, run, tmp_path):
    _, networks, (images, labels) = trained
    summary = run(spec, tmp_path / "store")
    assert (summary.runs_done, summary.runs_failed) == (2, 0)
    assert summary.lines(again=None)[0].startswith("0 networks trained and 2 read from files, ")
    store = Store.open(tmp_path / "store")
    runs = sorted(store.read("runs").to_pylist(), key=lambda row: row["train_seed"])
    for row, network in zip(runs, networks, strict=True):
        with torch.no_grad():
            right = int((network(images).argmax(1) == labels).sum())
        assert right > 150  # it has learned something, with the images as they were scaled for it
        assert (row["test_correct"], row["epochs_run"], row["status"]) == (right, 0, "finished")
        assert row["reason"].startswith(f"all 0 epochs done; began with weights 'given', net{row['train_seed']}.pt (")
        kept = torch.nn.Sequential(*network)  # the same layers, whose values are replaced by the same
        before = {name: value.clone() for name, value in network.state_dict().items()}
        from_bytes(kept, store.checkpoints.get_network(row["run_id"], row["checkpoint_sha256"]))
        assert all(torch.equal(value, before[name]) for name, value in kept.state_dict().items())
        # BN's epsilon is the network's own: another one would be another function.
        trials = [each for each in store.read("trials").to_pylist() if each["run_id"] == row["run_id"]]
        for treatment in ("stale", "folded"):
            ours = [t["accuracy"] for t in trials if t["bn_treatment"] == treatment and t["eta"]]
            curve = noise_curve(network, images, labels, eta=(0.2,), trials=30, bn_treatment=treatment, seed=5)
            theirs = curve.rows[1]
            # Two means over 30 draws each: the difference of equals exceeds 4 of its standard errors once in 15,000.
            error = np.hypot(np.std(ours, ddof=1), theirs["std"]) / np.sqrt(30)
            assert abs(np.mean(ours) - theirs["accuracy"]) < 4 * error
    assert run(spec, tmp_path / "store").runs_done == 0


def test_networks_of_one_entry_are_seeds_of_one_curve(spec, run, tmp_path):
    run(spec, tmp_path / "store")
    with open_database(Store.open(tmp_path / "store")) as database:
        answer = database.query("average_normalized")
    assert sorted(zip(answer.column("bn_treatment"), answer.column("seeds"), strict=True)) == [
        ("folded", 2),
        ("stale", 2),
    ]
    recipes = {row["recipe"] for row in Store.open(tmp_path / "store").read("runs").to_pylist()}
    assert len(recipes) == 1
    recipe = json.loads(recipes.pop())
    assert (recipe["epochs"], recipe["bn_epsilon"], recipe["weights"]) == (0, None, "given")


def test_other_files_are_other_networks_wherever_they_lie(spec, run, tmp_path):
    ids = [each.run_id for each in planned(spec, tmp_path).runs]
    run(spec, tmp_path / "store")
    (tmp_path / "moved").mkdir()
    for number in range(2):
        shutil.copy(tmp_path / f"net{number}.pt", tmp_path / "moved")
    moved = spec.replace(f"{tmp_path}/net", f"{tmp_path}/moved/net")
    assert [each.run_id for each in planned(moved, tmp_path).runs] == ids
    values = torch.load(tmp_path / "net1.pt", weights_only=True)
    values["5.bias"] += 1e-3
    torch.save(values, tmp_path / "net1.pt")
    now = planned(spec, tmp_path)
    assert [a.run_id == b for a, b in zip(now.runs, ids, strict=True)] == [True, False]
    (note,) = notes(now, Store.open(tmp_path / "store"))
    name = "import:given_nets:make"
    assert note.startswith(
        f"what is in the files of {name}, or the code of {name}, has changed since 1 of this sweep's"
    )
    # The network that stayed and the one that came are one curve.
    run(spec, tmp_path / "store")
    with open_database(Store.open(tmp_path / "store"), sweep="given") as database:
        assert database.query("average_normalized").column("seeds") == [2, 2]
    # Whoever planned before the file changed is told so, and nothing of it lands.
    plan = planned(spec, tmp_path)
    values["5.bias"] += 1e-3
    torch.save(values, tmp_path / "net1.pt")
    from bnsweep.sweep.progress import Silent
    from bnsweep.sweep.run import run_sweep

    with pytest.raises(InputError, match=r"net1.pt' have changed since this sweep was planned; run again"):
        run_sweep(
            plan,
            str(tmp_path / "other"),
            text=spec,
            engine="inline",
            listener=Silent(),
            data_root=tmp_path,
        )
    (whole,) = (tmp_path / "other" / "weights").iterdir()  # net0.pt, which is as it was
    assert whole.stem == plan.runs[0].weights.sha256
    assert not Store.open(tmp_path / "other").read("runs").num_rows


def test_workers_need_no_file_but_the_store_s(spec, run, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(next(path for path in sys.path if "given" in path)))
    run(spec, tmp_path / "inline")
    bring = Driver._bring

    def only_the_driver(driver, weights):
        bring(driver, weights)
        Path(weights.path).rename(f"{weights.path} away")

    with monkeypatch.context() as patch:
        patch.setattr(Driver, "_bring", only_the_driver)
        run(spec, tmp_path / "ray", engine="ray", cpus=2)
    assert helpers.rows(tmp_path / "inline") == helpers.rows(tmp_path / "ray")
    assert not list((tmp_path / "ray" / "weights").iterdir())  # what came of them is in networks/
    # A network that is lost comes back from its file.
    for number in range(2):
        (tmp_path / f"net{number}.pt away").rename(tmp_path / f"net{number}.pt")
    next((tmp_path / "ray" / "networks").iterdir()).unlink()
    assert run(spec.replace("trials: 30", "trials: 31"), tmp_path / "ray").runs_done == 1
    assert verify_location(str(tmp_path / "ray")).ok


def test_how_others_are_trained_is_no_part_of_what_is_trained(spec, tmp_path):
    ids = [each.run_id for each in planned(spec, tmp_path).runs]
    for more in ("training: {learning_rate: 0.5, optimizer: sgd, precision: bf16}", "resources: {train: {cpu: 2}}"):
        assert [each.run_id for each in planned(f"{spec}{more}\n", tmp_path).runs] == ids
    for more in ("training: {bn_epsilon: 0.5}, ", "label: other, "):
        assert not set(ids) & {
            each.run_id for each in planned(spec.replace("weights:", f"{more}weights:"), tmp_path).runs
        }


def test_labels_keep_networks_of_one_name_apart(spec, run, tmp_path):
    entry = spec.partition("models: ")[2].partition("\n")[0]
    both = spec.replace(entry, f"[{entry}, {entry.replace('weights:', 'label: b, weights:')}]")
    assert len({each.run_id for each in planned(both, tmp_path).runs}) == 4
    with pytest.raises(SpecError, match="names import:given_nets:make twice.*a `label`"):
        parse_spec(spec.replace(entry, f"[{entry}, {entry.replace('net0', 'net9')}]"))
    run(both, tmp_path / "store")
    with open_database(Store.open(tmp_path / "store")) as database:
        assert database.query("average_normalized").column("seeds") == [2] * 4
        said = list(headline(read_inputs(database)))
    assert len(set(said)) == 5
    assert sum(", recipe " in line for line in said) == 4


def test_one_file_is_one_network_unless_it_is_tuned(spec, run, tmp_path):
    one = spec.replace(f"[{tmp_path}/net0.pt, {tmp_path}/net1.pt]", f"{tmp_path}/net0.pt")
    assert len(planned(one, tmp_path).runs) == 1
    (note,) = notes(planned(one, tmp_path), None)
    assert note.startswith("import:given_nets:make has one file of `weights`, which is one network: it is scored once")
    tuned = one.replace("weights:", "training: {epochs: 1, learning_rate: 0.0001, augment: {}}, weights:")
    assert len({each.run_id for each in planned(tuned, tmp_path).runs}) == 2
    assert notes(planned(tuned, tmp_path), None) == []
    run(tuned, tmp_path / "store")
    rows = Store.open(tmp_path / "store").read("runs").to_pylist()
    assert [row["epochs_run"] for row in rows] == [1, 1]
    assert json.loads(rows[0]["recipe"])["bn_epsilon"] is None
    # It began where it was: from nothing, one epoch at this rate learns next to nothing.
    assert min(row["train_accuracy"] for row in rows) > 0.8
    assert len({row["checkpoint_sha256"] for row in rows}) == 2


def test_beside_networks_that_are_trained_here(spec, run, tmp_path):
    both = spec.replace("models: {", "models: [resnet8, {").replace("pt]}", "pt]}]")
    both = both.replace("trials: 30", "trials: 2\ntraining: {epochs: 1, chance_epochs: null}\nplacements: [all, none]")
    plan = planned(both, tmp_path)
    assert [(each.model.partition(":")[0], each.placement, each.training.epochs) for each in plan.runs] == [
        *(("resnet8", placement, 1) for placement in ("all", "all", "none", "none")),
        *(("import", "all", 0) for _ in range(2)),
    ]
    assert {each.training.bn_epsilon for each in plan.runs} == {1e-3, None}
    assert parse_spec(plan.spec.model_dump_json()) == plan.spec  # as a store keeps it


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("net1.pt", "net2.pt", r"line 3: models.0.weights.1: the weights '.*net2.pt' cannot be read: No such file"),
        ("train_seeds: 2", "train_seeds: 3", r"line 3: models.0.weights: `weights` has .* 2 files and 3 seeds: write"),
        (
            "weights:",
            "placements: [all, none], weights:",
            "models.0.placements.1: .* keeps all of its BN layers; leave",
        ),
        ('"import:given_nets:make"', "resnet8", r"weights.0: what is in '.*net0.pt' does not fit this ResNet: "),
        (f"mean: {MEAN}, ", "", r"line 2: data.0: `mean` and `std` go together"),
        (f"mean: {MEAN}", "mean: [0.1, 0.2]", r"`mean` and `std` go together, a number per channel each, but got"),
        (f"std: {STD}", "std: 0", r"greater than or equal to 0.000001"),
        (f"mean: {MEAN}, std: {STD}", "mean: [0, 0, 0], std: [1, 1, 1]", "images of digits have 1, but got 3"),
        ("weights:", "weight:", "did you mean 'weights'"),
        ("net1.pt", "net0.pt", r"weights.1: '.*net0.pt' holds the same values as '.*net0.pt': one network counts once"),
        ("net0.pt, ", "'', ", r"models.0.weights.0: "),
        (f"std: {STD}", "std: 1e-50", r"data.0.std.0: .*greater than or equal to 0.000001"),
        (f"mean: {MEAN}", "mean: 1e300", r"data.0.mean.0: .*less than or equal to 1000000"),
        ("weights: [", "weights: [], placements: [", r"models.0.weights: "),
        ("models:", "models: {name: resnet8, label: x} #", r"`label` goes with `weights`"),
    ],
)
def test_what_does_not_fit_is_said_at_its_line(spec, tmp_path, old, new, said):
    assert old in spec
    text = spec.replace(old, new)
    from bnsweep.experiment.checking import plan_from_text

    with pytest.raises(SpecError, match=said):
        plan_from_text(text, LocalCatalog(tmp_path, allow_import=True))


def test_a_search_trains_its_networks_itself(spec, tmp_path):
    with pytest.raises(
        SpecError, match="import:given_nets:make has `weights`, and a search trains a network of its own"
    ):
        plan_of_any(f"{spec}search: {{trainings: 4}}\n", None, LocalCatalog(tmp_path, allow_import=True))


def test_a_published_store_tells_no_folder(spec, run, tmp_path):
    run(spec, tmp_path / "store")
    copy_rows(Store.open(tmp_path / "store"), tmp_path / "copy")
    (row,) = Store.open(tmp_path / "copy").read("sweeps").to_pylist()
    assert str(tmp_path) not in row["spec"] + row["spec_yaml"]
    assert json.loads(row["spec"])["models"][0]["weights"] == ["net0.pt", "net1.pt"]
    assert "weights: [net0.pt, net1.pt]" in row["spec_yaml"]
    parse_spec(row["spec_yaml"])
