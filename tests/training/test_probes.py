"""Gradient noise, smoothness and eq. 9, against closed forms, explicit loops and each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from bnsweep.experiment.recipe import Augment, Training
from bnsweep.experiment.spec import Probes
from bnsweep.training.models import build
from bnsweep.training.probes import GradientWatch, Moment, Sizes, measure, moments, per_image_gradients, sizes
from bnsweep.training.sites import place
from bnsweep.training.trainer import train
from tests.training.test_trainer import MemorySlot, Stop, stopping_after, timeless

RECIPE = Training(epochs=4, batch_size=50, augment=Augment(shift=0.1))
WATCHED = Probes(at=(0, 0.5, 1), cost_frac=0.05)


def linear(features: int, classes: int) -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.Linear(features, classes, bias=False))
    nn.init.zeros_(network[1].weight)
    return network


def measured(network, images, labels, *, epoch=0, seed=0, groups=6, pairs=6, batch_size=16):
    rows = measure(
        network,
        lambda chosen: images[chosen],
        labels,
        Moment(epoch, seed),
        size=Sizes(groups, pairs),
        batch_size=batch_size,
    )
    return {(row["probe"], row["site"]): row for row in rows}


def test_gradient_noise_of_a_linear_model_has_its_closed_form():
    """At W = 0 the gradient of image i is (1/K - e_y) x_i^T, so that C = (1 - 1/K) E||x||^2 for labels drawn apart.

    With x ~ N(0, I) of d features and K classes, E grad = 0 and C = (1 - 1/K) d, for single images and for batches.
    """
    features, classes = 30, 4
    rng = np.random.default_rng(0)
    images = torch.tensor(rng.normal(size=(20_000, 1, 1, features)), dtype=torch.float32)
    labels = torch.tensor(rng.integers(0, classes, 20_000))
    theory = (1 - 1 / classes) * features
    network = linear(features, classes)
    inside = {"gradient_noise": 0, "gradient_noise_batch": 0}
    values = {name: [] for name in inside}
    for seed in range(200):
        rows = measured(network, images, labels, seed=seed)
        for name in inside:
            row = rows[name, ""]
            assert row["samples"] == 6
            inside[name] += row["low"] <= theory <= row["high"]
            values[name].append(row["value"])
    for name, found in values.items():
        error = np.std(found, ddof=1) / np.sqrt(len(found))
        assert abs(np.mean(found) - theory) < 4 * error, name
        # 95 % of 200 intervals, within four standard deviations of the binomial
        assert abs(inside[name] - 190) < 4 * np.sqrt(200 * 0.95 * 0.05), name


@pytest.mark.parametrize("mask", ["111111111", "000000000", "100100100"])
def test_gradients_of_single_images_are_those_of_a_plain_loop(digits, mask):
    network = place(build("resnet8", digits.shape, seed=1), mask, example=digits.example).eval()
    images, labels = digits.inputs("train", count=5), torch.tensor(digits.train.labels[:5])
    found = per_image_gradients(network, images, labels)
    for number in range(5):
        network.zero_grad()
        functional.cross_entropy(network(images[number : number + 1]), labels[number : number + 1]).backward()
        for ours, parameter in zip(found, network.parameters(), strict=True):
            torch.testing.assert_close(ours[number], parameter.grad, rtol=1e-4, atol=1e-6)


def test_a_network_that_cannot_be_vectorised_is_measured_image_by_image():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = linear(12, 3)

        def forward(self, x):
            return self.layer(x) * (2.0 if float(x.sum()) > 0 else 1.0)

    torch.manual_seed(0)
    images, labels = torch.randn(64, 1, 3, 4), torch.randint(0, 3, (64,))
    network = Branching()
    found = per_image_gradients(network, images[:4], labels[:4])
    assert [tuple(values.shape) for values in found] == [(4, 3, 12)]
    scale = torch.where(images[:4].sum((1, 2, 3)) > 0, 2.0, 1.0)
    outer = scale[:, None, None] * (1 / 3 - torch.eye(3)[labels[:4]])[:, :, None] * images[:4].flatten(1)[:, None]
    torch.testing.assert_close(found[0], outer)


def test_without_bn_images_and_batches_agree_on_the_noise(digits):
    network = place(build("resnet8", digits.shape, seed=0), "0" * 9, example=digits.example)
    images, labels = digits.inputs("train"), torch.tensor(digits.train.labels)
    rows = measured(network, images, labels, groups=12, pairs=9)
    single, batch = rows["gradient_noise", ""], rows["gradient_noise_batch", ""]
    assert single["low"] < batch["high"]
    assert batch["low"] < single["high"]
    assert not [site for name, site in rows if site]


def test_equation_9_holds_term_by_term():
    """One channel, so that the sums over channels are the channel's own; eps small, since the identity needs it."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 1, 3, bias=False),
        nn.BatchNorm2d(1, eps=1e-10),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.LazyLinear(3),
    )
    images, labels = torch.randn(64, 1, 6, 6), torch.randint(0, 3, (64,))
    network(images)
    nn.init.constant_(network[1].weight, 1.7)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    rows = measured(network, images, labels, batch_size=32)
    term = {name.removeprefix("eq9_"): row["value"] for (name, site), row in rows.items() if site == "1"}
    bound = term["scale"] * term["gradient"] * (1 - term["mean_term"] - term["correlation_term"])
    assert term["gradient_in"] == pytest.approx(bound, rel=1e-4)
    assert 0 < term["mean_term"] < 1
    assert term["correlation_term"] > 0
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} was changed by measuring"


class Residual(nn.Module):
    """A pre-activation block of one channel: BN's input also goes past it. BN is called by the name of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.bn = nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1, eps=1e-10)
        self.after, self.head = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(1, 3)

    def forward(self, images):
        hidden = self.before(images)
        return self.head((hidden + self.after(torch.relu(self.bn(input=hidden)))).square().mean((2, 3)))


def test_equation_9_is_about_bn_alone_where_its_input_goes_past_it():
    torch.manual_seed(0)
    rows = measured(Residual(), torch.randn(64, 1, 6, 6), torch.randint(0, 3, (64,)), batch_size=32)
    term = {name.removeprefix("eq9_"): row["value"] for (name, site), row in rows.items() if site == "bn"}
    bound = term["scale"] * term["gradient"] * (1 - term["mean_term"] - term["correlation_term"])
    assert term["gradient_in"] == pytest.approx(bound, rel=1e-4)


class Scaled(nn.Module):
    """A scale of the logits, as contrastive networks have: a parameter without dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.head = nn.Parameter(torch.tensor(2.0)), nn.Linear(9, 3, bias=False)

    def forward(self, images):
        return self.scale * self.head(images.flatten(1))


def test_a_parameter_without_dimensions_is_measured_as_any_other():
    torch.manual_seed(0)
    network, images, labels = Scaled(), torch.randn(16, 1, 3, 3), torch.randint(0, 3, (16,))
    rows = measured(network, images, labels, groups=1, batch_size=8)  # one group of all images
    per_image = per_image_gradients(network, images, labels)
    exact = sum(float(values.reshape(len(values), -1).var(0).sum()) for values in per_image)
    assert rows["gradient_noise", ""]["value"] == pytest.approx(exact, rel=1e-5)


def test_the_watch_reads_norms_and_distances_of_consecutive_gradients():
    layer = nn.Linear(3, 1, bias=False)
    watch = GradientWatch(layer)
    gradients = [torch.tensor([[3.0, 4.0, 0.0]]), torch.tensor([[0.0, 4.0, 0.0]]), torch.tensor([[0.0, 0.0, 12.0]])]
    for gradient in gradients:
        layer.weight.grad = gradient
        watch.step()
    values = {row["probe"]: row["value"] for row in watch.rows(Moment(1, 0))}
    assert values["gradient_norm_min"] == pytest.approx(4)
    assert values["gradient_norm_max"] == pytest.approx(12)
    assert values["gradient_norm_mean"] == pytest.approx((5 + 4 + 12) / 3)
    assert values["gradient_change_max"] == pytest.approx(np.hypot(4, 12))
    assert values["gradient_change_mean"] == pytest.approx((3 + np.hypot(4, 12)) / 2)


def test_measuring_changes_no_weight_and_survives_an_interruption(digits):
    def network():
        return build("resnet8", digits.shape, seed=0)

    plain, watched, stopped = network(), network(), network()
    without = train(plain, digits, RECIPE, seed=3)
    whole = train(watched, digits, RECIPE, seed=3, probes=WATCHED)
    slot = MemorySlot()
    with pytest.raises(Stop):
        train(stopped, digits, RECIPE, seed=3, probes=WATCHED, slot=slot, on_epoch=stopping_after(3), slot_interval_s=0)
    resumed = train(network(), digits, RECIPE, seed=3, probes=WATCHED, slot=slot)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name
    assert timeless(without) == timeless(whole)
    assert without.probes == ()

    def comparable(result):
        return [{key: value for key, value in row.items() if key != "duration_s"} for row in result.probes]

    assert comparable(whole) == comparable(resumed)
    noise = {row["epoch"]: row["value"] for row in whole.probes if row["probe"] == "gradient_noise"}
    assert set(noise) == {0, 2, 4}
    smooth = [row["epoch"] for row in whole.probes if row["probe"] == "gradient_norm_max"]
    assert smooth == [2, 4]
    sites = {row["site"] for row in whole.probes if row["probe"] == "eq9_scale"}
    assert len(sites) == 9


def test_dropout_in_a_measurement_follows_the_run_s_seed(digits):
    def probes(state):
        torch.manual_seed(state)
        network = nn.Sequential(build("resnet8", digits.shape, seed=0), nn.Dropout(0.5))
        result = train(network, digits, RECIPE, seed=3, probes=WATCHED)
        return [(row["probe"], row["site"], row["epoch"], row["value"]) for row in result.probes]

    assert probes(1) == probes(2)


def test_the_budget_is_a_number_of_images():
    assert moments((0, 0.1, 0.5, 1), 15) == {0, 2, 8, 15}
    assert moments((0.07, 0.55), 100) == {7, 55}  # both products are a little more than that
    long = {"cost_frac": 0.05, "epochs": 15, "images": 10_000, "batch_size": 64, "moments": 3}
    # 1667 images a moment: 833 of them at twice the price, in groups of 16; 833 in pairs of 64
    assert sizes(**long, precision="fp32") == Sizes(26, 6)
    # beside steps in bf16, which take half as long, half as many
    assert sizes(**long, precision="bf16") == Sizes(13, 3)
    assert sizes(**{**long, "cost_frac": 1.0}, precision="fp32") == Sizes(32, 16)  # more is of no use
    short = {"cost_frac": 0.001, "epochs": 1, "images": 1000, "batch_size": 64, "moments": 3}
    assert sizes(**short, precision="fp32") == Sizes(3, 3)


class Skipping(nn.Module):
    """BN before anything else, a frozen layer before a BN, and a layer that every other step leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.frozen, self.second = nn.BatchNorm2d(1), nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.sometimes, self.head = nn.Conv2d(4, 4, 1), nn.Linear(4 * 36, 10)
        self.frozen.requires_grad_(False)
        self.steps = 0

    def forward(self, images):
        self.steps += self.training
        hidden = torch.relu(self.second(self.frozen(self.first(images))))
        return self.head((self.sometimes(hidden) if self.steps % 2 else hidden).flatten(1))


def test_networks_that_are_not_like_ours_are_measured_too(digits):
    recipe = Training(epochs=1, batch_size=64, augment=Augment())
    torch.manual_seed(0)
    result = train(Skipping(), digits, recipe, seed=0, probes=Probes(at=(1.0,), cost_frac=0.05))
    sites = {row["site"] for row in result.probes if row["probe"].startswith("eq9")}
    assert sites == {"first", "second"}
    assert {"gradient_norm_mean", "gradient_change_mean", "gradient_noise"} <= {row["probe"] for row in result.probes}
    assert all(np.isfinite(row["value"]) for row in result.probes)


def test_single_images_have_no_gradient_where_bn_keeps_no_statistics(digits):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 10)
    )
    result = train(
        network,
        digits,
        Training(epochs=1, batch_size=64, augment=Augment()),
        seed=0,
        probes=Probes(at=(1.0,), cost_frac=0.05),
    )
    named = {row["probe"]: row for row in result.probes}
    assert named["gradient_noise_batch"]["value"] > 0
    assert named["gradient_noise"]["value"] is None
    assert named["gradient_noise"]["samples"] == 0
