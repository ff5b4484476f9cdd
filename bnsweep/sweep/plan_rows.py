"""A plan as rows: its versions, and the points that `coverage` compares trials with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bnsweep.errors import InputError
from bnsweep.experiment.identity import canonical_json
from bnsweep.experiment.plan import Plan
from bnsweep.experiment.spec import AdaptiveTrials, Spec
from bnsweep.store.schema import SCHEMAS
from bnsweep.store.store import Store
from bnsweep.sweep.tasks import cell_columns, versions

__all__ = ["check_kind", "point_rows", "points_of", "record_plan"]

POINTS_AT_ONCE = 10_000  # as Python objects, which take ten times the memory of Arrow's


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
    there = points_of(store, plan.spec.name, spec_sha256, "point_id")
    if len(there) >= len(plan.runs) * plan.points_per_run:  # a version's points are those of one plan
        return SCHEMAS["points"].empty_table()
    rows = ({**row, "committed_at": now} for row in point_rows(plan, spec_sha256))
    pieces = iter(lambda: list(islice(rows, POINTS_AT_ONCE)), [])
    planned = pa.concat_tables(pa.Table.from_pylist(piece, schema=SCHEMAS["points"]) for piece in pieces)
    return planned.filter(pc.invert(pc.is_in(planned["point_id"], value_set=there)))


def points_of(store: Store, sweep: str, spec_sha256: str, column: str) -> pa.Array:
    """The different values that the points of a version have there."""
    version = (pc.field("sweep") == sweep) & (pc.field("spec_sha256") == spec_sha256)
    return store.read("points", columns=[column], filter=version)[column].unique()


def _version(store: Store, plan: Plan, spec_sha256: str) -> str:
    """What a version of a sweep is called: by its spec, and by its runs too where that spec has stood for others.

    Runs depend on more than the spec: on the code of one's own network, on the files of a folder. Answers are about the
    newest version, and must not be about the networks of an earlier one.
    """
    if not plan.runs:  # a search asks for them as it goes
        return spec_sha256
    there = points_of(store, plan.spec.name, spec_sha256, "run_id").to_pylist()
    if {run.run_id for run in plan.runs}.issuperset(there):
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
