"""Training runs of several attempts: which network counts, and rows that were made on another one.

A network that was lost is trained again. Training is deterministic, so that gives the same bytes; where it does not
(another processor, another version of torch), rows of two networks stand under one run, and must not stay there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from bnsweep.store import parts as part_files
from bnsweep.store import schema
from bnsweep.store.log import LogEntry, Part

if TYPE_CHECKING:
    from bnsweep.store.store import Store

__all__ = ["TrainedRun", "set_aside_older", "trained_runs"]


@dataclass(frozen=True, slots=True)
class TrainedRun:
    """A run's last attempt that gave a network, and the earlier ones whose networks were others."""

    run_id: str
    sha256: str
    attempt: int
    committed_at: datetime
    others: tuple[int, ...] = ()  # attempts


def trained_runs(store: Store, parts: Sequence[Part]) -> list[TrainedRun]:
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
        found.append(TrainedRun(run_id, sha256, attempt, committed, tuple(others)))  # type: ignore[arg-type]
    return found


def set_aside_older(store: Store, run: TrainedRun) -> None:
    """Move a run's rows of earlier networks to quarantine/, so that the next run makes its trials again.

    Needs the claim.
    """
    now = pa.scalar(run.committed_at, schema.TIME)

    def older_run(rows: pa.Table) -> pa.ChunkedArray:
        return pc.and_(
            pc.equal(rows["run_id"], run.run_id), pc.is_in(rows["attempt"], pa.array(run.others, pa.int32()))
        )

    def older_trial(rows: pa.Table) -> pa.ChunkedArray:
        return pc.and_(pc.equal(rows["run_id"], run.run_id), pc.less(rows["committed_at"], now))

    _drop(store, "runs", older_run)
    _drop(store, "trials", older_trial)


def _drop(store: Store, name: str, unwanted: Callable[[pa.Table], pa.ChunkedArray]) -> None:
    """Rewrite the parts of a table that hold unwanted rows; the old files go to quarantine/."""
    changed: dict[str, pa.Table] = {}
    for part in store.parts(name):
        rows = part_files.load(store.files, part).cast(schema.SCHEMAS[name])
        kept = rows.filter(pc.invert(unwanted(rows)))
        if kept.num_rows < rows.num_rows:
            changed[part.path] = kept
    added: list[Part] = []
    removed = list(changed)
    for kept in changed.values():
        new = store.write_part(name, kept, replacing=removed) if kept.num_rows else None
        if new is not None and new.path not in {part.path for part in added}:
            added.append(new)
    if removed:
        entry = LogEntry("repair", add=tuple(added), remove=tuple(removed), epoch=store.epoch)
        store.log.publish(lambda _: entry)
    for path in removed:
        store.files.move(path, f"quarantine/{time.time_ns()}/{path}")
