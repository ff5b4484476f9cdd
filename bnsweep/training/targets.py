"""What of a network is a weight, a bias, or a parameter of BN: all that noise may hit.

Kernels and biases of convolutions, linear, recurrent and attention layers and of `ChannelBias`; scale and shift of
normalization layers; running statistics of batch normalization. Other buffers (a mask) and parameters of other modules
(embeddings, a `Parameter` used by hand) are never hit, unless they are tied to one that counts: tied parameters are one
parameter, hit once, under the name that the first layer which counts gives it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from bnsweep.errors import ModelError
from bnsweep.training.sites import BATCH_NORM, ChannelBias

__all__ = ["NOISY_LAYERS", "Target", "beyond_reach", "check_open", "targets_of"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NOISY_LAYERS = (*_CONVOLUTIONS, nn.Linear, nn.Bilinear, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)
_OTHER_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True, slots=True)
class Target:
    """One tensor of a network that noise may hit."""

    name: str
    kind: str  # kernel, bias, affine or statistic
    tensor: Tensor
    groups: int = 0  # of a transposed convolution's kernel, whose output channels are not its first dimension


def targets_of(network: nn.Module) -> Iterator[Target]:
    """Every tensor that some target set names, each once."""
    seen: set[int] = set()
    for path, module in network.named_modules():
        buffers = module.named_buffers(recurse=False) if isinstance(module, BATCH_NORM) else ()
        for own, tensor in (*module.named_parameters(recurse=False), *buffers):
            kind = _kind(module, own)
            if kind is None or id(tensor) in seen or tensor.numel() == 0:
                continue
            seen.add(id(tensor))
            transposed = isinstance(module, _TRANSPOSED) and kind == "kernel"
            name = f"{path}.{own}" if path else own
            yield Target(name, kind, tensor.detach(), int(module.groups) if transposed else 0)


def beyond_reach(network: nn.Module) -> dict[str, int]:
    """Name -> number of elements, of the parameters that no target set names."""
    reached: set[int] = set()
    others: dict[int, tuple[str, int]] = {}
    for path, module in network.named_modules():
        # What a kernel is computed from (weight normalization, say) is hit by way of that kernel.
        computed = module.parametrizations if parametrize.is_parametrized(module) else {}
        for own, parts in computed.items():
            if _kind(module, own) is not None:
                reached.update(map(id, parts.parameters()))
        for own, tensor in module.named_parameters(recurse=False):
            if _kind(module, own) is not None:
                reached.add(id(tensor))
            else:
                others.setdefault(id(tensor), (f"{path}.{own}" if path else own, tensor.numel()))
    return dict(others[key] for key in others if key not in reached)


def check_open(network: nn.Module, name: str) -> None:
    """Layers must be there to be seen and copied. Raises ModelError for a network by torch.jit, or a lazy one."""
    if any(isinstance(values, UninitializedParameter) for values in network.parameters()):
        raise ModelError(f"{name} has lazy parameters without values; run one forward pass first")
    for path, module in network.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            part = f"{path} of {name}" if path else name
            raise ModelError(
                f"{part} was scripted or traced, which hides its layers; give the nn.Module it was made from"
            )


def _kind(module: nn.Module, own: str) -> str | None:
    if isinstance(module, BATCH_NORM):
        return {"weight": "affine", "bias": "affine", "running_mean": "statistic", "running_var": "statistic"}.get(own)
    if isinstance(module, _OTHER_NORMS):
        return "affine" if own in ("weight", "bias") else None
    if isinstance(module, ChannelBias):
        return "bias" if own == "bias" else None
    if isinstance(module, NOISY_LAYERS):
        return "bias" if "bias" in own else "kernel"
    return None
