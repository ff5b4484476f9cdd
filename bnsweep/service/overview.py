"""The state of every sweep: what the store's rows say, and what the queue says."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from bnsweep.analysis.queries import Column
from bnsweep.service.hub import Hub
from bnsweep.service.jobs import Job
from bnsweep.store.claim import Holder

__all__ = ["COLUMNS", "overview"]

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
    Column("failed_runs", "runs", "that failed or diverged"),
    Column("planned", "points", "planned"),
    Column("done", "points", "with all of their trials"),
    Column("missing", "points", "still to do"),
    Column("failed", "points", "given up"),
    Column("trials", "trials", "landed"),
    Column("note", "", "what is to be known about its state"),
)
COUNTS = ("planned_runs", "trained", "failed_runs", "planned", "done", "missing", "failed", "trials")


def overview(hub: Hub) -> list[dict[str, Any]]:
    """A row per sweep, as `COLUMNS` says; what runs comes first, then the newest."""
    rows = {row["sweep"]: row for row in hub.rows.ask("ask", "sweeps", limit=10_000, seconds=30.0).to_dicts()}
    latest: dict[str, Job] = {}
    for job in hub.jobs.all():
        if job.sweep not in latest or latest[job.sweep].number < job.number:
            latest[job.sweep] = job
    driver = None if any(job.state in ("running", "cancelling") for job in latest.values()) else hub.store.holder()
    # A driver that nobody submitted works on what was committed to last, since it took the store.
    since = datetime.fromisoformat(driver.since) if driver else None
    moved = [(row["latest_at"] or row["asked_at"], name) for name, row in rows.items()]
    busy = max(((at, name) for at, name in moved if since and at and at >= since), default=(None, ""))[1]
    names = [*rows, *(name for name in latest if name not in rows)]
    found = [_row(name, rows.get(name), latest.get(name), driver if name == busy else None) for name in names]
    order = {"running": 0, "cancelling": 0, "lost": 1, "queued": 2}
    newest_first = sorted(found, key=lambda row: str(row["at"]), reverse=True)
    return sorted(newest_first, key=lambda row: order.get(row["state"], 3))


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
    if row is not None and not row["missing"]:
        failed = row["failed"] or row["failed_runs"]
        return ("failed", f"{row['failed']} points and {row['failed_runs']} runs failed") if failed else ("done", "")
    if job is not None:
        return job.state, job.message.partition("\n")[0] if job.state != "done" else ""
    return "incomplete", "not all is there; run or submit it again"
