"""Runs that a search has begun: what comes back of them becomes rows, and at their end a verdict for the panel.

It is every engine's side of the panel. An engine asks for a run (`begin`), does it as `job.perform` has it, hands over
what that reports (`take`, and `goes_on` after each epoch), and says when it is over (`ended`), after `give_up` where it
could not be done. All calls come from one thread, which need not be the one that commits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bnsweep.experiment.plan import TrainingRun
from bnsweep.experiment.search import Subject
from bnsweep.store.store import Store
from bnsweep.sweep.ledger import read_scores
from bnsweep.sweep.search.halving import EarlyStopping
from bnsweep.sweep.search.job import Job, Trainee, usable
from bnsweep.sweep.search.objectives import Verdict, objective_values
from bnsweep.sweep.search.panel import Panel, Step
from bnsweep.sweep.tasks import Row, Scored, Trained, TrainTask, failed_run_row, recipe_columns, versions

__all__ = ["Landed", "Underway", "epoch_accuracy"]


@dataclass(frozen=True, slots=True)
class Landed:
    """Rows to be committed together, by table."""

    tables: Mapping[str, Sequence[Mapping[str, Any]]]
    other_network: str | None = None  # id of a run that got another one: rows about those before it are set aside


@dataclass(slots=True)
class _Begun:
    """A run, and what has come back of it so far."""

    step: Step
    trained: Row | None = None
    epochs: list[Row] = field(default_factory=list)
    trials: dict[tuple[str, int], Row] = field(default_factory=dict)
    error: str | None = None

    @property
    def trainee(self) -> Trainee:
        return self.step.trainee

    @property
    def curve(self) -> tuple[float, ...]:
        """Test accuracy after each epoch."""
        return tuple(epoch_accuracy(row) for row in self.epochs)


class Underway:
    """The runs of one search, from what the panel asks for to what it is told."""

    def __init__(self, job: Job, panel: Panel, subjects: Sequence[Subject], *, land: Callable[[Landed], None]) -> None:
        self.job, self.subjects = job, subjects
        self._panel, self.land = panel, land
        self._stopping = EarlyStopping(subjects)
        self._begun: dict[str, _Begun] = {}  # by run id
        self._again: deque[_Begun] = deque()  # put back by their engine

    @property
    def over(self) -> bool:
        """Whether the panel has nothing left to ask or to wait for."""
        return self._panel.over

    def begin(self) -> Step | None:
        """The next run to do; None: not now, or the search is over."""
        if self._again:
            begun = self._again.popleft()
        else:
            step = self._panel.next()
            while self._panel.from_store:
                self._learn(*self._panel.from_store.pop())
            if step is None:
                return None
            begun = _Begun(step)
        self._begun[begun.trainee.run.run_id] = begun
        return begun.step

    def known(self, run_id: str) -> Trainee:
        """A run and what of it is done, by what has come back of it in this search too."""
        begun = self._begun[run_id]
        return begun.trainee.after(begun.trained)

    def take(self, run_id: str, outcome: Trained | Scored | Row) -> None:
        """Something of a run has come back."""
        begun = self._begun[run_id]
        if isinstance(outcome, Trained):
            self._take_network(begun, outcome)
        elif isinstance(outcome, Scored):
            self._take_trials(begun, outcome)
        else:
            begun.epochs = [*(row for row in begun.epochs if row["epoch"] < outcome["epoch"]), outcome]

    def goes_on(self, run_id: str, epoch: int, accuracy: float) -> bool:
        """Whether a run does, by its test accuracy after an epoch."""
        step = self._begun[run_id].step
        return step.spared or self._stopping.goes_on(step.study, run_id, epoch, accuracy)

    def give_up(self, run_id: str, why: str, *, unless_known: bool = False) -> None:
        """It cannot be done. Its end is still to come. `unless_known`: where no other reason has been given."""
        begun = self._begun.get(run_id)
        if begun is not None and not (unless_known and begun.error is not None):
            begun.error = why

    def put_back(self, run_id: str) -> None:
        """It is to be begun once more, with what has come back of it: its engine was at fault."""
        self._again.append(self._begun.pop(run_id))

    def ended(self, run_id: str) -> None:
        """It is over: finished, stopped early, or given up."""
        begun = self._begun.pop(run_id)
        verdict = self._verdict(begun)
        self._learn(begun.step.study, run_id, verdict)
        self._panel.ended(begun.step.study, run_id, verdict)

    def _learn(self, study: int, run_id: str, verdict: Verdict) -> None:
        self._stopping.learn(study, run_id, verdict.epochs)

    # What comes back

    def _take_network(self, begun: _Begun, outcome: Trained) -> None:
        row, trainee = outcome.row, begun.trainee
        if begun.trained is not None:
            if row["checkpoint_sha256"] != begun.trained["checkpoint_sha256"]:
                begun.error = "its worker died, and when it was trained again another network came out"
            return
        begun.trained = row
        other = trainee.other(row["checkpoint_sha256"])
        epochs, probes = outcome.fresh(trainee.trained, other=other)
        tables = {"epochs": epochs, "probes": probes, "runs": (row,)}  # last: with it the run is over
        self.land(Landed(tables, other_network=trainee.run.run_id if other else None))

    def _take_trials(self, begun: _Begun, outcome: Scored) -> None:
        if begun.trained and outcome.task.checkpoint_sha256 != begun.trained["checkpoint_sha256"]:
            return
        fresh = {(row["point_id"], row["trial"]): row for row in outcome.rows}
        fresh = {key: row for key, row in fresh.items() if key not in begun.trials}
        begun.trials |= fresh
        self.land(Landed({"trials": tuple(fresh.values())}))

    # What becomes of a run

    def _verdict(self, begun: _Begun) -> Verdict:
        run, before = begun.trainee.run, begun.trainee.trained
        status = begun.trained["status"] if begun.trained else None
        if begun.error is not None:
            self._land_failure(begun, begun.error)
            return Verdict("failed", epochs=begun.curve)
        if status is None and not usable(before):
            self._land_pruned(begun)
            return Verdict("pruned", epochs=begun.curve)
        if status == "diverged":
            return Verdict("diverged", epochs=begun.curve)
        rows = [*begun.trials.values(), *self._earlier(begun)]
        values = objective_values(self.subjects[0].spec.search.objectives, self.job.plan, run, rows)
        clean = [row["accuracy"] for row in rows if row["eta"] == 0]
        return Verdict(status or str(before and before.status), values, sum(clean) / len(clean), begun.curve)

    def _earlier(self, begun: _Begun) -> list[Row]:
        """Rows of an interrupted trial that landed before this search began, if they are about the same network."""
        trainee = begun.trainee
        if begun.trained is not None and trainee.other(begun.trained["checkpoint_sha256"]):
            return []
        scores = read_scores(Store.open(self.job.store), trainee.run)
        return [row for rows in scores.values() for row in rows if (row["point_id"], row["trial"]) not in begun.trials]

    def _land_failure(self, begun: _Begun, why: str) -> None:
        trainee = begun.trainee
        task = TrainTask(self.job.sweep, self.job.store, trainee.run, self.job.resource, attempt=trainee.attempt)
        failure = {"sweep": task.sweep, "run_id": trainee.run.run_id, "error": why, "attempt": trainee.attempt}
        tables: dict[str, tuple[Row, ...]] = {"failures": (failure,)}
        if begun.trained is None and not usable(trainee.trained):  # else its network is there: trials failed
            tables["runs"] = (failed_run_row(task, why, 1),)
        self.land(Landed(tables))

    def _land_pruned(self, begun: _Begun) -> None:
        trainee = begun.trainee
        epochs = ({**row, "run_id": trainee.run.run_id} for row in begun.epochs)
        fresh = tuple(row for row in epochs if row["epoch"] > trainee.landed_epochs)
        row = pruned_row(self.job.sweep, trainee.run, begun.epochs[-1], attempt=trainee.attempt)
        self.land(Landed({"epochs": fresh, "runs": (row,)}))


def pruned_row(sweep: str, run: TrainingRun, last: Row, *, attempt: int) -> Row:
    """The `runs` row of a training run that was stopped early, by that of its last epoch."""
    return {
        "sweep": sweep,
        **run.columns(),
        **recipe_columns(run),
        "data_fingerprint": run.fingerprint,
        "train_images": run.train_images,
        "test_images": run.test_images,
        "multiply_adds": run.architecture.multiply_adds,
        "status": "pruned",
        "reason": f"stopped by ASHA: test accuracy {epoch_accuracy(last):.4f} after epoch {last['epoch']} of "
        f"{run.training.epochs} is behind that of other placements",
        "epochs_run": last["epoch"],
        "train_loss": last["train_loss"],
        "train_accuracy": last["train_accuracy"],
        "attempt": attempt,
        "versions": versions(),
    }


def epoch_accuracy(epoch: Row) -> float:
    """Of an epoch, by its row."""
    return float(epoch["test_correct"] / epoch["test_images"])
