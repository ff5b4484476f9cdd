"""Ray Tune around the studies: one Tune trial trains one placement and scores it, on its own resources.

Tune runs in a thread of its own. It asks the panel of studies for the next run, stops runs that ASHA finds hopeless,
and hands every row to the thread that commits. Tune's own state is of no use to anybody afterwards: the rows are.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from bnsweep.errors import BnsweepError, EngineError, GpuLostError, StoreUnreadableError, StoreUnwritableError
from bnsweep.experiment.plan import TrainingRun
from bnsweep.experiment.search import Search, Subject
from bnsweep.store.store import Store
from bnsweep.sweep import ray_tune
from bnsweep.sweep.engine import Datasets
from bnsweep.sweep.gpu import guarded
from bnsweep.sweep.ledger import read_scores
from bnsweep.sweep.ray_data import SharedData
from bnsweep.sweep.ray_nodes import Nodes
from bnsweep.sweep.ray_work import GpuLost
from bnsweep.sweep.retries import first_line, said
from bnsweep.sweep.search.job import Job, Trainee, perform, usable
from bnsweep.sweep.search.objectives import Verdict, objective_values
from bnsweep.sweep.search.panel import Gathered, Panel
from bnsweep.sweep.search.study import Proposal
from bnsweep.sweep.tasks import Row, Scored, Trained, TrainTask, failed_run_row, recipe_columns, versions

__all__ = ["Landed", "Tuning"]

Step = tuple[int, Proposal, Trainee]  # a study's number, what it asks for, and what is known of it


@dataclass(frozen=True, slots=True)
class Landed:
    """Rows to be committed."""

    table: str
    rows: tuple[Row, ...]
    instead: bool = False  # of rows about other networks of their runs, which are set aside


class Tuning:
    """Runs a panel's proposals on a Ray cluster until it has no more."""

    def __init__(
        self,
        job: Job,
        panel: Panel,
        subjects: tuple[Subject, ...],
        datasets: Datasets,
        store: Store,
        landed: queue.SimpleQueue[Landed | BaseException | None],
        nodes: Nodes,
    ) -> None:
        self.landed = landed
        self._nodes = nodes
        self._job, self._panel, self._subjects, self._store = job, panel, subjects, store
        data = SharedData(datasets)
        self._references = {fingerprint: data.reference(fingerprint) for fingerprint in datasets}
        self._thread = threading.Thread(target=self._run, name="tune", daemon=True)

    def start(self) -> None:
        """Begin; rows, and None at the end, come out of `landed`."""
        self._thread.start()

    def close(self) -> None:
        """After the end, or instead of it: what Tune wrote is deleted."""
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        ray_tune.forget(self._store)

    def _run(self) -> None:
        try:
            self._fit()
            self.landed.put(None)
        except BnsweepError as error:
            self.landed.put(error)
        except BaseException as error:  # noqa: BLE001 - the thread that commits must hear of it
            self.landed.put(
                EngineError(f"Ray Tune stopped: {first_line(error)}; what has landed is kept, run again to go on")
            )

    def _fit(self) -> None:
        stopping = _Stopping(self._subjects[0].spec.search, self._subjects)
        elsewhere: list[tuple[Step, Gathered]] = []
        while True:
            searcher = _Searcher(self._job, self._panel, self._subjects, stopping, self.landed, elsewhere)
            self._search(searcher, stopping)
            elsewhere = searcher.elsewhere
            if not elsewhere:
                break
        if not self._panel.over:
            raise EngineError(
                "Ray Tune stopped before the search was over; what has landed is kept, run again to go on"
            )

    def _search(self, searcher: _Searcher, stopping: _Stopping) -> None:
        """Until the panel has no more, or a node has lost its GPU: where trials may run is said at the start."""
        resource = self._job.resource
        self._nodes.check_fits(resource, "train")
        bases = [subject.run("1" * subject.sites, 0) for subject in self._subjects]
        ray_tune.fit(
            _train,
            {"job": self._job, "bases": bases, "references": self._references},
            store=self._store,
            resource=resource,
            selector=self._nodes.selector(resource),
            callback=_Gatherer(searcher, self._nodes),
            search_alg=searcher,
            scheduler=stopping,
            num_samples=-1,  # the searcher says when it is over
        )


class _Searcher(Searcher):  # type: ignore[misc]  # ray has no types
    """Tune's side of the panel. All calls come from Tune's thread."""

    def __init__(
        self,
        job: Job,
        panel: Panel,
        subjects: tuple[Subject, ...],
        stopping: _Stopping,
        landed: queue.SimpleQueue[Landed | BaseException | None],
        first: Sequence[tuple[Step, Gathered]],
    ) -> None:
        super().__init__()
        self.elsewhere: list[tuple[Step, Gathered]] = []  # begun on nodes that turned out to have no GPU
        self._first = deque(first)
        self.job, self.panel, self.subjects, self.stopping, self.landed = job, panel, subjects, stopping, landed
        self.gathered: dict[str, Gathered] = {}  # by run id
        self._of_trial: dict[str, Step] = {}

    def suggest(self, trial_id: str) -> Any:
        """The config of the next trial; None: not now."""
        if self.elsewhere:
            return Searcher.FINISHED
        step, gathered = self._first.popleft() if self._first else (self.panel.next(), Gathered())
        while self.panel.from_store:
            index, run_id, verdict = self.panel.from_store.pop()
            self.stopping.learn(index, run_id, verdict.epochs)
        if step is None:
            return Searcher.FINISHED if self.panel.over else None
        index, proposal, trainee = step
        run = proposal.run
        self._of_trial[trial_id] = step
        self.gathered[run.run_id] = gathered
        return {
            "study": index,
            "run_id": run.run_id,
            "mask": run.bn_mask,
            "placement": run.placement,
            "seed": run.train_seed,
            "spared": proposal.spared or trainee.scored_sha256 is not None,  # trained in full before
            "known": trainee.after(gathered.trained).packed(),  # Tune replaces objects of ours
        }

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Rows come through the callback, which also hears of a trial's last result."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial is over: finished, stopped early, or given up."""
        if trial_id not in self._of_trial:
            return
        step = index, proposal, trainee = self._of_trial.pop(trial_id)
        gathered = self.gathered.pop(proposal.run.run_id)
        if gathered.gpu_lost:
            self.elsewhere.append((step, replace(gathered, gpu_lost=False)))
            return
        if gathered.unwritten:
            return
        verdict = self._verdict(proposal.run, trainee, gathered, error=error)
        self.stopping.learn(index, proposal.run.run_id, verdict.epochs)
        self.panel.ended(index, proposal.run.run_id, verdict)

    def _verdict(self, run: TrainingRun, trainee: Trainee, gathered: Gathered, *, error: bool) -> Verdict:
        curve = tuple(row["test_correct"] / row["test_images"] for row in gathered.epochs)
        before = trainee.trained
        status = gathered.trained["status"] if gathered.trained else None
        if error or gathered.error is not None:
            self._give_up(run, trainee, gathered)
            return Verdict("failed", epochs=curve)
        if status is None and not usable(before):
            self._prune(run, trainee, gathered)
            return Verdict("pruned", epochs=curve)
        if status == "diverged":
            return Verdict("diverged", epochs=curve)
        rows = [*gathered.trials.values(), *self._earlier(trainee, gathered)]
        values = objective_values(self.subjects[0].spec.search.objectives, self.job.plan, run, rows)
        clean = [row["accuracy"] for row in rows if row["eta"] == 0]
        return Verdict(status or str(before and before.status), values, sum(clean) / len(clean), curve)

    def _earlier(self, trainee: Trainee, gathered: Gathered) -> list[Row]:
        """Rows of an interrupted trial that landed before this search began, if they are about the same network."""
        if gathered.trained is not None and trainee.other(gathered.trained["checkpoint_sha256"]):
            return []
        scores = read_scores(Store.open(self.job.store), trainee.run)
        return [
            row for rows in scores.values() for row in rows if (row["point_id"], row["trial"]) not in gathered.trials
        ]

    def _prune(self, run: TrainingRun, trainee: Trainee, gathered: Gathered) -> None:
        last = gathered.epochs[-1]
        accuracy = last["test_correct"] / last["test_images"]
        row = {
            "sweep": self.job.sweep,
            **run.columns(),
            **recipe_columns(run),
            "data_fingerprint": run.fingerprint,
            "train_images": run.train_images,
            "test_images": run.test_images,
            "multiply_adds": run.architecture.multiply_adds,
            "status": "pruned",
            "reason": f"stopped by ASHA: test accuracy {accuracy:.4f} after epoch {last['epoch']} of "
            f"{run.training.epochs} is behind that of other placements",
            "epochs_run": last["epoch"],
            "train_loss": last["train_loss"],
            "train_accuracy": last["train_accuracy"],
            "attempt": trainee.attempt,
            "versions": versions(),
        }
        self.landed.put(Landed("runs", (row,)))
        epochs = ({**row, "run_id": run.run_id} for row in gathered.epochs if row["epoch"] > trainee.landed_epochs)
        self.landed.put(Landed("epochs", tuple(epochs)))

    def _give_up(self, run: TrainingRun, trainee: Trainee, gathered: Gathered) -> None:
        reason = gathered.error or "the worker died"
        task = TrainTask(self.job.sweep, self.job.store, run, self.job.resource, attempt=trainee.attempt)
        failure = {"sweep": task.sweep, "run_id": run.run_id, "error": reason, "attempt": trainee.attempt}
        self.landed.put(Landed("failures", (failure,)))
        if gathered.trained is None and not usable(trainee.trained):  # else its network is there: trials failed
            self.landed.put(Landed("runs", (failed_run_row(task, reason, 1),)))

    def take(self, run_id: str, outcome: Trained | Scored | Row) -> None:
        """Something of a run has come back."""
        gathered = self.gathered[run_id]
        if isinstance(outcome, Trained):
            if gathered.trained is None:
                gathered.trained = outcome.row
                self._land_network(self._trainee(run_id), outcome)
            elif outcome.row["checkpoint_sha256"] != gathered.trained["checkpoint_sha256"]:
                gathered.error = "its worker died, and when it was trained again another network came out"
        elif isinstance(outcome, Scored):
            if gathered.trained and outcome.task.checkpoint_sha256 != gathered.trained["checkpoint_sha256"]:
                return
            fresh = [row for row in outcome.rows if (row["point_id"], row["trial"]) not in gathered.trials]
            gathered.trials |= {(row["point_id"], row["trial"]): row for row in fresh}
            self.landed.put(Landed("trials", tuple(fresh)))
        else:
            gathered.epochs = [*(row for row in gathered.epochs if row["epoch"] < outcome["epoch"]), outcome]

    def _land_network(self, trainee: Trainee, outcome: Trained) -> None:
        other = trainee.other(outcome.row["checkpoint_sha256"])
        self.landed.put(Landed("runs", (outcome.row,), instead=other))
        epochs, probes = outcome.fresh(trainee.trained, other=other)
        self.landed.put(Landed("epochs", epochs))
        self.landed.put(Landed("probes", probes))

    def _trainee(self, run_id: str) -> Trainee:
        return next(trainee for _, _, trainee in self._of_trial.values() if trainee.run.run_id == run_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a search goes on from its rows."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""

    # Tune copies what it is given and pickles it with the experiment's state.
    def __deepcopy__(self, memo: Any) -> _Searcher:
        return self

    def __reduce__(self) -> Any:
        return (Searcher, ())


class _Stopping(FIFOScheduler):  # type: ignore[misc]  # ray has no types
    """One ASHA per study: networks are compared with themselves. What is not a sampler's is trained in full."""

    def __init__(self, search: Search, subjects: tuple[Subject, ...]) -> None:
        super().__init__()
        self._ashas: list[Any] = []
        self._epochs = [(subject.model.training or subject.spec.training).epochs for subject in subjects]
        if search.early_stopping is not None:
            self._ashas = [_asha(search, subject) for subject in subjects]

    def learn(self, index: int, run_id: str, curve: tuple[float, ...]) -> None:
        """A run that is over counts among those that later ones are compared with, in whatever session it was made."""
        if self._ashas:
            for epoch, accuracy in enumerate(curve, 1):
                self._ashas[index]._brackets[0].on_result(SimpleNamespace(trial_id=run_id), epoch, accuracy)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether the run goes on."""
        config = trial.config
        if not self._ashas or "accuracy" not in result or config["spared"]:
            return str(TrialScheduler.CONTINUE)
        if result["epoch"] >= self._epochs[config["study"]]:  # nothing is left to be saved
            return str(TrialScheduler.CONTINUE)
        named = SimpleNamespace(trial_id=config["run_id"])
        bracket = self._ashas[config["study"]]._brackets[0]
        return str(bracket.on_result(named, result["epoch"], result["accuracy"]))

    def __deepcopy__(self, memo: Any) -> _Stopping:
        return self

    def __reduce__(self) -> Any:
        return (FIFOScheduler, ())


def _asha(search: Search, subject: Subject) -> Any:
    assert search.early_stopping is not None
    epochs = (subject.model.training or subject.spec.training).epochs
    return ASHAScheduler(
        time_attr="epoch",
        metric="accuracy",
        mode="max",
        max_t=max(epochs, search.early_stopping.grace_epochs + 1),
        grace_period=search.early_stopping.grace_epochs,
        reduction_factor=search.early_stopping.reduction,
    )


class _Gatherer(tune.Callback):  # type: ignore[misc]  # ray has no types
    """Hands what trials report to the searcher."""

    def __init__(self, searcher: _Searcher, nodes: Nodes) -> None:
        self._searcher, self._nodes = searcher, nodes

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        outcome = result.get("outcome")
        run_id = trial.config["run_id"]
        if isinstance(outcome, StoreUnwritableError):
            self._searcher.gathered[run_id].unwritten = True
            self._searcher.landed.put(outcome)
        elif isinstance(outcome, GpuLost):
            self._nodes.avoid(outcome.node_id, outcome.why)
            self._searcher.gathered[run_id].gpu_lost = True
        elif isinstance(outcome, BnsweepError):
            self._searcher.gathered[run_id].error = str(outcome)
        elif outcome is not None:
            self._searcher.take(run_id, outcome.row if isinstance(outcome, _Epoch) else outcome)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        gathered = self._searcher.gathered.get(trial.config["run_id"])
        if gathered is not None and (error := ray_tune.last_error(trial)) is not None:
            gathered.error = said(error)

    def __deepcopy__(self, memo: Any) -> _Gatherer:
        return self

    def __reduce__(self) -> Any:
        return (tune.Callback, ())


def _train(config: Mapping[str, Any], job: Job, bases: list[TrainingRun], references: Mapping[str, Any]) -> None:
    base = bases[config["study"]]
    run = replace(
        base,
        run_id=config["run_id"],
        placement=config["placement"],
        bn_mask=config["mask"],
        train_seed=config["seed"],
    )
    try:
        dataset = ray.get(references[run.fingerprint])
        with guarded():
            perform(job, Trainee.unpacked(run, config["known"]), dataset, _report)
    except GpuLostError as error:
        tune.report({"outcome": GpuLost.here(error)})
    except StoreUnreadableError:
        raise  # Tune starts the run once more
    except BnsweepError as error:
        tune.report({"outcome": error})


@dataclass(frozen=True, slots=True)
class _Epoch:
    """An epoch's row; Tune would take a dictionary apart."""

    row: Row


def _report(outcome: Trained | Scored | Row) -> None:
    if isinstance(outcome, dict):
        accuracy = outcome["test_correct"] / outcome["test_images"]
        tune.report({"epoch": outcome["epoch"], "accuracy": accuracy, "outcome": _Epoch(outcome)})
    else:
        tune.report({"outcome": outcome})
