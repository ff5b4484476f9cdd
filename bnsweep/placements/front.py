"""Fronts and hypervolumes. Every objective is to be made larger here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["hypervolume", "nondominated"]

Floats = NDArray[np.float64]


def nondominated(values: Floats) -> NDArray[np.bool_]:
    """Which rows of (n, k) no other row is at least as good as in everything and better in something.

    Equal rows stay together.
    """
    no_worse = np.all(values[:, None, :] >= values[None, :, :], axis=2)  # [i, j]: i no worse than j
    better = np.any(values[:, None, :] > values[None, :, :], axis=2)
    dominated: NDArray[np.bool_] = np.any(no_worse & better, axis=0)
    return ~dominated


def hypervolume(values: Floats, reference: Floats) -> float:
    """The volume that rows of (n, k) dominate and that dominates `reference`; exact, sliced along the last axis."""
    above = values[np.all(values > reference, axis=1)]
    if not len(above):
        return 0.0
    if above.shape[1] == 1:
        return float(above.max() - reference[0])
    if above.shape[1] == 2:
        return _area(above, reference)
    levels = np.unique(above[:, -1])[::-1]
    floors = [*levels[1:], reference[-1]]
    total = sum(
        (level - floor) * hypervolume(above[above[:, -1] >= level][:, :-1], reference[:-1])
        for level, floor in zip(levels, floors, strict=True)
    )
    return float(total)


def _area(values: Floats, reference: Floats) -> float:
    ordered = values[np.lexsort((-values[:, 1], -values[:, 0]))]
    area, top = 0.0, reference[1]
    for x, y in ordered:
        if y > top:
            area += (x - reference[0]) * (y - top)
            top = y
    return float(area)
