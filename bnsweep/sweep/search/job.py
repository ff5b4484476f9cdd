"""One task of a search: train a placement, then score it until its intervals are narrow enough.

Everything happens on the task's own resources, one thing after the other; what is done is reported at once, so that
its rows land even if the task dies later. The rows are those that a sweep would get (`work.train_run`,
`work.score_block`, `points.PointWork`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from bnsweep.experiment.plan import Plan, TrainingRun
from bnsweep.experiment.resources import Resource
from bnsweep.experiment.vocabulary import NETWORK_ENDS
from bnsweep.store.checkpoints import Checkpoints
from bnsweep.store.location import open_files
from bnsweep.store.store import Store
from bnsweep.sweep.ledger import TrainedRun, read_scores
from bnsweep.sweep.points import BLOCK_S, FIRST_BLOCK, PointWork, Request, design_of
from bnsweep.sweep.tasks import Row, Scored, Trained, TrainTask, TrialTask
from bnsweep.sweep.work import score_block, train_run
from bnsweep.training.images import Dataset

__all__ = ["Job", "Report", "Trainee", "perform", "scores_done", "usable"]

Report = Callable[["Trained | Scored | Row"], None]
Scores = Mapping[str, list[dict[str, Any]]]  # rows of trials, by point


@dataclass(frozen=True, slots=True)
class Job:
    """What all tasks of one search share, as far as it is not data."""

    sweep: str
    store: str
    plan: Plan  # of no runs: a spec's way of scoring
    resource: Resource
    allow_import: bool = False


@dataclass(frozen=True, slots=True)
class Trainee:
    """One run to be done, and what of it is done already."""

    run: TrainingRun
    trained: TrainedRun | None = None
    scored_sha256: str | None = None  # of the network that its rows in the store are about
    failed_attempt: int = 0  # the last one that was given up, in training or in scoring

    @property
    def attempt(self) -> int:
        return max(self.failed_attempt, 0 if self.trained is None else self.trained.attempt) + 1

    def other(self, sha256: str | None) -> bool:
        """Whether training gave another network than the one that the rows in the store are about."""
        return None not in (self.scored_sha256, sha256) and self.scored_sha256 != sha256

    @property
    def landed_epochs(self) -> int:
        """How many epochs have landed by earlier attempts; those of the same network are the same."""
        return 0 if self.trained is None else self.trained.epochs

    def after(self, row: Mapping[str, Any] | None) -> Trainee:
        """The same run once it has been trained, by its row of `runs`; None: it has not."""
        return self if row is None else replace(self, trained=TrainedRun.of(row))

    def packed(self) -> str:
        """What is known of the run, as text."""
        return json.dumps([self.trained and asdict(self.trained), self.scored_sha256, self.failed_attempt])

    @classmethod
    def unpacked(cls, run: TrainingRun, text: str) -> Trainee:
        """From what `packed` gave."""
        trained, scored_sha256, failed_attempt = json.loads(text)
        if trained is not None:
            trained = TrainedRun(**{**trained, "strata_sizes": tuple(trained["strata_sizes"])})
        return cls(run, trained, scored_sha256, failed_attempt)


def perform(job: Job, trainee: Trainee, dataset: Dataset, report: Report) -> None:
    """Train unless that is done, then score what lacks trials. Epochs are reported as their rows."""
    run, trained = trainee.run, trainee.trained
    if trained is None or not usable(trained) or not _kept(job, run, trained):
        task = TrainTask(
            job.sweep,
            job.store,
            run,
            job.resource,
            probes=job.plan.spec.probes,
            allow_import=job.allow_import,
            attempt=trainee.attempt,
        )
        # An attempt that was interrupted may have reported its epochs to a search that is no more.
        outcome = train_run(task, dataset, on_epoch=report, on_resume=report)
        report(outcome)
        trained = TrainedRun.of(outcome.row)
    if not usable(trained):
        return
    rows = {} if trainee.other(trained.checkpoint_sha256) else read_scores(Store.open(job.store), run)
    for block in _blocks(job, run, trained, rows, dataset):
        report(block)


def scores_done(plan: Plan, run: TrainingRun, trained: TrainedRun, rows: Scores) -> bool:
    """Whether every point of a trained network has all of its trials."""
    return all(work.done for work in _works(plan, run, trained, rows))


def usable(trained: TrainedRun | None) -> bool:
    """Whether a run left a network that can be scored."""
    return trained is not None and trained.status in NETWORK_ENDS and trained.checkpoint_sha256 is not None


def _kept(job: Job, run: TrainingRun, trained: TrainedRun) -> bool:
    """Whether the network's file is still there, and whole; else it is trained once more."""
    return not Checkpoints(open_files(job.store)).fault(run.run_id, trained.checkpoint_sha256)


def _blocks(job: Job, run: TrainingRun, trained: TrainedRun, rows: Scores, dataset: Dataset) -> Iterator[Scored]:
    size = FIRST_BLOCK
    for work in _works(job.plan, run, trained, rows):
        while not work.done:
            for request in list(work.requests()):
                rest: Request | None = request
                while rest is not None:
                    first, rest = rest.split(size)
                    scored = score_block(_trial_task(job, run, trained, work, first), dataset)
                    work.add(scored.rows)
                    yield scored
                    size = max(1, int(BLOCK_S * len(scored.rows) / max(scored.duration_s, 1e-3)))


def _works(plan: Plan, run: TrainingRun, trained: TrainedRun, rows: Scores) -> Iterator[PointWork]:
    for point in plan.points(run):
        low, _ = plan.trial_bounds(point.eta)
        landed = rows.get(point.point_id, [])
        design = design_of(plan, point, test_images=run.test_images, trained=trained)
        missing = sorted(set(range(low)) - {row["trial"] for row in landed})
        yield PointWork(point, plan, design=design, missing=missing, rows=landed)


def _trial_task(job: Job, run: TrainingRun, trained: TrainedRun, work: PointWork, request: Request) -> TrialTask:
    return TrialTask.of(
        job.plan,
        run,
        trained=trained,
        point=work.point,
        request=request,
        store=job.store,
        resource=job.resource,
        allow_import=job.allow_import,
    )
