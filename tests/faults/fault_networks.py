"""Networks that cost time without costing a core, and that die, fail or eat memory where the environment says so.

Weights and rows do not depend on it: a sweep without any of this says what the rows must be. FAULT_WAIT_S is a number
of seconds; FAULT_CRASH, FAULT_DEADLY and FAULT_HUNGRY name a file, and the fault happens as long as that file exists.
"""

from __future__ import annotations

import os
import time

import torch
from torch import nn


class Small(nn.Module):
    """One convolution; what else it does, `kind` says."""

    def __init__(self, channels: int, classes: int, kind: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, classes)
        self.kind = kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            if self.kind == "crash" and wanted("FAULT_CRASH"):
                os._exit(1)
        elif len(x) >= 50:  # scoring, not what finds the sites
            if self.kind == "deadly" and wanted("FAULT_DEADLY"):
                os._exit(1)
            if self.kind == "hungry" and wanted("FAULT_HUNGRY"):
                eat_memory()
            time.sleep(float(os.environ.get("FAULT_WAIT_S", "0")))
        scores: torch.Tensor = self.head(self.bn(self.conv(x)).mean((2, 3)))
        return scores


def wanted(fault: str) -> bool:
    return os.path.exists(os.environ.get(fault, "/nonexistent"))  # noqa: PTH110 - in a network's forward pass


def eat_memory() -> None:
    """Up to 8 GiB, 0.5 GiB a second; whoever watches over memory ends this process before."""
    eaten = []
    for _ in range(160):
        eaten.append(bytearray(os.urandom(1 << 16) * 800))  # 50 MiB, really used
        time.sleep(0.1)


def slow(classes: int, channels: int, size: int) -> nn.Module:
    return Small(channels, classes, "slow")


def crash(classes: int, channels: int, size: int) -> nn.Module:
    return Small(channels, classes, "crash")


def deadly(classes: int, channels: int, size: int) -> nn.Module:
    return Small(channels, classes, "deadly")


def hungry(classes: int, channels: int, size: int) -> nn.Module:
    return Small(channels, classes, "hungry")
