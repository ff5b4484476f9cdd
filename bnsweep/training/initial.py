"""Initial values: every kernel from a stream keyed by (seed, parameter name).

Two placements of one network therefore start from the same values in every parameter they share, and
adding a layer changes no other layer's draw.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod, sqrt

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bnsweep.errors import ModelError, UnknownNameError
from bnsweep.training.streams import stream

__all__ = ["INITIALISERS", "KERNEL_LAYERS", "initialise", "kernel_parameters"]

# The layers whose `weight` is a kernel: initialised and decayed as such. Noise hits recurrent and attention layers too.
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
KERNEL_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED, nn.Linear)

Values = npt.NDArray[np.float32]
Fans = tuple[int, int]


def glorot_uniform(numbers: np.random.Generator, shape: tuple[int, ...], fans: Fans) -> Values:
    """Uniform on +-sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010, eq. 16)."""
    bound = np.float32(sqrt(6 / sum(fans)))
    return (numbers.random(shape, dtype=np.float32) * 2 - 1) * bound


def he_normal(numbers: np.random.Generator, shape: tuple[int, ...], fans: Fans) -> Values:
    """Normal with variance 2 / fan_in, not truncated (He et al. 2015, eq. 10)."""
    return numbers.standard_normal(shape, dtype=np.float32) * np.float32(sqrt(2 / fans[0]))


INITIALISERS: dict[str, Callable[[np.random.Generator, tuple[int, ...], Fans], Values]] = {
    "glorot_uniform": glorot_uniform,
    "he_normal": he_normal,
}


@torch.no_grad()
def initialise(network: nn.Module, init: str, *, seed: int) -> None:
    """Draw every kernel anew and set the biases beside them to zero, in place.

    Everything else (BN's gamma = 1 and beta = 0, a class token, ...) keeps the value its module gave it.

    Raises:
        UnknownNameError: no such initialiser.
        ModelError: a kernel that is computed from other parameters, which cannot be found from its values.
    """
    if init not in INITIALISERS:
        raise UnknownNameError("initialiser", init, INITIALISERS)
    for path, module in network.named_modules():
        if isinstance(module, KERNEL_LAYERS):
            shape = tuple(module.weight.shape)
            values = INITIALISERS[init](stream("initial", seed, f"{path}.weight"), shape, _fans(module))
            _set_kernel(path, module, torch.from_numpy(values))
            if module.bias is not None:
                module.bias.zero_()


def kernel_parameters(layer: nn.Module) -> list[nn.Parameter]:
    """The kernel of one of `KERNEL_LAYERS`, or what it is computed from."""
    if parametrize.is_parametrized(layer, "weight"):
        return list(layer.get_submodule("parametrizations.weight").parameters())
    # Hooks of the older kind compute a plain tensor, whose parameters are not known here.
    return [layer.weight] if isinstance(layer.weight, nn.Parameter) else []


def _set_kernel(path: str, module: nn.Module, values: Tensor) -> None:
    if not parametrize.is_parametrized(module, "weight"):
        module.weight.copy_(values)  # type: ignore[operator]
        return
    try:
        module.weight = values  # its parametrization finds the parameters that give it
    except (NotImplementedError, RuntimeError) as error:
        raise ModelError(
            f"the kernel of {path} cannot be given initial values: {error}. Give its parametrization a right_inverse"
        ) from error


def _fans(module: nn.Module) -> Fans:
    """(fan_in, fan_out) of a layer's kernel: channels times the window's size."""
    first, second, *window = module.weight.shape  # type: ignore[misc]
    size = prod(window)
    if isinstance(module, TRANSPOSED):  # (in, out / groups, *window)
        return first // module.groups * size, second * size
    return second * size, first * size  # (out, in / groups, *window)
