"""Which runs a search does next: known placements first, then what a sampler proposes, in batches.

A batch is proposed from the results of the batches before it and of nothing else. So a study follows from its file and
the rows alone: not from the number of workers, the order in which runs end, or interruptions. A search that starts
again asks the same questions in the same order, and those whose rows are in the store are answered from there. No
state of Optuna's has to be kept, and no trial of it can be left an orphan.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Protocol

import optuna
from optuna.trial import Trial, TrialState

from bnsweep.experiment.identity import seed_of
from bnsweep.experiment.plan import TrainingRun
from bnsweep.experiment.search import Subject
from bnsweep.sweep.search.objectives import Verdict, worst_values
from bnsweep.sweep.search.samplers import SAMPLERS, mask_of, params_of, space

__all__ = ["FrontStudy", "Proposal", "Study"]

MOST_REPEATS = 20  # proposals in a row for which there is nothing left to train, before one is drawn at random


@dataclass(frozen=True, slots=True)
class Proposal:
    """One training run that a study asks for."""

    study: str  # front or minimal
    number: int  # 1, 2, ...
    run: TrainingRun
    origin: str  # known, repeat, the sampler's name, or minimal
    why: str

    @property
    def spared(self) -> bool:
        """Whether its run is trained in full, whatever its first epochs look like."""
        return self.origin in ("known", "minimal")


class Study(Protocol):
    """Asks for runs, batch by batch, and is told how they ended."""

    subject: Subject

    @property
    def over(self) -> bool:
        """Whether nothing is left to ask for."""
        ...

    def batch(self) -> list[Proposal]:
        """The next runs; none if the study is over. To be called when all earlier ones were told."""
        ...

    def tell(self, verdicts: Mapping[str, Verdict]) -> None:
        """How the batch's runs ended, by run id."""
        ...


class FrontStudy:
    """The trade-off between objectives for one network, by Optuna."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.seeds = subject.spec.train_seeds
        self.asked: list[Proposal] = []
        self.verdicts: dict[str, Verdict] = {}
        self._search = subject.spec.search
        self._trials: dict[str, Trial] = {}  # by run id
        self._taken: Counter[str] = Counter()  # training seeds used, by mask
        self._exhausted = False
        self._queue = self._first()
        self._optuna = _optuna_study(subject)
        self._random = optuna.samplers.RandomSampler(seed=seed_of("fill", subject.title, str(self._search.seed)) >> 32)

    @property
    def over(self) -> bool:
        """Whether the budget is spent or every placement has every seed."""
        spent = self._exhausted or len(self.asked) >= self._search.trainings
        return spent or sum(self._taken.values()) >= len(self.seeds) * 2**self.subject.sites

    def batch(self) -> list[Proposal]:
        """The next runs. Nothing that is told meanwhile can change them."""
        proposals: list[Proposal] = []
        while not self.over and len(proposals) < self._search.batch:
            proposal = self._next()
            if proposal is None:
                self._exhausted = True
                break
            proposals.append(proposal)
        return proposals

    def tell(self, verdicts: Mapping[str, Verdict]) -> None:
        """Pass the batch's results on, in the order in which its runs were proposed."""
        names = self._search.objectives
        for proposal in self.asked:
            run_id = proposal.run.run_id
            if run_id not in verdicts or run_id in self.verdicts:
                continue
            verdict = self.verdicts[run_id] = verdicts[run_id]
            self._trials[run_id].set_user_attr("failed", not verdict.measured)
            self._complete(self._trials[run_id], _told(verdict, names, self.subject.sites))

    def mean_values(self, mask: str) -> tuple[float, ...] | None:
        """The means over a placement's finished runs; None if it has none."""
        runs = [self.verdicts.get(p.run.run_id) for p in self.asked if p.run.bn_mask == mask]
        values = [verdict.values for verdict in runs if verdict is not None and verdict.values is not None]
        return tuple(sum(each) / len(each) for each in zip(*values, strict=True)) if values else None

    def _first(self) -> Iterator[tuple[str, str, str]]:
        """(mask, origin, why) of what needs no sampler."""
        for mask, label in self.subject.known.items():
            yield mask, "known", label
        if self._search.sampler == "exhaustive":
            for turn in range(len(self.seeds)):
                for digits in product("01", repeat=self.subject.sites):
                    if self._taken["".join(digits)] <= turn:
                        yield "".join(digits), "exhaustive", "every placement in turn"

    def _next(self) -> Proposal | None:
        for mask, origin, why in self._queue:
            return self._propose(mask, self._ask(mask), origin, why)
        if self._search.sampler == "exhaustive":
            return None
        for _ in range(MOST_REPEATS):
            trial = self._suggest()
            mask = mask_of(trial.params)
            if self._taken[mask] < len(self.seeds):
                return self._propose(mask, trial, self._search.sampler, "")
            self._answer(mask, trial)
        return self._anything()

    def _propose(self, mask: str, trial: Trial, origin: str, why: str) -> Proposal:
        before = self._taken[mask]
        self._taken[mask] += 1
        if before:
            origin, why = "repeat", f"seed {before + 1} of {len(self.seeds)}"
        run = self.subject.run(mask, self.seeds[before])
        self._trials[run.run_id] = trial
        proposal = Proposal("front", len(self.asked) + 1, run, origin, why)
        self.asked.append(proposal)
        return proposal

    def _suggest(self) -> Trial:
        return self._optuna.ask(space(self.subject.sites))

    def _ask(self, mask: str) -> Trial:
        """Optuna's trial for a mask that is given."""
        self._optuna.enqueue_trial(params_of(mask))
        trial = self._suggest()
        assert mask_of(trial.params) == mask
        return trial

    def _answer(self, mask: str, trial: Trial) -> None:
        """A placement that has all of its seeds costs nothing: what is known of it is told at once."""
        values = self.mean_values(mask)
        runs = [self.verdicts.get(p.run.run_id) for p in self.asked if p.run.bn_mask == mask]
        ends = {verdict and verdict.status for verdict in runs}
        if values is None and None not in ends and "diverged" in ends:  # None: of this batch, still being trained
            values = worst_values(self._search.objectives, self.subject.sites)
        self._complete(trial, values)

    def _anything(self) -> Proposal | None:
        """A placement with seeds left: the sampler keeps to what it knows."""
        for _ in range(1000):
            params = {
                name: self._random.sample_independent(self._optuna, None, name, choice)
                for name, choice in space(self.subject.sites).items()
            }
            mask = mask_of(params)
            if self._taken[mask] < len(self.seeds):
                return self._propose(mask, self._ask(mask), "random", "the sampler had nothing new")
        return None

    def _complete(self, trial: Trial, values: tuple[float, ...] | None) -> None:
        self._optuna.tell(trial, values, state=TrialState.PRUNED if values is None else TrialState.COMPLETE)


def _told(verdict: Verdict, objectives: tuple[str, ...], sites: int) -> tuple[float, ...] | None:
    """A network that did not converge is as bad as can be; of one that was stopped early or lost nothing is known."""
    if verdict.status in ("pruned", "failed"):
        return None
    return verdict.values if verdict.values is not None else worst_values(objectives, sites)


def _optuna_study(subject: Subject) -> optuna.Study:
    search = subject.spec.search
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Two networks of one search draw different numbers; 32 bits are what NumPy's old generators take.
    seed = seed_of("sampler", subject.title, str(search.seed)) >> 31
    study = optuna.create_study(
        directions=[f"{direction}imize" for direction in search.directions],
        sampler=SAMPLERS[search.sampler](seed),
        pruner=optuna.pruners.NopPruner(),  # runs are stopped by a rule of ours
    )
    study.set_user_attr("sites", subject.sites)
    study.set_user_attr("seeds", len(subject.spec.train_seeds))
    if "kept" in search.objectives:
        study.set_user_attr("exact", search.objectives.index("kept"))
    return study
