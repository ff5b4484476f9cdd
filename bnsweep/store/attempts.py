"""Training runs of several attempts: which network counts, and rows that were made on another one.

A network that was lost is trained again. Training is deterministic, so that gives the same bytes; where it does not
(another processor, another version of torch), rows of two networks stand under one run, and must not stay there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from bnsweep.store import parts as part_files
from bnsweep.store import schema
from bnsweep.store.filesystem import quarantine_name
from bnsweep.store.log import Part
from bnsweep.store.store import Store

__all__ = ["Attempts", "set_aside_all_older", "set_aside_older", "set_aside_unowned", "trained_runs"]


@dataclass(frozen=True, slots=True)
class Attempts:
    """A run's last attempt that gave a network, and the earlier ones whose networks were others."""

    run_id: str
    sha256: str
    attempt: int
    committed_at: datetime
    others: tuple[int, ...] = ()  # attempts


def trained_runs(store: Store, parts: Sequence[Part]) -> list[Attempts]:
    """From the parts of `runs`: one per run that has a network."""
    columns = ["run_id", "checkpoint_sha256", "attempt", "committed_at"]
    rows = [row for part in parts for row in part_files.load(store.files, part, columns=columns).to_pylist()]
    by_run: dict[str, list[dict[str, object]]] = {}
    for row in sorted(rows, key=lambda row: (row["run_id"], row["attempt"])):
        if row["checkpoint_sha256"] is not None:
            by_run.setdefault(row["run_id"], []).append(row)
    found = []
    for run_id, (*before, last) in by_run.items():
        sha256, attempt, committed = last["checkpoint_sha256"], last["attempt"], last["committed_at"]
        others = [row["attempt"] for row in before if row["checkpoint_sha256"] != sha256]
        found.append(Attempts(run_id, sha256, attempt, committed, tuple(others)))  # type: ignore[arg-type]
    return found


def set_aside_all_older(store: Store, run_ids: Collection[str] | None = None) -> list[Attempts]:
    """`set_aside_older` for whichever of these runs, or of all, have rows of earlier networks; the runs with a network.

    May be repeated. Needs the claim.
    """
    trained = trained_runs(store, store.parts("runs"))
    if run_ids is not None:
        trained = [run for run in trained if run.run_id in run_ids]
    set_aside_older(store, [run for run in trained if run.others])
    return trained


def set_aside_older(store: Store, runs: Sequence[Attempts]) -> None:
    """Move these runs' rows of earlier networks to quarantine/, so that the next run makes their trials again.

    Of every sweep that shares the runs. May be repeated. Needs the claim.
    """
    if not runs:
        return
    older = {(run.run_id, attempt) for run in runs for attempt in run.others}
    ids = pa.array([run.run_id for run in runs], pa.string())
    times = pa.array([run.committed_at for run in runs], schema.TIME)

    def older_run(rows: pa.Table) -> pa.Array:
        keys = zip(rows["run_id"].to_pylist(), rows["attempt"].to_pylist(), strict=True)
        return pa.array([key in older for key in keys], pa.bool_())

    def before_it(rows: pa.Table) -> pa.ChunkedArray:
        counts_from = pc.take(times, pc.index_in(rows["run_id"].combine_chunks(), value_set=ids))
        return pc.fill_null(pc.less(rows["committed_at"], counts_from), False)

    # Attempts last: until then whoever looks, or starts anew after a crash, sees that there is something to set aside.
    for name in ("trials", "epochs", "probes"):
        _drop(store, name, ids, before_it)
    _drop(store, "runs", ids, older_run)


def set_aside_unowned(store: Store, run_ids: Collection[str]) -> None:
    """Move what these runs have without a row in `runs` (whose part was lost) to quarantine/, to be made again.

    Of which network such trials are, nobody knows; and epochs and probes are committed once more by the next training.
    May be repeated. Needs the claim.
    """
    ends = store.read("runs", columns=["run_id", "status", "checkpoint_sha256"])
    trained = set(ends.filter(pc.is_valid(ends["checkpoint_sha256"]))["run_id"].to_pylist())
    ended = set(ends.filter(pc.not_equal(ends["status"], "failed"))["run_id"].to_pylist())
    for name, owners in (("trials", trained), ("epochs", ended), ("probes", ended)):
        unowned = _that_have(store, name, [run_id for run_id in run_ids if run_id not in owners])
        if len(unowned):
            _drop(store, name, unowned, partial(_among, unowned))


def _that_have(store: Store, name: str, run_ids: Sequence[str]) -> pa.Array:
    """Those of the runs that a table has rows of."""
    wanted = pa.array(run_ids, pa.string())
    if not run_ids:
        return wanted
    return store.read(name, columns=["run_id"], filter=pc.field("run_id").isin(wanted))["run_id"].unique()


def _among(run_ids: pa.Array, rows: pa.Table) -> pa.ChunkedArray:
    return pc.is_in(rows["run_id"], value_set=run_ids)


def _drop(store: Store, name: str, run_ids: pa.Array, unwanted: Callable[[pa.Table], pa.Array]) -> None:
    """Rewrite the parts of a table that hold unwanted rows, which go to quarantine/ first."""
    while True:
        changed: dict[Part, pa.Table] = {}
        dropped: list[pa.Table] = []
        for part in store.refresh().parts(name):
            held = part_files.load(store.files, part, columns=["run_id"])["run_id"]
            if not pc.any(pc.is_in(held, value_set=run_ids)).as_py():
                continue
            rows = part_files.load(store.files, part).cast(schema.SCHEMAS[name])
            bad = unwanted(rows)
            if pc.any(bad).as_py():
                changed[part] = rows.filter(pc.invert(bad))
                dropped.append(rows.filter(bad))
        if not changed:
            return
        aside = part_files.encode(name, part_files.sort_by_key(name, pa.concat_tables(dropped)))
        store.files.write(quarantine_name(f"parts/{name}/rows.parquet"), aside)
        replacing = [part.path for part in changed]
        added: dict[str, Part] = {}
        for kept in changed.values():
            new = store.write_part(name, kept, replacing=replacing) if kept.num_rows else None
            if new is not None:
                added[new.path] = new
        if store.swap("set-aside", changed, added.values()):
            return
