"""Which sites matter: main effects of BN at each site, told apart by least squares.

A search does not try all placements alike, so the difference between placements with and without a site mixes in what
usually comes with it. Regression on all sites at once does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from bnsweep.analysis.statistics import t_quantile

__all__ = ["Effect", "main_effects"]


@dataclass(frozen=True, slots=True)
class Effect:
    """What BN at one site changes, in the units of the values; None: the placements do not tell it from the rest."""

    site: int  # 1-based
    effect: float | None
    half_width: float | None  # None: no degrees of freedom are left

    @property
    def low(self) -> float | None:
        """Lower end of the interval, or None."""
        return None if self.effect is None or self.half_width is None else self.effect - self.half_width

    @property
    def high(self) -> float | None:
        """Upper end, or None."""
        return None if self.effect is None or self.half_width is None else self.effect + self.half_width


def main_effects(
    masks: Sequence[str], values: ArrayLike, *, weights: ArrayLike | None = None, confidence: float = 0.95
) -> list[Effect]:
    """Least squares of placements' mean values on their sites, with t intervals.

    The residual holds chance and what sites do together, so the intervals cover both.

    Args:
        masks: one 0/1 mask per placement.
        values: (placements,) means.
        weights: (placements,) training runs behind each mean; default: alike.
        confidence: of the intervals.
    """
    kept = np.array([[float(digit) for digit in mask] for mask in masks]).reshape(len(masks), -1)
    y = np.asarray(values, dtype=np.float64)
    root = np.sqrt(np.ones(len(y)) if weights is None else np.asarray(weights, dtype=np.float64))
    design = np.column_stack([np.ones(len(y)), kept]) * root[:, None]
    u, singular, vt = np.linalg.svd(design, full_matrices=False)
    firm = singular > 1e-9 * singular.max(initial=0.0)
    inverse = vt[firm].T / singular[firm]
    coefficients = inverse @ (u[:, firm].T @ (y * root))
    df = len(y) - int(firm.sum())
    residual = y * root - design @ coefficients
    spread = float(residual @ residual) / df if df > 0 else None
    projector = vt[firm].T @ vt[firm]  # 1 on the diagonal where a coefficient is determined
    effects = []
    for site in range(1, kept.shape[1] + 1):
        if projector[site, site] < 1 - 1e-6:
            effects.append(Effect(site, None, None))
            continue
        half = None
        if spread is not None:
            half = t_quantile(df, confidence) * float(np.sqrt(spread * float(inverse[site] @ inverse[site])))
        effects.append(Effect(site, float(coefficients[site]), half))
    return effects
