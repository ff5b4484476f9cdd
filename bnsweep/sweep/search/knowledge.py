"""What one more training run is worth: how far it would raise the volume of the front that a search could name.

A run moves what is believed of its own placement and, through the surrogate, of others. Which way is not known before,
but how far is: so the front after it can be worked out for a few ways that it may come out, and averaged. This is the
knowledge gradient (Frazier, Powell and Dayanik 2009) for a hypervolume (Daulton, Balandat and Bakshy 2023). It trains
a placement again where that decides between neighbours on the front, and leaves alone what cannot be on it, however
little is known of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gamma, pi

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, qmc

__all__ = ["Scale", "outcomes", "volumes", "worth"]

Floats = NDArray[np.float64]
DIRECTIONS = 256  # of rays, for the volume in three or more dimensions


@dataclass(frozen=True, slots=True)
class Scale:
    """Measured objectives from worst to best become 0 to 1, so that they count alike."""

    low: Floats  # (m,)
    span: Floats

    @classmethod
    def of(cls, means: Floats) -> Scale:
        """For means (n, m) of all placements."""
        low = means.min(axis=0)
        return cls(low, np.maximum(means.max(axis=0) - low, 1e-12))


def outcomes(dimensions: int, count: int) -> Floats:
    """Standard normal numbers (count, dimensions), evenly spread and each with its negative: how a run may come out."""
    if not dimensions:
        return np.zeros((1, 0))
    half = qmc.Sobol(dimensions, seed=1).random(max(1, count // 2))
    drawn = norm.ppf(0.001 + 0.998 * half)
    return np.concatenate([drawn, -drawn])


def worth(means: Floats, steps: Sequence[Floats], kept: Floats | None, ways: Floats) -> Floats:
    """The expected volume after the next run of each of n placements.

    Args:
        means: (n, m), scaled.
        steps: per measured objective (n, n), scaled: column j is what a standard deviation of j's next run moves.
        kept: (n,) BN layers, as a share of one more than the network's sites; None: they do not count.
        ways: (w, m) standard normal.
    """
    n, dimensions = means.shape
    after = np.empty((n, len(ways), n, dimensions))
    for index, step in enumerate(steps):
        after[..., index] = means[:, index] + step.T[:, None, :] * ways[:, index, None]
    return np.asarray(volumes(after.reshape(-1, n, dimensions), kept).reshape(n, len(ways)).mean(axis=1))


def volumes(values: Floats, kept: Floats | None) -> Floats:
    """The volumes (b,) that sets (b, n, m) of points dominate above 0, all to be made larger.

    `kept` (n,), from 0 to below 1 and to be made smaller, is one more dimension that all sets share. Exact for up to
    two measured dimensions; for more, the mean over rays from 0 of how far the set reaches (Deng and Zhang 2019).
    """
    values = np.maximum(values, 0.0)
    levels = np.zeros((1, values.shape[1])) if kept is None else kept[None, :]
    if values.shape[2] == 2:
        order = np.argsort(-values[..., 0], axis=1)
        values = np.take_along_axis(values, order[..., None], axis=1)
        levels = np.broadcast_to(levels, order.shape)
        levels = np.take_along_axis(levels, order, axis=1)
    steps = np.unique(levels)
    total = np.zeros(len(values))
    for level, top in zip(steps, [*steps[1:], 1.0], strict=True):
        last = np.where(levels <= level, values[..., -1], 0.0)  # without extent in one dimension, without volume
        total += (top - level) * _section(values[..., :-1], last)
    return total


def _section(first: Floats, last: Floats) -> Floats:
    """Volumes of sets (b, n) in all measured dimensions but the last one, and that; two are sorted by the first."""
    dimensions = first.shape[2] + 1
    if dimensions == 1:
        return np.asarray(last.max(axis=1))
    if dimensions > 2:
        return _by_rays(np.concatenate([first, last[..., None]], axis=2))
    widths = -np.diff(first[..., 0], axis=1, append=0.0)
    return np.asarray((widths * np.maximum.accumulate(last, axis=1)).sum(axis=1))


def _by_rays(values: Floats) -> Floats:
    m = values.shape[2]
    rays = np.abs(outcomes(m, DIRECTIONS))
    rays = np.maximum(rays / np.linalg.norm(rays, axis=1, keepdims=True), 1e-9)
    reach = np.zeros(len(values))
    for ray in rays:
        reach += (values / ray).min(axis=2).max(axis=1) ** m
    return np.asarray(reach / len(rays) * pi ** (m / 2) / (2**m * gamma(m / 2 + 1)))
