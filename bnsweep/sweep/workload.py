"""How much work a plan's trials are, before they are made: what estimates and the progress bar reckon with.

Work is counted in multiply-adds of forward passes. A trial costs the images it scores, those from which BN's statistics
are estimated anew, and as much for its draw as the sampling rule takes it to cost (`noise.sampling.DRAW_COST`).
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from bnsweep.experiment.noise_cell import NoiseCell
from bnsweep.experiment.plan import Plan, TrainingRun
from bnsweep.experiment.spec import AdaptiveTrials
from bnsweep.experiment.vocabulary import NETWORK_ENDS
from bnsweep.noise.sampling import DRAW_COST, Design, most_strata
from bnsweep.store.checkpoints import network_name
from bnsweep.store.store import Store
from bnsweep.sweep.ledger import Ledger, TrainedRun, read_ledger

__all__ = ["FirstRound", "Lacking", "ToDo", "Workload", "trial_cost"]


class FirstRound(NamedTuple):
    """What a point takes at least."""

    trials: int
    images: int  # each


class ToDo(NamedTuple):
    """Trials to be made."""

    trials: int
    work: float  # multiply-adds
    points: int  # that they belong to


class Workload:
    """Trials of a plan at least to be made, and what they cost.

    With a half-width to reach these are the first round of each point: how many follow, only rows can say.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._first_rounds: dict[tuple[int, tuple[int, ...]], FirstRound] = {}
        self._whole_runs: dict[tuple[FirstRound, int, bool], tuple[int, float]] = {}  # trials, and images they cost

    def first_round(self, run: TrainingRun, eta: Decimal, trained: TrainedRun | None = None) -> FirstRound:
        """What a point takes at least; exact once the run is trained."""
        trials, images = self._plan.spec.trials, self._plan.spec.images
        if not eta:
            return FirstRound(1, run.test_images)
        if not isinstance(trials, AdaptiveTrials):
            return FirstRound(trials, images if isinstance(images, int) else run.test_images)
        sizes = (trained.strata_sizes if trained else ()) or most_strata(run.test_images)
        key = run.test_images, sizes
        if key not in self._first_rounds:
            design = Design(
                trials.half_width,
                min=trials.min,
                max=trials.max,
                images=images,
                test_images=run.test_images,
                strata_sizes=sizes,
            )
            self._first_rounds[key] = FirstRound(design.first_look, design.first_images)
        return self._first_rounds[key]

    def of_run(self, run: TrainingRun, trained: TrainedRun | None = None) -> ToDo:
        """All trials of a run, whatever has landed."""
        spec, size = self._plan.spec, run.architecture.multiply_adds
        key = self.first_round(run, spec.eta[-1], trained), run.test_images, bool(run.bn_kept)
        if key not in self._whole_runs:
            rounds = [(cell, eta, self.first_round(run, eta, trained)) for cell in spec.noise for eta in spec.eta]
            worth = (first.trials * _images_worth(run, cell, eta, images=first.images) for cell, eta, first in rounds)
            self._whole_runs[key] = sum(first.trials for *_, first in rounds), sum(worth)
        trials, images = self._whole_runs[key]
        return ToDo(trials, images * size, self._plan.points_per_run)

    def missing(self, run: TrainingRun, ledger: Ledger, *, retry_failed: bool = False) -> ToDo:
        """What a run lacks. Of a network or a point that was given up nothing is made, unless that is tried again."""
        trained = ledger.runs.get(run.run_id)
        again = retry_failed and trained is not None and trained.status == "failed"
        if trained is None or ledger.untrained(run.run_id) or again:
            return self.of_run(run)
        if ledger.lost(run.run_id):
            return ToDo(0, 0.0, 0)
        trials, work, points = 0, 0.0, 0
        for point in self._plan.points(run):
            if retry_failed or point.point_id not in ledger.given_up:
                first = self.first_round(run, point.eta, trained)
                lacking = first.trials - ledger.landed(point.point_id, first.trials)
                trials += lacking
                work += lacking * trial_cost(run, point.cell, point.eta, images=first.images)
                points += bool(lacking)
        return ToDo(trials, work, points)

    def landed(self, run: TrainingRun, ledger: Ledger) -> int:
        """Trials of a run that are in the store."""
        if run.run_id not in ledger.runs:
            return 0
        return sum(ledger.landed(p.point_id, self._plan.trial_bounds(p.eta)[1]) for p in self._plan.points(run))


@dataclass(frozen=True, slots=True)
class Lacking:
    """What a store lacks of a plan."""

    workload: Workload
    ledger: Ledger
    lost: list[TrainingRun]  # that ended with a network which the store does not hold
    runs: list[TrainingRun]  # to be trained, the lost ones too
    works: list[int]  # multiply-adds of each of these, a step counted as one pass
    trials: ToDo

    @classmethod
    def of(cls, plan: Plan, store: Store | None) -> Lacking:
        """`store` is None where there is none yet."""
        ledger = read_ledger(store, plan) if store else Ledger()
        lost = _without_network(plan, store, ledger)
        runs = [run for run in plan.runs if ledger.untrained(run.run_id)] + lost
        works = [run.architecture.multiply_adds * run.train_images * run.training.epochs for run in runs]
        workload = Workload(plan)
        missing = [workload.missing(run, ledger) for run in plan.runs]
        trials, work, points = (sum(column) for column in zip(ToDo(0, 0.0, 0), *missing, strict=True))
        return cls(workload, ledger, lost, runs, works, ToDo(trials, work, points))


def _without_network(plan: Plan, store: Store | None, ledger: Ledger) -> list[TrainingRun]:
    """Runs that ended with a network which the store does not hold."""
    if store is None or ledger.of_search:  # a search takes its answers from rows
        return []
    there = store.checkpoints.networks()
    ended = [(run, ledger.runs[run.run_id]) for run in plan.runs if run.run_id in ledger.runs]
    return [
        run
        for run, known in ended
        if known.status in NETWORK_ENDS
        and (known.checkpoint_sha256 is None or network_name(run.run_id, known.checkpoint_sha256) not in there)
    ]


def trial_cost(run: TrainingRun, cell: NoiseCell, eta: Decimal, *, images: int) -> float:
    """Multiply-adds of one trial that scores so many images."""
    return run.architecture.multiply_adds * _images_worth(run, cell, eta, images=images)


def _images_worth(run: TrainingRun, cell: NoiseCell, eta: Decimal, *, images: int) -> float:
    draw = DRAW_COST if eta else 0.0
    again = cell.images_for_recalibration if eta and run.bn_kept and cell.bn_treatment == "recalibrated" else 0
    return images + draw + again
