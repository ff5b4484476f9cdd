"""Intervals that the SQL computes, a second time and by other means: in NumPy, from the draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from bnsweep.analysis.statistics import Interval, mean_interval, t_quantile


def normalized_interval(draws: Sequence[ArrayLike], baselines: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """A = a/a0 (eq. 13): the mean of the networks' ratios.

    a0 is a census of the test set, hence a constant per network.
    """
    clean = np.asarray(baselines, dtype=np.float64)
    return mean_interval(
        [np.asarray(each, dtype=np.float64) / a0 for each, a0 in zip(draws, clean, strict=True)], confidence=confidence
    )


def average_normalized_interval(
    draws: Sequence[Sequence[ArrayLike]], baselines: ArrayLike, *, confidence: float = 0.95
) -> Interval:
    """A_avr (eq. 14). `draws[network][level]` holds the draws at one eta above 0, trial t in place t.

    With one network the average is made per trial, since a trial has the same noise at every eta; if the levels have
    different numbers of trials, their standard errors are averaged as if fully correlated (never too narrow).
    """
    clean = np.asarray(baselines, dtype=np.float64)
    levels = [[np.asarray(each, dtype=np.float64) / a0 for each in net] for net, a0 in zip(draws, clean, strict=True)]
    n = sum(each.size for net in levels for each in net)
    if len(levels) > 1:
        averages = [np.mean([each.mean() for each in net]) for net in levels]
        return _with_n(mean_interval([[value] for value in averages], confidence=confidence), n)
    (net,) = levels
    sizes = {each.size for each in net}
    if len(sizes) == 1:
        return _with_n(mean_interval([np.mean(net, axis=0)], confidence=confidence), n)
    mean = float(np.mean([each.mean() for each in net]))
    if min(sizes) < 2:
        return Interval(mean, None, None, 1, n)
    se = float(np.mean([each.std(ddof=1) / each.size**0.5 for each in net]))
    return Interval(mean, t_quantile(min(sizes) - 1, confidence) * se, "draws", 1, n)


def paired_interval(
    a: Sequence[ArrayLike], b: Sequence[ArrayLike], *, confidence: float = 0.95
) -> tuple[Interval, float]:
    """The mean of a - b over paired draws, network by network, and how many times wider it would be unpaired.

    The second number is the ratio of standard errors between draws, sqrt(var a + var b) / sd(a - b); NaN without
    spread.
    """
    pairs = [(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)) for x, y in zip(a, b, strict=True)]
    interval = mean_interval([x - y for x, y in pairs], confidence=confidence)
    if any(x.size < 2 for x, _ in pairs):
        return interval, float("nan")
    unpaired = float(np.mean([x.var(ddof=1) + y.var(ddof=1) for x, y in pairs]))
    paired = float(np.mean([(x - y).var(ddof=1) for x, y in pairs]))
    # equal differences of unequal accuracies leave a rounding error
    return interval, (unpaired / paired) ** 0.5 if paired > 1e-18 * unpaired else float("nan")


def _with_n(interval: Interval, n: int) -> Interval:
    return Interval(interval.mean, interval.half_width, interval.level, interval.seeds, n)
