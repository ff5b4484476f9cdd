"""How many trials and images a confidence interval needs. No torch here: rows in, decisions out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bnsweep.errors import InputError

STRATA = (0.05, 0.10, 0.20, 0.35, 0.55, 0.75)


def strata(margins: NDArray[np.float64]) -> NDArray[np.int64]:
    order = np.argsort(margins, kind="stable")
    labels = np.empty(len(margins), np.int64)
    bounds = np.unique([round(len(margins) * share) for share in STRATA])
    labels[order] = np.searchsorted(bounds, np.arange(len(margins)), side="right")
    return labels


def strata_sizes(labels: NDArray[np.int64]) -> tuple[int, ...]:
    return tuple(np.bincount(labels).tolist())


def stratified_accuracy(sizes: Sequence[int], images: Sequence[int], correct: Sequence[int]) -> float:
    return float(sum(n * k / m for n, m, k in zip(sizes, images, correct, strict=True) if n) / sum(sizes))


def chosen_images(
    samples: int | Sequence[int], seed: int, labels: NDArray[np.int64] | None, count: int
) -> NDArray[np.int64]:
    key = np.frombuffer(hashlib.sha256(f"{seed}:images".encode()).digest()[:16], np.uint64)
    rng = np.random.Generator(np.random.Philox(key=key))
    if isinstance(samples, int):
        if not 1 <= samples <= count:
            raise InputError(f"`1 <= images <= test images` must hold, but got {samples} and {count}")
        return np.sort(rng.choice(count, samples, replace=False, shuffle=False))
    assert labels is not None
    parts = []
    for stratum, wanted in enumerate(samples):
        members = np.flatnonzero(labels == stratum)
        parts.append(rng.choice(members, wanted, replace=False, shuffle=False))
    return np.sort(np.concatenate(parts))
