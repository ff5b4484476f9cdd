"""The tables that searches are replayed on: every placement of a small network, trained with several seeds on digits.

    python -m tests.bench.every_placement spec NETWORK > every.yaml   resnet8: 768 runs, 17 minutes of one core
    bnsweep run every.yaml --store store                              vgg-small: 768 runs, an hour
    python -m tests.bench.every_placement table NETWORK store         -> NETWORK's file in this folder

The stem of ResNet-8 has no BN in any of them: with it there would be twice as many placements. VGG-small learns nothing
without BN at ResNet-8's learning rate, so its rate is lower.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bnsweep.store.store import Store

HERE = Path(__file__).parent
ETAS, TRIALS, EPOCHS = (0.1, 0.2, 0.3, 0.4), 4, 6


@dataclass(frozen=True)
class Network:
    """One table: `fixed` are the first sites' digits, the same in all of its placements."""

    name: str
    file: Path
    fixed: str
    sites: tuple[tuple[int, bool], ...]  # (stage, after a shortcut's projection) of the others, in forward order
    learning_rate: float
    seeds: int

    @property
    def masks(self) -> list[str]:
        """Every placement, of the sites that are not fixed."""
        return ["".join(digits) for digits in product("01", repeat=len(self.sites))]


NETWORKS = {
    "resnet8": Network(
        "resnet8",
        HERE / "every_placement.parquet",
        "0",
        ((1, False), (1, False), (2, False), (2, False), (2, True), (3, False), (3, False), (3, True)),
        0.01,
        3,
    ),
    "vgg-small": Network(
        "vgg-small",
        HERE / "every_placement_vgg.parquet",
        "",
        ((1, False), (1, False), (2, False), (2, False), (3, False), (3, False), (4, False)),
        0.003,
        6,
    ),
}
SPEC = """\
version: 1
name: every-placement
data: {{source: digits, size: 8}}
models: {name}
placements: [{placements}]
train_seeds: {seeds}
training: {{epochs: 6, batch_size: 128, learning_rate: {rate}, schedule: {{kind: cosine}}, chance_epochs: 3}}
noise: {{targets: all}}
eta: [0, 0.1, 0.2, 0.3, 0.4]
trials: 4
"""
SCHEMA = pa.schema(
    [
        ("bn_mask", pa.string()),  # of the sites that are not fixed, in forward order
        ("train_seed", pa.int8()),
        ("status", pa.string()),
        ("test_images", pa.int16()),
        ("correct", pa.int16()),  # of the clean network
        ("noisy_correct", pa.list_(pa.list_(pa.int16()))),  # by eta and trial
        ("accuracy", pa.float64()),
        ("average_normalized", pa.float64()),  # equation 14 over ETAS
        ("epoch_correct", pa.list_(pa.int16())),
        ("epoch_train_loss", pa.list_(pa.float32())),  # nats
        ("train_s", pa.float32()),
    ]
)


def spec(network: Network) -> str:
    """The sweep's text."""
    placements = ", ".join(f'"{network.fixed}{mask}"' for mask in network.masks)
    return SPEC.format(name=network.name, placements=placements, rate=network.learning_rate, seeds=network.seeds)


def table(network: Network, location: str) -> pa.Table:
    """One row per run of the sweep; a run that diverged has no scores."""
    store = Store.open(location)
    correct: dict[str, dict[tuple[float, int], int]] = defaultdict(dict)
    for row in store.read("trials", columns=["run_id", "eta", "trial", "correct"]).to_pylist():
        correct[row["run_id"]][float(row["eta"]), row["trial"]] = row["correct"]
    epochs: dict[str, dict[int, tuple[int, float]]] = defaultdict(dict)
    for row in store.read("epochs").to_pylist():
        epochs[row["run_id"]][row["epoch"]] = (row["test_correct"], row["train_loss"])
    rows = []
    for run in store.read("runs").to_pylist():
        curve = [epochs[run["run_id"]][epoch] for epoch in range(1, run["epochs_run"] + 1)]
        rows.append(
            {
                "bn_mask": run["bn_mask"][len(network.fixed) :],
                **{name: run[name] for name in ("train_seed", "status", "test_images")},
                **(_scores(run, correct[run["run_id"]]) if run["status"] != "diverged" else {}),
                "epoch_correct": [right for right, _ in curve],
                "epoch_train_loss": [round(loss, 5) for _, loss in curve],
                "train_s": round(run["duration_s"], 3),
            }
        )
    rows.sort(key=lambda row: (row["bn_mask"], row["train_seed"]))
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _scores(run: dict[str, Any], correct: dict[tuple[float, int], int]) -> dict[str, Any]:
    noisy = [[correct[eta, trial] for trial in range(TRIALS)] for eta in ETAS]
    clean = correct[0.0, 0]
    return {
        "correct": clean,
        "noisy_correct": noisy,
        "accuracy": clean / run["test_images"],
        "average_normalized": float(np.mean(noisy)) / clean,
    }


if __name__ == "__main__":
    wanted = NETWORKS[sys.argv[2]]
    if sys.argv[1] == "spec":
        print(spec(wanted), end="")
    else:
        pq.write_table(table(wanted, sys.argv[3]), wanted.file, compression="zstd")
