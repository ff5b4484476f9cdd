"""What a driver writes: rows on their way into the store, what was planned, what was given up."""

from __future__ import annotations

import hashlib
import json
import signal
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import islice
from time import monotonic
from types import FrameType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bnsweep.errors import InputError, StoreError
from bnsweep.experiment.identity import canonical_json
from bnsweep.experiment.plan import Plan
from bnsweep.experiment.spec import AdaptiveTrials, Spec
from bnsweep.store.schema import SCHEMAS
from bnsweep.store.store import Store
from bnsweep.sweep.tasks import Failed, TrainTask, TrialTask, cell_columns, versions

__all__ = ["COMMIT_S", "RowBuffer", "check_kind", "failure_row", "point_rows", "record_plan"]

COMMIT_S = 1.0  # between commits
COMMIT_ROWS = 50_000
REPEATED_S = 2.0  # a shell's Ctrl-C may come from a parent process as well
POINTS_AT_ONCE = 10_000  # as Python objects, which take ten times the memory of Arrow's


class RowBuffer:
    """Rows on their way into the store: one commit per second at most, all tables of it at once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rows: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        self._count = 0
        self._last = monotonic()
        self._committing = False
        self._undisturbed = 0  # blocks of `undisturbed` under way
        self._asked_to_stop_at: float | None = None

    def add(self, table: str, rows: Any) -> None:
        self._rows[table].extend(rows)
        self._count += len(rows)

    def flush_if_due(self) -> None:
        if self._count >= COMMIT_ROWS or monotonic() - self._last >= COMMIT_S:
            self.flush()

    def flush(self) -> None:
        self._last = monotonic()
        if not self._count:
            return
        now = datetime.now(UTC)
        tables = {
            name: pa.Table.from_pylist([{**row, "committed_at": now} for row in rows], schema=SCHEMAS[name])
            for name, rows in self._rows.items()
            if rows
        }
        self._committing = True
        try:
            self._store.commit(tables)
            over = [row["run_id"] for row in self._rows["runs"] if row["status"] != "failed"]
            self._rows.clear()
            self._count = 0
        finally:
            self._committing = False
        # From here on it may be interrupted. Until now a training that had ended could have been lost with its row.
        if over:
            with suppress(StoreError):
                self._store.checkpoints.drop_slots(over)
        self._store.tidy()
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self._asked_to_stop_at is not None and not self._undisturbed:
            raise KeyboardInterrupt

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Within it Ctrl-C and SIGTERM wait for its end, unless they are repeated: then nobody wants to wait."""
        self._undisturbed += 1
        try:
            yield
        finally:
            self._undisturbed -= 1
        self._stop_if_asked()

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM raise KeyboardInterrupt, but never in the middle of a commit."""

        def stop(signum: int, frame: FrameType | None) -> None:
            before, now = self._asked_to_stop_at, monotonic()
            self._asked_to_stop_at = now if before is None else before
            repeated = before is not None and now - before >= REPEATED_S
            if not self._committing and (repeated or not self._undisturbed):
                raise KeyboardInterrupt

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self._asked_to_stop_at = None  # said once: what is kept afterwards is committed too


def check_kind(store: Store, spec: Spec) -> None:
    """A name stands for a sweep or for a search. Raises InputError."""
    rows = store.read("sweeps", columns=["sweep", "revision", "spec"]).sort_by("revision").to_pylist()
    mine = [json.loads(row["spec"]) for row in rows if row["sweep"] == spec.name]
    if mine and ("search" in mine[-1]) != spec.is_search:
        held, given = ("a sweep", "no search") if spec.is_search else ("a search", "no sweep")
        raise InputError(
            f"{store.location} holds {held} {spec.name!r}, which is {given}; give this one another `name`, or use "
            "another --store"
        )


def record_plan(store: Store, plan: Plan, *, text: str, planned_runs: int | None = None) -> str:
    """Write what is planned into the store, once per version of a spec: `coverage` compares rows with it.

    What has been lost of a version that is there is written again. A search does not know its runs beforehand and says
    how many there will be at most. Returns the version's digest.
    """
    spec_json = canonical_json(plan.spec.model_dump(mode="json"))
    spec_sha256 = _version(store, plan, hashlib.sha256(spec_json.encode()).hexdigest())
    known = store.read("sweeps", columns=["sweep", "spec_sha256", "revision"]).sort_by("revision").to_pylist()
    mine = [row["spec_sha256"] for row in known if row["sweep"] == plan.spec.name]
    revisions = [row["revision"] for row in known if row["sweep"] == plan.spec.name]
    runs = len(plan.runs) if planned_runs is None else planned_runs
    now = datetime.now(UTC)
    sweep = {
        "sweep": plan.spec.name,
        "revision": max(revisions, default=0) + 1,  # a copy of a store has the newest alone
        "spec_sha256": spec_sha256,
        "spec": spec_json,
        "spec_yaml": text,
        "planned_runs": runs,
        "planned_points": runs * plan.points_per_run,
        "versions": versions(),
        "committed_at": now,
    }
    tables = {"points": _lacking_points(store, plan, spec_sha256, now=now)}
    if not mine or mine[-1] != spec_sha256:
        tables["sweeps"] = pa.Table.from_pylist([sweep], schema=SCHEMAS["sweeps"])
    store.commit(tables)
    return spec_sha256


def _lacking_points(store: Store, plan: Plan, spec_sha256: str, *, now: datetime) -> pa.Table:
    """The `points` rows of a plan that its version in the store does not have."""
    there = _points_of(store, plan, spec_sha256, "point_id")
    if len(there) >= len(plan.runs) * plan.points_per_run:  # a version's points are those of one plan
        return SCHEMAS["points"].empty_table()
    rows = ({**row, "committed_at": now} for row in point_rows(plan, spec_sha256))
    pieces = iter(lambda: list(islice(rows, POINTS_AT_ONCE)), [])
    planned = pa.concat_tables(pa.Table.from_pylist(piece, schema=SCHEMAS["points"]) for piece in pieces)
    return planned.filter(pc.invert(pc.is_in(planned["point_id"], value_set=there)))


def _points_of(store: Store, plan: Plan, spec_sha256: str, column: str) -> pa.Array:
    """The different values that the points of a version have there."""
    version = (pc.field("sweep") == plan.spec.name) & (pc.field("spec_sha256") == spec_sha256)
    return store.read("points", columns=[column], filter=version)[column].unique()


def _version(store: Store, plan: Plan, spec_sha256: str) -> str:
    """What a version of a sweep is called: by its spec, and by its runs too where that spec has stood for others.

    Runs depend on more than the spec: on the code of one's own network, on the files of a folder. Answers are about the
    newest version, and must not be about the networks of an earlier one.
    """
    if not plan.runs:  # a search asks for them as it goes
        return spec_sha256
    if {run.run_id for run in plan.runs}.issuperset(_points_of(store, plan, spec_sha256, "run_id").to_pylist()):
        return spec_sha256  # some points of it may have been lost
    return hashlib.sha256("\x1f".join([spec_sha256, *sorted(run.run_id for run in plan.runs)]).encode()).hexdigest()


def point_rows(plan: Plan, spec_sha256: str) -> Iterator[dict[str, Any]]:
    """The `points` rows of a plan."""
    spec = plan.spec
    design = spec.trials if isinstance(spec.trials, AdaptiveTrials) else None
    for run in plan.runs:
        network = run.columns()
        for point in plan.points(run):
            low, high = plan.trial_bounds(point.eta)
            yield {
                "sweep": spec.name,
                "spec_sha256": spec_sha256,
                "point_id": point.point_id,
                **network,
                **cell_columns(point, spec.evaluation, plan.sampling),
                "min_trials": low,
                "max_trials": high,
                "half_width": design.half_width if design and point.eta else None,
                "confidence": design.confidence if design and point.eta else None,
            }


def failure_row(task: TrainTask | TrialTask, outcome: Failed, *, attempts_before: int = 0) -> dict[str, Any]:
    """The `failures` row of a task that was given up; `attempts_before`: of the same block, in earlier calls."""
    trials = task if isinstance(task, TrialTask) else None
    return {
        "sweep": task.sweep,
        "run_id": task.run.run_id,
        "point_id": trials and trials.point.point_id,
        "first_trial": trials and trials.first,
        "trials": trials and len(trials.seeds),
        "error": outcome.error,
        "attempt": attempts_before + outcome.attempts
        if isinstance(task, TrialTask)
        else task.attempt + outcome.attempts - 1,
    }
