"""The built-in networks on paper: parameters, BN sites and multiply-adds of each, without torch.

A plan of 100,000 runs asks for nothing else, and importing torch costs two seconds and 650 MB. `models.py` builds
what stands here; a test compares the two for every network and many shapes of data.

    resnet8 ... resnet110   depth 6n + 2: a stem, three stages of n blocks with 16, 32 and 64 channels
                            (He et al. 2016, section 4.2); resnet36: stages of 6, 6 and 5 blocks
    resnet18, resnet34      3x3 stem, four stages with 64 to 512 channels, (2, 2, 2, 2) and (3, 4, 6, 3) blocks
    vgg16, vgg-small        13 convolutions and two hidden linear layers of 512; 6 and one of 128
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from math import prod
from typing import Any

from bnsweep.experiment.architecture import Architecture, Site
from bnsweep.training.images import DataShape

__all__ = ["LAYOUTS", "ResNetLayout", "VggLayout", "layout_of", "signature"]


@dataclass(frozen=True, slots=True)
class ResNetLayout:
    """Blocks per stage; channels double from stage to stage."""

    blocks: tuple[int, ...]
    width: int = 16  # channels of the first stage


@dataclass(frozen=True, slots=True)
class VggLayout:
    """Channels of the convolutions in each group, between which the side is halved; units of hidden linear layers."""

    groups: tuple[tuple[int, ...], ...]
    hidden: tuple[int, ...]


LAYOUTS: dict[str, ResNetLayout | VggLayout] = {
    "resnet8": ResNetLayout((1, 1, 1)),
    "resnet20": ResNetLayout((3, 3, 3)),
    "resnet32": ResNetLayout((5, 5, 5)),
    "resnet36": ResNetLayout((6, 6, 5)),
    "resnet44": ResNetLayout((7, 7, 7)),
    "resnet56": ResNetLayout((9, 9, 9)),
    "resnet110": ResNetLayout((18, 18, 18)),
    "resnet18": ResNetLayout((2, 2, 2, 2), width=64),
    "resnet34": ResNetLayout((3, 4, 6, 3), width=64),
    "vgg-small": VggLayout(((32, 32), (64, 64), (128, 128)), (128,)),
    "vgg16": VggLayout(((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)), (512, 512)),
}


def layout_of(name: str, shape: DataShape) -> Architecture:
    """What `models.describe` finds out from the network itself; KeyError if it is none of LAYOUTS."""
    layout, sheet = LAYOUTS[name], _Sheet(shape)
    if isinstance(layout, ResNetLayout):
        _resnet(sheet, layout)
    else:
        _vgg(sheet, layout)
    parameters = sum(prod(size) for _, size in sheet.parameters)
    return Architecture(
        name,
        tuple(sheet.sites),
        parameters,
        sheet.multiply_adds,
        signature(sheet.parameters, sheet.sites, sheet.multiply_adds),
    )


def signature(
    parameters: list[tuple[str, tuple[int, ...]]], sites: list[Site], multiply_adds: int, code: str = ""
) -> str:
    """Digest of what two networks must share to be the same: part of `run_id`."""
    # Strides and pooling leave no trace in parameter shapes, but do in the number of multiply-adds.
    content = (parameters, sites, multiply_adds, code)
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


class _Sheet:
    """A network while it is written down, layer by layer."""

    def __init__(self, shape: DataShape) -> None:
        self.channels, self.side, self.classes = shape.channels, shape.size, shape.classes
        self.parameters: list[tuple[str, tuple[int, ...]]] = []  # in the order in which modules are made
        self.sites: list[Site] = []  # in forward order
        self.multiply_adds = 0
        self._resolutions: dict[Any, int] = {}

    def conv(self, path: str, channels_in: int, channels: int, kernel: int = 3, *, side: int) -> None:
        """A convolution without bias that gives side x side pixels."""
        self.parameters.append((f"{path}.weight", (channels, channels_in, kernel, kernel)))
        self.multiply_adds += channels * side * side * channels_in * kernel * kernel

    def linear(self, path: str, width_in: int, width: int, *, bias: bool) -> None:
        self.parameters.append((f"{path}.weight", (width, width_in)))
        if bias:
            self.parameters.append((f"{path}.bias", (width,)))
        self.multiply_adds += width * width_in

    def norm(self, path: str, channels: int) -> None:
        self.parameters += [(f"{path}.weight", (channels,)), (f"{path}.bias", (channels,))]

    def site(self, path: str, channels: int, *, side: int | None, shortcut: bool = False) -> None:
        """A site as the forward pass meets it; `side` is None after a linear layer."""
        stage = self._resolutions.setdefault(side, len(self._resolutions) + 1)
        self.sites.append(Site(path, channels, stage, shortcut))


def _resnet(sheet: _Sheet, layout: ResNetLayout) -> None:
    side, width = sheet.side, layout.width
    sheet.conv("stem.conv", sheet.channels, width, side=side)
    sheet.norm("stem.site", width)
    sheet.site("stem.site", width, side=side)
    for stage, count in enumerate(layout.blocks):
        channels = layout.width << stage
        for index in range(count):
            stride = 2 if stage and not index else 1
            side = -(-side // stride)
            _block(sheet, f"stages.{stage}.{index}", width, channels, side=side, projected=width != channels)
            width = channels
    sheet.linear("output", width, sheet.classes, bias=True)


def _block(sheet: _Sheet, path: str, channels_in: int, channels: int, *, side: int, projected: bool) -> None:
    for number, width in ((1, channels_in), (2, channels)):
        sheet.conv(f"{path}.conv{number}", width, channels, side=side)
        sheet.norm(f"{path}.site{number}", channels)
        sheet.site(f"{path}.site{number}", channels, side=side)
    if projected:
        sheet.conv(f"{path}.shortcut.conv", channels_in, channels, 1, side=side)
        sheet.norm(f"{path}.shortcut.site", channels)
        sheet.site(f"{path}.shortcut.site", channels, side=side, shortcut=True)


def _vgg(sheet: _Sheet, layout: VggLayout) -> None:
    side, width = sheet.side, sheet.channels
    for group, widths in enumerate(layout.groups):
        for index, channels in enumerate(widths):
            path = f"groups.{group}.{index}"
            sheet.conv(f"{path}.conv", width, channels, side=side)
            sheet.norm(f"{path}.site", channels)
            sheet.site(f"{path}.site", channels, side=side)
            width = channels
        side = -(-side // 2)
    for index, units in enumerate(layout.hidden):
        sheet.linear(f"hidden.{index}.linear", width, units, bias=False)
        sheet.norm(f"hidden.{index}.site", units)
        sheet.site(f"hidden.{index}.site", units, side=None)
        width = units
    sheet.linear("output", width, sheet.classes, bias=True)
