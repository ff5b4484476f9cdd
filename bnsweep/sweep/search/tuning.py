"""Ray Tune as the engine of a search: one Tune trial trains one placement and scores it, on its own resources.

Tune runs in a thread of its own, which asks for the next run, stops those that are far behind, and hands on what comes
back; the thread that called `run` commits. Tune's own state is of no use to anybody afterwards: the rows are.

Call `ray_settings.prepare_ray` before this module is imported.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from bnsweep.errors import BnsweepError, EngineError, GpuLostError, StoreUnreadableError, StoreUnwritableError
from bnsweep.experiment.plan import TrainingRun
from bnsweep.store.store import Store
from bnsweep.sweep import ray_tune
from bnsweep.sweep.engine import Datasets
from bnsweep.sweep.gpu import guarded
from bnsweep.sweep.ray_cluster import RayCluster
from bnsweep.sweep.ray_data import SharedData
from bnsweep.sweep.ray_nodes import Nodes
from bnsweep.sweep.ray_work import GpuLost
from bnsweep.sweep.recording import COMMIT_S
from bnsweep.sweep.retries import first_line, said
from bnsweep.sweep.search.engine import Commit
from bnsweep.sweep.search.job import Job, Trainee, perform
from bnsweep.sweep.search.underway import Landed, Underway, epoch_accuracy
from bnsweep.sweep.tasks import Row, Scored, Trained

__all__ = ["Tuning"]


class Tuning:
    """Does runs on a Ray cluster: an existing one by `address`, else one of its own on this machine.

    `patience_s` is how long it waits when no node can work; None: for ever. `warned` hears of it.
    """

    def __init__(
        self,
        store: Store,
        datasets: Datasets,
        *,
        address: str | None,
        cpus: int | None,
        patience_s: float | None,
        warned: Callable[[str], None],
    ) -> None:
        self._store, self._datasets, self._warned = store, datasets, warned
        self._cluster = RayCluster(address, cpus, patience_s=patience_s)
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self._error: BnsweepError | None = None

    def run(self, underway: Underway, commit: Commit) -> None:
        resource = underway.job.resource
        self._cluster.nodes.check_fits(resource, "train")
        data = SharedData(self._datasets)
        references = {fingerprint: data.reference(fingerprint) for fingerprint in self._datasets}
        self._thread = threading.Thread(target=self._tune, args=(underway, references), name="tune", daemon=True)
        self._thread.start()
        while True:
            over = self._over.is_set()  # asked first: what has landed by then is taken now
            if commit(0.0 if over else COMMIT_S):
                self._cluster.heard()
            elif over:
                break
            elif why := self._cluster.look({"train": resource}):
                self._warned(why)
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Let go of the cluster; what Tune wrote is deleted."""
        self._cluster.close()
        if self._thread is None:
            return
        self._thread.join(timeout=5)
        ray_tune.forget(self._store)

    def _tune(self, underway: Underway, references: Mapping[str, Any]) -> None:
        try:
            self._fit(underway, references)
            if not underway.over:
                raise EngineError(
                    "Ray Tune stopped before the search was over; what has landed is kept, run again to go on"
                )
        except BnsweepError as error:
            self._stop(underway, error)
        except BaseException as error:  # noqa: BLE001 - the thread that commits must hear of it
            why = f"Ray Tune stopped: {first_line(error)}; what has landed is kept, run again to go on"
            self._stop(underway, EngineError(why))
        else:
            self._stop(underway, None)

    def _stop(self, underway: Underway, error: BnsweepError | None) -> None:
        """From now on nothing counts any more."""
        self._error = self._error or error
        self._over.set()
        underway.land(Landed({}))  # wakes who waits for rows

    def _fit(self, underway: Underway, references: Mapping[str, Any]) -> None:
        """Until there are no more runs; begun anew when a node has lost its GPU: where trials may run is said once."""
        while True:
            searcher = _Searcher(underway)
            self._search(searcher, references)
            if not searcher.moved:
                return

    def _search(self, searcher: _Searcher, references: Mapping[str, Any]) -> None:
        """Until there are no more runs, or a node has lost its GPU."""
        job, nodes = searcher.underway.job, self._cluster.nodes
        nodes.check_fits(job.resource, "train")
        ray_tune.fit(
            _train,
            {"job": job, "bases": searcher.bases, "references": references},
            store=self._store,
            resource=job.resource,
            selector=nodes.selector(job.resource),
            callback=_Gatherer(searcher, nodes, lambda error: self._stop(searcher.underway, error)),
            search_alg=searcher,
            scheduler=_Stopping(searcher.underway),
            num_samples=-1,  # the searcher says when it is over
        )


class _Searcher(Searcher):  # type: ignore[misc]  # ray has no types
    """Tune asks for runs. All calls come from Tune's thread."""

    def __init__(self, underway: Underway) -> None:
        super().__init__()
        self.underway = underway
        self.bases = [subject.run("1" * subject.sites, 0) for subject in underway.subjects]
        self.moved = False  # whether runs were put back, to be done on other nodes
        self.gone: set[str] = set()  # ids of runs that have no end here
        self._runs: dict[str, str] = {}  # by Tune's own id

    def suggest(self, trial_id: str) -> Any:
        """The config of the next trial; None: not now."""
        if self.moved:
            return Searcher.FINISHED
        step = self.underway.begin()
        if step is None:
            return Searcher.FINISHED if self.underway.over else None
        run = step.proposal.run
        self._runs[trial_id] = run.run_id
        return {
            "study": step.study,
            "run_id": run.run_id,
            "mask": run.bn_mask,
            "placement": run.placement,
            "seed": run.train_seed,
            "known": self.underway.known(run.run_id).packed(),  # Tune replaces objects of ours
        }

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Rows come through the callback, which also hears of a trial's last result."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial is over: finished, stopped early, or given up."""
        run_id = self._runs.pop(trial_id, None)
        if run_id is None or run_id in self.gone:
            return
        if error:
            self.underway.give_up(run_id, "the worker died", unless_known=True)
        self.underway.ended(run_id)

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
    """Tune asks whether a run goes on."""

    def __init__(self, underway: Underway) -> None:
        super().__init__()
        self._underway = underway

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """After each epoch of it."""
        if "accuracy" not in result:
            return str(TrialScheduler.CONTINUE)
        on = self._underway.goes_on(trial.config["run_id"], result["epoch"], result["accuracy"])
        return str(TrialScheduler.CONTINUE if on else TrialScheduler.STOP)

    def __deepcopy__(self, memo: Any) -> _Stopping:
        return self

    def __reduce__(self) -> Any:
        return (FIFOScheduler, ())


class _Gatherer(tune.Callback):  # type: ignore[misc]  # ray has no types
    """Hands on what trials report. `stop` ends the search."""

    def __init__(self, searcher: _Searcher, nodes: Nodes, stop: Callable[[BnsweepError], None]) -> None:
        self._searcher, self._nodes, self._stop = searcher, nodes, stop

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        underway, run_id, outcome = self._searcher.underway, trial.config["run_id"], result.get("outcome")
        if isinstance(outcome, StoreUnwritableError):  # of the worker's: nothing is known of its run
            self._searcher.gone.add(run_id)
            self._stop(outcome)
        elif isinstance(outcome, GpuLost):
            self._nodes.avoid(outcome.node_id, outcome.why)
            self._searcher.gone.add(run_id)
            self._searcher.moved = True
            underway.put_back(run_id)
        elif isinstance(outcome, BnsweepError):
            underway.give_up(run_id, str(outcome))
        elif outcome is not None:
            underway.take(run_id, outcome.row if isinstance(outcome, _Epoch) else outcome)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        # Called after each failure; only the last one ends the run.
        if (error := ray_tune.last_error(trial)) is not None:
            self._searcher.underway.give_up(trial.config["run_id"], said(error))

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
        tune.report({"epoch": outcome["epoch"], "accuracy": epoch_accuracy(outcome), "outcome": _Epoch(outcome)})
    else:
        tune.report({"outcome": outcome})
