"""How many trainings does a placement search need? Searches replayed on tables of trainings that were all made once.

`python -m tests.bench.bench_search [--network NAME] [--seeds N] [SAMPLER ...]` (20 seeds for the figures of
docs/search.md)

every_placement.py has the tables: every placement of a small network on the 8x8 digits, trained with several seeds. A
replay asks the `FrontStudy` that a search asks; a proposed run is looked up instead of trained, one seed at a time.

The front to be found is that of the means over seeds. After n trainings a search names a front; it is worth the volume
that the *true* means of those placements dominate, over that of the true front. A search that was lucky once recommends
placements that are not as good as they looked, and loses by it. A placement that diverged for any seed is worth
nothing. A front is named in two ways: by each placement's plain mean of the runs seen, and as `bnsweep search show`
does, by what a model of all runs takes those means for.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bnsweep.experiment.architecture import Architecture, Site
from bnsweep.experiment.reading import parse_spec
from bnsweep.experiment.search import SearchSpec, Subject
from tests.bench.every_placement import NETWORKS
from tests.bench.volume import hypervolume

SEARCH = """\
name: replay
data: {{source: digits, size: 8}}
models: {network}
train_seeds: {seeds}
noise: {{targets: all}}
eta: [0, 0.2]
search: {{sampler: {sampler}, seed: {seed}, trainings: {trainings}, batch: 8}}
"""
Curve = list[tuple[int, float]]  # trainings, and the worth of the front that is named then
Run = tuple[str, int, tuple[float, float]]  # mask, seed, accuracy and A_avr

LEVELS = (0.9, 0.95, 0.97, 0.99)
NAMING = ("means", "model")
OTHERWISE = 192  # trainings, but for random search, which gets all there are


@dataclass(frozen=True)
class Table:
    """Every placement's runs: accuracy and A_avr, (placements, seeds, 2); NaN: diverged."""

    masks: list[str]
    runs: NDArray[np.float64]

    @property
    def truth(self) -> NDArray[np.float64]:
        """(placements, 3): the means over seeds, and the number of layers; larger is better."""
        return np.column_stack([self.runs.mean(axis=1), [-mask.count("1") for mask in self.masks]])

    def worth(self, masks: list[str]) -> float:
        """The volume that these placements' true means dominate, over the true front's."""
        truth = self.truth
        worst, best = np.nanmin(truth, axis=0) - [0, 0, 1], np.nanmax(truth, axis=0)
        scaled = np.nan_to_num((truth - worst) / (best - worst))  # on the edge, so without volume
        rows = [self.masks.index(mask) for mask in masks]
        return hypervolume(scaled[rows], np.zeros(3)) / hypervolume(scaled, np.zeros(3))


def simulated(known: Table, number: int) -> Table:
    """Another table: the main effects and pairs of sites of this one, all else drawn anew with the same variances.

    All else is what differs between placements beyond that, what a seed does to all and to each site, and luck.
    """
    random = np.random.default_rng(number)
    sites = np.array([[2.0 * float(digit) - 1.0 for digit in mask] for mask in known.masks])
    first, second = np.triu_indices(sites.shape[1], 1)
    linear = np.column_stack([np.ones(len(sites)), sites])
    pairs = np.column_stack([linear, sites[:, first] * sites[:, second]])
    runs = np.empty_like(known.runs)
    placements, seeds, objectives = runs.shape
    for objective in range(objectives):
        values = known.runs[..., objective]
        means = values.mean(axis=1)
        common = pairs @ np.linalg.lstsq(pairs, means, rcond=None)[0]
        own = np.linalg.lstsq(linear, values - means[:, None], rcond=None)[0]  # (1 + sites, seeds)
        luck = (values - means[:, None] - linear @ own).var() * seeds / (seeds - 1)
        rest = max(0.0, (means - common).var() * placements / (placements - pairs.shape[1]) - luck / seeds)
        drawn = random.normal(size=own.shape) * np.sqrt(own.var(axis=1) * seeds / (seeds - 1))[:, None]
        runs[..., objective] = (
            (common + np.sqrt(rest) * random.normal(size=placements))[:, None]
            + linear @ drawn
            + np.sqrt(luck) * random.normal(size=values.shape)
        )
    return Table(known.masks, runs)


@cache
def table(network: str = "resnet8") -> Table:
    """The committed rows."""
    columns = ["bn_mask", "train_seed", "accuracy", "average_normalized"]
    rows = pq.read_table(NETWORKS[network].file, columns=columns).to_pylist()
    runs: dict[str, dict[int, tuple[float | None, float | None]]] = defaultdict(dict)
    for row in rows:
        runs[row["bn_mask"]][row["train_seed"]] = (row["accuracy"], row["average_normalized"])
    masks = sorted(runs)
    values = np.array([[runs[mask][seed] for seed in sorted(runs[mask])] for mask in masks], dtype=float)
    return Table(masks, values)


def replay(
    sampler: str,
    seed: int,
    trainings: int,
    network: str = "resnet8",
    known: Table | None = None,
    naming: Sequence[str] = NAMING,
) -> dict[str, Curve]:
    """Curves by how the front is named. `known`: another table of this network."""
    from bnsweep.sweep.search.objectives import Verdict
    from bnsweep.sweep.search.study import FrontStudy

    known, seen = known or table(network), []
    seeds = known.runs.shape[1]
    spec = parse_spec(SEARCH.format(network=network, sampler=sampler, seed=seed, trainings=trainings, seeds=seeds))
    assert isinstance(spec, SearchSpec)
    sites = tuple(
        Site(f"site{n}", 1, stage, shortcut) for n, (stage, shortcut) in enumerate(NETWORKS[network].sites, 1)
    )
    architecture = Architecture(network, sites, 1, 1, "replayed")
    study = FrontStudy(Subject(spec, spec.data[0], spec.models[0], architecture, "replayed", (1437, 360)))
    curves: dict[str, Curve] = {how: [] for how in naming}
    while batch := study.batch():
        verdicts: dict[str, Verdict] = {}
        for run in (proposal.run for proposal in batch):
            accuracy, normalized = known.runs[known.masks.index(run.bn_mask), run.train_seed]
            seen.append((run.bn_mask, run.train_seed, (accuracy, normalized)))
            values = None if np.isnan(accuracy) else (accuracy, normalized, float(run.bn_kept))
            status = "diverged" if values is None else "finished"
            verdicts[run.run_id] = Verdict(status, values)
        study.tell(verdicts)
        for how, curve in curves.items():
            curve.append((len(study.asked), known.worth(named(seen, seeds, how))))
    return curves


def named(seen: Sequence[Run], seeds: int, how: str) -> list[str]:
    """The front that these runs speak for."""
    from bnsweep.placements.front import nondominated
    from bnsweep.placements.means import expected_means

    lost = {mask for mask, _, values in seen if np.isnan(values).any()}
    if not (sound := [run for run in seen if run[0] not in lost]):
        return []
    masks, numbers, values = zip(*sound, strict=True)
    measured = np.array(values)
    if how == "model":
        places, means, _ = expected_means(masks, numbers, measured, all_seeds=seeds)
    else:
        places = sorted(set(masks))
        means = np.array([measured[[mask == place for mask in masks]].mean(axis=0) for place in places])
    kept = [-place.count("1") for place in places]
    on = nondominated(np.column_stack([means, kept]))
    return [place for place, good in zip(places, on, strict=True) if good]


def needed(curve: Curve, level: float) -> float:
    """Trainings from which on the search is worth so much, and never less again."""
    reached = float("inf")
    for trainings, worth in reversed(curve):
        if worth < level:
            break
        reached = trainings
    return reached


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile; infinite ones are those that were never reached."""
    ordered = np.sort(np.array(values))
    return tuple(float(ordered[round(q * (len(ordered) - 1))]) for q in (0.25, 0.5, 0.75))  # type: ignore[return-value]


def figures() -> list[dict[str, Any]]:
    """Trainings to 95 % of the true front's volume, against random search by plain means; five seeds."""
    ways = {"surrogate": "model", "random": "means"}
    ours, chance = (
        quartiles([needed(replay(name, seed, budget(name), naming=[how])[how], 0.95) for seed in range(5)])
        for name, how in ways.items()
    )
    return [
        {
            "figure": "search: trainings to 95 % of the front's volume, 256 placements, against random",
            "value": ours[1],
            "unit": "runs",
            "baseline": chance[1],
            "ratio": chance[1] / ours[1],
            "n": 5,
            "spread": (ours[2] - ours[0]) / ours[1],
            "floor": None,
        }
    ]


def budget(sampler: str, network: str = "resnet8") -> int:
    """Trainings of one replay."""
    return int(np.prod(table(network).runs.shape[:2])) if sampler == "random" else OTHERWISE


def main() -> None:
    """Print every curve's quartiles."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.bench_search")
    parser.add_argument("samplers", nargs="*", default=["random", "tpe", "nsga2", "surrogate"])
    parser.add_argument("--network", choices=NETWORKS, default="resnet8")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="seed; for replays in several processes")
    parser.add_argument("--trainings", type=int, help="of each replay; default: 192, and all there are for random")
    parser.add_argument("--simulated", action="store_true", help="each seed on a table of its own, like this one")
    parser.add_argument(
        "--naming", nargs="+", choices=NAMING, help="of the front; default: both, of random search by means"
    )
    asked = parser.parse_args()
    own = table(asked.network)
    for sampler in asked.samplers:
        most = asked.trainings or budget(sampler, asked.network)
        naming = asked.naming or (NAMING[:1] if sampler == "random" else NAMING)  # a model of 768 runs takes its time
        replays = [
            replay(sampler, seed, most, asked.network, simulated(own, seed) if asked.simulated else own, naming)
            for seed in range(asked.first, asked.first + asked.seeds)
        ]
        for how in naming:
            print(f"{asked.network}{' simulated' * asked.simulated}, {sampler}, {asked.seeds} seeds, named by {how}")
            report([each[how] for each in replays], most)


def report(curves: Sequence[Curve], most: int) -> None:
    """Print the quartiles of curves of up to `most` trainings."""
    for level in LEVELS:
        reached = [needed(curve, level) for curve in curves]
        low, middle, high = quartiles(reached)
        share = f"{np.isfinite(reached).sum()} of {len(reached)}"
        print(f"  {level:.0%} of the volume after {middle:g} trainings [{low:g}, {high:g}], {share} within {most}")
    for at in (each for each in (24, 48, 72, 96, 144, 192, 256, 384, 512, 640, 768) if each <= most):
        worth = [next(w for n, w in reversed(curve) if n <= at) for curve in curves]
        low, middle, high = quartiles(worth)
        print(f"  {at:>4} trainings: {middle:.3f} [{low:.3f}, {high:.3f}]", flush=True)


if __name__ == "__main__":
    main()
