"""BN sites of any network: find them, keep or replace BN at each, fold BN into what it follows.

Nothing here knows an architecture: sites are the BatchNorm layers that a forward pass meets, in its
order, and the layer that a BN follows is found by watching which tensor it is given.
"""

from __future__ import annotations

import inspect
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from bnsweep.errors import ModelError, PlacementError
from bnsweep.experiment.architecture import Site

__all__ = [
    "BATCH_NORM",
    "PRODUCERS",
    "ChannelBias",
    "does_more",
    "find_sites",
    "fold",
    "fold_plan",
    "foldable",
    "folded_values",
    "input_of",
    "place",
    "replace",
]

BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
PRODUCERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
# Names of the projection beside a residual branch: here, in torchvision's ResNets and RegNets, and in common code.
SHORTCUTS = {"shortcut", "downsample", "proj", "projection", "skip"}


class ChannelBias(nn.Module):
    """What stands at a site without BN: one trainable number per channel, added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - a network may call its layers by this name
        """(N, C) or (N, C, ...) in, the same shape and dtype out: autocast knows no rule for a sum, and widens it."""
        return input + self.bias.to(input.dtype).view(-1, *[1] * (input.dim() - 2))

    def extra_repr(self) -> str:
        """The number of channels."""
        return str(len(self.bias))


STOCK_FORWARDS = {kind.forward for kind in (*BATCH_NORM, *PRODUCERS, ChannelBias)}


def find_sites(network: nn.Module, example: Tensor) -> list[Site]:
    """The BN layers that a forward pass on `example` (N, C, H, W) meets, in its order; each once.

    The network is left as it was. A `meta` network and example cost neither memory nor arithmetic.
    """
    met: dict[str, tuple[nn.Module, tuple[int, ...]]] = {}
    hooks = []
    for path, module in network.named_modules():
        if isinstance(module, BATCH_NORM):

            def note(module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor], path: str = path) -> None:
                met.setdefault(path, (module, tuple(input_of(inputs, named).shape[2:])))

            hooks.append(module.register_forward_pre_hook(note, with_kwargs=True))
    try:
        with _mode(network, training=False):
            network(example.clone())  # some networks write into their input
    finally:
        for hook in hooks:
            hook.remove()
    resolutions = list(dict.fromkeys(resolution for _, resolution in met.values()))
    return [
        Site(path, int(module.num_features), resolutions.index(resolution) + 1, bool(SHORTCUTS & set(path.split("."))))  # type: ignore[arg-type]
        for path, (module, resolution) in met.items()
    ]


def place(network: nn.Module, mask: str, *, example: Tensor) -> nn.Module:
    """A copy of the network with BN where `mask` has a 1, and a zero ChannelBias at the same path where it has a 0.

    All other parameters keep their names and values.

    Raises:
        PlacementError: the mask has not one digit, 0 or 1, per site.
    """
    sites = find_sites(network, example)
    if len(mask) != len(sites) or not set(mask) <= {"0", "1"}:
        paths = ", ".join(site.path for site in sites) or "(none)"
        raise PlacementError(
            f"a mask has one digit, 0 or 1, for each of {len(sites)} sites, but got {mask!r}. Sites: {paths}"
        )
    placed = deepcopy(network)
    for site, digit in zip(sites, mask, strict=True):
        if digit == "0":
            old = placed.get_submodule(site.path)
            if does_more(old):
                raise PlacementError(
                    f"the BN layer {site.path} cannot be taken out: {type(old).__name__} does more than BN (an "
                    "activation, perhaps), which would go with it. Put what it does beside BN into a layer of its own"
                )
            replace(placed, old, ChannelBias(site.channels).to(_device_of(old)))
    return placed


def does_more(bn: nn.Module) -> bool:
    """Whether a BN layer has a forward of its own: an activation, perhaps, which would be taken out with it."""
    return _own_forward(bn)


def _own_forward(module: nn.Module) -> bool:
    return type(module).forward not in STOCK_FORWARDS or "forward" in vars(module)


def replace(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put `new` wherever `old` stands, under every name it has; in place."""
    new.train(old.training)
    for parent in list(network.modules()):
        for name, child in list(parent._modules.items()):  # named_children leaves out second names
            if child is old:
                setattr(parent, name, new)


def fold_plan(network: nn.Module, example: Tensor) -> list[tuple[str, str]]:
    """(path of the BN, path of the convolution or linear layer it follows), in forward order.

    Raises:
        ModelError: a BN that cannot be folded, with the reason: it follows none (a sum, a concatenation, an
            activation), the layer's output is used elsewhere too, or one of the two is used several times.
    """
    plan, faults = foldable(network, example)
    if faults:
        reasons = "; ".join(f"{_listed(paths)} {fault}" for fault, paths in faults.items())
        raise ModelError(
            f"BN cannot be folded in this {type(network).__name__}: {reasons}. Use another placement or bn_treatment"
        )
    return plan


def foldable(
    network: nn.Module, example: Tensor, kinds: tuple[type[nn.Module], ...] = BATCH_NORM, *, training: bool = False
) -> tuple[list[tuple[str, str]], dict[str, list[str]]]:
    """What `fold_plan` gives for layers of these kinds that can be folded, and the paths of the others by reason.

    `training`: watched in training mode, which updates what a network counts (running statistics, for one).
    """
    watch, given = _Watch(network, kinds), example.clone()  # some networks write into their input
    try:
        with _mode(network, training=training), watch:
            watch.uses.update(id(value) for value in tree_iter(network(given)))
    finally:
        watch.remove()
    plan: list[tuple[str, str]] = []
    faults: dict[str, list[str]] = defaultdict(list)
    for path, values in watch.given.items():
        producer = watch.made_by.get(id(values[0]))
        if fault := watch.fault(path, producer, values):
            faults[fault].append(path)
        elif producer is not None:
            plan.append((path, producer))
    return plan, faults


def folded_values(producer: nn.Module, bn: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of `producer` that do what producer and BN did (evaluation mode), in the weight's dtype.

    With s = gamma / sqrt(var + eps), per output channel: weight * s and (bias - mean) * s + beta, in float64.
    """
    weight = _double(producer, "weight")
    none = torch.zeros(len(weight), dtype=weight.dtype, device=weight.device)
    scale = _double(bn, "weight", none + 1) * torch.rsqrt(_double(bn, "running_var") + float(bn.eps))  # type: ignore[arg-type]
    bias = (_double(producer, "bias", none) - _double(bn, "running_mean")) * scale + _double(bn, "bias", none)
    dtype: torch.dtype = producer.weight.dtype  # type: ignore[assignment]
    return (weight * scale.view(-1, *[1] * (weight.dim() - 1))).to(dtype), bias.to(dtype)


def _double(module: nn.Module, name: str, default: Tensor | None = None) -> Tensor:
    """A parameter or buffer in float64; the default if the module does without."""
    values: Tensor | None = getattr(module, name)
    found = default if values is None else values
    assert found is not None
    return found.detach().double()


def fold(network: nn.Module, *, example: Tensor) -> nn.Module:
    """A copy without BN that computes the same in evaluation mode; the bias sits on the convolution or linear layer.

    Raises:
        ModelError: as `fold_plan`; or the folded network's output on `example` differs from the network's by more
            than rounding.
    """
    plan = fold_plan(network, example)
    if example.device.type != "meta":
        _check_fold(network, plan, example)
    return _fold_copy(network, plan)


@torch.no_grad()
def _fold_copy(network: nn.Module, plan: Iterable[tuple[str, str]]) -> nn.Module:
    folded = deepcopy(network)
    for bn_path, producer_path in plan:
        bn, producer = folded.get_submodule(bn_path), folded.get_submodule(producer_path)
        weight, bias = folded_values(producer, bn)
        producer.weight = nn.Parameter(weight)
        producer.bias = nn.Parameter(bias)
        replace(folded, bn, nn.Identity())
    return folded


def _check_fold(network: nn.Module, plan: list[tuple[str, str]], example: Tensor) -> None:
    rounding = 1e-9
    try:
        before, after = _both(deepcopy(network).double(), plan, example.double())
    except RuntimeError:  # it makes another type of what it is given
        rounding = 1e-3
        before, after = _both(network, plan, example)
    scale = float(before.abs().nan_to_num(0, 0, 0).max()) or 1.0
    if not torch.allclose(after, before, rtol=rounding, atol=rounding * scale, equal_nan=True):
        gap = float((after - before).abs().max())
        raise ModelError(
            f"folding BN changes the output of this {type(network).__name__} by {gap:.3g}; it does something between "
            "a layer and its BN that is not seen here. Use another bn_treatment"
        )


def _both(network: nn.Module, plan: list[tuple[str, str]], example: Tensor) -> tuple[Tensor, Tensor]:
    """Its output on `example` in evaluation mode, and the folded network's."""
    folded = _fold_copy(network, plan)
    with _mode(network, training=False), _mode(folded, training=False):
        return network(example.clone()), folded(example.clone())


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows tensors from the layer that made them to the operations that use them; `kinds` are to be folded."""

    def __init__(self, network: nn.Module, kinds: tuple[type[nn.Module], ...]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._network = network
        self.made: list[tuple[str, Tensor]] = []  # holding the tensors keeps their ids from being used again
        self.made_by: dict[int, str] = {}
        self.given: dict[str, list[Tensor]] = defaultdict(list)
        self.uses: Counter[int] = Counter()  # by anything but a layer to be folded
        watched: tuple[type[nn.Module], ...] = (*kinds, *PRODUCERS)
        # What does more than its kind, by a forward of its own or by hooks (which these here are not yet).
        self._more = {
            path
            for path, module in network.named_modules()
            if isinstance(module, watched)
            and (_own_forward(module) or module._forward_hooks or module._forward_pre_hooks)
        }
        self._inside = 0
        self._hooks: list[Any] = []
        for path, module in network.named_modules():
            if isinstance(module, kinds):
                self._hooks.append(module.register_forward_pre_hook(self._entering(path), with_kwargs=True))
                self._hooks.append(module.register_forward_hook(self._leaving))
            elif isinstance(module, PRODUCERS):
                self._hooks.append(module.register_forward_hook(self._making(path)))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self._inside:
            self.uses.update(id(value) for value in tree_iter((args, kwargs)) if id(value) in self.made_by)
        return func(*args, **(kwargs or {}))

    def fault(self, path: str, producer: str | None, values: list[Tensor]) -> str | None:
        """Why the layer at `path`, which was given `values`, cannot be folded into `producer`; None: it can."""
        if producer is None:
            return "follows no convolution (a transposed one does not count) or linear layer"
        layer, before = self._network.get_submodule(path), self._network.get_submodule(producer)
        if {path, producer} & self._more:
            return "or the layer before it has hooks, or a forward of its own, that do more than layers of their kind"
        if len(values) > 1 or sum(path == producer for path, _ in self.made) > 1:
            return "is used several times in one pass, or follows a layer that is"
        if isinstance(layer, BATCH_NORM) and layer.running_var is None:
            return "keeps no running statistics"
        if isinstance(layer, BATCH_NORM) and layer.num_features != len(before.weight):  # type: ignore[arg-type]
            return "normalises another dimension than the one that the layer before it makes"
        given = [value for given in self.given.values() for value in given if value is values[0]]
        if self.uses[id(values[0])] or len(given) > 1:
            return "follows a layer whose output is also used elsewhere"
        return None

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _entering(self, path: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            self._inside += 1
            self.given[path].append(input_of(inputs, named))

        return hook

    def _leaving(self, *_: Any) -> None:
        self._inside -= 1

    def _making(self, path: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            self.made.append((path, output))
            self.made_by[id(output)] = path

        return hook


# Torch wraps the method for torch.compile, and the wrapper's first call imports the compiler (see optimizers.py).
_Watch.__torch_dispatch__ = inspect.unwrap(_Watch.__torch_dispatch__)  # type: ignore[method-assign]


def input_of(inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> Tensor:
    """What a layer was called with, `bn(x)` or `bn(input=x)`."""
    return inputs[0] if inputs else next(iter(named.values()))


@contextmanager
def _mode(network: nn.Module, *, training: bool) -> Iterator[None]:
    """Training or evaluation mode, no gradients; each module's own mode comes back afterwards."""
    before = {module: module.training for module in network.modules()}
    network.train(training)
    try:
        with torch.no_grad():
            yield
    finally:
        for module, was_training in before.items():
            module.training = was_training


def _device_of(module: nn.Module) -> torch.device:
    for values in (*module.parameters(), *module.buffers()):
        return values.device
    return torch.device("cpu")


def _listed(paths: list[str], most: int = 8) -> str:
    shown = ", ".join(paths[:most])
    return shown if len(paths) <= most else f"{shown} and {len(paths) - most} more"
