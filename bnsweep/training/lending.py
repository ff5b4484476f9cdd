"""Networks without BN, trained as quickly as they can be: each `ChannelBias` lends its numbers to the layer before it.

A convolution adds a bias at no cost. A sum after it reads and writes the whole activation once more, in the forward
and in the backward pass, and with few channels innermost it is slow on a CPU: a third of a step of ResNet-20 in bf16.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bnsweep.training.sites import ChannelBias, foldable

__all__ = ["biases_lent"]

Pair = tuple[str, str]  # paths of a ChannelBias and of the layer before it


@contextmanager
def biases_lent(network: nn.Module, *, example: Tensor) -> Iterator[int]:
    """While inside, the layer before a `ChannelBias` adds its numbers, wherever nothing else sees that layer's output.

    The network computes the same, but for rounding, and keeps its parameters, under their names; copies of it do as it
    does. Where a copy of it, tried on `example` (two images or more) in training and evaluation, does not compute the
    same or cannot be tried, nothing is lent. Gives the number of layers that add for another.
    """
    with _lent(network, pairs := _confirmed(network, example)):
        yield len(pairs)


@contextmanager
def _lent(network: nn.Module, pairs: Iterable[Pair]) -> Iterator[None]:
    patched: list[nn.Module] = []
    try:
        for path, producer in pairs:
            site, layer = network.get_submodule(path), network.get_submodule(producer)
            # Not closures: copying a network copies what a partial holds, with the same memo.
            layer.forward = partial(_adding, layer, site)
            site.forward = _passing
            patched += [layer, site]
        yield
    finally:
        for module in patched:
            del module.forward


def _confirmed(network: nn.Module, example: Tensor) -> list[Pair]:
    """What can be lent, by a copy in float64 with biases that no fault could hide behind (they begin at zero)."""
    if not any(isinstance(module, ChannelBias) for module in network.modules()):
        return []
    try:
        probe, images = deepcopy(network).double(), example.double()
        with torch.random.fork_rng(devices=[example.device] if example.is_cuda else []):
            # Dropout is nothing in evaluation mode, and a branch may be there in one mode alone.
            watched = (foldable(probe, images, (ChannelBias,), training=mode)[0] for mode in (False, True))
            evaluating, training = (list(pairs) for pairs in watched)
            pairs = [pair for pair in evaluating if pair in training]
            return pairs if all(_agree(probe, pairs, images, training=mode) for mode in (False, True)) else []
    except Exception:  # noqa: BLE001 - a network that cannot be tried trains as it is, and says itself what is wrong
        return []


@torch.no_grad()
def _agree(probe: nn.Module, pairs: list[Pair], images: Tensor, *, training: bool) -> bool:
    numbers = torch.Generator().manual_seed(0)
    for module in probe.modules():
        if isinstance(module, ChannelBias):
            module.bias.copy_(torch.randn(module.bias.shape, generator=numbers, dtype=torch.float64))
    probe.train(training)
    torch.manual_seed(0)
    plain = probe(images.clone())
    with _lent(probe, pairs):
        torch.manual_seed(0)
        lent = probe(images.clone())
    return bool((lent - plain).abs().max() <= 1e-9 * plain.abs().max())


def _adding(layer: Any, site: Any, input: Tensor) -> Tensor:  # noqa: A002 - as torch's layers call it
    bias = site.bias.to(layer.weight.dtype)
    if layer.bias is not None:
        bias = layer.bias + bias
    if isinstance(layer, nn.Linear):
        return functional.linear(input, layer.weight, bias)
    added: Tensor = layer._conv_forward(input, layer.weight, bias)
    return added


def _passing(input: Tensor) -> Tensor:  # noqa: A002
    return input
