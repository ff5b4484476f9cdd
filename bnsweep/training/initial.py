"""Initial values: every kernel from a stream keyed by (seed, parameter name).

Two placements of one network therefore start from the same values in every parameter they share, and
adding a layer changes no other layer's draw.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from bnsweep.errors import UnknownNameError
from bnsweep.training.streams import stream

__all__ = ["INITIALISERS", "KERNEL_LAYERS", "initialise"]

# The layers whose `weight` is a kernel: initialised and decayed as such. Noise hits recurrent and attention layers too.
KERNEL_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)

Values = npt.NDArray[np.float32]


def glorot_uniform(numbers: np.random.Generator, shape: tuple[int, ...]) -> Values:
    """Uniform on +-sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010, eq. 16)."""
    fan_in, fan_out = _fans(shape)
    bound = np.float32(sqrt(6 / (fan_in + fan_out)))
    return (numbers.random(shape, dtype=np.float32) * 2 - 1) * bound


def he_normal(numbers: np.random.Generator, shape: tuple[int, ...]) -> Values:
    """Normal with variance 2 / fan_in, not truncated (He et al. 2015, eq. 10)."""
    fan_in, _ = _fans(shape)
    return numbers.standard_normal(shape, dtype=np.float32) * np.float32(sqrt(2 / fan_in))


INITIALISERS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Values]] = {
    "glorot_uniform": glorot_uniform,
    "he_normal": he_normal,
}


@torch.no_grad()
def initialise(network: nn.Module, init: str, *, seed: int) -> None:
    """Draw every kernel anew and set the biases beside them to zero, in place.

    Everything else (BN's gamma = 1 and beta = 0, a class token, ...) keeps the value its module gave it.

    Raises:
        UnknownNameError: no such initialiser.
    """
    if init not in INITIALISERS:
        raise UnknownNameError("initialiser", init, INITIALISERS)
    for path, module in network.named_modules():
        if isinstance(module, KERNEL_LAYERS):
            values = INITIALISERS[init](stream("initial", seed, f"{path}.weight"), tuple(module.weight.shape))
            module.weight.copy_(torch.from_numpy(values))
            if module.bias is not None:
                module.bias.zero_()


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan_in, fan_out) of a kernel (out, in, *window): channels times the window's size."""
    window = int(np.prod(shape[2:]))
    return shape[1] * window, shape[0] * window
