"""Do the intervals of sequential sampling cover a known truth, and what do they cost?

`python -m tests.bench.bench_sampling [REPLICATES] [coverage | cost]` prints every case as a row of the tables in
docs/sampling.md. With 4,000 replicates, the figures that count, it takes about a quarter of an hour of one core.

- Coverage: points are sampled to the end thousands of times from populations of draws with a known mean: binomial,
  normal, skewed and bimodal ones (populations.py), and the recorded draws of a ResNet-8 on CIFAR-10 at seven eta.
- Cost: image evaluations, a draw counting as many as `Design.draw_cost`, of `images: auto` against `images: all` to the
  same half-width by the same rule, and against the fewest whole-test-set trials whose t interval is that narrow when
  their standard deviation is known beforehand (a bound that no procedure can keep to).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal, cast

import numpy as np
from scipy.stats import t as student_t

from bnsweep.noise.sampling import Design
from tests.bench.populations import SYNTHETIC, Population, recorded, synthetic
from tests.bench.simulation import Points, many

COVERED = {"auto": (0.01, 0.02), "all": (0.01, 0.02), "500": (0.02,)}
COMPARED = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
TEST_SETS = (10_000, 500)  # images
DRAW_COST = Design(0.01).draw_cost
MOST = 600  # trials on all images, with the standard deviation known: beyond that, 1,000 do not reach a half-width


@dataclass(frozen=True)
class Case:
    """One population and design, sampled many times."""

    population: Population
    images: str
    half_width: float
    points: Points

    @property
    def coverage(self) -> float:
        truth = self.population.accuracy.mean()
        return float((np.abs(self.points.mean - truth) <= self.points.half_width).mean())

    @property
    def trials(self) -> float:
        return float(self.points.trials.mean())

    @property
    def scored(self) -> float:
        """Images, over all trials."""
        return float(self.points.images.mean())

    @property
    def cost(self) -> float:
        """In images, with what the draws cost."""
        return self.scored + self.trials * DRAW_COST

    @property
    def bound(self) -> float:
        """The same for as many whole-test-set trials as the half-width needs at least."""
        return trials_needed(self.population, self.half_width) * (self.population.sizes.sum() + DRAW_COST)

    @property
    def capped(self) -> float:
        """Share of points that used all trials they may."""
        return float(self.points.capped.mean())

    def __str__(self) -> str:
        return (
            f"| {self.population.name} | {self.images} | {100 * self.half_width:g} | {100 * self.coverage:.1f} "
            f"| {self.trials:.0f} | {self.scored / self.trials:.0f} | {self.capped:.1%} |"
        )


def trials_needed(population: Population, half_width: float) -> int:
    """Fewest whole-test-set trials whose t interval is that narrow, their standard deviation being known."""
    deviation = population.accuracy.std(ddof=1)
    return next(m for m in count(2) if student_t.ppf(0.975, m - 1) * deviation / m**0.5 <= half_width)


def design(population: Population, images: str, half_width: float) -> Design:
    """As a sweep with `trials: {half_width: ...}` has it."""
    return Design(
        half_width,
        images=cast("Literal['all', 'auto']", images) if images in ("all", "auto") else int(images),
        test_images=int(population.sizes.sum()),
        strata_sizes=tuple(population.sizes.tolist()),
        clean_accuracy=population.clean,
    )


def simulate(population: Population, images: str, half_width: float, replicates: int) -> Case:
    points = many(design(population, images, half_width), population, replicates, np.random.default_rng(20))
    return Case(population, images, half_width, points)


def coverages(replicates: int) -> Iterator[Case]:
    """Every population with every way of choosing images."""
    for population in (*map(synthetic, SYNTHETIC), *recorded().values()):
        for images, half_widths in COVERED.items():
            for half_width in half_widths:
                if trials_needed(population, half_width) < MOST:
                    yield simulate(population, images, half_width, replicates)


def costs(replicates: int) -> Iterator[tuple[Case, Case]]:
    """`auto` and `all` on the recorded draws, to every half-width within reach, for a large and a small test set."""
    for images in TEST_SETS:
        for population in recorded(images).values():
            for half_width in COMPARED:
                if trials_needed(population, half_width) < MOST:
                    auto, full = (simulate(population, way, half_width, replicates) for way in ("auto", "all"))
                    yield auto, full


def compared(auto: Case, full: Case) -> str:
    """A row of the cost table."""
    images = auto.population.sizes.sum()
    return (
        f"| {auto.population.name} | {images:,} | {100 * auto.half_width:g} "
        f"| {full.trials:.0f} x {images:,} | {auto.trials:.0f} x {auto.scored / auto.trials:,.0f} "
        f"| {full.cost / auto.cost:.1f} | {full.bound / auto.cost:.1f} |"
    )


def figures(replicates: int = 400, parts: tuple[str, ...] = ("coverage", "cost")) -> list[dict[str, Any]]:
    """One row per figure: figure, value, unit, baseline, ratio, n, spread, floor."""
    rows: list[dict[str, Any]] = []
    if "coverage" in parts:
        print("| draws | images | half-width, points | covered, % | trials | images a trial | at `max` |", flush=True)
        rows += _coverage_figures(replicates)
    if "cost" in parts:
        print("| draws | test images | half-width, points | all | auto | times fewer | than the bound |", flush=True)
        rows += _cost_figures(max(10, replicates // 10))
    return rows


def _coverage_figures(replicates: int) -> Iterator[dict[str, Any]]:
    found = []
    for case in coverages(replicates):
        print(case, flush=True)
        found.append(case.coverage)
    shared = {"n": replicates * len(found), "spread": max(found) - min(found), "floor": 0.95}
    yield _row("sampling: lowest coverage of a case (nominal 0.95; wanted 0.94)", min(found), "share", 0.94, **shared)
    yield _row("sampling: mean coverage (wanted 0.98 at most)", float(np.mean(found)), "share", 0.98, **shared)


def _cost_figures(replicates: int) -> Iterator[dict[str, Any]]:
    least = 1e9
    for auto, full in costs(replicates):
        print(compared(auto, full), flush=True)
        least = min(least, full.cost / auto.cost)
        if auto.half_width == 0.01 and auto.population.sizes.sum() == TEST_SETS[0]:
            spread = float(np.ptp(auto.points.images) / auto.scored)
            name = f"sampling: images to a half-width of 1 point, {auto.population.name}, against whole test sets"
            row = _row(name, auto.cost, "images", full.cost, n=replicates, spread=spread, floor=optimum(auto))
            yield {**row, "ratio": full.cost / auto.cost}
    name = "sampling: least of all such ratios, any eta and half-width (wanted 1 / 1.05)"
    yield _row(name, least, "times", 1 / 1.05, n=replicates, spread=0.0, floor=None)


def optimum(case: Case) -> float:
    """Cost of the best stratified design if all variances were known: z^2 / h^2 * V(n) draws of n images each."""
    population = case.population
    weights = population.sizes / population.sizes.sum()
    share = population.right / population.sizes
    within = (share * (1 - share)).mean(0)
    spread = float((weights * np.sqrt(within)).sum()) ** 2
    images = np.arange(len(weights), population.sizes.sum())
    variance = population.accuracy.var(ddof=1) + spread / images
    draws = np.maximum((1.96 / case.half_width) ** 2 * variance, 2)
    return float((draws * (images + DRAW_COST)).min())


def _row(figure: str, value: float, unit: str, baseline: float, **rest: Any) -> dict[str, Any]:
    return {"figure": figure, "value": value, "unit": unit, "baseline": baseline, "ratio": value / baseline, **rest}


if __name__ == "__main__":
    wanted = tuple(sys.argv[2:]) or ("coverage", "cost")
    for row in figures(int(sys.argv[1]) if len(sys.argv) > 1 else 4000, wanted):
        print(row)
