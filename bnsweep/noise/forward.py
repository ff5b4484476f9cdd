"""A network laid out for repeated forward passes: BN folded away at load time, channels last, fp32 or bf16.

In eval mode BN is an affine map with constants, so y = BN(conv(x)) is a convolution with other weights:
with s = gamma / sqrt(var + epsilon), w' = s * w and b' = beta + s * (b - mean). It costs nothing per image
when it is done to the weights, after the noise, once per draw. A variance below -epsilon makes s NaN,
so the channel is NaN as it is with BN itself. `ChannelBias` is the case s = 1.

Folding is used only where a comparison with the unfolded network confirms it; any other network is run as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bnsweep.training.sites import BATCH_NORM, PRODUCERS, ChannelBias, foldable

__all__ = ["Forward", "full_fp32"]


@dataclass(frozen=True, slots=True)
class _Fold:
    """A site (BN or `ChannelBias`) and the convolution or linear layer that it follows."""

    site: str
    producer: str


class Forward:
    """Logits of networks that share one structure.

    Args:
        network: gives the structure (fp32, eval mode); not kept.
        example: (B, ...) float32 inputs.
        dtype: of the forward pass.
    """

    def __init__(self, network: nn.Module, *, example: Tensor, dtype: torch.dtype) -> None:
        self._folds = _confirmed(network, example)
        self._module = _without_sites(network, self._folds).to(dtype)
        if example.ndim == 4:
            self._module = self._module.to(memory_format=torch.channels_last)

    @property
    def folded(self) -> int:
        """How many sites are folded into the layer before them."""
        return len(self._folds)

    @torch.no_grad()
    def load(self, source: nn.Module) -> None:
        """Take the values of `source`, a network of the same structure, in fp32."""
        _load(self._module, source, self._folds)

    def __call__(self, inputs: Tensor) -> Any:
        return self._module(inputs)


def _without_sites(network: nn.Module, folds: list[_Fold]) -> nn.Module:
    """A copy in which folded sites do nothing and the layers before them have a bias."""
    module = copy.deepcopy(network)
    for each in folds:
        module.set_submodule(each.site, nn.Identity())
        producer: Any = module.get_submodule(each.producer)
        if producer.bias is None:
            producer.bias = nn.Parameter(producer.weight.new_zeros(len(producer.weight)), requires_grad=False)
    return module


def _load(module: nn.Module, source: nn.Module, folds: list[_Fold]) -> None:
    theirs = {**dict(source.named_parameters()), **dict(source.named_buffers())}
    skipped = {f"{each.producer}.{own}" for each in folds for own in ("weight", "bias")}
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if name not in skipped:
            tensor.copy_(theirs[name])
    for each in folds:
        producer, target = source.get_submodule(each.producer), module.get_submodule(each.producer)
        _fold_into(target, producer, source.get_submodule(each.site))


def _fold_into(target: Any, producer: Any, site: Any) -> None:
    weight, bias = producer.weight, producer.bias
    if isinstance(site, ChannelBias):
        target.weight.copy_(weight)
        target.bias.copy_(site.bias if bias is None else site.bias + bias)
        return
    # rsqrt, not a reciprocal of sqrt(abs): a negative variance must stay NaN.
    scale = torch.rsqrt(site.running_var + site.eps)
    if site.weight is not None:
        scale = scale * site.weight
    torch.mul(weight, scale.view(-1, *[1] * (weight.ndim - 1)), out=target.weight)
    shift = site.running_mean if bias is None else site.running_mean - bias
    target.bias.copy_((0 if site.bias is None else site.bias) - shift * scale)


def _confirmed(network: nn.Module, example: Tensor) -> list[_Fold]:
    """The folds after which the network still computes the same, or none."""
    folds = _possible(network, example)
    if not folds:
        return []
    probe = _scrambled(network)
    try:
        folded = _without_sites(probe, folds)
        with torch.no_grad(), full_fp32():
            _load(folded, probe, folds)
            wanted, got = probe(example.clone()), folded(example.clone())
    except Exception:  # noqa: BLE001 - a forward that looks into its BN modules breaks in its own way
        return []
    if not (isinstance(wanted, Tensor) and isinstance(got, Tensor) and wanted.shape == got.shape):
        return []
    close = (wanted - got).abs().max() <= 1e-3 * wanted.abs().max()
    return folds if bool(close) else []


@contextmanager
def full_fp32() -> Iterator[None]:
    """No TF32 in cuDNN's convolutions, where torch has it by default: its error is about as large as a wrong fold's."""
    # Not `cudnn.allow_tf32`, which cannot be read where this was set.
    conv: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before, conv.fp32_precision = conv.fp32_precision, "ieee"
    try:
        yield
    finally:
        conv.fp32_precision = before


def _possible(network: nn.Module, example: Tensor) -> list[_Fold]:
    """Sites that directly follow a convolution or linear layer, each layer at most once."""
    folds: dict[str, _Fold] = {}
    own = {name for name, _ in network.named_parameters()}
    for site, producer in foldable(network, example, (*BATCH_NORM, ChannelBias))[0]:
        if isinstance(network.get_submodule(producer), PRODUCERS) and f"{producer}.weight" in own:
            folds.setdefault(producer, _Fold(site, producer))
    return list(folds.values())


def _scrambled(network: nn.Module) -> nn.Module:
    """A copy with BN constants that no fold could get right by chance (an untrained BN does almost nothing)."""
    probe = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(0)
    for module in probe.modules():
        if isinstance(module, ChannelBias):
            _uniform(module.bias, -0.1, 0.1, generator)
        if isinstance(module, BATCH_NORM):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.1, 0.1),
                (module.running_mean, -0.1, 0.1),
                (module.running_var, 0.5, 1.5),
            ):
                if tensor is not None:
                    _uniform(tensor, low, high, generator)
    return probe


@torch.no_grad()
def _uniform(tensor: Tensor, low: float, high: float, generator: torch.Generator) -> None:
    tensor.copy_(torch.rand(tensor.shape, generator=generator).mul_(high - low).add_(low))
