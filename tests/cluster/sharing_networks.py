"""A network that stops at the first batch that its process sees, until somebody has looked at that process.

SHARING is a folder: the process leaves a file there and goes on when there is another one.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch
from torch import nn

EXAMPLES = 4  # images of what looks at a network's structure
LOOKED_S = 200.0
stopped = False


class Watched(nn.Module):
    """One convolution."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, stride=4)
        self.bn = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if "SHARING" in os.environ and len(x) > EXAMPLES:
            stop("training" if self.training else "scoring")
        scores: torch.Tensor = self.head(self.bn(self.conv(x)).mean((2, 3)))
        return scores


def stop(phase: str) -> None:
    global stopped  # noqa: PLW0603 - once per process
    if stopped:
        return
    stopped = True
    folder = Path(os.environ["SHARING"])
    (folder / f"{phase}-{os.getpid()}").touch()
    until = time.monotonic() + LOOKED_S
    while not (folder / f"{phase}-looked").exists():
        assert time.monotonic() < until, "nobody has looked"
        time.sleep(0.05)


def make(classes: int, channels: int, size: int) -> nn.Module:
    return Watched(channels, classes)
