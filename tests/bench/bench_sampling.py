"""Do the intervals of sequential sampling cover a known truth, and what do they cost?

`python -m tests.bench.bench_sampling [REPLICATES]` (4,000 for the figures that count; half an hour of one core)
prints every case and the figures.

- Coverage: points are sampled to the end thousands of times from populations of draws with a known mean: binomial,
  normal, skewed and bimodal ones (populations.py), and the recorded draws of a ResNet-8 on CIFAR-10.
- Cost: images scored, against trials of the whole test set of which there are as many as a t interval of
  the same half-width needs when their standard deviation is known beforehand (a bound no procedure can keep to).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from bnsweep.noise.sampling import FIRST_LOOK, Design
from tests.bench.populations import SYNTHETIC, Outcome, Population, recorded, sequential, synthetic

HALF_WIDTHS = {"auto": (0.01, 0.02), "all": (0.01,), "500": (0.02,)}


@dataclass(frozen=True)
class Case:
    """One population and design, sampled many times."""

    population: Population
    images: str
    half_width: float
    outcomes: list[Outcome]

    @property
    def coverage(self) -> float:
        return float(np.mean([outcome.covered for outcome in self.outcomes]))

    @property
    def scored(self) -> float:
        return float(np.mean([outcome.images for outcome in self.outcomes]))

    @property
    def full(self) -> int:
        """Images of as many whole-test-set trials as the half-width needs."""
        return trials_needed(self.population, self.half_width) * int(self.population.sizes.sum())

    def __str__(self) -> str:
        trials = np.mean([outcome.trials for outcome in self.outcomes])
        return (
            f"{self.population.name:27} images {self.images:>4}  half-width {self.half_width}"
            f"  covered {self.coverage:.3f}  trials {trials:6.0f}  images per trial {self.scored / trials:6.0f}"
            f"  full / scored {self.full / self.scored:6.2f}"
        )


def trials_needed(population: Population, half_width: float) -> int:
    """Fewest whole-test-set trials whose t interval is that narrow, their standard deviation being known."""
    deviation = population.accuracy.std(ddof=1)
    return next(m for m in count(2) if student_t.ppf(0.975, m - 1) * deviation / m**0.5 <= half_width)


def design(population: Population, images: str, half_width: float) -> Design:
    """A first look at 48 draws, whatever the images: what the coverage is claimed for."""
    if images == "auto":
        return Design(half_width, images="auto", strata_sizes=tuple(population.sizes.tolist()))
    return Design(half_width, images="all" if images == "all" else int(images), min=FIRST_LOOK)


def simulate(population: Population, images: str, half_width: float, replicates: int) -> Case:
    rng = np.random.default_rng(20)
    truth = float(population.accuracy.mean())
    plan = design(population, images, half_width)
    return Case(population, images, half_width, [sequential(plan, population, truth, rng) for _ in range(replicates)])


def cases(replicates: int) -> Iterator[Case]:
    for population in (*map(synthetic, SYNTHETIC), *recorded().values()):
        for images, half_widths in HALF_WIDTHS.items():
            for half_width in half_widths:
                # Out of reach of 1,000 trials even if all images were scored: nothing to compare.
                if trials_needed(population, half_width) < 600:
                    yield simulate(population, images, half_width, replicates)


def figures(replicates: int = 200) -> list[dict[str, Any]]:
    """One row per figure: figure, value, unit, baseline, ratio, n, spread, floor."""
    found = []
    for case in cases(replicates):
        print(case, flush=True)
        found.append(case)
    coverage = np.array([case.coverage for case in found])
    shared = {"n": replicates * len(found), "spread": float(np.ptp(coverage)), "floor": 0.95}
    rows = [
        _row(
            "sampling: lowest coverage of a case (nominal 0.95; wanted 0.94)", coverage.min(), "share", 0.94, **shared
        ),
        _row("sampling: mean coverage (wanted 0.98 at most)", coverage.mean(), "share", 0.98, **shared),
    ]
    for case in found:
        if case.images == "auto" and case.population.name.startswith("recorded"):
            spread = float(np.ptp([outcome.images for outcome in case.outcomes]) / case.scored)
            name = f"sampling: images to half-width {case.half_width}, {case.population.name}, against full test sets"
            row = _row(name, case.scored, "images", case.full, n=replicates, spread=spread, floor=optimum(case))
            rows.append({**row, "ratio": case.full / case.scored})
    return rows


def optimum(case: Case) -> float:
    """Images of the best stratified design if all variances were known: min over n of z^2 / h^2 * V(n) * n."""
    population = case.population
    weights = population.sizes / population.sizes.sum()
    share = population.right / population.sizes
    within = (share * (1 - share)).mean(0)
    spread = float((weights * np.sqrt(within)).sum()) ** 2
    images = np.arange(len(weights), 10_000)
    variance = population.accuracy.var(ddof=1) + spread / images
    draws = np.maximum((1.96 / case.half_width) ** 2 * variance, 2)
    price = Design(0.01).draw_cost
    return float((draws * images)[np.argmin(draws * (images + price))])


def _row(figure: str, value: float, unit: str, baseline: float, **rest: Any) -> dict[str, Any]:
    value = float(value)
    return {"figure": figure, "value": value, "unit": unit, "baseline": baseline, "ratio": value / baseline, **rest}


if __name__ == "__main__":
    for row in figures(int(sys.argv[1]) if len(sys.argv) > 1 else 4000):
        print(row)
