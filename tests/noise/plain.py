"""An independent, plain way to do a trial: deep copy, add, score. Shares nothing with bnsweep but the draws."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from bnsweep.noise.perturb import standard_normal
from bnsweep.training.sites import ChannelBias

BN = (nn.BatchNorm1d, nn.BatchNorm2d)
KERNELS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def kinds(network: nn.Module) -> dict[str, tuple[str, Tensor]]:
    """Name of each tensor -> (its kind, the tensor)."""
    found = {}
    for path, module in network.named_modules():
        own = dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
        for name, tensor in own.items():
            kind = ""
            if isinstance(module, KERNELS):
                kind = "bias" if name == "bias" else "weights"
            elif isinstance(module, ChannelBias):
                kind = "bias"
            elif isinstance(module, BN) and name in ("weight", "bias"):
                kind = "affine"
            elif isinstance(module, BN) and name.startswith("running"):
                kind = "all"
            found[f"{path}.{name}"] = (kind, tensor)
    return found


HIT = {
    "weights": {"weights"},
    "weights+bias": {"weights", "bias"},
    "weights+bias+affine": {"weights", "bias", "affine"},
    "all": {"weights", "bias", "affine", "all"},
}


def reference(name: str, tensor: Tensor, network: nn.Module) -> np.ndarray:
    """What eta multiplies, broadcast to the tensor's shape."""
    w = tensor.detach().double().numpy()
    if name == "tensor_std":
        value = np.sqrt(np.mean((w - w.mean()) ** 2))
    elif name == "tensor_max":
        value = np.abs(w).max()
    elif name == "channel_max":
        value = np.array([np.abs(row).max() for row in w]).reshape(-1, *[1] * (w.ndim - 1))
    elif name == "global_rms":
        kernels = [t.detach().double().numpy().ravel() for kind, t in kinds(network).values() if kind == "weights"]
        value = np.sqrt(np.mean(np.concatenate(kernels) ** 2))
    else:
        assert name == "absolute"
        value = 1.0
    return np.broadcast_to(value, w.shape)


def noisy(network: nn.Module, *, sigma_reference: str, targets: str, eta: float, seed: int) -> nn.Module:
    clone = copy.deepcopy(network).eval()
    for name, (kind, tensor) in kinds(network).items():
        if kind in HIT[targets]:
            draw = standard_normal(name, tensor.shape, seed=seed).double().numpy()
            value = tensor.detach().double().numpy() + eta * reference(sigma_reference, tensor, network) * draw
            clone.state_dict()[name].copy_(torch.from_numpy(value))
    return clone


def score(network: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[int, int]:
    """(right, images with a non-finite logit)."""
    with torch.no_grad():
        logits = network(inputs)
    return int((logits.argmax(1) == labels).sum()), int((~logits.isfinite().all(1)).sum())
