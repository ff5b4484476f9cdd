"""What few noisy training runs say about every placement: a Gaussian process over 0/1 masks.

    y(run) = f(mask) + noise of training and draws
    k(x, x') = c0 + c1 x.x'/d + c2 (x.x'/d)^2 + c3 exp(-h(x, x') / l),   x in {-1, 1}^d, h the Hamming distance

The terms are a constant, main effects of the sites, pairs of sites, and whatever else is alike in like placements;
how much there is of each, and of noise, maximises the marginal likelihood (Rasmussen and Williams 2006, section 5.4).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

__all__ = ["Surrogate"]

Floats = NDArray[np.float64]

# log of c1, c2, c3, l, noise variance; y is standardised, and a constant is left to a wide prior.
START = np.log([0.3, 0.1, 0.3, 3.0, 0.3])
BOUNDS = [tuple(np.log(pair)) for pair in ((1e-3, 10), (1e-4, 10), (1e-3, 10), (0.5, 30), (1e-3, 3))]
CONSTANT = 4.0
JITTER = 1e-8
STEPS = 12  # of the optimizer per fit, which begins where the one before ended


class Surrogate:
    """One objective. `fit` may be called again with more runs; it starts from where it was."""

    def __init__(self) -> None:
        self._theta = START.copy()

    def fit(self, masks: Floats, values: Floats) -> Surrogate:
        """Learn from runs: masks (n, d) of 0 and 1, values (n,), repeated masks included."""
        self._x = 2.0 * masks - 1.0
        self._shift, self._scale = float(values.mean()), float(values.std()) or 1.0
        self._y = (values - self._shift) / self._scale
        if len(values) >= 4:
            found = minimize(
                self._loss, self._theta, jac=True, bounds=BOUNDS, method="L-BFGS-B", options={"maxiter": STEPS}
            )
            self._theta = found.x
        parts = _parts(self._x, self._x, self._theta)
        noise = np.exp(self._theta[4])
        self._factor = cho_factor(CONSTANT + sum(parts[:3]) + (noise + JITTER) * np.eye(len(values)), lower=True)
        self._weights = cho_solve(self._factor, self._y)
        return self

    def predict(self, masks: Floats) -> tuple[Floats, Floats]:
        """Mean (m,) and covariance (m, m) of f at these masks, in the units of the values."""
        x = 2.0 * masks - 1.0
        cross = CONSTANT + sum(_parts(x, self._x, self._theta)[:3])
        mean = cross @ self._weights
        covariance = CONSTANT + sum(_parts(x, x, self._theta)[:3]) - cross @ cho_solve(self._factor, cross.T)
        return self._shift + self._scale * mean, self._scale**2 * covariance

    @property
    def noise_sd(self) -> float:
        """Of one training run, in the units of the values."""
        return self._scale * float(np.exp(0.5 * self._theta[4]))

    def _loss(self, theta: Floats) -> tuple[float, Floats]:
        """Negative log marginal likelihood, with a weak prior that keeps it sane for few runs, and its gradient."""
        n = len(self._y)
        main, pairs, rest, stretch = _parts(self._x, self._x, theta)
        noise = np.exp(theta[4]) * np.eye(n)
        factor = cho_factor(CONSTANT + main + pairs + rest + noise + JITTER * np.eye(n), lower=True)
        weights = cho_solve(factor, self._y)
        inner = np.outer(weights, weights) - cho_solve(factor, np.eye(n))
        gradient = np.array([-0.5 * float(np.sum(inner * each)) for each in (main, pairs, rest, stretch, noise)])
        off = theta - START
        value = 0.5 * float(self._y @ weights) + float(np.log(np.diag(factor[0])).sum()) + 0.25 * float(off @ off)
        return value, gradient + 0.5 * off


def _parts(x: Floats, z: Floats, theta: Floats) -> tuple[Any, Any, Any, Any]:
    """The kernel's three terms, and the last one's derivative by log l."""
    d = x.shape[1]
    product = x @ z.T
    hamming = (d - product) / 2.0
    main, pairs, rest, length = np.exp(theta[:4])
    alike = rest * np.exp(-hamming / length)
    return main * product / d, pairs * (product / d) ** 2, alike, alike * hamming / length
