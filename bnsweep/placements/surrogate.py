"""What few noisy training runs say about every placement: a Gaussian process over 0/1 masks and training seeds.

    y(mask, seed) = f(mask) + g(seed, mask) + luck of that run
    cov f = c0 + c1 x.x'/d + c2 (x.x'/d)^2 + c3 exp(-h(x, x') / l),   x in {-1, 1}^d, h the Hamming distance
    cov g = (c4 + c5 x.x'/d) if both runs have the same seed, else 0

The terms of f are a constant, main effects of the sites, pairs of sites, and whatever else is alike in like placements.
Those of g are what a seed does to all placements alike (the same initial weights, order of images and noise draws: in
practice the largest part of what looks like luck), and to the effect of each site. How much there is of each, and of
luck, maximises the marginal likelihood (Rasmussen and Williams 2006, section 5.4).

What is asked for is a placement's mean over the seeds that a search has, t(mask) = mean of y(mask, seed). So a run
tells its share of t exactly, luck included, and of a placement that has all seeds nothing is left to learn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

__all__ = ["Belief", "Surrogate"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# log of c1, c2, c3, l, c4, c5 and the luck's variance; y is standardised, and a constant is left to a wide prior.
START = np.log([0.3, 0.1, 0.3, 3.0, 0.3, 0.1, 0.3])
LIMITS = ((1e-3, 10), (1e-4, 10), (1e-3, 10), (0.5, 30), (1e-4, 10), (1e-4, 10), (1e-3, 3))
BOUNDS = [tuple(np.log(pair)) for pair in LIMITS]
CONSTANT = 4.0
JITTER = 1e-8
STEPS = 12  # of the optimizer per fit, which begins where the one before ended


@dataclass(frozen=True, slots=True)
class Belief:
    """What is believed of m placements' means over the seeds, in the units of the values."""

    mean: Floats  # (m,)
    covariance: Floats  # (m, m)
    step: Floats  # (m, m): column j is how far one standard deviation of placement j's next run moves every mean


class Surrogate:
    """One objective. `fit` may be called again with more runs; it starts from where it was."""

    def __init__(self, seeds: int) -> None:
        self._seeds = seeds  # that a placement can be trained with
        self._theta = START.copy()

    def fit(self, masks: Floats, seeds: Integers, values: Floats) -> Surrogate:
        """Learn from runs: masks (n, d) of 0 and 1, numbers of seeds (n,), values (n,)."""
        self._x, self._s = 2.0 * masks - 1.0, seeds
        self._shift, self._scale = float(values.mean()), float(values.std()) or 1.0
        self._y = (values - self._shift) / self._scale
        if len(values) >= 4:
            found = minimize(
                self._loss, self._theta, jac=True, bounds=BOUNDS, method="L-BFGS-B", options={"maxiter": STEPS}
            )
            self._theta = found.x
        return self

    def believe(self, masks: Floats, following: Integers, waiting: tuple[Floats, Integers] | None = None) -> Belief:
        """What the runs say of placements.

        Args:
            masks: (m, d) of 0 and 1.
            following: (m,) number of the seed that each would be trained with next.
            waiting: masks and seeds of runs whose values are not known yet: they will make it surer, and move no mean.
        """
        x, n = 2.0 * masks - 1.0, len(self._y)
        known, seeds = self._x, self._s
        if waiting is not None:
            known = np.concatenate([known, 2.0 * waiting[0] - 1.0])
            seeds = np.concatenate([seeds, waiting[1]])
        between = self._runs(known, seeds, known, seeds) + JITTER * np.eye(len(known))
        factor = cho_factor(between, lower=True)
        to_known = self._mean_and(x, known)
        weights = cho_solve(cho_factor(between[:n, :n], lower=True), self._y)
        mean = to_known[:, :n] @ weights
        covariance = self._mean_and(x, x) - to_known @ cho_solve(factor, to_known.T)
        from_next = self._runs(x, following, known, seeds)
        solved = cho_solve(factor, from_next.T)
        unknown = np.maximum(self._alone() - np.einsum("ij,ji->i", from_next, solved), JITTER)
        step = (self._mean_and(x, x) - to_known @ solved) / np.sqrt(unknown)
        return Belief(self._shift + self._scale * mean, self._scale**2 * covariance, self._scale * step)

    @property
    def luck_sd(self) -> float:
        """Of one training run, beside what its seed does to all, in the units of the values."""
        return self._scale * float(np.exp(0.5 * self._theta[6]))

    def _runs(self, x: Floats, seeds: Integers, z: Floats, others: Integers) -> Floats:
        """Covariance of runs with runs."""
        common, own, luck = self._terms(x, z)
        same = seeds[:, None] == others[None, :]
        return np.asarray(common + same * own + (same & _equal(x, z)) * luck)

    def _mean_and(self, x: Floats, z: Floats) -> Floats:
        """Covariance of means over the seeds with runs of any one seed, which is that of such means with each other."""
        common, own, luck = self._terms(x, z)
        return np.asarray(common + (own + _equal(x, z) * luck) / self._seeds)

    def _alone(self) -> float:
        """Variance of a run before anything is known."""
        main, pairs, rest, _, level, effects, luck = np.exp(self._theta)
        return float(CONSTANT + main + pairs + rest + level + effects + luck)

    def _terms(self, x: Floats, z: Floats) -> tuple[Floats, Floats, float]:
        parts = _parts(x, z, self._theta)
        return np.asarray(CONSTANT + sum(parts[:3])), parts[4] + parts[5], float(np.exp(self._theta[6]))

    def _loss(self, theta: Floats) -> tuple[float, Floats]:
        """Negative log marginal likelihood, with a weak prior that keeps it sane for few runs, and its gradient."""
        n = len(self._y)
        parts = _parts(self._x, self._x, theta)
        same = self._s[:, None] == self._s[None, :]
        luck = np.exp(theta[6]) * np.eye(n)
        main, pairs, rest, stretch, level, effects = *parts[:4], same * parts[4], same * parts[5]
        total = CONSTANT + main + pairs + rest + level + effects + luck
        factor = cho_factor(total + JITTER * np.eye(n), lower=True)
        weights = cho_solve(factor, self._y)
        inner = np.outer(weights, weights) - cho_solve(factor, np.eye(n))
        by = (main, pairs, rest, stretch, level, effects, luck)
        gradient = np.array([-0.5 * float(np.sum(inner * each)) for each in by])
        off = theta - START
        value = 0.5 * float(self._y @ weights) + float(np.log(np.diag(factor[0])).sum()) + 0.25 * float(off @ off)
        return value, gradient + 0.5 * off


def _equal(x: Floats, z: Floats) -> NDArray[np.bool_]:
    return np.asarray(x @ z.T > x.shape[1] - 0.5)


def _parts(x: Floats, z: Floats, theta: Floats) -> tuple[Floats, ...]:
    """The kernel's three terms of f, the last one's derivative by log l, and the two terms of g for equal seeds."""
    d = x.shape[1]
    product = x @ z.T
    hamming = (d - product) / 2.0
    main, pairs, rest, length, level, effects = np.exp(theta[:6])
    alike = rest * np.exp(-hamming / length)
    lines = product / d
    return main * lines, pairs * lines**2, alike, alike * hamming / length, level * np.ones_like(lines), effects * lines
