"""The volume that placements dominate: what a search is judged by."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


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
