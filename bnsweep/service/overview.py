"""The state of every sweep: what the store's rows say, and what the queue says."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from bnsweep.analysis.queries import Column
from bnsweep.analysis.wording import counted
from bnsweep.service.jobs import Job, Jobs
from bnsweep.service.rows import Rows
from bnsweep.store.claim import Holder
from bnsweep.store.store import Store

__all__ = ["COLUMNS", "Overview", "Seen"]

Row = Mapping[str, Any]

COLUMNS = (
    Column("sweep", "", "name of the sweep"),
    Column("state", "", "queued, running, cancelling, done, failed, cancelled, lost, incomplete"),
    Column("done_pct", "%", "of its points that are done, or of its work while it runs"),
    Column("left_s", "s", "until it is done, at the speed so far; null: not known"),
    Column("by", "", "who submitted it last"),
    Column("at", "UTC", "when it was submitted, or run first"),
    Column("planned_runs", "runs", "training runs"),
    Column("trained", "runs", "that ended with a network"),
    Column("diverged_runs", "runs", "that ended without a network to perturb"),
    Column("failed_runs", "runs", "given up"),
    Column("planned", "points", "planned"),
    Column("done", "points", "with all of their trials"),
    Column("missing", "points", "still to do"),
    Column("diverged", "points", "of runs that diverged"),
    Column("failed", "points", "given up"),
    Column("trials", "trials", "landed"),
    Column("note", "", "what is to be known about its state"),
)
FRESH_S = 0.5
COUNTS = [column.name for column in COLUMNS if column.unit in ("runs", "points", "trials")]


@dataclass(frozen=True, slots=True)
class Seen:
    """The store's sweeps at one moment."""

    sweeps: dict[str, dict[str, Any]]  # rows as `COLUMNS` says: what runs comes first, then the newest
    jobs: list[Job]  # oldest first
    latest: dict[str, Job]  # of each sweep
    begun: set[str]  # sweeps that the store has rows of
    writer: Holder | None
    at: float
    seq: int | None  # of the snapshot that the rows are of; None: they may be 20 s old


class Overview:
    """The state of every sweep, looked up at most twice a second however many ask."""

    def __init__(self, store: Store, jobs: Jobs, rows: Rows) -> None:
        self._store, self._jobs, self._rows = store, jobs, rows
        self._lock = threading.Lock()
        self._seen: Seen | None = None

    def look(self, *, newest: bool = False) -> Seen:
        """The sweeps and jobs as they are; their rows are at most 20 s old, or those of the newest snapshot."""
        if (seen := self._fresh(newest=newest)) is not None:
            return seen
        seq = self._rows.snapshot.seq if newest else None
        ask = self._rows.newest if newest else self._rows.ask
        known = ask("ask", "sweeps", limit=10_000, seconds=30.0)  # may take long: nobody else waits for it
        with self._lock:
            if (seen := self._fresh(newest=newest)) is not None:
                return seen
            seen = self._look(known.to_dicts(), seq)
            if seq is None or seq == self._rows.snapshot.seq:  # else others have seen what is newer meanwhile
                self._seen = seen
            return seen

    def _fresh(self, *, newest: bool) -> Seen | None:
        seen = self._seen
        if seen is None or monotonic() - seen.at > FRESH_S or (newest and seen.seq != self._rows.snapshot.seq):
            return None
        return seen

    def forget(self) -> None:
        """Something was submitted or cancelled: look anew."""
        self._seen = None

    def _look(self, known: list[dict[str, Any]], seq: int | None) -> Seen:
        rows = {row["sweep"]: row for row in known}
        jobs = self._jobs.all()
        latest: dict[str, Job] = {}
        for job in jobs:
            if job.sweep not in latest or latest[job.sweep].number < job.number:
                latest[job.sweep] = job
        writer = self._store.holder()
        driver = None if any(job.state in ("running", "cancelling") for job in latest.values()) else writer
        # A driver that nobody submitted works on what was committed to last, since it took the store.
        since = datetime.fromisoformat(driver.since) if driver else None
        moved = [(row["latest_at"] or row["asked_at"], name) for name, row in rows.items()]
        busy = max(((at, name) for at, name in moved if since and at and at >= since), default=(None, ""))[1]
        names = [*rows, *(name for name in latest if name not in rows)]
        found = [_row(name, rows.get(name), latest.get(name), driver if name == busy else None) for name in names]
        order = {"running": 0, "cancelling": 0, "lost": 1, "queued": 2}
        newest_first = sorted(found, key=lambda row: str(row["at"]), reverse=True)
        ordered = sorted(newest_first, key=lambda row: order.get(row["state"], 3))
        return Seen({row["sweep"]: row for row in ordered}, jobs, latest, set(rows), writer, monotonic(), seq)


def _row(name: str, row: Row | None, job: Job | None, driver: Holder | None) -> dict[str, Any]:
    counts = {column: int(row[column]) if row else None for column in COUNTS}  # DuckDB counts in decimals
    state, note = _state(row, job, driver)
    done_pct = 100.0 * int(row["done"]) / int(row["planned"]) if row and row["planned"] else 0.0
    left_s = None
    if job is not None and state in ("running", "cancelling") and job.progress:
        done_pct = 100.0 * job.progress.get("done", done_pct / 100)
        left_s = job.progress.get("left_s")
    if state == "done":
        done_pct = 100.0  # the snapshot may be a moment behind the job
    at = job.at if job else row["asked_at"] if row else None
    return {
        "sweep": name,
        "state": state,
        "done_pct": round(done_pct, 2),
        "left_s": left_s,
        "by": job.by if job else "",
        "at": at.astimezone(UTC).isoformat(timespec="seconds") if isinstance(at, datetime) else at,
        **counts,
        "note": note,
    }


def _state(row: Row | None, job: Job | None, driver: Holder | None) -> tuple[str, str]:
    if job is not None and job.active:
        note = str(job.progress.get("note", "")) if job.state == "running" else ""
        if job.state == "lost":
            note = "its process was killed; it goes on as soon as it can"
        return job.state, note
    if driver is not None:
        return "running", f"run from the command line: {driver}"
    # A search plans points only as it goes: what has been proposed may be done, and the search not.
    ended = row is not None and row["trained"] + row["diverged_runs"] + row["failed_runs"] >= row["planned_runs"]
    if row is not None and not row["missing"] and (ended or job is None or job.state == "done"):
        kinds = (
            ("failed", "point", "failed"),
            ("failed_runs", "training run", "failed"),
            ("diverged_runs", "network", "diverged"),
        )
        note = ", ".join(f"{counted(row[name], what)} {end}" for name, what, end in kinds if row[name])
        return ("failed" if row["failed"] or row["failed_runs"] else "done"), note
    if job is not None:
        return job.state, job.message.partition("\n")[0] if job.state != "done" else ""
    return "incomplete", "not all is there; run or submit it again"
