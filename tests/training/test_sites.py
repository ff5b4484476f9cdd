"""Finding, placing and folding BN in networks that were not made for it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bnsweep.errors import ModelError, PlacementError
from bnsweep.training import models
from bnsweep.training.images import DataShape
from bnsweep.training.models import build
from bnsweep.training.sites import BATCH_NORM, ChannelBias, find_sites, fold, fold_plan, place

SHAPES = {
    "resnet8": DataShape(1, 16, 10),
    "vgg-small": DataShape(1, 16, 10),
    "torchvision:resnet18": DataShape(3, 16, 10),
    "torchvision:mobilenet_v2": DataShape(3, 16, 10),
}


def example_of(shape: DataShape, images: int = 2) -> torch.Tensor:
    return torch.randn(images, shape.channels, shape.size, shape.size, generator=torch.Generator().manual_seed(7))


def worn(network: nn.Module) -> nn.Module:
    """BN with values as after training, none at its initial one."""
    numbers = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, BATCH_NORM):
            module.running_mean.normal_(generator=numbers)
            module.running_var.uniform_(0.5, 2, generator=numbers)
            nn.init.normal_(module.weight, generator=numbers)
            nn.init.normal_(module.bias, generator=numbers)
    return network.eval()


@pytest.mark.parametrize("name", SHAPES)
def test_folding_changes_nothing_but_rounding(name):
    network, example = worn(build(name, SHAPES[name], seed=0)).double(), example_of(SHAPES[name], 4).double()
    folded = fold(network, example=example)
    assert not [module for module in folded.modules() if isinstance(module, BATCH_NORM)]
    with torch.no_grad():
        torch.testing.assert_close(folded(example), network(example), rtol=1e-12, atol=1e-12)


def test_folding_by_hand():
    # gamma (w x + b - mean) / sqrt(var + eps) + beta; w = 2, b = 1, gamma = 5, beta = 6, mean = 3, var + eps = 3 + 1.
    network = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1, eps=1.0)).eval()
    for values, number in zip((*network.parameters(), *list(network.buffers())[:2]), (2, 1, 5, 6, 3, 3), strict=True):
        values.data.fill_(number)
    folded = fold(network, example=torch.ones(2, 1))
    assert (folded[0].weight.item(), folded[0].bias.item()) == (2 * 5 / 2, (1 - 3) * 5 / 2 + 6)


def test_a_network_of_both_kinds_of_site_folds():
    shape = SHAPES["resnet8"]
    network, example = build("resnet8", shape, seed=0), example_of(shape)
    placed = worn(place(network, "101010101", example=example)).double()
    assert [bn for bn, _ in fold_plan(placed, example.double())] == [s.path for s in find_sites(network, example)][::2]
    torch.testing.assert_close(fold(placed, example=example.double())(example.double()), placed(example.double()))


def test_the_plan_pairs_each_bn_with_its_layer():
    shape = SHAPES["resnet8"]
    plan = fold_plan(build("resnet8", shape, seed=0), example_of(shape))
    assert plan[:2] == [("stem.site", "stem.conv"), ("stages.0.0.site1", "stages.0.0.conv1")]
    assert plan[-1] == ("stages.2.0.shortcut.site", "stages.2.0.shortcut.conv")


def test_densenet_says_which_bn_follow_no_layer():
    network = build("torchvision:densenet121", DataShape(3, 16, 10), seed=0)
    with pytest.raises(ModelError, match=r"denseblock1.denselayer1.norm1.* and \d+ more follows? no convolution"):
        fold(network, example=example_of(DataShape(3, 16, 10)))


class Branching(nn.Module):
    """Uses the convolution's output beside its BN in one of several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 1)
        self.bn = nn.BatchNorm2d(2)
        self.way = way

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.conv(x)
        match self.way:
            case "added":
                return self.bn(made) + made
            case "changed":
                return self.bn(made.mul_(2))
            case "viewed":
                return self.bn(made) + made.view(-1).sum()
            case "twice":
                return self.bn(self.other(self.bn(made)))
            case "returned":
                return self.bn(made), made  # type: ignore[return-value]
            case _:
                return self.bn(torch.relu(made))


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("added", "bn follows a layer whose output is also used elsewhere"),
        ("changed", "also used elsewhere"),
        ("viewed", "also used elsewhere"),
        ("returned", "also used elsewhere"),
        ("twice", "used several times"),
        ("activation", r"follows no convolution \(a transposed one does not count\) or linear layer"),
    ],
)
def test_what_cannot_be_folded_is_refused(way, message):
    with pytest.raises(ModelError, match=message):
        fold(Branching(way), example=torch.randn(2, 1, 5, 5))


def test_bn_over_another_dimension_than_the_layer_s_own_is_refused():
    network = nn.Sequential(nn.Linear(16, 7), nn.BatchNorm1d(5)).eval()
    with pytest.raises(ModelError, match="1 normalises another dimension than the one that the layer before it makes"):
        fold(network, example=torch.randn(8, 5, 16))


class Casting(nn.Sequential):
    """Makes float32 of what it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.float())


def test_a_network_that_makes_float32_of_its_input_folds():
    network, example = worn(Casting(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))), torch.randn(2, 1, 5, 5)
    with torch.no_grad():
        torch.testing.assert_close(fold(network, example=example)(example), network(example), rtol=1e-5, atol=1e-5)


def test_bn_is_taken_out_under_each_of_its_names():
    bn = nn.BatchNorm2d(4)
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), bn, nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), bn)
    placed = place(network, "0", example=torch.randn(2, 1, 5, 5))
    assert placed[1] is placed[4]
    assert not [module for module in placed.modules() if isinstance(module, BATCH_NORM)]


def test_batch_statistics_cannot_be_folded():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False))
    with pytest.raises(ModelError, match="keeps no running statistics"):
        fold(network, example=torch.randn(2, 1, 5, 5))


@pytest.mark.parametrize("name", ["resnet8", "torchvision:mobilenet_v2"])
def test_placements_share_the_initial_values_of_what_they_share(name):
    shape = SHAPES[name]
    network, example = build(name, shape, seed=5), example_of(shape)
    sites = find_sites(network, example)
    mask = "10" * (len(sites) // 2) + "1" * (len(sites) % 2)
    placed, bare = place(network, mask, example=example), place(network, "0" * len(sites), example=example)
    for other in (placed, bare):
        theirs = dict(other.named_parameters())
        for path, values in network.named_parameters():
            if path in theirs and path.rpartition(".")[0] not in {site.path for site in sites}:
                assert torch.equal(values, theirs[path])
    for site, digit in zip(sites, mask, strict=True):
        kept = placed.get_submodule(site.path)
        assert isinstance(kept, BATCH_NORM if digit == "1" else ChannelBias)
        assert not bare.get_submodule(site.path).bias.any()
    kept_paths = [site.path for site, digit in zip(sites, mask, strict=True) if digit == "1"]
    assert [site.path for site in find_sites(placed, example)] == kept_paths
    assert len(find_sites(network, example)) == len(sites)  # the network itself is untouched


def test_a_channel_bias_adds_one_number_per_channel():
    layer = ChannelBias(3)
    layer.bias.data[:] = torch.tensor([1.0, 2.0, 3.0])
    for shape in ((2, 3), (2, 3, 4), (2, 3, 4, 5)):
        added = layer(torch.zeros(shape))
        assert added.shape == shape
        assert torch.equal(added.flatten(2).mean(-1) if len(shape) > 2 else added, torch.tensor([[1.0, 2.0, 3.0]] * 2))


@pytest.mark.parametrize("mask", ["1", "0" * 10, "10101010x"])
def test_a_mask_must_fit(mask):
    shape = SHAPES["resnet8"]
    with pytest.raises(PlacementError, match=r"one digit, 0 or 1, for each of 9 sites.*stages.1.0.shortcut.site"):
        place(build("resnet8", shape, seed=0), mask, example=example_of(shape))


def test_looking_leaves_no_trace():
    shape = SHAPES["vgg-small"]
    network = build("vgg-small", shape, seed=0)
    network.groups[1].eval()
    before = {path: values.clone() for path, values in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    find_sites(network, example_of(shape))
    fold_plan(network, example_of(shape))
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(before[path], values) for path, values in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


class WithActivation(nn.BatchNorm2d):
    """Does more than BN."""

    def forward(self, input):  # noqa: A002
        return super().forward(input).relu()


class Unusual(nn.Module):
    """BN with an activation, BN that is called by keyword, BN after an activation."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)
        self.a, self.b, self.c = WithActivation(4), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 10)

    def forward(self, x):
        x = self.b(input=self.second(self.a(self.first(x))))
        return self.head(self.c(x.relu()).mean((2, 3)))


def test_what_can_be_done_with_each_site_is_known_before_anything_is_trained():
    for device in ("cpu", "meta"):
        with torch.device(device):
            found = models._inspect("unusual", Unusual(), DataShape(channels=1, size=8, classes=10), device=device)
        assert [site.path for site in found.sites] == ["a", "b", "c"]
        assert found.fixed == ("a",)
        reasons = dict(found.unfoldable)
        assert set(reasons) == {"a", "c"}
        assert "a forward of its own" in reasons["a"]
        assert reasons["c"].startswith("follows no convolution")
    plain = models.describe("resnet8", DataShape(1, 8, 10))
    assert plain.fixed == plain.unfoldable == ()
