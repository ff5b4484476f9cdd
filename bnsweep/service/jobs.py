"""Submitted sweeps: a queue in the store, and what became of each job.

    jobs/SWEEP/NUMBER/submitted   spec, who, when, how; its number is free or taken, so two submissions never collide
    jobs/SWEEP/NUMBER/started-N   who runs it: made by the job's own process, N times at most if processes are killed
    jobs/SWEEP/NUMBER/progress    how far it is, every two seconds; its age, or that of the start, is the job's pulse
    jobs/SWEEP/NUMBER/cancel      somebody wants it to stop
    jobs/SWEEP/NUMBER/ended       how it ended

A job is a function of these records: the service can be killed between any two of them. One job at a time runs per
store, since a store has one writer; the others wait in the order of their submission.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from math import inf
from typing import Any, Literal

from bnsweep.errors import InputError
from bnsweep.service.records import Records, now
from bnsweep.store.claim import Holder

__all__ = ["ACTIVE", "ATTEMPTS", "KEPT", "Job", "Jobs", "State", "TooManyJobsError"]

State = Literal["queued", "running", "cancelling", "done", "failed", "cancelled", "lost"]
ACTIVE = frozenset({"queued", "running", "cancelling", "lost"})
ATTEMPTS = 5  # processes that one job may use up
KEPT = "stopped; every finished block is kept"  # what is said of a job that was cancelled,
UNBEGUN = "cancelled before it began"  # or this
PULSE_S = 120.0  # a job on another machine is taken for dead after this long without progress, from its start on


class TooManyJobsError(InputError):
    """A user's share of the queue is used up."""


@dataclass(frozen=True, slots=True)
class Job:
    """One submission. `number` counts the submissions of its sweep from 1."""

    sweep: str
    number: int
    spec: str = field(repr=False)
    by: str
    at: str
    retry_failed: bool
    state: State
    minimal: bool = False  # of a search: look for the fewest BN layers that converge
    attempts: int = 0
    started: str = ""
    holder: Holder | None = None
    ended: str = ""
    message: str = ""
    cancelled_by: str = ""
    progress: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """For people and addresses."""
        return f"{self.sweep}/{self.number}"

    def submission_id(self, attempt: int) -> str:
        """For Ray: the same for the same job and attempt, so that submitting it twice starts it once."""
        safe = re.sub(r"[^A-Za-z0-9_.-]", "_", self.sweep)
        mark = "" if safe == self.sweep else f"-{hashlib.sha256(self.sweep.encode()).hexdigest()[:8]}"
        return f"bnsweep-{safe}{mark}-{self.number}-{attempt}"

    @property
    def active(self) -> bool:
        return self.state in ACTIVE

    def to_dict(self) -> dict[str, Any]:
        """For JSON and pages; without the spec."""
        skip = {"spec", "holder"}
        row = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in skip}
        return {"id": self.id, **row, "where": self.holder and f"process {self.holder.pid} on {self.holder.host}"}


class Jobs:
    """All submissions of a store."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._ended: dict[str, Job] = {}  # never changes again

    def all(self) -> list[Job]:
        """Every job, oldest first."""
        names = self._records.names("jobs")
        by_job: dict[str, list[str]] = {}
        for name in names:
            folder, _, what = name.rpartition("/")
            by_job.setdefault(folder, []).append(what)
        found = (self._job(folder, what) for folder, what in by_job.items() if "submitted" in what)
        return sorted((job for job in found if job is not None), key=lambda job: (job.at, job.id))

    def of(self, sweep: str) -> list[Job]:
        """The jobs of one sweep, oldest first."""
        return [job for job in self.all() if job.sweep == sweep]

    def latest(self, sweep: str) -> Job | None:
        """The newest job of a sweep."""
        jobs = self.of(sweep)
        return max(jobs, key=lambda job: job.number) if jobs else None

    def get(self, sweep: str, number: int) -> Job | None:
        """One job."""
        folder = _folder(sweep, number)
        names = [name.rpartition("/")[2] for name in self._records.names(folder)]
        return self._job(folder, names) if "submitted" in names else None

    def submit(
        self, sweep: str, spec: str, *, by: str, retry_failed: bool = False, minimal: bool = False, limit: int
    ) -> Job:
        """Put a sweep into the queue; the same sweep that waits or runs already is not put there twice.

        Raises TooManyJobsError, and InputError where another spec of this name waits or runs.
        """
        jobs = self.all()
        numbers = [job.number for job in jobs if job.sweep == sweep]
        for job in jobs:
            if job.sweep == sweep and job.active:
                same = (job.spec, job.minimal) == (spec, minimal)
                if same and job.retry_failed >= retry_failed and not job.cancelled_by:
                    return job
                way = "wait for its end" if job.cancelled_by else "cancel it or wait for its end"
                raise InputError(f"sweep {sweep!r} is {job.state}: {way}, then submit it again")
        mine = [job for job in jobs if job.by == by and job.active]
        if len(mine) >= limit:
            names = ", ".join(job.sweep for job in mine)
            raise TooManyJobsError(f"a user has at most {limit} sweeps that wait or run, and {by} has: {names}")
        number = max(numbers, default=0) + 1
        wanted = {"retry_failed": retry_failed, "minimal": minimal}
        fields_ = {"sweep": sweep, "spec": spec, "by": by, "at": now(), **wanted}
        if not self._records.create(f"{_folder(sweep, number)}/submitted", fields_):
            raise InputError(f"sweep {sweep!r} was submitted by somebody else at the same moment: look at its page")
        made = self.get(sweep, number)
        if made is None:
            raise InputError(f"sweep {sweep!r}: what was just submitted cannot be read back; try again")
        return made

    def cancel(self, job: Job, *, by: str) -> Job:
        """Ask a job to stop; it keeps every finished block. Raises InputError if it has ended."""
        if not job.active:
            raise InputError(f"job {job.id} has ended ({job.state}): there is nothing to cancel")
        folder = _folder(job.sweep, job.number)
        self._records.create(f"{folder}/cancel", {"by": by, "at": now()})
        # Here and in `start` one writes, then reads what the other writes: at least one of the two sees both.
        if (self.get(job.sweep, job.number) or job).attempts == 0:
            self.end(job, state="cancelled", message=UNBEGUN)
        return self.get(job.sweep, job.number) or job

    def cancelled_at(self, job: Job) -> str:
        """When somebody asked the job to stop; empty: nobody."""
        return str((self._records.read(f"{_folder(job.sweep, job.number)}/cancel") or {}).get("at", ""))

    # called by the job's process

    def start(self, job: Job) -> int:
        """Become the process that runs the job: the attempt's number, or 0 if another one does, or it has ended."""
        current = self.get(job.sweep, job.number)
        if current is None or current.ended or current.state in ("running", "cancelling"):
            return 0
        attempt = current.attempts + 1
        if attempt > ATTEMPTS:
            return 0
        holder = Holder.me()
        record = {"at": now(), **{f.name: getattr(holder, f.name) for f in fields(holder)}}
        if not self._records.create(f"{_folder(job.sweep, job.number)}/started-{attempt}", record):
            return 0
        if self.cancelled_at(job):
            self.end(job, state="cancelled", message=UNBEGUN if attempt == 1 else KEPT)
            return 0
        return attempt

    def pulse(self, job: Job, progress: dict[str, Any]) -> bool:
        """Say how far the job is; whether somebody wants it to stop."""
        folder = _folder(job.sweep, job.number)
        self._records.write(f"{folder}/progress", {**progress, "at": now()})
        return self._records.read(f"{folder}/cancel") is not None

    def end(self, job: Job, *, state: State, message: str) -> None:
        """Record how the job ended; the first word on it counts."""
        self._records.create(
            f"{_folder(job.sweep, job.number)}/ended", {"state": state, "message": message, "at": now()}
        )

    def _job(self, folder: str, names: Iterable[str]) -> Job | None:
        if folder in self._ended:
            return self._ended[folder]
        names = set(names)
        read = self._records.read
        submitted = read(f"{folder}/submitted")
        if submitted is None:
            return None
        attempts = sum(name.startswith("started-") for name in names)
        started = (read(f"{folder}/started-{attempts}") if attempts else None) or {}
        at = started.pop("at", "")
        holder = Holder(**started) if started else None
        ended = (read(f"{folder}/ended") if "ended" in names else None) or {}
        cancel = (read(f"{folder}/cancel") if "cancel" in names else None) or {}
        job = Job(
            number=int(folder.rpartition("/")[2]),
            state=ended.get("state") or self._state(folder, holder, attempts, cancelled=bool(cancel)),
            attempts=attempts,
            started=at,
            holder=holder,
            ended=ended.get("at", ""),
            message=ended.get("message", ""),
            cancelled_by=cancel.get("by", ""),
            progress=(read(f"{folder}/progress") if "progress" in names else None) or {},
            **submitted,
        )
        if job.ended:
            self._ended[folder] = job
        return job

    def _state(self, folder: str, holder: Holder | None, attempt: int, *, cancelled: bool) -> State:
        if holder is None:
            return "queued"
        gone = holder.gone()
        if gone is None:
            # An attempt may end before its first pulse, and begins beside the last pulse of the one before.
            ages = (self._records.age_s(f"{folder}/{name}") for name in ("progress", f"started-{attempt}"))
            gone = min((age for age in ages if age is not None), default=inf) > PULSE_S
        if gone:
            return "lost"
        return "cancelling" if cancelled else "running"


def _folder(sweep: str, number: int) -> str:
    return f"jobs/{sweep}/{number:04d}"
