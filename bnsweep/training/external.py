"""Networks from elsewhere: torchvision's architectures, and a factory of one's own."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from bnsweep.errors import ModelError, UnknownNameError
from bnsweep.training.images import DataShape
from bnsweep.training.origin import origin
from bnsweep.training.targets import check_open

__all__ = ["SMALL", "code_of", "find_factory", "from_import", "from_torchvision"]

SMALL = 64  # images with a smaller side get an adapted stem


def from_torchvision(name: str, shape: DataShape) -> nn.Module:
    """Any classification architecture of torchvision, untrained, for this shape of data.

    torchvision's stems are made for 224x224 images. For images smaller than 64x64 the first convolution gets
    stride 1 and, if its window is 7x7, a 3x3 window with padding 1; a max-pooling that follows before the next
    convolution is removed. Patch embeddings (a window equal to its stride) are left as they are. A first
    convolution for another number of channels is replaced by one for this number.

    Raises:
        UnknownNameError: torchvision has no such architecture.
        ModelError: torchvision refuses to build it for this shape.
    """
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        raise UnknownNameError("torchvision architecture", name, names)
    options: dict[str, Any] = {"weights": None, "num_classes": shape.classes}
    accepted = inspect.signature(models.get_model_builder(name)).parameters
    if name in ("googlenet", "inception_v3"):
        # Auxiliary heads are for training at depth without BN, and their outputs are no logits.
        options |= {"aux_logits": False, "init_weights": False}
    if name.startswith("vit_") and "kwargs" in accepted:
        options["image_size"] = shape.size
    try:
        network: nn.Module = models.get_model(name, **options)
    except (ValueError, TypeError, RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"torchvision:{name} cannot be built for {shape.size}x{shape.size} images: {reason}") from None
    adapt_stem(network, shape)
    return network


def code_of(name: str) -> str:
    """What stands for the code behind a network's name: part of a run's identity.

    For `import:` the digest of the module's file (what that imports in turn is not looked at), for `torchvision:` its
    version; bnsweep's own networks change their layout or not at all.
    """
    if name.startswith("torchvision:"):
        import torchvision

        return str(torchvision.__version__)
    if name.startswith("import:"):
        module = importlib.import_module(name.split(":")[1])
        source = getattr(module, "__file__", None)
        return hashlib.sha256(Path(source).read_bytes()).hexdigest() if source else ""
    return ""


def adapt_stem(network: nn.Module, shape: DataShape) -> None:
    """Fit the first convolution, and the max-pooling right after it, to small images and to the channels; in place."""
    looked_at = (nn.Conv2d, nn.MaxPool2d)
    layers = [(path, module) for path, module in network.named_modules() if isinstance(module, looked_at)]
    path, old = layers[0] if layers else ("", None)
    if not isinstance(old, nn.Conv2d):
        return
    kernel: Any = old.kernel_size
    stride: Any = old.stride
    padding: Any = old.padding
    dilation: Any = old.dilation
    if shape.size < SMALL and kernel != stride:
        stride = (1, 1)
        if kernel == (7, 7):
            kernel, padding = (3, 3), (1, 1)
        if len(layers) > 1 and isinstance(layers[1][1], nn.MaxPool2d):
            network.set_submodule(layers[1][0], nn.Identity())
    biased = old.bias is not None
    new = nn.Conv2d(shape.channels, old.out_channels, kernel, stride, padding, dilation, old.groups, biased)
    network.set_submodule(path, new)


def from_import(name: str, shape: DataShape) -> nn.Module:
    """FACTORY(classes=..., channels=..., size=...) of `import:PACKAGE.MODULE:FACTORY`. This runs code.

    Raises:
        ModelError: it cannot be imported, fails, or returns no nn.Module.
    """
    factory = find_factory(name)
    try:
        network = factory(classes=shape.classes, channels=shape.channels, size=shape.size)
    except Exception as error:
        raise ModelError(f"{name}: the factory failed: {type(error).__name__}: {error}{origin(error)}") from error
    if not isinstance(network, nn.Module):
        raise ModelError(f"{name}: the factory must return a torch.nn.Module, but returned {type(network).__name__}")
    check_open(network, name)
    return network


def find_factory(name: str) -> Callable[..., Any]:
    """What `import:PACKAGE.MODULE:FACTORY` names; importing it runs code. Raises ModelError."""
    _, _, target = name.partition(":")
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise ModelError(f"{name!r} must have the form import:PACKAGE.MODULE:FACTORY")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}{origin(error)}"
        raise ModelError(f"{name}: cannot import {module_name}: {reason}") from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise ModelError(f"{name}: {module_name} has no function {attribute!r}")
    if isinstance(factory, nn.Module):
        raise ModelError(
            f"{name}: {attribute!r} is a network; name a function that makes a new one each time: "
            "def make(classes, channels, size): ..."
        )
    return factory  # type: ignore[no-any-return]
