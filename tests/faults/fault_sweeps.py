"""What the tests of faults run: a small sweep, networks that wait or die on request, and rows to compare."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bnsweep.store.schema import KEYS, SCHEMAS, VOLATILE
from bnsweep.store.store import Store

TABLES = ("sweeps", "points", "runs", "epochs", "trials")

TINY = """\
name: tiny
data: {source: digits, train_images: 200, test_images: 100}
models: resnet8
placements: [all, none]
train_seeds: 1
training: {epochs: 2, batch_size: 50, chance_epochs: null}
noise: {targets: [weights, all]}
eta: [0, 0.1, 0.3]
trials: 4
"""

# A network that costs time without costing a core, and that dies or fails where the environment says so. Weights and
# rows do not depend on it, so that a run without any of this says what the rows must be.
NETWORKS = '''\
"""Networks that wait, fail or die on request."""

import os
import time

from torch import nn


class Small(nn.Module):
    def __init__(self, channels, classes, kind):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, classes)
        self.kind = kind

    def forward(self, x):
        if not self.training and len(x) >= 50:
            if self.kind == "deadly" and os.path.exists(os.environ.get("FAULT_DEADLY", "/nonexistent")):
                os._exit(1)
            if self.kind == "hungry" and os.path.exists(os.environ.get("FAULT_HUNGRY", "/nonexistent")):
                eaten = []
                while len(eaten) < 50:
                    eaten.append(bytearray(os.urandom(1 << 16) * 1600))  # 100 MiB, really used
                    time.sleep(0.05)
                time.sleep(5)  # the memory monitor looks ten times a second
            time.sleep(float(os.environ.get("FAULT_WAIT_S", "0")))
        return self.head(self.bn(self.conv(x)).mean((2, 3)))


def slow(classes, channels, size):
    return Small(channels, classes, "slow")


def deadly(classes, channels, size):
    return Small(channels, classes, "deadly")


def hungry(classes, channels, size):
    return Small(channels, classes, "hungry")
'''


def write_networks(folder: Path) -> None:
    """`import:fault_networks:slow` and its like, for processes that have `folder` on their PYTHONPATH."""
    (folder / "fault_networks.py").write_text(NETWORKS)


def rows(location: str | Path, table: str) -> list[dict[str, Any]]:
    """What identifies a row and what it says, without what differs between attempts; in the order of the key."""
    columns = [name for name in SCHEMAS[table].names if name not in VOLATILE or name in KEYS[table]]
    order = [(key, "ascending") for key in KEYS[table]]
    found: list[dict[str, Any]] = Store.open(str(location)).read(table, columns=columns).sort_by(order).to_pylist()
    return found


def all_rows(location: str | Path) -> dict[str, list[dict[str, Any]]]:
    return {table: rows(location, table) for table in TABLES}


def parted_rows(location: str | Path) -> int:
    """Rows of all live part files, each counted as often as it was written."""
    store = Store.open(str(location))
    return sum(part.rows for part in store.parts())


def environment(folder: Path, **extra: str) -> dict[str, str]:
    """For processes that take their networks from `folder`; one thread each."""
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **extra}


def command(spec: Path, store: str | Path, *options: object) -> list[str]:
    words = [sys.executable, "-m", "bnsweep", "run", spec, "--store", store, "--data-root", spec.parent, *options]
    return [*map(str, words), "--quiet"]


def sweep(
    spec: Path, store: str | Path, *options: object, env: dict[str, str], timeout_s: float = 400
) -> subprocess.CompletedProcess[str]:
    """`bnsweep run`, from beginning to end."""
    return subprocess.run(
        command(spec, store, *options), capture_output=True, text=True, timeout=timeout_s, env=env, check=False
    )
