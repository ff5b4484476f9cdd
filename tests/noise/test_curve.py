"""The call that a PyTorch user tries first."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from bnsweep.errors import InputError, ModelError, UnknownNameError
from bnsweep.experiment.identity import noise_seed
from bnsweep.noise.curve import Cell, noise_curve
from bnsweep.noise.evaluate import Evaluator
from bnsweep.training.targets import beyond_reach


@pytest.fixture(scope="module")
def curve(trained):
    return noise_curve(trained.network, trained.inputs, trained.labels, eta=(0.3, 0.1), trials=6)


def test_rows_are_means_with_t_intervals_over_draws(curve, trained):
    assert [row["eta"] for row in curve.rows] == [0, 0.1, 0.3]
    evaluator = Evaluator(trained.network, trained.inputs, trained.labels)
    for row in curve.rows[1:]:
        accuracy = np.array(
            [s.accuracy for s in evaluator.trials(Cell(), row["eta"], [noise_seed("curve 0", t) for t in range(6)])]
        )
        low, high = stats.t.interval(0.95, 5, accuracy.mean(), stats.sem(accuracy))
        assert row["accuracy"] == pytest.approx(accuracy.mean())
        assert (row["low"], row["high"]) == (pytest.approx(low), pytest.approx(min(high, 1)))
        assert row["std"] == pytest.approx(accuracy.std(ddof=1))
        assert row["min"] == accuracy.min()
        assert (row["trials"], row["nonfinite"]) == (6, 0)
    exact = curve.rows[0]
    assert exact["low"] == exact["high"] == exact["accuracy"] == evaluator.baseline().accuracy
    assert exact["trials"] == 1


def test_average_normalized_follows_equation_14(curve, trained):
    base, low, high = (row["accuracy"] for row in curve.rows)
    average = curve.average_normalized
    assert average.mean == pytest.approx((low / base + high / base) / 2)
    assert average.low < average.mean < average.high


def test_it_prints_as_an_aligned_table(curve):
    lines = str(curve).splitlines()
    assert "tensor_std on weights" in lines[0]
    assert len({len(line) for line in lines[1:-1]}) == 1
    assert lines[-1].startswith("average normalized accuracy")


def test_what_no_noise_hits_is_counted_and_told(trained):
    def bare(hidden):
        class Mixed(nn.Sequential):
            def __init__(self):
                super().__init__(nn.Linear(64, 10))
                self.table = nn.Parameter(torch.zeros(hidden, hidden))

        return Mixed()

    inputs = trained.inputs.flatten(1)
    quiet = noise_curve(bare(8), inputs, trained.labels, trials=2)
    assert (quiet.hit, quiet.parameters, quiet.notes) == (640, 650 + 64, ())
    told = noise_curve(bare(30), inputs, trained.labels, eta=(0, 10), trials=2, targets="weights+bias")
    assert (told.hit, told.parameters) == (650, 650 + 900)
    large, beyond = told.notes
    assert large.startswith("eta above 1 (10) is noise of more than one standard deviation")
    assert beyond.startswith("no noise hits 900 of the 1,550 parameters of the network, which stand in no layer with")
    assert str(told).splitlines()[-1] == f"note: {beyond}"
    folding = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10)
    )
    folding[1].running_mean.uniform_(), folding[1].running_var.uniform_(), nn.init.uniform_(folding[1].bias)
    nn.init.uniform_(folding[1].weight)
    kept = noise_curve(folding, trained.inputs, trained.labels, trials=2, targets="all")
    folded = noise_curve(folding, trained.inputs, trained.labels, trials=2, targets="all", bn_treatment="folded")
    assert (kept.hit, folded.hit) == (36 + 4 * 4 + 1450, 36 + 4 + 1450)
    weighted = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(64, 10)))
    assert noise_curve(weighted, inputs, trained.labels, trials=2).notes == ()
    embedded = nn.utils.parametrizations.weight_norm(nn.Embedding(9, 9))
    assert beyond_reach(nn.Sequential(nn.Linear(2, 2), embedded)) == {
        "1.parametrizations.weight.original0": 9, "1.parametrizations.weight.original1": 81,
    }  # fmt: skip


def test_a_single_trial_has_no_interval(trained):
    row = noise_curve(trained.network, trained.inputs, trained.labels, eta=[0.1], trials=1).rows[1]
    assert np.isnan([row["low"], row["high"], row["std"]]).all()


def test_another_seed_is_other_draws(trained):
    """Neighbouring seeds must not share all draws but one: their means would look independent and agree."""

    def ratio(seed, trials):
        curve = noise_curve(trained.network, trained.inputs, trained.labels, eta=[0.1], trials=trials, seed=seed)
        return curve.rows[1]["realised_sigma_ratio"]

    assert ratio(0, 1) == ratio(0, 1)
    assert 2 * ratio(0, 2) - ratio(0, 1) != pytest.approx(ratio(1, 1), rel=1e-9)
    with pytest.raises(InputError, match="seed must be a whole number, but got 0.5"):
        ratio(0.5, 1)


def test_networks_of_any_kind(trained):
    dense = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
    assert len(noise_curve(dense, trained.inputs.flatten(1), trained.labels, trials=2).rows) == 6
    grouped = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(128, 10)
    ).double()
    for reference in ("channel_max", "global_rms"):
        curve = noise_curve(
            grouped, trained.inputs.double(), trained.labels.int(), trials=2, targets="all", sigma_reference=reference
        )
        assert curve.rows[-1]["realised_sigma_ratio"] == pytest.approx(0.4, rel=0.2)


@pytest.mark.parametrize("treatment", ["folded", "recalibrated"])
def test_treatments(trained, treatment):
    curve = noise_curve(
        trained.network,
        trained.inputs,
        trained.labels,
        eta=[0.05],
        trials=2,
        bn_treatment=treatment,
        calibration_images=trained.training_inputs[:200],
    )
    assert curve.rows[1]["accuracy"] > 0.5
    assert f"BN {treatment}" in str(curve)


def test_bad_arguments_say_what_is_wrong(trained):
    network, images, labels = trained.network, trained.inputs, trained.labels
    with pytest.raises(InputError, match=r"network must be a torch.nn.Module, but got dict"):
        noise_curve(network.state_dict() and {}, images, labels)
    with pytest.raises(InputError, match="images and labels must be tensors, but got ndarray"):
        noise_curve(network, images.numpy(), labels)
    with pytest.raises(InputError, match=r"`trials >= 1` must hold, but got trials=0"):
        noise_curve(network, images, labels, trials=0)
    with pytest.raises(InputError, match="`0 <= eta` must hold and eta be finite, but got nan"):
        noise_curve(network, images, labels, eta=[float("nan")])
    with pytest.raises(InputError, match="eta must be a sequence of numbers"):
        noise_curve(network, images, labels, eta=0.1)
    with pytest.raises(UnknownNameError, match=r"unknown target set 'weight'. Did you mean 'weights'"):
        noise_curve(network, images, labels, targets="weight")
    with pytest.raises(InputError, match="labels must be from 0 to 9"):
        noise_curve(network, images, labels + 5)
    with pytest.raises(ModelError, match="no weights to perturb"):
        noise_curve(nn.Sequential(nn.Flatten(), nn.Softmax(1)), images, labels)
    for device in ("warp", f"cuda:{torch.cuda.device_count()}", "meta"):
        with pytest.raises(InputError, match=rf"device must be one that this machine has \(cpu.*but got '{device}'"):
            noise_curve(network, images, labels, device=device)
    with pytest.raises(InputError, match="needs calibration_images: training images"):
        noise_curve(network, images, labels, bn_treatment="recalibrated")


def test_a_dead_network_has_no_normalized_accuracy():
    network = nn.Linear(2, 2)
    with torch.no_grad():
        network.weight.zero_()
        network.bias.copy_(torch.tensor([1.0, 0.0]))
    curve = noise_curve(network, torch.randn(4, 2), torch.ones(4, dtype=torch.int64), trials=2)
    assert curve.average_normalized is None
    assert curve.rows[0]["accuracy"] == 0
