"""The table that searches are replayed on: every placement of ResNet-8 behind its stem, trained three times on digits.

    python -m tests.bench.every_placement spec > every.yaml   256 placements, 768 runs: 17 minutes of one core
    bnsweep run every.yaml --store store
    python -m tests.bench.every_placement table store         -> every_placement.parquet

The stem's site has no BN in any of them: with it there would be twice as many placements.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bnsweep.store.store import Store

TABLE = Path(__file__).with_suffix(".parquet")
ETAS, TRIALS, EPOCHS = (0.1, 0.2, 0.3, 0.4), 4, 6
SPEC = """\
version: 1
name: every-placement
data: {{source: digits, size: 8}}
models: resnet8
placements: [{placements}]
train_seeds: 3
training: {{epochs: 6, batch_size: 128, learning_rate: 0.01, schedule: {{kind: cosine}}, chance_epochs: 3}}
noise: {{targets: all}}
eta: [0, 0.1, 0.2, 0.3, 0.4]
trials: 4
"""
SCHEMA = pa.schema(
    [
        ("bn_mask", pa.string()),  # of the eight sites after the stem, in forward order
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


def spec() -> str:
    """The sweep's text."""
    masks = ("0" + "".join(digits) for digits in product("01", repeat=8))
    return SPEC.format(placements=", ".join(f'"{mask}"' for mask in masks))


def table(location: str) -> pa.Table:
    """One row per run of the sweep."""
    store = Store.open(location)
    correct: dict[str, dict[tuple[float, int], int]] = defaultdict(dict)
    for row in store.read("trials", columns=["run_id", "eta", "trial", "correct"]).to_pylist():
        correct[row["run_id"]][float(row["eta"]), row["trial"]] = row["correct"]
    epochs: dict[str, dict[int, tuple[int, float]]] = defaultdict(dict)
    for row in store.read("epochs").to_pylist():
        epochs[row["run_id"]][row["epoch"]] = (row["test_correct"], row["train_loss"])
    rows = []
    for run in store.read("runs").to_pylist():
        noisy = [[correct[run["run_id"]][eta, trial] for trial in range(TRIALS)] for eta in ETAS]
        clean = correct[run["run_id"]][0.0, 0]
        curve = [epochs[run["run_id"]][epoch] for epoch in range(1, EPOCHS + 1)]
        rows.append(
            {
                "bn_mask": run["bn_mask"][1:],
                **{name: run[name] for name in ("train_seed", "status", "test_images")},
                "correct": clean,
                "noisy_correct": noisy,
                "accuracy": clean / run["test_images"],
                "average_normalized": float(np.mean(noisy)) / clean,
                "epoch_correct": [right for right, _ in curve],
                "epoch_train_loss": [round(loss, 5) for _, loss in curve],
                "train_s": round(run["duration_s"], 3),
            }
        )
    rows.sort(key=lambda row: (row["bn_mask"], row["train_seed"]))
    return pa.Table.from_pylist(rows, schema=SCHEMA)


if __name__ == "__main__":
    if sys.argv[1] == "spec":
        print(spec(), end="")
    else:
        pq.write_table(table(sys.argv[2]), TABLE, compression="zstd")
