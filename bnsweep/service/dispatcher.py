"""The queue's engine: starts the next job, sees to those that are to stop, buries the dead. Keeps nothing in mind."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime

from bnsweep.errors import BnsweepError
from bnsweep.service.jobs import ATTEMPTS, KEPT, Job, Jobs
from bnsweep.service.launcher import Launcher

__all__ = ["Dispatcher"]

logger = logging.getLogger(__name__)
TICK_S = 1.0
STOP_S = 20.0  # after which a job that was cancelled is made to end


class Dispatcher:
    """A thread that looks at the queue once a second."""

    def __init__(self, jobs: Jobs, launcher: Launcher) -> None:
        self.trouble = ""  # why jobs cannot be started at the moment, for people
        self._jobs, self._launcher = jobs, launcher
        self._stop, self._now = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Something was submitted or cancelled: look now."""
        self._now.set()

    def close(self) -> None:
        self._stop.set()
        self._now.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.tick()
                self.trouble = ""
            except BnsweepError as error:  # the cluster or the store is away: they may come back
                self.trouble = str(error)
            except Exception as error:
                # Whatever it is, a queue that has ended without a word is worse.
                self.trouble = f"{type(error).__name__}: {error}"
                logger.exception("the queue could not be looked at")
            self._now.wait(TICK_S)
            self._now.clear()

    def tick(self) -> None:
        """Look once."""
        jobs = [self._bury(job) for job in self._jobs.all() if job.active]
        waiting = [job for job in jobs if job.state in ("lost", "queued")]
        for job in jobs:
            if job.state == "cancelling":
                self._make_stop(job)
        if any(job.state in ("running", "cancelling") for job in jobs) or not waiting:
            return
        # What was interrupted goes on before anything new begins.
        following = min(waiting, key=lambda job: (job.state != "lost", job.at))
        why = self._launcher.launch(following)
        if why:
            self._jobs.end(following, state="failed", message=why)

    def _bury(self, job: Job) -> Job:
        """A job whose process is gone for good has ended."""
        if job.state != "lost":
            return job
        if job.cancelled_by:
            self._jobs.end(job, state="cancelled", message=KEPT)
        elif job.attempts >= ATTEMPTS:
            self._jobs.end(job, state="failed", message=f"its process was killed {job.attempts} times")
        return self._jobs.get(job.sweep, job.number) or job

    def _make_stop(self, job: Job) -> None:
        asked = self._jobs.cancelled_at(job)
        waited_s = (datetime.now(UTC) - datetime.fromisoformat(asked)).total_seconds() if asked else 0.0
        if waited_s > STOP_S:
            self._launcher.stop(job)
