"""Who proposes placements: Optuna's samplers by name, and one that knows that runs are noisy."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from bnsweep.placements.front import nondominated
from bnsweep.placements.surrogate import Surrogate
from bnsweep.sweep.search.knowledge import Scale, outcomes, worth

__all__ = ["SAMPLERS", "SurrogateSampler", "mask_of", "params_of", "space"]

Floats = NDArray[np.float64]

KEEP, DROP = "1", "0"
FIRST_RUNS = 16  # known and random ones, before the surrogate is asked
FEWEST_RUNS = 4  # of them with a network
LIKELY = 0.5  # chance of ending with a network that a placement must have to be proposed
ALL_PLACEMENTS = 10  # sites up to which every placement is a candidate
CANDIDATES = 1024
DRAWS = 32  # of what the runs leave open, to see which placements may be on the front
SHORT = 128  # most placements that may be on the front
WAYS = 8  # that a run may come out, to see what it is worth


def space(sites: int) -> dict[str, BaseDistribution]:
    """One choice per site, in forward order."""
    return {f"site{number}": CategoricalDistribution((DROP, KEEP)) for number in range(1, sites + 1)}


def mask_of(params: dict[str, Any]) -> str:
    """The mask that Optuna's parameters stand for."""
    return "".join(params[f"site{number}"] for number in range(1, len(params) + 1))


def params_of(mask: str) -> dict[str, Any]:
    """Optuna's parameters for a mask."""
    return {f"site{number}": digit for number, digit in enumerate(mask, 1)}


@dataclass(frozen=True, slots=True)
class _Runs:
    """What a study has been told and has asked for. A placement's runs take its seeds in order."""

    done: Floats  # (n, sites) of 0 and 1
    done_seeds: NDArray[np.int64]  # (n,) numbers of seeds
    values: Floats  # (n, objectives), larger is better
    ended_well: NDArray[np.bool_]  # (n,) with a network; the values of the others stand for nothing
    waiting: tuple[Floats, NDArray[np.int64]] | None  # masks and seeds of runs that have not ended
    taken: Counter[bytes]  # seeds used, by mask
    seeds: int

    @classmethod
    def of(cls, study: Study, *, before: int) -> _Runs:
        """Of all trials but the one that is being asked for."""
        seeds, taken = int(study.user_attrs["seeds"]), Counter[bytes]()
        done: list[tuple[Floats, int, FrozenTrial]] = []
        waiting: list[tuple[Floats, int]] = []
        for trial in study.get_trials(deepcopy=False):
            if not trial.params or trial.number >= before:
                continue
            bits = np.array([float(trial.params[f"site{n}"] == KEEP) for n in range(1, len(trial.params) + 1)])
            number = taken[bits.tobytes()]
            if number >= seeds:
                continue  # nothing was trained for it
            taken[bits.tobytes()] += 1
            if trial.state == TrialState.COMPLETE:
                done.append((bits, number, trial))
            elif trial.state == TrialState.RUNNING:
                waiting.append((bits, number))
        signs = np.array([1.0 if d == StudyDirection.MAXIMIZE else -1.0 for d in study.directions])
        values = np.array([trial.values for _, _, trial in done]).reshape(-1, len(signs)) * signs
        return cls(
            np.array([bits for bits, _, _ in done]),
            np.array([number for _, number, _ in done], dtype=np.int64),
            values,
            ~np.array([bool(trial.user_attrs.get("failed")) for _, _, trial in done], dtype=np.bool_),
            (np.array([b for b, _ in waiting]), np.array([n for _, n in waiting])) if waiting else None,
            taken,
            seeds,
        )


class SurrogateSampler(BaseSampler):  # type: ignore[misc]  # optuna's types are not looked at
    """Proposes the run after which the front that can be named is expected to be worth most, by a Gaussian process.

    Draws of what the runs leave open say which placements may be on the front at all; of those, and of those that seem
    to be on it, the knowledge gradient says which run decides most. It may be of a placement that was trained before:
    then it is trained with the next seed. Optuna's own GP takes every run for the truth and so never repeats one.
    """

    def __init__(self, *, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._models: dict[int, Surrogate] = {}
        self._known = -1  # runs behind what follows
        self._short: Floats  # (n, sites) placements that may be on the front
        self._scale: Scale

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Every site: they are chosen together."""
        sites = study.user_attrs["sites"]
        return space(sites)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The next placement."""
        if "fixed_params" in trial.system_attrs:
            return {}  # a known placement, or a repeat: its mask is given
        sites = len(search_space)
        runs = _Runs.of(study, before=trial.number)
        measured = [index for index in range(len(study.directions)) if index != study.user_attrs.get("exact")]
        if len(runs.done) < FIRST_RUNS or runs.ended_well.sum() < FEWEST_RUNS or not measured:
            return params_of(_random_mask(self._random, sites))
        chosen = self._choose(runs, measured, "exact" in study.user_attrs)
        return params_of("".join(KEEP if bit else DROP for bit in chosen))

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        """For a parameter that the relative space lacks: there is none."""
        return KEEP if self._random.random() < 0.5 else DROP

    def _choose(self, runs: _Runs, measured: Sequence[int], by_kept: bool) -> Floats:
        if self._known != len(runs.done):  # a batch is proposed from one state of knowledge
            self._learn(runs, measured, by_kept)
        places = self._short
        taken = np.array([runs.taken[place.tobytes()] for place in places], dtype=np.int64)
        left = taken < runs.seeds
        if not left.any():  # all that may be on the front have every seed: the study takes what is left
            return np.asarray(places[self._random.integers(len(places))])
        following = np.minimum(taken, runs.seeds - 1)
        beliefs = [self._models[index].believe(places, following, runs.waiting) for index in measured]
        means = (np.column_stack([each.mean for each in beliefs]) - self._scale.low) / self._scale.span
        steps = [each.step / span for each, span in zip(beliefs, self._scale.span, strict=True)]
        kept = places.sum(axis=1) / (places.shape[1] + 1) if by_kept else None
        gain = worth(means, steps, kept, outcomes(len(measured), WAYS))
        return np.asarray(places[np.argmax(np.where(left, gain, -np.inf))])

    def _learn(self, runs: _Runs, measured: Sequence[int], by_kept: bool) -> None:
        """Fit the models, and see which placements may be on the front."""
        well = runs.ended_well
        masks, seeds, values = runs.done[well], runs.done_seeds[well], runs.values[well]
        candidates = self._likely(runs, self._candidates(masks, values))
        following = np.zeros(len(candidates), dtype=np.int64)
        means, roots = [], []
        for index in measured:
            model = self._models.setdefault(index, Surrogate(runs.seeds)).fit(masks, seeds, values[:, index])
            belief = model.believe(candidates, following)
            means.append(belief.mean)
            roots.append(_factor(belief.covariance))
        levels = [-candidates.sum(axis=1)] if by_kept else []
        seems = nondominated(np.column_stack([*means, *levels]))
        often = np.zeros(len(candidates))
        for _ in range(DRAWS):
            drawn = [m + root @ self._random.standard_normal(len(m)) for m, root in zip(means, roots, strict=True)]
            often += nondominated(np.column_stack([*drawn, *levels]))
        ranked = np.argsort(-(often + DRAWS * seems), kind="stable")[:SHORT]
        self._short = candidates[ranked[(often + seems)[ranked] > 0]]
        self._scale = Scale.of(np.column_stack(means))
        self._known = len(runs.done)

    def _likely(self, runs: _Runs, candidates: Floats) -> Floats:
        """Those that the runs do not say will fail. What failed is not among the values: it would hide all else."""
        if runs.ended_well.all():
            return candidates
        model = Surrogate(runs.seeds).fit(runs.done, runs.done_seeds, runs.ended_well.astype(np.float64))
        likely = model.believe(candidates, np.zeros(len(candidates), dtype=np.int64)).mean > LIKELY
        return candidates[likely] if likely.any() else candidates

    def _candidates(self, masks: Floats, values: Floats) -> Floats:
        """Every placement of a small network; of a large one those near the front, and some from anywhere."""
        sites = masks.shape[1]
        if sites <= ALL_PLACEMENTS:
            return ((np.arange(2**sites)[:, None] >> np.arange(sites)[::-1]) & 1).astype(np.float64)
        best = np.unique(masks[nondominated(values)], axis=0)
        near = [best]
        for _ in range(CANDIDATES // (2 * len(best)) + 1):
            flips = self._random.random(best.shape) < self._random.choice([1, 2, 3]) / sites
            near.append(np.abs(best - flips))
        anywhere = np.array([list(map(float, _random_mask(self._random, sites))) for _ in range(CANDIDATES // 2)])
        return np.unique(np.concatenate([*near, anywhere, masks]), axis=0)[: 2 * CANDIDATES]


def _random_mask(random: np.random.Generator, sites: int) -> str:
    """Any number of BN layers is as likely as any other: fair coins would never propose few or many."""
    kept = random.permutation(sites)[: random.integers(sites + 1)]
    return "".join(KEEP if site in kept else DROP for site in range(sites))


def _factor(covariance: Floats) -> Floats:
    """A square root of a covariance, which may be singular."""
    jitter = 1e-6 * float(np.diag(covariance).max(initial=0.0)) + 1e-12
    return np.asarray(np.linalg.cholesky(covariance + jitter * np.eye(len(covariance))))


def _tpe(seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(seed=seed, multivariate=True, constant_liar=True)


def _gp(seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return GPSampler(seed=seed)


# `exhaustive` goes through all placements in order and asks nobody; the study sees to that.
SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "surrogate": lambda seed: SurrogateSampler(seed=seed),
    "tpe": _tpe,
    "nsga2": lambda seed: NSGAIISampler(seed=seed, population_size=20),
    "gp": _gp,
    "random": lambda seed: RandomSampler(seed=seed),
    "exhaustive": lambda seed: RandomSampler(seed=seed),
}
