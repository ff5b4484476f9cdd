"""Fronts. Every objective is to be made larger here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["nondominated"]

Floats = NDArray[np.float64]


def nondominated(values: Floats) -> NDArray[np.bool_]:
    """Which rows of (n, k) no other row is at least as good as in everything and better in something.

    Equal rows stay together.
    """
    no_worse = np.all(values[:, None, :] >= values[None, :, :], axis=2)  # [i, j]: i no worse than j
    better = np.any(values[:, None, :] > values[None, :, :], axis=2)
    dominated: NDArray[np.bool_] = np.any(no_worse & better, axis=0)
    return ~dominated
