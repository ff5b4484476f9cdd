"""Intervals and tests, in NumPy: what claims need beyond the SQL.

Chance enters twice: through training (one network per training seed) and through noise (draws on each network). Draws
on one network are not independent samples of the question "what does BN do", so they are never pooled over networks:
each network gives one mean, and Student's t over networks covers both (Student 1908). With one network only its draws
are left to speak, for that network alone; an `Interval` says which of the two it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from bnsweep.errors import InputError

__all__ = [
    "MOST_SEEDS",
    "Interval",
    "fitted_change",
    "kendall",
    "mean_interval",
    "seeds_needed",
    "t_quantile",
    "trend_test",
]

NO_SPREAD = 1e-9  # values closer than this agree, but for rounding; an image of a million is 1e-6
MOST_SEEDS = 50  # a difference that needs more training seeds than this is too small to matter here


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with what is known of it. `level`: seeds, draws, or None where there is no interval."""

    mean: float
    half_width: float | None
    level: str | None
    seeds: int
    n: int

    @property
    def low(self) -> float | None:
        """Lower end, or None."""
        return None if self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> float | None:
        """Upper end, or None."""
        return None if self.half_width is None else self.mean + self.half_width


def t_quantile(df: float, confidence: float) -> float:
    """Two-sided quantile of Student's t. Raises InputError for a confidence outside (0, 1)."""
    if not 0 < confidence < 1:
        raise InputError(f"`0 < confidence < 1` must hold, but got {confidence}")
    return float(stdtrit(df, 0.5 + confidence / 2))


def mean_interval(draws: Sequence[ArrayLike], *, confidence: float = 0.95) -> Interval:
    """The mean over networks of means over draws; `draws` has one array (n_draws,) per network.

    Values that all agree say nothing of their spread: no interval. Raises InputError for a network without draws.
    """
    arrays = [np.asarray(each, dtype=np.float64) for each in draws]
    if not arrays or not all(array.size for array in arrays):
        raise InputError("every network needs at least one draw")
    n = sum(array.size for array in arrays)
    sample = arrays[0] if len(arrays) == 1 else np.array([array.mean() for array in arrays])
    level = "draws" if len(arrays) == 1 else "seeds"
    mean = float(sample.mean())
    if sample.size < 2 or np.ptp(sample) < NO_SPREAD:
        return Interval(mean, None, None, len(arrays), n)
    half = t_quantile(sample.size - 1, confidence) * float(sample.std(ddof=1)) / sample.size**0.5
    return Interval(mean, half, level, len(arrays), n)


def fitted_change(x: ArrayLike, y: ArrayLike) -> float:
    """The change of y from the lowest to the highest x along a least-squares line; for two values, their difference."""
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    centred = xs - xs.mean()
    slope = float(centred @ ys) / float(centred @ centred)
    return slope * float(np.ptp(xs))


def kendall(y: Sequence[float]) -> int:
    """Kendall's S of a sequence: pairs that rise less pairs that fall (ties count for neither)."""
    return sum((later > earlier) - (later < earlier) for earlier, later in combinations(y, 2))


def trend_test(sequences: Sequence[Sequence[float]]) -> tuple[int, float]:
    """Do independent sequences rise together? The sum of Kendall's S and its exact two-sided p.

    Under the hypothesis of no trend every order of each sequence is as likely (Mann 1945, Kendall 1938); the
    distribution of the sum is the convolution of theirs. For sequences of two it is the sign test. Ties make the
    test conservative.
    """
    total = sum(kendall(sequence) for sequence in sequences)
    probabilities = np.ones(1)
    for sequence in sequences:
        probabilities = np.convolve(probabilities, _kendall_probabilities(len(sequence)))
    centre = (probabilities.size - 1) / 2  # in steps of 2 of S, from its least value
    scores = 2 * (np.arange(probabilities.size) - centre)
    return total, min(1.0, float(probabilities[np.abs(scores) >= abs(total) - 1e-9].sum()))


def seeds_needed(mean: float, sd: float, *, confidence: float = 0.95) -> int | None:
    """Fewest training seeds whose t interval would leave out 0, were mean and spread as seen; None: more than 50."""
    for seeds in range(2, MOST_SEEDS + 1):
        if t_quantile(seeds - 1, confidence) * sd / seeds**0.5 < abs(mean):
            return seeds
    return None


def _kendall_probabilities(length: int) -> NDArray[np.float64]:
    """P(number of rising pairs = k) over all orders of `length` different values (Mahonian numbers over length!)."""
    probabilities = np.ones(1)
    for size in range(2, length + 1):
        probabilities = np.convolve(probabilities, np.full(size, 1 / size))
    return probabilities
