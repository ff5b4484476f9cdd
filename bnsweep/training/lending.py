"""Networks without BN, trained as quickly as they can be: each `ChannelBias` lends its numbers to the layer before it.

A convolution adds a bias at no cost. A sum after it reads and writes the whole activation once more, in the forward
and in the backward pass, and with few channels innermost it is slow on a CPU: half of a step of ResNet-20.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from bnsweep.training.sites import ChannelBias, foldable

__all__ = ["biases_lent"]


@contextmanager
def biases_lent(network: nn.Module, *, example: Tensor) -> Iterator[int]:
    """While inside, the layer before a `ChannelBias` adds its numbers, wherever nothing else sees that layer's output.

    The network computes the same, but for rounding, and keeps its parameters, under their names; copies of it do as it
    does. Gives the number of layers that add for another.
    """
    lent: list[nn.Module] = []
    try:
        for path, producer in foldable(network, example, (ChannelBias,))[0]:
            site, layer = network.get_submodule(path), network.get_submodule(producer)
            # Not closures: copying a network copies what a partial holds, with the same memo.
            layer.forward = partial(_adding, layer, site)
            site.forward = _passing
            lent += [layer, site]
        yield len(lent) // 2
    finally:
        for module in lent:
            del module.forward


def _adding(layer: Any, site: Any, input: Tensor) -> Tensor:  # noqa: A002 - as torch's layers call it
    bias = site.bias if layer.bias is None else layer.bias + site.bias
    if isinstance(layer, nn.Linear):
        return functional.linear(input, layer.weight, bias)
    added: Tensor = layer._conv_forward(input, layer.weight, bias)
    return added


def _passing(input: Tensor) -> Tensor:  # noqa: A002
    return input
