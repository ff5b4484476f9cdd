"""What each of the optimizer and the L2 term does to what BN costs: two by two recipes, over their training seeds."""

from __future__ import annotations

from math import fsum
from operator import mul
from statistics import fmean

import numpy as np
from scipy import stats

from tests.results.glance import COSTS
from tests.results.markdown import Lines, command, table
from tests.results.published import RECIPE, Answers, arms

__all__ = ["factors"]

SMALL, LARGE = 1e-4, 5e-4  # L2 terms of the sweep
ARMS = (("adam", SMALL), ("adam", LARGE), ("sgd", SMALL), ("sgd", LARGE))
WEIGHTS = {  # of the costs by these four recipes
    "Adam instead of SGD": (0.5, 0.5, -0.5, -0.5),
    "a fifth of the L2 term": (0.5, -0.5, 0.5, -0.5),
    "that with Adam, less that with SGD": (1, -1, -1, 1),
}


def factors(ask: Answers) -> Lines:
    """Points of A_avr that BN costs more, with t intervals over training seeds, which all recipes share."""
    costs = [_costs(ask, *cell) for cell in COSTS]
    lines = [
        [what, *(_shown([fsum(map(mul, weights, map(of.__getitem__, ARMS))) for of in each]) for each in costs)]
        for what, weights in WEIGHTS.items()
    ]
    heads = ["adds to what BN costs, points", "noise on weights", "on all parameters", "on all, BN folded"]
    return table([*heads, "on weights, statistics anew"], lines) + command("run_averages", RECIPE)


def _costs(ask: Answers, targets: str, treatment: str) -> list[dict[tuple[str, float], float]]:
    """By training seed: the points that BN costs by each recipe."""
    kept = {
        (row["training"], row["train_seed"], row["placement"]): row["average_normalized_pct"]
        for row in ask("run_averages", RECIPE, targets=targets, bn_treatment=treatment)
    }
    recipes = arms(ask("runs", RECIPE), "training", "optimizer", "weight_decay")
    every = {(training, placement) for training, *_ in recipes for placement in ("all", "none")}
    seeds = sorted({seed for _, seed, _ in kept if all((training, seed, end) in kept for training, end in every)})
    return [
        {(optimizer, decay): kept[run, seed, "none"] - kept[run, seed, "all"] for run, optimizer, decay in recipes}
        for seed in seeds
    ]


def _shown(values: list[float]) -> str:
    mean = f"{fmean(values):.1f}"
    if len(values) < 2:
        return mean
    low, high = stats.t.interval(0.95, len(values) - 1, loc=fmean(values), scale=stats.sem(np.array(values)))
    return f"{mean} ({low:.1f} to {high:.1f})"
