"""What is said of a plan before it is done, and which networks answers are about once their code has changed."""

import importlib
import sys

import pytest

from bnsweep.analysis.database import open_database
from bnsweep.experiment.plan import make_plan
from bnsweep.experiment.reading import parse_spec
from bnsweep.store.store import Store
from bnsweep.sweep.catalog import LocalCatalog
from bnsweep.sweep.notes import notes

OWN = """\
from torch import nn
def make(classes, channels, size):
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))
"""
BARE = """\
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.norm = nn.GroupNorm(1, 1)
        self.mix = nn.Conv2d(1, 1, 1)
        self.table = nn.Parameter(torch.zeros(64, classes))
    def forward(self, images):
        return self.mix(self.norm(images)).flatten(1) @ self.table
def make(classes, channels, size):
    return Net(classes)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Write the module noted_nets.py and have it imported anew."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(code):
        (tmp_path / "noted_nets.py").write_text(code)
        sys.modules.pop("noted_nets", None)
        importlib.invalidate_caches()

    return write


def planned(text, folder):
    return make_plan(parse_spec(text), LocalCatalog(folder, allow_import=True))


def test_a_comment_in_one_s_own_network_makes_new_runs_and_that_is_said(tmp_path, run, tiny, own):
    text, store = tiny.replace("models: resnet8", "models: [resnet8, 'import:noted_nets:make']"), tmp_path / "store"
    own(OWN)
    run(text, store)
    first = {each.run_id for each in planned(text, tmp_path).runs}
    assert notes(planned(text, tmp_path), Store.open(store)) == []
    own(f"{OWN}# a comment\n")
    (note,) = notes(planned(text, tmp_path), Store.open(store))
    assert note.startswith("the code of import:noted_nets:make has changed since 2 of this sweep's runs were trained")
    assert notes(planned(text, tmp_path), None) == []
    # Answers are then about the new networks alone, and about the earlier ones again when the code is what it was.
    for code, done in ((f"{OWN}# a comment\n", 2), (OWN, 0), (f"{OWN}# a comment\n", 0)):
        own(code)
        assert run(text, store).runs_done == done
        now = {each.run_id for each in planned(text, tmp_path).runs}
        with open_database(Store.open(store), sweep="tiny") as database:
            assert set(database.query("coverage").column("run_id")) == now
            assert set(database.query("run_accuracy").column("run_id")) == now
        assert (now == first) == (code == OWN)
        assert notes(planned(text, tmp_path), Store.open(store)) == []
    assert [row["revision"] for row in Store.open(store).read("sweeps").sort_by("revision").to_pylist()] == [1, 2, 3, 4]


def test_more_threads_are_named_as_what_may_have_changed(tmp_path, run, tiny, own):
    text, store = tiny.replace("models: resnet8", "models: 'import:noted_nets:make'"), tmp_path / "store"
    own(OWN)
    run(text, store)
    other, note = notes(planned(f"{text}resources: {{train: {{cpu: 2}}}}\n", tmp_path), Store.open(store))
    assert other.startswith("the store's 'tiny' has other `resources.train.cpu`: ")
    assert note.startswith("the code of import:noted_nets:make, or `resources.train.cpu`, has changed since 2 of")


@pytest.mark.parametrize(
    ("eta", "reference", "said"),
    [
        ("[10, 40]", "tensor_std", "eta above 1 (10, 40) is noise of more than one standard deviation"),
        ("[1.5]", "[absolute, tensor_max]", "eta above 1 (1.5) is noise of more than one"),
        ("[0.01, 1]", "tensor_std", ""),
        ("[10]", "absolute", ""),
    ],
)
def test_eta_in_percent_is_noticed(tmp_path, tiny, eta, reference, said):
    text = tiny.replace("[0, 0.1, 0.3]", eta).replace("{targets:", f"{{sigma_reference: {reference}, targets:")
    found = notes(planned(text, tmp_path), None)
    assert len(found) == bool(said)
    assert all(note.startswith(said) and "0.1 means 10 %" in note for note in found)


def test_what_a_new_version_hides_is_said_first(tmp_path, run, tiny):
    run(tiny, tmp_path / "store")
    for before, after, keys in (
        ("eta: [0, 0.1, 0.3]", "eta: [0, 0.1, 0.2]", "`eta`"),
        ("eta: [0, 0.1, 0.3]", "eta: [0, 0.1, 0.2, 0.3]", ""),
        ("test_images: 100", "test_images: 90", "`data`"),
        ("trials: 4", "trials: 2", "`trials`"),
        ("trials: 4", "trials: 5", ""),
        ("trials: 4", "trials: {half_width: 0.02, max: 100}", ""),
        ("train_seeds: 1", "train_seeds: 2", ""),
        ("train_seeds: 1", "train_seeds: [1]\nimages: 50", "`train_seeds`, `images`"),
        ("placements: [all, none]", "placements: [none, all, {first: 1}]", ""),
        ("placements: [all, none]", "placements: all", "`placements`"),
        ("placements: [all, none]", "placements: ['111111111', none]", ""),  # the same said otherwise
        ("models: resnet8", "models: {name: resnet8, placements: [all, none]}", ""),
        ("epochs: 2", "epochs: 3", "`training`"),
    ):
        assert before in tiny
        found = notes(planned(tiny.replace(before, after), tmp_path), Store.open(tmp_path / "store"))
        assert len(found) == bool(keys), after
        assert all(note.startswith(f"the store's 'tiny' has other {keys}: rows that only it asked") for note in found)


def test_networks_with_little_for_noise_or_without_bn_are_noticed(tmp_path, tiny, own):
    own(BARE)
    text = tiny.replace("models: resnet8", "models: 'import:noted_nets:make'").replace("epochs: 2", "epochs: 0")
    drawn, bare, without = notes(planned(text, tmp_path), None)
    assert drawn.startswith("import:noted_nets:make with `epochs: 0` is scored as `init` draws it")
    assert bare.startswith(
        "no noise hits 640 of the 644 parameters of import:noted_nets:make, which stand in no layer with weights "
        "(table): it looks more robust than it is."
    )
    assert without.startswith("import:noted_nets:make has no BN layer: all placements are the same network")
