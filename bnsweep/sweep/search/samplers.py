"""Who proposes placements: Optuna's samplers by name, and one that knows that runs are noisy."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from bnsweep.sweep.search.front import nondominated
from bnsweep.sweep.search.surrogate import Surrogate

__all__ = ["SAMPLERS", "SurrogateSampler", "mask_of", "params_of", "space"]

Floats = NDArray[np.float64]

KEEP, DROP = "1", "0"
FIRST_RANDOM = 8  # runs before the surrogate is asked
ALL_PLACEMENTS = 10  # sites up to which every placement is a candidate
CANDIDATES = 1024


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
class _Posterior:
    """What is believed of the candidates."""

    candidates: Floats  # (n, sites)
    normals: list[tuple[Floats, Floats] | None]  # mean and covariance's root per objective; None: the number of layers
    unsure: Floats  # (n,) largest standard deviation, in units of one run's noise

    def draw(self, random: np.random.Generator) -> Floats:
        """One function per objective, (n, objectives); larger is better."""
        columns = []
        for normal in self.normals:
            if normal is None:
                columns.append(-self.candidates.sum(axis=1))
            else:
                columns.append(normal[0] + normal[1] @ random.standard_normal(len(normal[0])))
        return np.column_stack(columns)


class SurrogateSampler(BaseSampler):  # type: ignore[misc]  # optuna's types are not looked at
    """Thompson sampling over placements, with a Gaussian process per objective that is measured.

    What the runs leave open is drawn at random: one function per objective that agrees with them as well as any. Of the
    placements that would be on the front if it were true, the one is proposed that would add most to what is known to
    be there. It may have been trained before: then it is trained with another seed, which is how repeats go where
    they decide. Optuna's own GP takes every run for the truth and so never repeats one.
    """

    def __init__(self, *, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._models: dict[int, Surrogate] = {}
        self._known = 0  # runs behind the posterior
        self._posterior: _Posterior

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Every site: they are chosen together."""
        sites = study.user_attrs["sites"]
        return space(sites)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The next placement."""
        sites = len(search_space)
        trials = [each for each in study.get_trials(deepcopy=False) if each.params and each.number != trial.number]
        done = [each for each in trials if each.state == TrialState.COMPLETE]
        if len(done) < FIRST_RANDOM:
            return params_of(_random_mask(self._random, sites))
        masks = np.array([_bits(each.params) for each in done])
        signs = np.array([1.0 if d == StudyDirection.MAXIMIZE else -1.0 for d in study.directions])
        values = np.array([each.values for each in done]) * signs
        pending = np.array([_bits(each.params) for each in trials if each.state == TrialState.RUNNING])
        exact = study.user_attrs.get("exact")  # the objective that follows from the mask
        chosen = self._choose(masks, values, pending.reshape(-1, sites), exact)
        return params_of("".join(KEEP if bit else DROP for bit in chosen))

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        """For a parameter that the relative space lacks: there is none."""
        return KEEP if self._random.random() < 0.5 else DROP

    def _choose(self, masks: Floats, values: Floats, pending: Floats, exact: int | None) -> Floats:
        if self._known != len(masks):  # a batch is proposed from one state of knowledge
            self._learn(masks, values, exact)
        candidates = self._posterior.candidates
        drawn = self._posterior.draw(self._random)
        front = nondominated(drawn)
        busy = {row.tobytes() for row in pending}
        front &= np.array([row.tobytes() not in busy for row in candidates])
        # Among the front's members, rather one that little is known of.
        chances = np.where(front, self._posterior.unsure**2, 0.0)
        if not chances.any():
            return np.asarray(candidates[self._random.integers(len(candidates))])
        return np.asarray(candidates[self._random.choice(len(candidates), p=chances / chances.sum())])

    def _learn(self, masks: Floats, values: Floats, exact: int | None) -> None:
        candidates = self._candidates(masks, values)
        normals: list[tuple[Floats, Floats] | None] = []
        unsure = np.zeros(len(candidates))
        for index in range(values.shape[1]):
            if index == exact:
                normals.append(None)
                continue
            model = self._models.setdefault(index, Surrogate()).fit(masks, values[:, index])
            mean, covariance = model.predict(candidates)
            unsure = np.maximum(unsure, np.sqrt(np.maximum(np.diag(covariance), 0)) / (model.noise_sd or 1.0))
            normals.append((mean, _factor(covariance)))
        self._posterior = _Posterior(candidates, normals, unsure)
        self._known = len(masks)

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
        anywhere = np.array([_bits(params_of(_random_mask(self._random, sites))) for _ in range(CANDIDATES // 2)])
        return np.unique(np.concatenate([*near, anywhere, masks]), axis=0)[: 2 * CANDIDATES]


def _random_mask(random: np.random.Generator, sites: int) -> str:
    """Any number of BN layers is as likely as any other: fair coins would never propose few or many."""
    kept = random.permutation(sites)[: random.integers(sites + 1)]
    return "".join(KEEP if site in kept else DROP for site in range(sites))


def _factor(covariance: Floats) -> Floats:
    """A square root of a covariance, which may be singular."""
    jitter = 1e-6 * float(np.diag(covariance).max(initial=0.0)) + 1e-12
    return np.asarray(np.linalg.cholesky(covariance + jitter * np.eye(len(covariance))))


def _bits(params: dict[str, Any]) -> list[float]:
    return [float(params[f"site{number}"] == KEEP) for number in range(1, len(params) + 1)]


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
