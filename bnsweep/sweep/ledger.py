"""What the store already holds of a plan. The store is the truth: what has landed is not done again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bnsweep.experiment.plan import Plan, TrainingRun
from bnsweep.experiment.vocabulary import NETWORK_ENDS
from bnsweep.store.store import Store

__all__ = ["Ledger", "TrainedRun", "read_ledger", "read_runs", "read_scores"]


@dataclass(frozen=True, slots=True)
class TrainedRun:
    """How a training run ended, by its newest row."""

    status: str
    checkpoint_sha256: str | None
    attempt: int
    strata_sizes: tuple[int, ...] = ()
    epochs: int = 0  # whose rows are in the store
    test_correct: int | None = None  # test images classified right without noise
    classes: int = 0  # 0: no network
    reason: str = ""  # why it ended so

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> TrainedRun:
        """From a row of `runs`."""
        sizes = tuple(row["strata_sizes"] or ())
        status, sha256, attempt = row["status"], row["checkpoint_sha256"], row["attempt"]
        return cls(
            status,
            sha256,
            attempt,
            sizes,
            epochs=row["epochs_run"] or 0,
            test_correct=row["test_correct"],
            classes=row["classes"] or 0,
            reason=row["reason"] or "",
        )


@dataclass(slots=True)
class Ledger:
    """Ended runs, and trials per point: a number when they are 0, 1, ... without gaps, else the set."""

    runs: dict[str, TrainedRun] = field(default_factory=dict)
    trials: dict[str, int | frozenset[int]] = field(default_factory=dict)
    given_up: set[str] = field(default_factory=set)  # points with a failed block
    failed_attempts: dict[tuple[str, int], int] = field(default_factory=dict)  # by point and first trial of a block
    of_search: bool = False  # for which a run that was stopped early has ended; a sweep trains it in full

    def untrained(self, run_id: str) -> bool:
        """Whether the run is to be trained, as far as rows say."""
        return run_id not in self.runs or (self.runs[run_id].status == "pruned" and not self.of_search)

    def lost(self, run_id: str) -> bool:
        """Whether the run has ended without a network (diverged, failed), so that none of its trials can be made."""
        return not self.untrained(run_id) and self.runs[run_id].status not in NETWORK_ENDS

    def missing(self, point_id: str, trials: int) -> list[int]:
        """Which of the first `trials` trials of a point have not landed."""
        done = self.trials.get(point_id, 0)
        if isinstance(done, int):
            return list(range(done, trials))
        return [trial for trial in range(trials) if trial not in done]

    def landed(self, point_id: str, trials: int) -> int:
        """How many of the first `trials` trials of a point have landed."""
        done = self.trials.get(point_id, 0)
        return min(done, trials) if isinstance(done, int) else sum(trial < trials for trial in done)


def read_ledger(store: Store, plan: Plan) -> Ledger:
    """Everything in the store that bears on the plan."""
    ledger = Ledger(of_search=plan.spec.is_search)
    run_ids = {run.run_id for run in plan.runs}
    ledger.runs = {run_id: known for run_id, known in read_runs(store).items() if run_id in run_ids}
    trials = _of_runs(store.read("trials", columns=["run_id", "point_id", "trial"]), run_ids)
    ledger.trials = _trials_per_point(trials)
    columns = ["run_id", "point_id", "first_trial", "trials", "attempt"]
    failures = [row for row in store.read("failures", columns=columns).to_pylist() if row["point_id"]]
    ledger.given_up = _given_up(failures, plan, ledger)
    for row in failures:
        block = row["point_id"], row["first_trial"]
        ledger.failed_attempts[block] = max(row["attempt"], ledger.failed_attempts.get(block, 0))
    return ledger


def _given_up(rows: Sequence[Mapping[str, Any]], plan: Plan, ledger: Ledger) -> set[str]:
    """Points of the plan with a block that was given up and whose trials have not landed since."""
    failed = {row["run_id"] for row in rows}
    most = {
        point.point_id: plan.trial_bounds(point.eta)[1]  # a block may lie beyond what the plan asks for now
        for run in plan.runs
        if run.run_id in failed
        for point in plan.points(run)
    }
    return {
        row["point_id"]
        for row in rows
        if (end := min(row["first_trial"] + row["trials"], most.get(row["point_id"], 0)))
        and (missing := ledger.missing(row["point_id"], end))
        and missing[-1] >= row["first_trial"]
    }


def read_runs(store: Store) -> dict[str, TrainedRun]:
    """How each training run of the store ended."""
    runs: dict[str, TrainedRun] = {}
    columns = ["run_id", "status", "checkpoint_sha256", "attempt", "strata_sizes", "epochs_run", "test_correct"]
    for row in sorted(
        store.read("runs", columns=[*columns, "classes", "reason"]).to_pylist(), key=lambda row: row["attempt"]
    ):
        trained, before = TrainedRun.of(row), runs.get(row["run_id"])
        runs[row["run_id"]] = replace(trained, epochs=max(trained.epochs, before.epochs if before else 0))
    return runs


def read_scores(store: Store, run: TrainingRun) -> dict[str, list[dict[str, Any]]]:
    """The run's trial rows by point, in the order of their trials: what a sequential design decides from."""
    rows = store.read("trials", filter=pc.field("run_id") == run.run_id).sort_by("trial").to_pylist()
    by_point: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_point[row["point_id"]].append(row)
    return by_point


def _of_runs(table: pa.Table, run_ids: Iterable[str]) -> pa.Table:
    wanted = pa.array(list(run_ids), pa.string())
    return table.filter(pc.is_in(table["run_id"], value_set=wanted))


def _trials_per_point(table: pa.Table) -> dict[str, int | frozenset[int]]:
    grouped = table.group_by("point_id").aggregate([("trial", "count_distinct"), ("trial", "max")])
    points: dict[str, int | frozenset[int]] = {}
    gaps = []
    for point_id, count, last in zip(*(grouped[name].to_pylist() for name in grouped.column_names), strict=True):
        points[point_id] = count
        if count != last + 1:
            gaps.append(point_id)
    for point_id in gaps:
        points[point_id] = frozenset(table.filter(pc.equal(table["point_id"], point_id))["trial"].to_pylist())
    return points
