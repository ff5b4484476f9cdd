"""Training runs: what they learn, how they end, and that an interruption leaves no trace."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from statistics import NormalDist
from textwrap import dedent

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from bnsweep.errors import InputError, ModelError
from bnsweep.experiment.recipe import Augment, Constant, Training
from bnsweep.training.checkpoint import to_bytes
from bnsweep.training.images import Dataset, Split
from bnsweep.training.models import build
from bnsweep.training.optimizers import OPTIMIZERS, parameter_groups
from bnsweep.training.resume import RunState, restore, snapshot
from bnsweep.training.sites import find_sites, place
from bnsweep.training.trainer import TrainingResult, chance_bound, train

QUICK = Training(epochs=4, batch_size=50, augment=Augment(flip=True, shift=0.1))


class MemorySlot:
    """A slot that counts what is written to it."""

    def __init__(self, data: bytes | None = None) -> None:
        self.data, self.writes = data, 0

    def read(self) -> bytes | None:
        return self.data

    def write(self, data: bytes) -> None:
        self.data, self.writes = data, self.writes + 1


class Stop(Exception):
    pass


def network_for(dataset: Dataset, name: str = "resnet8", *, bn: bool = True, dropout: bool = False) -> nn.Module:
    network = build(name, dataset.shape, seed=0)
    sites = find_sites(network, dataset.example)
    if dropout:
        network.output = nn.Sequential(nn.Dropout(0.2), network.output)
    return place(network, ("1" if bn else "0") * len(sites), example=dataset.example)


def stopping_after(epoch: int):
    def on_epoch(row):
        if row["epoch"] == epoch:
            raise Stop

    return on_epoch


def same_values(first: nn.Module, second: nn.Module) -> bool:
    theirs = second.state_dict()
    return all(torch.equal(values, theirs[name]) for name, values in first.state_dict().items())


def timeless(result: TrainingResult) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "duration_s"} for row in result.epochs]


@pytest.mark.parametrize("bn", [True, False], ids=["all", "none"])
def test_digits_are_learned_with_and_without_bn(digits, bn):
    network = network_for(digits, "vgg-small", bn=bn)
    recipe = Training(epochs=12, batch_size=50, augment=Augment())
    result = train(network, digits, recipe, seed=0)
    assert (result.status, result.epochs_run) == ("finished", 12)
    assert result.test_correct == result.epochs[-1]["test_correct"] > 80  # of 100; guessing gives 10
    with torch.no_grad():
        logits = network(digits.inputs("test"))
    assert result.test_correct == int((logits.argmax(1).numpy() == digits.test.labels).sum())
    assert result.train_loss < result.epochs[0]["train_loss"]
    assert [row["epoch"] for row in result.epochs] == list(range(1, 13))


@pytest.mark.parametrize("change", [{}, {"optimizer": "sgd", "weight_decay": 1e-3}], ids=["adam", "sgd"])
@pytest.mark.parametrize("stop", [1, 3])
def test_an_interrupted_run_ends_with_the_same_bits(digits, change, stop):
    recipe = QUICK.model_copy(update=change)
    whole = network_for(digits, dropout=True)
    expected = train(whole, digits, recipe, seed=3)
    slot = MemorySlot()
    with pytest.raises(Stop):
        train(network_for(digits, dropout=True), digits, recipe, seed=3, slot=slot, on_epoch=stopping_after(stop))
    assert slot.writes == 1
    resumed = network_for(digits, dropout=True)
    torch.manual_seed(99)  # the state of torch's own generator must not matter
    earlier, later = [], []
    result = train(resumed, digits, recipe, seed=3, slot=slot, on_resume=earlier.append, on_epoch=later.append)
    assert same_values(whole, resumed)
    assert (len(earlier), [*earlier, *later]) == (stop, list(result.epochs))
    assert timeless(result) == timeless(expected)
    assert slot.data is not None  # the caller deletes it, once the network is safe


def test_a_fresh_process_goes_on_to_the_same_bits(digits, tmp_path):
    script = dedent("""
        import sys
        from pathlib import Path
        import torch
        from bnsweep.experiment.recipe import Augment, Training
        from bnsweep.experiment.spec import Data
        from bnsweep.training.checkpoint import to_bytes
        from bnsweep.training.datasets import load_dataset
        from bnsweep.training.models import build
        from bnsweep.training.trainer import train

        folder = Path(sys.argv[1])
        torch.set_num_threads(1)

        class FileSlot:
            path = folder / "slot"
            def read(self): return self.path.read_bytes()
            def write(self, data): self.path.write_bytes(data)

        digits = load_dataset(Data(source="digits", train_images=300, test_images=100), root=folder)
        network = build("resnet8", digits.shape, seed=0)
        recipe = Training(epochs=4, batch_size=50, augment=Augment(flip=True, shift=0.1))
        rows = []
        train(network, digits, recipe, seed=3, slot=FileSlot(), on_epoch=rows.append)
        assert [row["epoch"] for row in rows] == [3, 4], rows
        (folder / "network").write_bytes(to_bytes(network))
    """)
    slot = MemorySlot()
    with pytest.raises(Stop):
        train(build("resnet8", digits.shape, seed=0), digits, QUICK, seed=3, slot=slot, on_epoch=stopping_after(2))
    (tmp_path / "slot").write_bytes(slot.data)
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=120)
    whole = build("resnet8", digits.shape, seed=0)
    train(whole, digits, QUICK, seed=3)
    assert (tmp_path / "network").read_bytes() == to_bytes(whole)


@pytest.mark.parametrize(
    ("ours", "torch_s"),
    [
        ("adam", partial(torch.optim.Adam, lr=0.1, eps=1e-7, fused=True)),
        ("sgd", partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, fused=True)),
    ],
)
def test_an_optimizer_does_what_torch_s_own_does(digits, ours, torch_s):
    trained = []
    for make in (partial(OPTIMIZERS[ours], rate=0.1), torch_s):
        network = network_for(digits)
        optimizer = make(parameter_groups(network, 1e-4))
        for _ in range(3):
            optimizer.zero_grad(set_to_none=True)
            network(digits.example).square().sum().backward()
            optimizer.step()
        trained.append((to_bytes(network), optimizer.state_dict()["param_groups"], len(optimizer.state)))
    assert trained[0] == trained[1]


def test_training_and_scoring_import_no_compiler(tmp_path):
    """Which would take each process about as long as torch itself; probes need it (`torch.func`)."""
    (tmp_path / "spec.yaml").write_text(
        "name: small\ndata: {source: digits, size: 8, train_images: 100, test_images: 50}\nmodels: resnet8\n"
        "training: {epochs: 1}\nnoise: {bn_treatment: [stale, folded, recalibrated], recalibration_images: 50}\n"
        "eta: [0, 0.1]\ntrials: 2\n"
    )
    script = (
        "import sys; sys.argv[1:] = ['run', 'spec.yaml', '--engine', 'inline', '--quiet', '--store', 'store']\n"
        "from bnsweep import cli\n"
        "try: cli.main()\n"
        "finally: print([name for name in ('torch', 'torch._dynamo', 'sympy', 'triton') if name in sys.modules])"
    )
    ran = [sys.executable, "-c", script]
    done = subprocess.run(ran, cwd=tmp_path, check=True, timeout=120, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "['torch']"


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_what_an_optimizer_knows_goes_where_the_network_is(digits, optimizer):
    # A fused optimizer on a GPU refuses a count of steps on the CPU. `meta` stands for any device that is not the CPU.
    network = network_for(digits)
    made = OPTIMIZERS[optimizer](list(network.parameters()), 0.1)
    network(torch.zeros(2, *digits.example.shape[1:])).sum().backward()
    made.step()
    data = snapshot(network, made, RunState(), belongs_to="this run")
    elsewhere = network_for(digits).to("meta")
    other = OPTIMIZERS[optimizer](list(elsewhere.parameters()), 0.1)
    assert restore(data, elsewhere, other, belongs_to="this run") == RunState()
    states = [value for own in other.state.values() for value in own.values()]
    assert states
    assert {value.device.type for value in states} == {"meta"}


def test_the_slot_is_written_by_the_clock(digits):
    often, seldom = MemorySlot(), MemorySlot()
    train(network_for(digits), digits, QUICK, seed=0, slot=often, slot_interval_s=0)
    train(network_for(digits), digits, QUICK, seed=0, slot=seldom, slot_interval_s=3600)
    assert (often.writes, seldom.writes) == (3, 0)  # none after the last epoch


@pytest.mark.parametrize("kind", ["damaged", "of another seed", "of another recipe"])
def test_a_useless_slot_means_starting_over(digits, kind):
    slot = MemorySlot()
    recipe = QUICK.model_copy(update={"learning_rate": 1e-2}) if kind == "of another recipe" else QUICK
    seed = 8 if kind == "of another seed" else 3
    with pytest.raises(Stop):
        train(network_for(digits), digits, recipe, seed=seed, slot=slot, on_epoch=stopping_after(1))
    if kind == "damaged":
        slot.data = slot.data[:-5]
    whole, resumed = network_for(digits), network_for(digits)
    train(whole, digits, QUICK, seed=3)
    train(resumed, digits, QUICK, seed=3, slot=slot)
    assert same_values(whole, resumed)


def test_seeds_differ(digits):
    first, second = network_for(digits), network_for(digits)
    train(first, digits, QUICK.model_copy(update={"epochs": 1}), seed=0)
    train(second, digits, QUICK.model_copy(update={"epochs": 1}), seed=1)
    assert not same_values(first, second)


def test_an_exploding_run_is_diverged(digits):
    recipe = Training(epochs=5, optimizer="sgd", learning_rate=100.0, schedule=Constant(), augment=Augment())
    result = train(network_for(digits, bn=False), digits, recipe, seed=0)
    assert (result.status, result.test_correct) == ("diverged", None)
    assert "training loss became nan" in result.reason or "training loss became inf" in result.reason


def test_a_guessing_run_is_diverged_after_chance_epochs(digits):
    recipe = Training(epochs=9, learning_rate=1e-12, chance_epochs=2, augment=Augment())
    # A dead network: all its answers are the same.
    network = network_for(digits, bn=False)
    nn.init.zeros_(network.output.weight)
    result = train(network, digits, recipe, seed=0)
    assert (result.status, result.epochs_run, result.test_correct) == ("diverged", 2, None)
    assert "no better than chance after 2 epochs" in result.reason
    patient = train(network, digits, recipe.model_copy(update={"epochs": 3, "chance_epochs": None}), seed=0)
    assert patient.status == "finished"


def test_a_run_that_stops_improving_is_converged(digits):
    recipe = Training(epochs=50, patience=3, min_delta=100.0, augment=Augment(), chance_epochs=None)
    result = train(network_for(digits), digits, recipe, seed=0)
    # The first epoch improves on nothing; three more do not fall by 100.
    assert (result.status, result.epochs_run) == ("converged", 4)


def test_no_epochs_leave_the_initial_network(digits):
    network, untouched = network_for(digits), network_for(digits)
    result = train(network, digits, Training(epochs=0, augment=Augment()), seed=0)
    assert (result.status, result.epochs_run, result.train_loss, result.epochs) == ("finished", 0, None, ())
    assert result.test_correct is not None
    assert same_values(network, untouched)


def test_weight_decay_reaches_kernels_only():
    # One step of SGD from gradient zero: w -> w - lr (1 + 0.9) wd w with Nesterov's momentum; other values stay.
    split = Split(np.zeros((4, 1, 4, 4), np.uint8), np.zeros(4, np.int64))
    dataset = Dataset("black", split, split, ("only",))  # one class: cross-entropy and its gradient are zero
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 1))
    before = {name: values.detach().clone() for name, values in network.named_parameters()}
    recipe = Training(
        epochs=1, optimizer="sgd", learning_rate=0.1, weight_decay=0.5, schedule=Constant(), augment=Augment()
    )
    train(network, dataset, recipe, seed=0)
    for name, values in network.named_parameters():
        factor = 1 - 0.1 * 1.9 * 0.5 if name in ("0.weight", "3.weight") else 1
        torch.testing.assert_close(values.detach(), before[name] * factor)


def test_weight_decay_reaches_what_gives_a_computed_kernel():
    network = nn.Sequential(weight_norm(nn.Linear(4, 3)), nn.Linear(3, 2))
    decayed, plain = parameter_groups(network, 1e-4)
    names = {id(values): name for name, values in network.named_parameters()}
    kernel = "0.parametrizations.weight.original"
    assert {names[id(values)] for values in decayed["params"]} == {f"{kernel}0", f"{kernel}1", "1.weight"}
    assert {names[id(values)] for values in plain["params"]} == {"0.bias", "1.bias"}


def test_bf16_trains_and_keeps_weights_in_fp32(digits):
    network = network_for(digits)
    recipe = Training(epochs=1, precision="bf16", batch_size=100, augment=Augment())
    result = train(network, digits, recipe, seed=0)
    assert np.isfinite(result.train_loss)
    assert {values.dtype for values in network.parameters()} == {torch.float32}


def test_the_chance_bound_is_the_binomials_quantile():
    labels = np.repeat(np.arange(10), 144)
    exact = binom.ppf(0.999, 1440, 0.1) / 1440
    assert chance_bound(labels) == pytest.approx(exact, abs=2 / 1440)  # normal approximation
    skewed = np.array([0] * 900 + [1] * 100)  # always saying 0 is right for 90 %
    assert chance_bound(skewed) == pytest.approx(0.9 + NormalDist().inv_cdf(0.999) * (0.09 / 1000) ** 0.5)
    assert chance_bound(np.zeros(5, np.int64)) < 1  # one class: being always right is no divergence


def test_a_last_image_alone_does_not_stop_bn(digits):
    odd = Dataset("odd", Split(digits.train.images[:65], digits.train.labels[:65]), digits.test, digits.classes)
    recipe = Training(epochs=1, batch_size=32, augment=Augment())
    assert train(network_for(digits, "vgg-small"), odd, recipe, seed=0).status == "finished"


def test_what_cannot_be_trained_says_so(digits):
    with pytest.raises(ModelError, match="set `batch_size` to 2 or more"):
        train(network_for(digits, "vgg-small"), digits, Training(epochs=1, batch_size=1, augment=Augment()), seed=0)
    with pytest.raises(InputError, match="`augment: auto` must be spelled out"):
        train(network_for(digits), digits, Training(epochs=1), seed=0)


def test_training_needs_neither_pydantic_nor_ray_nor_duckdb():
    script = dedent("""
        import sys
        for name in ("pydantic", "ray", "duckdb"):
            sys.modules[name] = None
        from bnsweep.training import checkpoint, datasets, models, sites, trainer
        from bnsweep.training import image_folder, parquet_images
    """)
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120, cwd=Path(__file__).parents[2])
