"""Biases added by the layer before: the same network, quicker, and as it was afterwards."""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from bnsweep.training.lending import biases_lent
from bnsweep.training.models import build
from bnsweep.training.sites import ChannelBias, find_sites, place
from tests.training.test_sites import SHAPES, example_of


class Branching(nn.Module):
    """The first convolution's output is used elsewhere too; a bias and a weight norm of its own on what follows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, bias=False), weight_norm(nn.Conv2d(4, 4, 1))
        self.output = nn.Linear(4, 2)
        self.sites = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm1d(2)])

    def forward(self, x):
        x = self.first(x)
        x = functional.relu(self.sites[0](x)) + x
        x = functional.relu(self.sites[1](input=self.second(input=x)))
        return self.sites[2](self.output(x.mean((2, 3))))


def without_bn(network: nn.Module, example: torch.Tensor, mask: str = "") -> nn.Module:
    """Biases as after training, where the mask (default: everywhere) has a 0."""
    placed = place(network, mask or "0" * len(find_sites(network, example)), example=example)
    numbers = torch.Generator().manual_seed(3)
    for module in placed.modules():
        if isinstance(module, ChannelBias):
            nn.init.normal_(module.bias, generator=numbers)
    return placed.double()


def gradients(network: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    network.zero_grad()
    logits = network(images)
    logits.square().sum().backward()
    return logits.detach(), {name: p.grad.clone() for name, p in network.named_parameters()}


@pytest.mark.parametrize(
    ("name", "mask"),
    [("resnet8", "0" * 9), ("resnet8", "101010101"), ("vgg-small", "0" * 7), ("torchvision:mobilenet_v2", "0" * 52)],
)
def test_it_computes_and_learns_the_same(name, mask):
    example = example_of(SHAPES[name])
    network = without_bn(build(name, SHAPES[name], seed=0), example, mask).eval()  # no dropout
    state = network.state_dict()
    logits, plain = gradients(network, example.double())
    with biases_lent(network, example=example.double()) as count:
        assert count == mask.count("0")
        assert list(network.state_dict()) == list(state)
        lent_logits, theirs = gradients(network, example.double())
        copied = deepcopy(network)
    torch.testing.assert_close(lent_logits, logits, rtol=1e-9, atol=1e-9)
    assert list(theirs) == list(plain)
    for path, values in plain.items():
        torch.testing.assert_close(theirs[path], values, rtol=1e-7, atol=1e-9 * float(values.abs().max()))
    assert not any("forward" in vars(module) for module in network.modules())
    assert torch.equal(gradients(network, example.double())[0], logits)
    # A copy stands on its own.
    for parameter in network.parameters():
        parameter.data.zero_()
    torch.testing.assert_close(copied(example.double()), logits, rtol=1e-9, atol=1e-9)


def test_only_where_nothing_else_sees_the_layer_before():
    example = torch.randn(3, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    network = without_bn(Branching().double(), example)
    logits, plain = gradients(network, example)
    with biases_lent(network, example=example) as count:
        assert count == 2
        lent_logits, theirs = gradients(network, example)
        # The probes put other values in the place of a network's parameters.
        moved = {name: values + 1 for name, values in network.named_parameters()}
        swapped = functional_call(network, moved, (example,))
    torch.testing.assert_close(lent_logits, logits)
    torch.testing.assert_close(theirs, plain)
    torch.testing.assert_close(swapped, functional_call(network, moved, (example,)))


def test_a_layer_with_a_forward_of_its_own_keeps_it():
    example = example_of(SHAPES["resnet8"])
    network = without_bn(build("resnet8", SHAPES["resnet8"], seed=0), example)
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    first.forward = lambda x: 2 * type(first).forward(first, x)
    logits = network(example.double())
    with biases_lent(network, example=example.double()) as count:
        assert count == 8
        torch.testing.assert_close(network(example.double()), logits)
    assert "forward" in vars(first)


class Tokens(nn.Module):
    """Biases per token, the middle axis; a linear layer's own lie along the last."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.first, self.site, self.output = nn.Linear(6, features), nn.BatchNorm1d(6), nn.Linear(features, 2)

    def forward(self, x):
        return self.output(functional.relu(self.site(self.first(x.mean(1)))).mean(1))


class InTraining(nn.Module):
    """Something between a convolution and its site, or beside it, that evaluation does not have."""

    def __init__(self, between: nn.Module, *, beside: bool = False) -> None:
        super().__init__()
        self.first, self.between, self.site = nn.Conv2d(3, 4, 3), between, nn.BatchNorm2d(4)
        self.second, self.site2, self.output = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2)
        self.beside = beside

    def forward(self, x):
        x = self.first(x)
        y = functional.relu(self.site(self.between(x)))
        if self.beside and self.training:
            y = y + x
        return self.output(functional.relu(self.site2(self.second(y))).mean((2, 3)))


class Picky(InTraining):
    """Takes batches of eight alone."""

    def forward(self, x):
        assert len(x) == 8
        return super().forward(x)


@pytest.mark.parametrize(
    ("network", "lent"),
    [
        (InTraining(nn.Identity()), 2),
        (InTraining(nn.Dropout(0.5)), 1),
        (InTraining(nn.Dropout2d(0.5)), 1),
        (InTraining(nn.Identity(), beside=True), 1),
        (Tokens(5), 0),
        (Tokens(6), 0),
        (Picky(nn.Identity()), 0),
    ],
)
def test_training_is_the_same(network, lent):
    images = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    placed = without_bn(network.double(), images).train()
    torch.manual_seed(5)
    logits, plain = gradients(placed, images)
    with biases_lent(placed, example=images[:4]) as count:
        assert count == lent
        torch.manual_seed(5)
        lent_logits, theirs = gradients(placed, images)
    torch.testing.assert_close(lent_logits, logits)
    torch.testing.assert_close(theirs, plain)


def test_biases_are_added_in_the_layer_s_dtype():
    images = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    placed = place(InTraining(nn.Identity()).double(), "00", example=images)
    assert placed.site.bias.dtype == torch.float32
    nn.init.normal_(placed.site.bias)
    logits = placed(images)
    with biases_lent(placed, example=images) as count:
        assert count == 2
        torch.testing.assert_close(placed(images), logits)


@pytest.mark.parametrize("lending", [True, False])
def test_activations_stay_as_narrow_as_with_bn(lending):
    """bf16 + fp32 is fp32: arms without BN would otherwise train with other activations, and slower."""
    example = example_of(SHAPES["resnet8"])
    network = without_bn(build("resnet8", SHAPES["resnet8"], seed=0), example).float()
    seen = []
    network.output.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].dtype))
    with biases_lent(network, example=example) if lending else nullcontext():
        seen.clear()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            network(example)
    assert seen == [torch.bfloat16]
