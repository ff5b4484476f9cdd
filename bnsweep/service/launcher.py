"""Runs jobs: each attempt is one Ray Job, submitted through Ray's Jobs API over HTTP.

Its submission id follows from the sweep, the submission's number and the attempt, so submitting it twice starts it
once. The job is `bnsweep job`, which reads what to do from the store and writes there what became of it, so nothing is
lost when the service is killed. Ray's token stays here.
"""

from __future__ import annotations

import shlex
import threading
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

import httpx

from bnsweep.errors import EngineError
from bnsweep.service.cluster import LOG_BYTES, Cluster, Head, RemoteCluster
from bnsweep.service.jobs import Job

__all__ = ["Launcher"]

LOG_S = 5.0
KEPT_LOGS = 200
ENDED = ("FAILED", "STOPPED", "SUCCEEDED")


class Launcher:
    """Starts and stops jobs. Both may be done twice."""

    def __init__(self, cluster: Cluster, *, options: Sequence[str], python: str = "python") -> None:
        self.cluster = cluster
        self._options, self._python = options, python  # of `bnsweep job`; what runs it there
        # A proxy of the environment's must not see the cluster's token, and does not know our loopback.
        self._http = httpx.Client(timeout=15.0, trust_env=isinstance(cluster, RemoteCluster))
        self._lock = threading.Lock()
        self._logs: dict[str, tuple[str, float]] = {}  # of a submission: text, and when it was asked for

    def close(self) -> None:
        """Let go of connections."""
        self._http.close()

    def launch(self, job: Job) -> str:
        """Have the job run; empty, or why it never will.

        Raises EngineError if it is to be tried again later.
        """
        head = self.cluster.ready()
        if head is None:
            return ""
        submission = job.submission_id(job.attempts + 1)
        known = self._call(head, "GET", f"/api/jobs/{submission}", may_fail=(404,))
        if known is None:
            words = [self._python, "-m", "bnsweep", "job", job.sweep, str(job.number), *self._options]
            body = {
                "entrypoint": shlex.join([*words, "--address", "auto"]),
                "submission_id": submission,
                "metadata": {"bnsweep_sweep": job.sweep, "bnsweep_user": job.by},
            }
            # A head that has just started has no agent for jobs yet, and says 500; an id that is taken is 400.
            self._call(head, "POST", "/api/jobs/", json=body, may_fail=(400, 409))
            known = self._call(head, "GET", f"/api/jobs/{submission}", may_fail=(404,))
            if known is None:
                return "Ray did not take the job: see the cluster's dashboard"
        if known.get("status") in ENDED:
            return f"Ray Job {submission} ended ({known['status']}) before it began: {known.get('message', '')}"
        return ""

    def stop(self, job: Job) -> None:
        """Make a job's process end that did not end by itself: SIGTERM, and SIGKILL a few seconds later."""
        head = self.cluster.known()
        if head is not None:
            with suppress(EngineError):
                self._call(head, "POST", f"/api/jobs/{job.submission_id(job.attempts)}/stop", may_fail=(400, 404, 500))

    def log(self, job: Job) -> str:
        """The end of what the job's last attempt has printed, at most 5 s old: every view of a page asks."""
        submission = job.submission_id(max(1, job.attempts))
        with self._lock:
            text, at = self._logs.pop(submission, ("", float("-inf")))
            fresh = monotonic() - at < LOG_S
            self._logs[submission] = (text, at if fresh else monotonic())  # one asks anew, others read on
            while len(self._logs) > KEPT_LOGS:
                self._logs.pop(next(iter(self._logs)))
        if not fresh:
            text = self._log(submission)
            with self._lock:
                self._logs[submission] = (text, monotonic())
        return text

    def _log(self, submission: str) -> str:
        head = self.cluster.known()
        if head is not None:
            with suppress(EngineError):
                found = self._call(head, "GET", f"/api/jobs/{submission}/logs", may_fail=(404, 500))
                if found is not None:
                    return str(found.get("logs", ""))[-LOG_BYTES:]
        return self.cluster.old_log(submission)

    def _call(
        self, head: Head, method: str, path: str, *, json: dict[str, Any] | None = None, may_fail: Sequence[int] = ()
    ) -> dict[str, Any] | None:
        """An answer of the Jobs API; None for a status that may be. Raises EngineError."""
        headers = {"Authorization": f"Bearer {head.token}"} if head.token else {}
        try:
            response = self._http.request(method, f"{head.address}{path}", json=json, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise EngineError(f"the Ray cluster at {head.address} does not answer: {error}") from None
        if response.status_code in may_fail:
            return None
        if response.status_code in (401, 403):
            raise EngineError(f"the Ray cluster at {head.address} refuses our token: is RAY_AUTH_TOKEN the cluster's?")
        if not response.is_success:
            raise EngineError(f"the Ray cluster at {head.address} says {response.status_code}: {response.text[:500]}")
        try:
            answer: dict[str, Any] = response.json()
        except ValueError:
            raise EngineError(f"what answers at {head.address} is no Ray dashboard: {response.text[:200]}") from None
        return answer
