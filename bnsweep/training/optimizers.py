"""Adam with Keras' epsilon, SGD with Nesterov's momentum, and which parameters decay.

They are torch's own, less what they do for torch.compile: at its first call each method of theirs imports the
compiler (1,300 modules; 1.5 to 2.5 s and 160 MB of every process that trains), which is not used here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from bnsweep.training.initial import KERNEL_LAYERS, kernel_parameters

__all__ = ["OPTIMIZERS", "parameter_groups"]

Group = dict[str, Any]
Kind = TypeVar("Kind", bound=torch.optim.Optimizer)

COMPILED = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")  # and `step`, which sets the gradient mode


def _without_compiler(kind: type[Kind]) -> type[Kind]:
    """The optimizer as it is inside of the functions that torch.compile is told to leave alone."""
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in COMPILED}
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), methods)


_Adam = _without_compiler(torch.optim.Adam)
_SGD = _without_compiler(torch.optim.SGD)


def _adam(groups: list[Group], rate: float) -> torch.optim.Optimizer:
    """Adam with Keras' epsilon."""
    return _Adam(groups, rate, betas=(0.9, 0.999), eps=1e-7, fused=True)


def _sgd(groups: list[Group], rate: float) -> torch.optim.Optimizer:
    """Nesterov's momentum, 0.9."""
    return _SGD(groups, rate, momentum=0.9, nesterov=True, fused=True)


OPTIMIZERS: dict[str, Callable[[list[Group], float], torch.optim.Optimizer]] = {"adam": _adam, "sgd": _sgd}


def parameter_groups(network: nn.Module, weight_decay: float) -> list[Group]:
    """Kernels (where one is computed, as by weight_norm, what gives it) with weight decay, everything else without.

    `weight_decay * w` is added to a kernel's gradient before the optimizer sees it: the gradient of
    weight_decay / 2 * ||w||^2. Keras' l2(c) adds c * ||w||^2 to the loss, so it equals weight_decay = 2 c.
    """
    kernels: set[int] = set()
    for module in network.modules():
        if isinstance(module, KERNEL_LAYERS):
            kernels.update(map(id, kernel_parameters(module)))
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in network.parameters():
        if parameter.requires_grad:
            (decayed if id(parameter) in kernels else plain).append(parameter)
    groups = ({"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0})
    return [group for group in groups if group["params"]]
