"""Draws with a known truth: how many images of each stratum every draw classifies right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from bnsweep.noise.sampling import Round, strata, strata_sizes

Floats = NDArray[np.float64]
TEST_IMAGES = 10_000
DRAWS = 20_000
RECORDED = Path(__file__).parent / "resnet8_cifar10.npz"


@dataclass(frozen=True)
class Population:
    """right[d, h]: images of stratum h that draw d classifies right, of sizes[h]."""

    name: str
    sizes: NDArray[np.int64]
    right: NDArray[np.int64]
    clean: float  # accuracy without noise

    @property
    def accuracy(self) -> Floats:
        return self.right.sum(1) / self.sizes.sum()


@dataclass(frozen=True, slots=True)
class Trial:
    accuracy: float
    images: int
    strata_images: tuple[int, ...] | None = None
    strata_correct: tuple[int, ...] | None = None


def scored(population: Population, step: Round, rng: np.random.Generator) -> list[Trial]:
    """A round of trials: draws of the population, scored on all images, a random subset or a stratified one."""
    right = population.right[rng.integers(len(population.right), size=len(step.trials))]
    sizes, total = population.sizes, int(population.sizes.sum())
    if step.allocation is not None:
        taken = np.array(step.allocation)
        hits = rng.hypergeometric(right, sizes - right, taken)
        accuracy = (hits / taken * sizes).sum(1) / total
        rows = zip(accuracy.tolist(), map(tuple, hits.tolist()), strict=True)
        return [Trial(a, sum(step.allocation), step.allocation, k) for a, k in rows]
    whole = right.sum(1)
    if step.images is None:
        return [Trial(int(k) / total, total) for k in whole]
    hits = rng.hypergeometric(whole, total - whole, step.images)
    return [Trial(int(k) / step.images, step.images) for k in hits]


# Name -> (accuracy of each draw, blur of the margins). One number: every image flips on its own.
SYNTHETIC: dict[str, tuple[float | Callable[[np.random.Generator], Floats], float]] = {
    "binomial 0.99": (0.99, 0.2),
    "binomial 0.9": (0.9, 0.3),
    "binomial 0.5": (0.5, 2.0),
    "normal 0.91 sd 0.001": (lambda rng: rng.normal(0.91, 0.001, DRAWS), 0.1),
    "normal 0.85 sd 0.01": (lambda rng: rng.normal(0.85, 0.01, DRAWS), 0.7),
    "normal 0.5 sd 0.05": (lambda rng: rng.normal(0.5, 0.05, DRAWS), 2.0),
    "skewed 0.87 sd 0.03": (lambda rng: 0.9 - rng.exponential(0.03, DRAWS), 0.7),
    "skewed 0.15 sd 0.05": (lambda rng: 0.1 + rng.exponential(0.05, DRAWS), 3.0),
    "bimodal 0.8/0.5 half": (lambda rng: _two_modes(rng, 0.5, 0.5, 0.8), 1.0),
    "bimodal 0.85/0.5 a fifth": (lambda rng: _two_modes(rng, 0.2, 0.5, 0.85), 1.0),
    "bimodal 0.85/0.45 a tenth": (lambda rng: _two_modes(rng, 0.1, 0.45, 0.85), 1.0),
    "bimodal 0.91/0.86 a tenth": (lambda rng: _two_modes(rng, 0.1, 0.86, 0.91, 0.001), 0.1),  # the rest lost nothing
    "NaN in 3 of 10 draws": (lambda rng: _two_modes(rng, 0.3, 0.1, 0.85), 1.0),
}


def _two_modes(rng: np.random.Generator, share: float, low: float, high: float, sd: float = 0.005) -> Floats:
    return np.where(rng.random(DRAWS) < share, low, high) + rng.normal(0, sd, DRAWS)


@cache
def synthetic(name: str) -> Population:
    """Binomial (no difference between draws), normal, skewed or bimodal draws, from mild noise to the cliff."""
    accuracy, blur = SYNTHETIC[name]
    rng = np.random.default_rng(1)
    margins = np.sort(rng.normal(1.35, 1.0, TEST_IMAGES))  # 91 % right without noise
    return _spread(name, margins, accuracy(rng) if callable(accuracy) else accuracy, blur, rng)


def _spread(name: str, margins: Floats, accuracy: float | Floats, blur: float, rng: np.random.Generator) -> Population:
    """Shift and blur the margins so that each draw has its accuracy: mild noise flips the images near 0 only.

    With one accuracy for all draws, each image flips on its own: counts are binomial.
    """
    labels = strata(margins)
    sizes = np.array(strata_sizes(labels))
    shifts = np.linspace(-8, 8, 160)
    right = np.stack([np.bincount(labels, norm.cdf((margins - shift) / blur)) for shift in shifts])  # (shifts, strata)
    at = np.interp(-np.clip(accuracy, 0.02, 0.999), -right.sum(1) / sizes.sum(), shifts)
    expected = np.stack([np.interp(at, shifts, right[:, h]) for h in range(len(sizes))], -1)
    whole = rng.binomial(sizes, expected / sizes, (DRAWS, len(sizes))) if np.ndim(accuracy) == 0 else np.rint(expected)
    return Population(name, sizes, np.clip(whole, 0, sizes).astype(np.int64), float((margins > 0).mean()))


def recorded(images: int = TEST_IMAGES, path: Path = RECORDED) -> dict[float, Population]:
    """By eta: which of the first test images of CIFAR-10 a ResNet-8 classifies right, draw by draw, over strata."""
    with np.load(path) as data:
        margins = data["margins"][:images].astype(float)
        labels = strata(margins)
        sizes = np.array(strata_sizes(labels))
        clean = float(np.unpackbits(data["clean"])[:images].mean())
        found = {}
        for eta in sorted(float(name.removeprefix("eta_")) for name in data.files if name.startswith("eta_")):
            right = np.unpackbits(data[f"eta_{eta}"], axis=1)[:, :images]
            whole = np.stack([np.bincount(labels, row, len(sizes)) for row in right]).astype(np.int64)
            found[eta] = Population(f"recorded eta {eta:.0%}", sizes, whole, clean)
    return found
