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
from typing import Any, Protocol

import optuna
from ray.tune.search.optuna import OptunaSearch

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
    """The trade-off between objectives for one network, through Ray Tune's OptunaSearch."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.seeds = subject.spec.train_seeds
        self.asked: list[Proposal] = []
        self.verdicts: dict[str, Verdict] = {}
        self._search = subject.spec.search
        self._tickets: dict[str, str] = {}  # run id -> Optuna's trial
        self._taken: Counter[str] = Counter()  # training seeds used, by mask
        self._ticket = 0
        self._exhausted = False
        self._queue = self._first()
        self._optuna = _optuna_search(subject)
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
            self._optuna._ot_trials[self._tickets[run_id]].set_user_attr("failed", not verdict.measured)
            self._complete(self._tickets[run_id], _told(verdict, names, self.subject.sites))

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
            ticket, mask = self._suggest()
            if self._taken[mask] < len(self.seeds):
                return self._propose(mask, ticket, self._search.sampler, "")
            self._answer(mask, ticket)
        return self._anything()

    def _propose(self, mask: str, ticket: str, origin: str, why: str) -> Proposal:
        before = self._taken[mask]
        self._taken[mask] += 1
        if before:
            origin, why = "repeat", f"seed {before + 1} of {len(self.seeds)}"
        run = self.subject.run(mask, self.seeds[before])
        self._tickets[run.run_id] = ticket
        proposal = Proposal("front", len(self.asked) + 1, run, origin, why)
        self.asked.append(proposal)
        return proposal

    def _suggest(self) -> tuple[str, str]:
        self._ticket += 1
        ticket = str(self._ticket)
        params = self._optuna.suggest(ticket)
        assert params is not None
        return ticket, mask_of(params)

    def _ask(self, mask: str) -> str:
        """Optuna's trial for a mask that is given."""
        self._optuna._ot_study.enqueue_trial(params_of(mask))
        ticket, got = self._suggest()
        assert got == mask
        return ticket

    def _answer(self, mask: str, ticket: str) -> None:
        """A placement that has all of its seeds costs nothing: what is known of it is told at once."""
        values = self.mean_values(mask)
        runs = [self.verdicts.get(p.run.run_id) for p in self.asked if p.run.bn_mask == mask]
        ends = {verdict and verdict.status for verdict in runs}
        if values is None and None not in ends and "diverged" in ends:  # None: of this batch, still being trained
            values = worst_values(self._search.objectives, self.subject.sites)
        self._complete(ticket, values)

    def _anything(self) -> Proposal | None:
        """A placement with seeds left: the sampler keeps to what it knows."""
        for _ in range(1000):
            distributions = space(self.subject.sites)
            study = self._optuna._ot_study
            params = {
                name: self._random.sample_independent(study, None, name, each) for name, each in distributions.items()
            }
            mask = mask_of(params)
            if self._taken[mask] < len(self.seeds):
                return self._propose(mask, self._ask(mask), "random", "the sampler had nothing new")
        return None

    def _complete(self, ticket: str, values: tuple[float, ...] | None) -> None:
        result: dict[str, Any] | None = None
        if values is not None:
            result = dict(zip(self._search.objectives, values, strict=True)) | {"training_iteration": 1}
        self._optuna.on_trial_complete(ticket, result=result)  # without a result: pruned


def _told(verdict: Verdict, objectives: tuple[str, ...], sites: int) -> tuple[float, ...] | None:
    """A network that did not converge is as bad as can be; of one that was stopped early or lost nothing is known."""
    if verdict.status in ("pruned", "failed"):
        return None
    return verdict.values if verdict.values is not None else worst_values(objectives, sites)


def _optuna_search(subject: Subject) -> OptunaSearch:
    search = subject.spec.search
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Two networks of one search draw different numbers; 32 bits are what NumPy's old generators take.
    seed = seed_of("sampler", subject.title, str(search.seed)) >> 31
    several = len(search.objectives) > 1
    found = OptunaSearch(
        space(subject.sites),
        metric=list(search.objectives) if several else search.objectives[0],
        mode=search.directions if several else search.directions[0],
        sampler=SAMPLERS[search.sampler](seed),
    )
    study = found._ot_study
    study.set_user_attr("sites", subject.sites)
    study.set_user_attr("seeds", len(subject.spec.train_seeds))
    if "kept" in search.objectives:
        study.set_user_attr("exact", search.objectives.index("kept"))
    return found
