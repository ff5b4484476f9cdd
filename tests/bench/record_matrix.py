"""Record which images a real network classifies right under each noise draw, in the form of resnet8_cifar10.npz.

`python -m tests.bench.record_matrix SOURCE FILE` trains a ResNet-8 on CIFAR-10 (SOURCE as in a spec: cifar10 or
parquet:DIRECTORY) and writes FILE. Half an hour of one core. It can be stopped at any time: the trained network waits
beside FILE, and draws that are in FILE are not done again.

Keys: `margins` (N,) float16, clean logit of the true class less the largest other one; `clean` (N,) and `eta_X`
(draws, N), bits packed along N, 1 for right. Draw d has the same noise at every eta (weights, tensor_std, BN stale).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bnsweep.experiment.recipe import Augment, Cosine, Training
from bnsweep.experiment.spec import Data
from bnsweep.noise.curve import Cell
from bnsweep.noise.evaluate import Evaluator
from bnsweep.training.checkpoint import from_bytes, to_bytes
from bnsweep.training.datasets import load_dataset
from bnsweep.training.models import build
from bnsweep.training.trainer import train

ETAS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4)
DRAWS = 32
TRAIN_IMAGES = 40_000
RECIPE = Training(
    epochs=3, batch_size=64, learning_rate=3e-3, schedule=Cosine(warmup=0.1), augment=Augment(flip=True, shift=0.1)
)


def main(source: str, target: Path) -> None:
    torch.set_num_threads(1)
    data = load_dataset(Data(source=source, train_images=TRAIN_IMAGES), root=Path())
    network = build("resnet8", data.shape, seed=0, init=RECIPE.init, bn_epsilon=1e-3, bn_momentum=0.1)
    kept = target.with_suffix(".network")
    if kept.exists():
        from_bytes(network, kept.read_bytes())
    else:
        train(network, data, RECIPE, seed=0, device=torch.device("cpu"), slot=None, on_epoch=None)
        kept.write_bytes(to_bytes(network))
    labels = torch.from_numpy(data.test.labels.copy())
    evaluator = Evaluator(network.eval(), data.inputs("test"), labels, batch_size=100)
    found: dict[str, Any] = dict(np.load(target)) if target.exists() else {}
    found["margins"] = evaluator.margins().astype(np.float16)
    found["clean"] = np.packbits(evaluator.correctness(Cell(), 0, 0))
    print(f"accuracy without noise: {evaluator.baseline().accuracy:.4f}", flush=True)
    for eta in ETAS:
        name = f"eta_{eta}"
        right = [np.unpackbits(row)[: len(labels)] for row in found.get(name, [])][:DRAWS]
        while len(right) < DRAWS:
            seeds = range(len(right), min(len(right) + 8, DRAWS))
            right += [evaluator.correctness(Cell(), eta, seed) for seed in seeds]
            found[name] = np.packbits(right, axis=1)
            np.savez_compressed(target, **found)
        accuracy = np.mean(right, axis=1)
        print(f"eta {eta}: accuracy {accuracy.mean():.4f}, sd of draws {accuracy.std(ddof=1):.4f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
