"""The networks, by name, in the form used for CIFAR-sized images; `layout.py` lists them.

A BN site follows every convolution, the 1x1 projections of shortcuts included, and every hidden linear
layer. Those layers carry no bias: the site after them does, be it BN or a ChannelBias, so that removing
BN never removes the bias. The output layer has a bias and no site.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bnsweep.errors import BnsweepError, ModelError, UnknownNameError
from bnsweep.experiment.architecture import Architecture
from bnsweep.training import external
from bnsweep.training.images import DataShape
from bnsweep.training.initial import initialise
from bnsweep.training.layout import LAYOUTS, ResNetLayout, VggLayout, signature
from bnsweep.training.origin import origin
from bnsweep.training.sites import BATCH_NORM, does_more, find_sites, foldable
from bnsweep.training.targets import beyond_reach

__all__ = ["MODELS", "build", "describe"]


def _conv(channels_in: int, channels: int, kernel: int = 3, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, bias=False)


class ConvSite(nn.Sequential):
    """A convolution and the site after it."""

    def __init__(self, channels_in: int, channels: int, kernel: int = 3, *, stride: int = 1) -> None:
        super().__init__()
        self.conv = _conv(channels_in, channels, kernel, stride=stride)
        self.site = nn.BatchNorm2d(channels)


class LinearSite(nn.Sequential):
    """A hidden linear layer and the site after it."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width_in, width, bias=False)
        self.site = nn.BatchNorm1d(width)


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut; a 1x1 projection where the shape changes (He's option B)."""

    def __init__(self, channels_in: int, channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(channels_in, channels, stride=stride)
        self.site1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv(channels, channels)
        self.site2 = nn.BatchNorm2d(channels)
        projected = stride != 1 or channels_in != channels
        self.shortcut = ConvSite(channels_in, channels, 1, stride=stride) if projected else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu_(self.site1(self.conv1(x)))
        hidden = self.site2(self.conv2(hidden))
        return torch.relu_(hidden + self.shortcut(x))


class ResNet(nn.Module):
    """Stages of blocks; each but the first halves the side."""

    def __init__(self, shape: DataShape, *, blocks: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.stem = ConvSite(shape.channels, width)
        self.stages = nn.Sequential()
        channels_in = width
        for stage, count in enumerate(blocks):
            channels = width << stage
            strides = [1 if stage == 0 else 2] + [1] * (count - 1)
            self.stages.append(
                nn.Sequential(
                    *(
                        Block(channels_in if index == 0 else channels, channels, stride=stride)
                        for index, stride in enumerate(strides)
                    )
                )
            )
            channels_in = channels
        self.output = nn.Linear(channels_in, shape.classes)

    def forward(self, x: Tensor) -> Tensor:
        features = self.stages(torch.relu_(self.stem(x)))
        logits: Tensor = self.output(features.mean((2, 3)))
        return logits


class Vgg(nn.Module):
    """Groups of convolutions, each followed by 2x2 max-pooling; then hidden linear layers."""

    def __init__(self, shape: DataShape, *, groups: tuple[tuple[int, ...], ...], hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.groups = nn.Sequential()
        width = shape.channels
        for group in groups:
            layers = nn.Sequential()
            for channels in group:
                layers.append(ConvSite(width, channels))
                width = channels
            self.groups.append(layers)
        self.hidden = nn.Sequential()
        for units in hidden:
            self.hidden.append(LinearSite(width, units))
            width = units
        self.output = nn.Linear(width, shape.classes)

    def forward(self, x: Tensor) -> Tensor:
        for group in self.groups:
            for layer in group:  # type: ignore[attr-defined]
                x = torch.relu_(layer(x))
            # ceil_mode keeps a side of 1 at 1, so images smaller than 2^groups work.
            x = nn.functional.max_pool2d(x, 2, ceil_mode=True)
        x = x.mean((2, 3))  # a side of 1 for images of 32x32: the plain flattening of the original
        for layer in self.hidden:
            x = torch.relu_(layer(x))
        logits: Tensor = self.output(x)
        return logits


def _assembler(layout: ResNetLayout | VggLayout) -> Callable[[DataShape], nn.Module]:
    if isinstance(layout, ResNetLayout):
        return partial(ResNet, blocks=layout.blocks, width=layout.width)
    return partial(Vgg, groups=layout.groups, hidden=layout.hidden)


MODELS: dict[str, Callable[[DataShape], nn.Module]] = {name: _assembler(layout) for name, layout in LAYOUTS.items()}


def build(
    name: str,
    shape: DataShape,
    *,
    seed: int = 0,
    init: str | None = "glorot_uniform",
    bn_epsilon: float | None = 1e-3,
    bn_momentum: float | None = 0.1,
    allow_import: bool = False,
) -> nn.Module:
    """The network with BN at every site, initialised, on the CPU.

    Args:
        name: a key of MODELS, torchvision:NAME, or import:PACKAGE.MODULE:FACTORY.
        shape: of the data it is for.
        seed: of the initial values; each parameter has its own stream.
        init: a key of INITIALISERS, applied to every kernel; None: values as its code gives them.
        bn_epsilon: added to BN's variance; None: as its code has it.
        bn_momentum: weight of the newest batch in BN's running statistics; None: as its code has it.
        allow_import: whether `import:` may run code.

    Raises:
        UnknownNameError: no such network or initialiser.
        ModelError: the network cannot be built, or `import:` is not allowed here.
    """
    # What a foreign network draws by itself (a class token, say) then depends on the seed as well.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _assemble(name, shape, allow_import=allow_import)
    if init is not None:
        initialise(network, init, seed=seed)
    for module in network.modules():
        if isinstance(module, BATCH_NORM):
            module.eps = module.eps if bn_epsilon is None else bn_epsilon
            module.momentum = module.momentum if bn_momentum is None else bn_momentum
    return network


def describe(name: str, shape: DataShape, *, allow_import: bool = False) -> Architecture:
    """Sites, size and signature, from one forward pass without memory or arithmetic where that is possible.

    Raises as `build` does, and ModelError if the network does not give (N, classes) logits for such images.
    """
    try:
        with torch.device("meta"):
            return _inspect(name, _assemble(name, shape, allow_import=allow_import), shape, device="meta")
    except UnknownNameError:
        raise
    except Exception:  # noqa: BLE001 (a network may look at values, which meta tensors lack: try with real ones)
        network = _assemble(name, shape, allow_import=allow_import)
        return _inspect(name, network, shape, device="cpu")


def _assemble(name: str, shape: DataShape, *, allow_import: bool) -> nn.Module:
    if name in MODELS:
        return MODELS[name](shape)
    if name.startswith("torchvision:"):
        return external.from_torchvision(name.removeprefix("torchvision:"), shape)
    if name.startswith("import:"):
        if not allow_import:
            raise ModelError(f"{name!r} runs code of your own, which is allowed from the command line only")
        return external.from_import(name, shape)
    raise UnknownNameError("model", name, (*MODELS, "torchvision:NAME", "import:PACKAGE.MODULE:FACTORY"))


def _inspect(name: str, network: nn.Module, shape: DataShape, *, device: str) -> Architecture:
    example = torch.zeros(2, shape.channels, shape.size, shape.size, device=device)
    counter = _MultiplyAdds(network)
    try:
        with torch.no_grad():
            sites = find_sites(network, example)
    except BnsweepError:
        raise
    except Exception as error:  # noqa: BLE001 (whatever a network of one's own raises)
        reason = str(error).splitlines()[0] if str(error) else ""
        if not reason or not isinstance(error, (RuntimeError, ValueError, TypeError, IndexError, AssertionError)):
            reason = f"{type(error).__name__}{reason and ': '}{reason}"
        raise ModelError(
            f"{name} does not take {shape.channels}x{shape.size}x{shape.size} images: {reason}{origin(error)}. "
            "Set another `size` for the data, or choose another network"
        ) from None
    finally:
        counter.remove()
    if counter.output != (2, shape.classes):
        raise ModelError(f"{name} must return logits of shape (images, {shape.classes}), but returns {counter.output}")
    parameters = [(path, tuple(values.shape)) for path, values in network.named_parameters()]
    total = sum(values.numel() for values in network.parameters())
    multiply_adds = counter.total // len(example)
    digest = signature(parameters, sites, multiply_adds, external.code_of(name))
    fixed = tuple(site.path for site in sites if does_more(network.get_submodule(site.path)))
    beyond = tuple(beyond_reach(network).items())
    return Architecture(name, tuple(sites), total, multiply_adds, digest, fixed, beyond, _unfoldable(network, example))


def _unfoldable(network: nn.Module, example: Tensor) -> tuple[tuple[str, str], ...]:
    """(path of a site, why its BN cannot be folded)."""
    try:
        _, faults = foldable(network, example)
    except Exception:  # noqa: BLE001 (what cannot be looked at so is found out, and said, when it is scored)
        return ()
    return tuple((path, fault) for fault, paths in faults.items() for path in paths)


class _MultiplyAdds:
    """Counts the products of convolutions and linear layers, and keeps the shape of the network's output."""

    def __init__(self, network: nn.Module) -> None:
        self.total = 0
        self.output: tuple[int, ...] | str = "nothing"
        self._hooks = [network.register_forward_hook(self._ended)]
        for module in network.modules():
            if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)):
                self._hooks.append(module.register_forward_hook(self._count))

    def _count(self, module: Any, _inputs: Any, output: Tensor) -> None:
        # Each output element is one inner product with a kernel of one output channel.
        self.total += output.numel() * module.weight[0].numel()

    def _ended(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self.output = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()
