"""What placements' means over training seeds are taken for, from few and noisy runs of some of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bnsweep.placements.surrogate import Surrogate

__all__ = ["expected_means"]

ALIKE = 1e-9  # values that differ by less say nothing of how much runs differ
ROUNDS = 3  # of the optimizer: here the surrogate has no fit before to go on from


def expected_means(
    masks: Sequence[str], seeds: Sequence[int], values: NDArray[np.float64], *, all_seeds: int
) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    """What each placement's mean over the training seeds is taken for, from all runs together.

    A mean over one or two runs of a placement is mostly luck, and the best of many such means is the luckiest. So a
    placement is judged by what the surrogate makes of all runs; by its own mean if it has been trained with every seed.

    Args:
        masks: (n,) of each run.
        seeds: (n,) number of its training seed, from 0 to all_seeds - 1; a mask has each at most once.
        values: (n, m) accuracies, or averages of them.
        all_seeds: how many seeds the means are over.

    Returns:
        k masks, their means (k, m) and standard deviations (k, m) of what is left open.
    """
    places = sorted(set(masks))
    bits = np.array([[float(digit) for digit in mask] for mask in places])
    row = np.array([places.index(mask) for mask in masks])
    own = np.array([values[row == place].mean(axis=0) for place in range(len(places))])
    number = np.asarray(seeds, dtype=np.int64)
    means, deviations = np.empty_like(own), np.empty_like(own)
    for index in range(values.shape[1]):
        if np.ptp(values[:, index]) < ALIKE:
            means[:, index], deviations[:, index] = own[:, index], 0.0
            continue
        model = Surrogate(all_seeds)
        for _ in range(ROUNDS):
            model.fit(bits[row], number, values[:, index])
        belief = model.believe(bits, np.zeros(len(places), dtype=np.int64))
        means[:, index] = belief.mean
        deviations[:, index] = np.sqrt(np.maximum(np.diag(belief.covariance), 0.0))
    complete = np.bincount(row, minlength=len(places)) >= all_seeds
    means[complete], deviations[complete] = own[complete], 0.0
    return places, means, deviations
