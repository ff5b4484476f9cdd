"""Scores: the fast path against a plain loop, NaN, subsets, precision, bad input."""

from __future__ import annotations

import copy
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from bnsweep.errors import InputError, UnknownNameError
from bnsweep.experiment.noise_cell import NoiseCell
from bnsweep.experiment.spec import Data
from bnsweep.noise.evaluate import Evaluator
from bnsweep.noise.forward import Forward
from bnsweep.noise.perturb import BN_TREATMENTS, SIGMA_REFERENCES, TARGETS
from bnsweep.training.datasets import load_dataset
from bnsweep.training.inputs import Inputs
from bnsweep.training.sites import fold
from tests.noise import plain

SEEDS = range(3)


@pytest.fixture(scope="module")
def evaluator(trained):
    return Evaluator(
        trained.network, trained.inputs, trained.labels, batch_size=100, calibration_inputs=trained.training_inputs
    )


@pytest.mark.parametrize("treatment", BN_TREATMENTS)
@pytest.mark.parametrize("targets", TARGETS)
def test_without_noise_every_cell_gives_the_baseline(evaluator, trained, targets, treatment):
    right, nonfinite = plain.score(trained.network, trained.inputs, trained.labels)
    (score,) = evaluator.trials(NoiseCell(targets=targets, bn_treatment=treatment), Decimal(0), [5])
    assert (score.images, score.correct, score.nonfinite) == (360, right, nonfinite)
    assert right > 300  # the network has learnt something
    assert score.accuracy == right / 360
    assert score.realised_sigma_ratio == 0


# Levels at which accuracy lies between chance and the baseline, so that agreement means something.
LEVELS = {"tensor_std": 0.6, "tensor_max": 0.15, "channel_max": 0.2, "global_rms": 0.5, "absolute": 0.08}


@pytest.mark.parametrize("which", ["network", "partial"])
@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("sigma_reference", SIGMA_REFERENCES)
def test_scores_are_those_of_a_plain_loop(trained, which, sigma_reference, targets):
    network = getattr(trained, which)
    eta = LEVELS[sigma_reference]
    cell = NoiseCell(sigma_reference=sigma_reference, targets=targets)
    inputs, labels = trained.inputs[:200], trained.labels[:200]
    scores = Evaluator(network, inputs, labels, batch_size=64).trials(cell, eta, SEEDS[:2])
    for seed, score in zip(SEEDS[:2], scores, strict=True):
        noisy = plain.noisy(network, sigma_reference=sigma_reference, targets=targets, eta=eta, seed=seed)
        right, nonfinite = plain.score(noisy, inputs, labels)
        assert score.nonfinite == nonfinite
        assert abs(score.correct - right) <= 1  # an image on the boundary may fall either way with another rounding


@pytest.mark.parametrize("samples", ["all", "random", "strata"])
def test_images_made_batch_by_batch_give_the_same_scores(trained, samples):
    lazy = Inputs(load_dataset(Data(source="digits"), root=Path()), "test")
    cell, found = NoiseCell(targets="weights"), []
    for inputs in (trained.inputs, lazy):
        evaluator = Evaluator(trained.network, inputs, trained.labels, batch_size=64)
        some = {"random": 70, "strata": tuple(min(8, size) for size in evaluator.strata_sizes())}.get(samples)
        scores = evaluator.trials(cell, 0.4, SEEDS[:2], samples=some)
        found.append([replace(score, duration_s=0) for score in scores])
    assert found[0] == found[1]


def test_the_fast_path_folds_every_site(trained):
    for network in (trained.network, trained.partial):
        assert Forward(network, example=trained.inputs[:4], dtype=torch.float32).folded == 9


def test_noise_on_running_variances_gives_nan_and_class_0(trained):
    evaluator = Evaluator(trained.network, trained.inputs, trained.labels)
    scores = evaluator.trials(NoiseCell(targets="all", sigma_reference="tensor_max"), 1.0, range(8))
    dead = [score for score in scores if score.nonfinite == score.images]
    assert dead  # some draw makes a variance negative
    assert {score.correct for score in dead} == {int((trained.labels == 0).sum())}


@pytest.mark.parametrize("variance", [-0.5, -1e-3 - 1e-6, 0.0])
def test_a_folded_variance_is_nan_exactly_where_batch_norm_is(variance):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, eps=1e-3), nn.Flatten()).eval()
    inputs = torch.randn(5, 2, 4, 4)
    forward = Forward(network, example=inputs, dtype=torch.float32)
    assert forward.folded == 1
    network[1].running_var[1] = variance
    forward.load(network)
    with torch.no_grad():
        wanted, got = network(inputs), forward(inputs)
    assert bool(wanted.isnan().any()) == (variance < 0)
    assert torch.allclose(got, wanted, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_folded_treatment_is_noise_on_the_folded_network(trained, evaluator):
    folded = fold(trained.network, example=trained.inputs[:4])
    cell = NoiseCell(targets="weights+bias", bn_treatment="folded")
    for seed, score in zip(SEEDS, evaluator.trials(cell, 0.2, SEEDS), strict=True):
        noisy = plain.noisy(folded, sigma_reference="tensor_std", targets="weights+bias", eta=0.2, seed=seed)
        right, nonfinite = plain.score(noisy, trained.inputs, trained.labels)
        assert score.nonfinite == nonfinite
        assert abs(score.correct - right) <= 1


def test_recalibration_mends_what_noise_did_to_running_statistics(evaluator):
    stale, mended = (
        np.mean([s.accuracy for s in evaluator.trials(NoiseCell(targets="all", bn_treatment=t), 0.6, range(6))])
        for t in ("stale", "recalibrated")
    )
    assert mended > stale


def test_recalibration_uses_the_images_it_is_told(trained):
    evaluator = Evaluator(
        trained.network, trained.inputs, trained.labels, calibration_inputs=trained.training_inputs[:50]
    )
    few = NoiseCell(bn_treatment="recalibrated", recalibration_images=50)
    assert evaluator.trials(few, 0.1, [0])[0].correct > 36
    with pytest.raises(InputError, match="`recalibration_images <= training images` must hold, but got 51 and 50"):
        evaluator.trials(few.model_copy(update={"recalibration_images": 51}), 0.1, [0])


def test_statistics_do_not_depend_on_the_batch_size_of_scoring(trained):
    cell = NoiseCell(bn_treatment="recalibrated", recalibration_images=300)
    correct = {
        size: Evaluator(
            trained.network, trained.inputs, trained.labels, batch_size=size, calibration_inputs=trained.training_inputs
        ).correctness(cell, 0.3, 1)
        for size in (1, 360)
    }
    assert (correct[1] != correct[360]).sum() <= 1


class Centred(nn.Module):
    """A network that prepares its images in place."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x.mul_(2).add_(1))


def test_a_network_may_write_into_its_images(trained):
    given = (trained.inputs - 1) / 2
    inputs, calibration = given.clone(), (trained.training_inputs[:200] - 1) / 2
    evaluator = Evaluator(Centred(trained.network), inputs, trained.labels, calibration_inputs=calibration)
    for treatment in BN_TREATMENTS:
        cell = NoiseCell(bn_treatment=treatment, recalibration_images=200 if treatment == "recalibrated" else None)
        once, twice = ([s.correct for s in evaluator.trials(cell, 0.2, SEEDS)] for _ in range(2))
        assert once == twice
    right, _ = plain.score(trained.network, trained.inputs, trained.labels)
    assert evaluator.baseline().correct == right
    assert torch.equal(inputs, given)


def test_a_trial_depends_on_its_seed_alone(trained, evaluator):
    cells = [NoiseCell(), NoiseCell(targets="all"), NoiseCell(bn_treatment="folded")]
    mixed = {(c.label, s): evaluator.trials(c, 0.2, [s])[0].correct for s in (3, 1, 2) for c in cells}
    fresh = Evaluator(trained.network, trained.inputs, trained.labels, batch_size=100)
    for cell in cells:
        assert [score.correct for score in fresh.trials(cell, 0.2, [1, 2, 3])] == [
            mixed[cell.label, s] for s in (1, 2, 3)
        ]


class Odd(nn.Module):
    """What an imported network may do: a shared layer, BN away from any layer, groups, a transposed layer, BN1d."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(16) for _ in range(3))
        self.shared = nn.Conv2d(16, 16, 3, padding=1, groups=4, bias=False)
        self.up = nn.ConvTranspose2d(16, 24, 2, 2, groups=2)
        self.up_norm = nn.BatchNorm2d(24)
        self.down = nn.Conv2d(24, 32, 3, stride=2)
        self.down_norm = nn.BatchNorm2d(32, affine=False)
        self.hidden, self.hidden_norm, self.out = nn.Linear(32, 20), nn.BatchNorm1d(20), nn.Linear(20, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norms[0](self.stem(x)))
        x = x + self.shared(F.relu(self.norms[1](self.shared(x))))
        x = F.relu(self.up_norm(self.up(F.relu(self.norms[2](x)))))
        x = F.relu(self.down_norm(self.down(x))).mean((2, 3))
        return self.out(F.relu(self.hidden_norm(self.hidden(x))))


def trained_a_little(network, inputs, labels, steps=30):
    torch.manual_seed(0)
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for step in range(steps):
        part = slice(64 * step % 1024, 64 * step % 1024 + 64)
        optimizer.zero_grad()
        F.cross_entropy(network(inputs[part]), labels[part]).backward()
        optimizer.step()
    return network.eval()


def resnet18():
    network = torchvision.models.resnet18(num_classes=10)
    network.conv1 = nn.Conv2d(1, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


@pytest.mark.parametrize(("make", "foldable"), [(Odd, 3), (resnet18, 20)])
def test_any_module_is_scored_as_a_plain_loop_scores_it(trained, make, foldable):
    torch.manual_seed(2)
    network = trained_a_little(make(), trained.training_inputs, trained.training_labels, steps=30 if make is Odd else 2)
    count = 100 if make is Odd else 8
    inputs, labels = trained.inputs[:count], trained.labels[:count]
    assert Forward(network, example=inputs[:4], dtype=torch.float32).folded == foldable
    for targets in ("weights", "all") if make is Odd else ("all",):
        scores = Evaluator(network, inputs, labels, batch_size=64).trials(NoiseCell(targets=targets), 0.2, SEEDS[:2])
        for seed, score in zip(SEEDS[:2], scores, strict=True):
            noisy = plain.noisy(network, sigma_reference="tensor_std", targets=targets, eta=0.2, seed=seed)
            right, nonfinite = plain.score(noisy, inputs, labels)
            assert score.nonfinite == nonfinite
            assert abs(score.correct - right) <= 1


def test_bf16_scores_as_fp32_does(trained):
    inputs = torch.cat([trained.inputs, trained.training_inputs[:640]])
    labels = torch.cat([trained.labels, trained.training_labels[:640]])
    accuracy = {
        precision: np.array(
            [
                s.accuracy
                for s in Evaluator(trained.network, inputs, labels, precision=precision).trials(
                    NoiseCell(), 0.2, range(8)
                )
            ]
        )
        for precision in ("fp32", "bf16")
    }
    difference = accuracy["bf16"] - accuracy["fp32"]
    assert abs(difference.mean()) < 0.001
    assert np.abs(difference).max() < 0.005


# --- subsets ---


def test_random_subsets_are_unbiased_and_follow_from_the_seed(trained, evaluator):
    seeds = range(60)
    whole = evaluator.baseline().accuracy
    # Noise so small that it changes nothing: what varies is the subset alone.
    scores = evaluator.trials(NoiseCell(), 1e-6, seeds, samples=60)
    accuracy = np.array([score.accuracy for score in scores])
    assert {score.images for score in scores} == {60}
    error = np.sqrt(whole * (1 - whole) / 60 * (300 / 359) / len(seeds))
    assert abs(accuracy.mean() - whole) < 4 * error
    assert len(set(accuracy)) > 3
    again = evaluator.trials(NoiseCell(), 1e-6, [17], samples=60)[0]
    assert (again.correct, again.accuracy) == (scores[17].correct, scores[17].accuracy)


def test_strata_count_what_they_scored_and_stay_unbiased(trained, evaluator):
    sizes = evaluator.strata_sizes()
    assert sum(sizes) == 360
    allocation = tuple(min(size, 5) for size in sizes)
    seeds = range(60)
    scores = evaluator.trials(NoiseCell(), 1e-6, seeds, samples=allocation)
    for score in scores:
        assert score.strata_images == allocation
        assert sum(score.strata_correct) == score.correct
        assert score.images == sum(allocation)
        shares = [n / 360 * k / m for n, m, k in zip(sizes, score.strata_images, score.strata_correct, strict=True)]
        assert score.accuracy == pytest.approx(sum(shares))
    accuracy = np.array([score.accuracy for score in scores])
    assert (
        abs(accuracy.mean() - evaluator.baseline().accuracy)
        < 4 * max(accuracy.std(ddof=1), 1e-9) / len(seeds) ** 0.5 + 1e-9
    )


def test_margins_are_positive_exactly_for_images_classified_right(evaluator, trained):
    margins = evaluator.margins()
    with torch.no_grad():
        logits = trained.network(trained.inputs).double().numpy()
    own = trained.labels.numpy()
    true = logits[np.arange(360), own]
    logits[np.arange(360), own] = -np.inf
    assert np.allclose(margins, true - logits.max(1), atol=1e-3)
    assert (margins > 0).sum() == evaluator.baseline().correct
    matrix = np.stack([evaluator.correctness(NoiseCell(), 0.2, seed) for seed in SEEDS])
    assert matrix.sum(1).tolist() == [s.correct for s in evaluator.trials(NoiseCell(), 0.2, SEEDS)]


# --- bad input ---


def test_what_does_not_fit_is_refused(trained):
    network, inputs, labels = trained.network, trained.inputs, trained.labels
    with pytest.raises(InputError, match="images must be what the network takes: float.*uint8"):
        Evaluator(network, inputs.to(torch.uint8), labels)
    with pytest.raises(InputError, match="labels must be class numbers.*float32"):
        Evaluator(network, inputs, labels.float())
    with pytest.raises(InputError, match="one label per image, at least one, but got 360 and 359"):
        Evaluator(network, inputs, labels[:-1])
    with pytest.raises(InputError, match="labels must be from 0 to 9 for 10 logits, but range from 1 to 10"):
        Evaluator(network, inputs, labels + 1)
    with pytest.raises(InputError, match=r"does not take images of shape \(N, 3, 8, 8\)"):
        Evaluator(network, inputs.expand(-1, 3, -1, -1), labels)
    with pytest.raises(InputError, match=r"must return logits of shape \(N, classes\), but returned \(4, 1, 8, 8\)"):
        Evaluator(nn.Identity(), inputs, labels)
    with pytest.raises(InputError, match="`batch_size >= 1` must hold, but got 0"):
        Evaluator(network, inputs, labels, batch_size=0)
    with pytest.raises(UnknownNameError, match="unknown precision 'fp16'"):
        Evaluator(network, inputs, labels, precision="fp16")
    evaluator = Evaluator(network, inputs, labels)
    with pytest.raises(InputError, match="`0 <= eta` must hold and eta be finite, but got eta=-1"):
        evaluator.trials(NoiseCell(), -1, [0])
    with pytest.raises(InputError, match="`1 <= images <= test images` must hold, but got 361 and 360"):
        evaluator.trials(NoiseCell(), 0.1, [0], samples=361)
    with pytest.raises(InputError, match="needs calibration inputs"):
        evaluator.trials(NoiseCell(bn_treatment="recalibrated"), 0.1, [0])


def test_the_network_is_left_as_it_was(trained):
    network = copy.deepcopy(trained.network).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    evaluator = Evaluator(network, trained.inputs, trained.labels, calibration_inputs=trained.training_inputs)
    for treatment in BN_TREATMENTS:
        evaluator.trials(NoiseCell(targets="all", bn_treatment=treatment), 0.3, [0])
    assert all(module.training for module in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
