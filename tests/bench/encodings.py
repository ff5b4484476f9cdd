"""How should a placement be written down for a model that guesses the rest from few runs?

    python -m tests.bench.encodings [NETWORK]      about two minutes of one core

Every code is a row of 0 and 1 per placement. A linear model (ridge, its strength by leaving one out) and the search's
Gaussian process are fitted to 16 to 128 random placements, each trained once with the same seed, and asked for all:
rank correlation with the means over the *other* seeds, so that luck does not count. And moves: is a placement alike
the one where BN has gone from a site to another of the same stage?
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from bnsweep.placements.surrogate import Surrogate
from tests.bench.bench_search import Table, table
from tests.bench.every_placement import NETWORKS, Network

Floats = NDArray[np.float64]
RUNS = (16, 32, 64, 128)
DRAWS = 12  # of random placements, for each seed
MANY = 1000  # seeds: the luck of the runs that are known has no share in the mean
STRENGTHS = np.logspace(-2, 3, 21)  # of ridge


def codes(network: Network, sites: Floats) -> dict[str, Floats]:
    """Ways to write placements (n, sites) down. A count is as many ones as there are, first: a sorted row."""
    stages = np.array([stage for stage, _ in network.sites])
    by_stage = np.concatenate([-np.sort(-sites[:, stages == stage]) for stage in np.unique(stages)], axis=1)
    first, second = np.triu_indices(sites.shape[1], 1)
    neighbours = _unlike(sites[:, :-1], sites[:, 1:])
    return {
        "number of layers": -np.sort(-sites),
        "number per stage": by_stage,
        "sites": sites,
        "sites and numbers per stage": np.concatenate([sites, by_stage], axis=1),
        "sites and neighbours alike": np.concatenate([sites, neighbours], axis=1),
        "sites and all pairs alike": np.concatenate([sites, _unlike(sites[:, first], sites[:, second])], axis=1),
    }


def ridge(code: Floats, chosen: NDArray[np.int64], values: Floats) -> Floats:
    """What a linear model of these runs says of all placements."""
    x, centre = code - code[chosen].mean(axis=0), values.mean()
    u, singular, vt = np.linalg.svd(x[chosen], full_matrices=False)
    y = values - centre
    best, found = np.inf, np.zeros(code.shape[1])
    for strength in STRENGTHS:
        shrunk = singular / (singular**2 + strength)
        fitted = u @ (singular * shrunk * (u.T @ y))
        leverage = 1 / len(y) + (u**2 * (singular * shrunk)).sum(axis=1)
        error = float((((y - fitted) / (1 - np.minimum(leverage, 0.999))) ** 2).mean())
        if error < best:
            best, found = error, vt.T @ (shrunk * (u.T @ y))
    return np.asarray(x @ found)


def process(code: Floats, chosen: NDArray[np.int64], values: Floats) -> Floats:
    """What the search's Gaussian process says of means over many seeds. The code must tell all placements apart."""
    one_seed = np.zeros(len(chosen), dtype=np.int64)
    model = Surrogate(MANY).fit(code[chosen], one_seed, values)
    return model.believe(code, np.zeros(len(code), dtype=np.int64)).mean


def ranked(known: Table, code: Floats, model: Callable[..., Floats], runs: int) -> tuple[Floats, Floats]:
    """Rank correlation of accuracy and A_avr: means over draws of the placements, and their standard errors."""
    found = []
    seeds = range(known.runs.shape[1])
    for draw in range(DRAWS):
        for seed in seeds:
            whole = ~np.isnan(known.runs).any(axis=(1, 2))
            random = np.random.default_rng([draw, seed])
            chosen = random.permutation(np.flatnonzero(whole))[:runs]
            others = known.runs[:, [each for each in seeds if each != seed]].mean(axis=1)
            row = []
            for objective in (0, 1):
                said = model(code, chosen, known.runs[chosen, seed, objective])
                row.append(correlation(said[whole], others[whole, objective]))
            found.append(row)
    return np.mean(found, axis=0), np.std(found, axis=0, ddof=1) / np.sqrt(len(found))


def moves(network: Network, known: Table) -> dict[str, tuple[int, Floats]]:
    """Correlation between the two ends of a move, one end's mean being over other seeds than the other's."""
    sites = _bits(known)
    stages = np.array([stage for stage, _ in network.sites])
    pairs: dict[str, list[tuple[int, int]]] = {
        name: [] for name in ("itself", "one site more or less", "to the same stage", "to another stage", "as many")
    }
    for one, mask in enumerate(sites):
        for other, there in enumerate(sites):
            differ = np.flatnonzero(mask != there)
            if not len(differ):
                pairs["itself"].append((one, other))
            elif len(differ) == 1:
                pairs["one site more or less"].append((one, other))
            elif mask.sum() == there.sum():
                near = len(differ) == 2 and len(set(stages[differ])) == 1
                name = "as many" if len(differ) > 2 else "to the same stage" if near else "to another stage"
                pairs[name].append((one, other))
    seeds = range(known.runs.shape[1])
    rest = np.stack([known.runs[:, [s for s in seeds if s != seed]].mean(axis=1) for seed in seeds], axis=1)
    found = {}
    for name, ends in pairs.items():
        here, there = np.array(ends).T
        parts = []
        for seed in seeds:
            good = ~np.isnan(known.runs[here, seed, 0] + rest[there, seed, 0])
            parts.append([correlation(known.runs[here[good], seed, k], rest[there[good], seed, k]) for k in (0, 1)])
        found[name] = (len(ends), np.mean(parts, axis=0))
    return found


def _bits(known: Table) -> Floats:
    return np.array([[float(digit) for digit in mask] for mask in known.masks])


def _unlike(a: Floats, b: Floats) -> Floats:
    return np.abs(a - b)


def correlation(a: Floats, b: Floats) -> float:
    """Spearman's; of what is the same for all, none."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def main() -> None:
    """Print both."""
    network = NETWORKS[sys.argv[1] if len(sys.argv) > 1 else "resnet8"]
    known = table(network.name)
    print(f"{network.name}: {DRAWS * known.runs.shape[1]} draws; rank correlation of accuracy, A_avr (standard error)")
    for name, code in codes(network, _bits(known)).items():
        models = {"linear": ridge, "process": process}
        if len(np.unique(code, axis=0)) < len(code):
            del models["process"]
        for what, model in models.items():
            cells = []
            for runs in RUNS:
                if runs < len(known.masks):
                    middle, error = ranked(known, code, model, runs)
                    cells.append(f"{runs}: {middle[0]:.2f}, {middle[1]:.2f} ({error.max():.2f})")
            print(f"  {name + ', ' + what:<38} {'   '.join(cells)}", flush=True)
    print("a placement and what a move makes of it, one seed against the mean of the others:")
    for name, (count, (accuracy, normalized)) in moves(network, known).items():
        print(f"  {name:<24} {accuracy:.2f}, {normalized:.2f}  ({count} pairs)")


if __name__ == "__main__":
    main()
