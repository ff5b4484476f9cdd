"""Thousands of points sampled side by side by the rule of bnsweep/noise/sampling.py, from sums instead of rows.

It is a second writing of the rule, in arrays over replicates: a hundred times quicker than one point after the other,
and tests/noise/test_sampling.py holds it against the first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from bnsweep.noise import sampling
from bnsweep.noise.sampling import CAUTION, ENOUGH, EXTREMES, GROWTH, LOSSES, PSEUDO_FLIPS, Design
from tests.bench.populations import Population, Trial

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Points:
    """What became of each replicate."""

    mean: Floats
    half_width: Floats
    trials: Ints
    images: Ints
    capped: NDArray[np.bool_]


class Sums:
    """Of the trials of each replicate: all that the rule reads of them."""

    def __init__(self, design: Design, replicates: int, strata: int) -> None:
        self.design = design
        self.sizes = np.array(design.strata_sizes, float)
        self.n = np.zeros(replicates, np.int64)
        self.images = np.zeros(replicates, np.int64)
        self.total, self.squares = np.zeros(replicates), np.zeros(replicates)
        self.low, self.high = np.full(replicates, np.inf), np.full(replicates, -np.inf)
        # Per stratum: images; pairs of images within a draw, less one each; wrong times right ones; 1 / images.
        self.seen, self.freedom, self.product, self.inverse = (np.zeros((replicates, strata)) for _ in range(4))

    def add(self, who: Ints, counts: Ints, accuracy: Floats, images: Ints, hits: Ints | None) -> None:
        """Trials of the replicates `who`, one after the other: `counts` of each."""
        starts = np.cumsum(counts) - counts
        self.n[who] += counts
        self.total[who] += np.add.reduceat(accuracy, starts)
        self.squares[who] += np.add.reduceat(accuracy**2, starts)
        self.low[who] = np.minimum(self.low[who], np.minimum.reduceat(accuracy, starts))
        self.high[who] = np.maximum(self.high[who], np.maximum.reduceat(accuracy, starts))
        per_trial = images if images.ndim == 1 else images.sum(1)
        self.images[who] += np.add.reduceat(per_trial, starts)
        if hits is not None:
            self.seen[who] += np.add.reduceat(images, starts)
            self.freedom[who] += np.add.reduceat(images - 1, starts)
            self.product[who] += np.add.reduceat(hits * (images - hits) / images, starts)
            self.inverse[who] += np.add.reduceat(1 / images, starts)


class Looks:
    """What the sums of some replicates say at a look."""

    def __init__(self, sums: Sums, who: Ints) -> None:
        design = sums.design
        self.n = sums.n[who]
        self.mean = sums.total[who] / self.n
        sample = np.maximum(sums.squares[who] - self.n * self.mean**2, 0) / (self.n - 1)
        extreme = np.maximum(sums.high[who] - self.mean, self.mean - sums.low[who])
        if design.images == "auto":
            weights = sums.sizes / sums.sizes.sum()
            self.within = sums.product[who] / np.maximum(sums.freedom[who], 1) + PSEUDO_FLIPS / sums.seen[who]
            inverse = sums.inverse[who] - self.n[:, None] / sums.sizes
            within = (weights**2 * self.within * inverse).sum(1) / self.n
            self.between = np.maximum(sample - within, 0)
        self.variance = np.maximum(sample, 0.25 / design.test_images**2 / self.n)
        self.spread = self.variance + EXTREMES * extreme**2 / self.n
        self.quantile = CAUTION * student_t.ppf(0.5 + design.confidence / 2, self.n - 1)
        self.half_width = self.quantile * np.sqrt(self.spread / self.n)
        loss = 0 * self.mean if design.clean_accuracy is None else np.maximum(design.clean_accuracy - self.mean, 0)
        wanted = np.ceil(LOSSES * loss / design.half_width)
        self.enough = np.clip(np.minimum(wanted, ENOUGH), design.min, design.max).astype(np.int64)


def many(
    design: Design,
    population: Population,
    replicates: int,
    rng: np.random.Generator,
    *,
    keep: list[list[Trial]] | None = None,
) -> Points:
    """Sample points until the design stops; their trials go into `keep`."""
    sizes, total = population.sizes, int(population.sizes.sum())
    sums = Sums(design, replicates, len(sizes))
    taken = np.tile(np.array(sampling._pilot(design), np.int64), (replicates, 1))
    upto = np.full(replicates, design.first_look)
    half_width, mean, capped = np.empty(replicates), np.empty(replicates), np.zeros(replicates, bool)
    who = np.arange(replicates)
    while len(who):
        counts = upto[who] - sums.n[who]
        owner = np.repeat(who, counts)
        right = population.right[rng.integers(len(population.right), size=len(owner))]
        if design.images == "auto":
            images = taken[owner]
            hits = rng.hypergeometric(right, sizes - right, images)
            accuracy = (hits / images * sizes).sum(1) / total
            sums.add(who, counts, accuracy, images, hits)
        else:
            whole, each = right.sum(1), design.images if isinstance(design.images, int) else total
            images, hits = np.full(len(owner), each), whole
            if each < total:
                hits = rng.hypergeometric(whole, total - whole, each)
            accuracy = hits / each
            sums.add(who, counts, accuracy, images, None)
        if keep is not None:
            for point, *trial in zip(owner, accuracy, images, hits, strict=True):
                strata = (tuple(trial[1]), tuple(trial[2])) if design.images == "auto" else (None, None)
                keep[point].append(Trial(float(trial[0]), int(np.sum(trial[1])), *strata))
        look = Looks(sums, who)
        reached = (look.half_width <= design.half_width) & (look.n >= look.enough)
        stopped = reached | (look.n >= design.max)
        half_width[who], mean[who], capped[who] = look.half_width, look.mean, stopped & ~reached
        if design.images == "auto":
            taken[who], needed = _cheapest(design, look)
        else:
            needed = _needed(design, look, look.variance)
        steps = np.maximum(np.ceil(needed), look.n + np.ceil(look.n / 8))
        steps = np.maximum(np.minimum(steps, np.floor(look.n * GROWTH)), np.maximum(look.enough, look.n + 1))
        upto[who] = np.minimum(steps, design.max)
        who = who[~stopped]
    return Points(mean, half_width, sums.n, sums.images, capped)


def _needed(design: Design, look: Looks, variance: Floats) -> Floats:
    """(replicates, ...) all trials needed if those to come have this variance."""
    shape = (-1,) + (1,) * (variance.ndim - 1)
    wanted = ((design.half_width / look.quantile) ** 2 * look.variance / look.spread).reshape(shape)
    gap = look.n.reshape(shape) * (look.variance.reshape(shape) - variance)
    return (variance + np.sqrt(np.maximum(variance**2 + 4 * wanted * gap, 0))) / (2 * wanted)


def _cheapest(design: Design, look: Looks) -> tuple[Ints, Floats]:
    """(replicates, strata) images, and all trials needed with them."""
    sizes = np.array(design.strata_sizes, float)
    weights = sizes / sizes.sum()
    shares = weights * np.sqrt(look.within)
    # The factor at which the limited shares add up to a number of images, between the breaks of a linear function.
    breaks = np.sort(np.concatenate([1 / shares, sizes / shares], 1), 1)
    sums = np.clip(breaks[..., None] * shares[:, None], 1, sizes).sum(2)
    tables = []
    for images in sampling._geometric(len(sizes), design.test_images):
        after = np.clip((sums < images).sum(1), 1, breaks.shape[1] - 1)[:, None]
        (low, high), (left, right) = (
            [np.take_along_axis(values, after - step, 1)[:, 0] for step in (1, 0)] for values in (sums, breaks)
        )
        factor = left + (right - left) * np.clip((images - low) / np.maximum(high - low, 1e-300), 0, 1)
        tables.append(np.floor(np.clip(factor[:, None] * shares, 1, sizes) + 0.5))
    table = np.stack(tables, 1)
    within = (weights**2 * look.within[:, None] / table * (1 - table / sizes)).sum(2)
    variances = np.maximum(look.between[:, None] + within, 1e-12)
    prices = table.sum(2) + design.draw_cost
    needed = np.maximum(_needed(design, look, variances), np.maximum(look.n + 1, look.enough)[:, None])
    costs = np.where(needed <= min(design.max, design.aim), (needed - look.n[:, None]) * prices, np.inf)
    best = np.where(np.isfinite(costs).any(1), costs.argmin(1), (variances * prices).argmin(1))
    rows = np.arange(len(best))
    return table[rows, best].astype(np.int64), needed[rows, best]
