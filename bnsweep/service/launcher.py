"""Where a job runs: as one Ray Job on a cluster, or as one process of its own on this machine.

With `bnsweep serve --address URL` (a cluster's dashboard) a job is submitted through Ray's Jobs API over HTTP, under
an id that follows from the sweep, the submission's number and the attempt: submitting it twice starts it once. Without,
it is a process that outlives the service, in which Ray starts a cluster of its own. Either runs `bnsweep job`, which
reads what to do from the store and writes there what became of it, so nothing is lost when the service is killed.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from bnsweep.errors import EngineError
from bnsweep.service.jobs import Job

__all__ = ["Launcher", "LocalLauncher", "RayLauncher"]

LOG_BYTES = 16_000  # shown of a job's log
DASHBOARD_PORT = 8265


class Launcher(ABC):
    """Starts and stops jobs. Both may be done twice."""

    @abstractmethod
    def launch(self, job: Job) -> str:
        """Have the job run; empty, or why it cannot. Raises EngineError if it is to be tried again later."""

    @abstractmethod
    def stop(self, job: Job, *, hard: bool) -> None:
        """Make a job's process end that did not end by itself."""

    @abstractmethod
    def log(self, job: Job) -> str:
        """The end of what the job has printed."""

    def tidy(self) -> None:  # noqa: B027 (nothing to do for most)
        """Take note of what has ended; once in a while."""


def dashboard(address: str) -> str:
    """The address of a cluster's dashboard: as given, or for HOST:PORT of the cluster itself, Ray's usual port."""
    if "://" in address:
        return address.rstrip("/")
    host, _, port = address.rpartition(":")
    return f"http://{host or port}:{DASHBOARD_PORT}"


def job_command(job: Job, python: str, options: Sequence[str]) -> list[str]:
    """What runs a job, wherever it is."""
    return [python, "-m", "bnsweep", "job", job.sweep, str(job.number), *options]


@dataclass
class LocalLauncher(Launcher):
    """One detached process per job on this machine."""

    options: Sequence[str]  # of `bnsweep job`
    logs: Path  # folder
    _started: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def launch(self, job: Job) -> str:
        key = job.submission_id(job.attempts + 1)
        process = self._started.get(key)
        if process is None:
            path = self._log_path(job)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as log:
                self._started[key] = subprocess.Popen(  # noqa: S603 (our own command)
                    job_command(job, sys.executable, self.options),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C at the service's terminal is not meant for it
                )
            return ""
        if process.poll() is None:
            return ""
        return f"its process ended with code {process.returncode} before it began:\n{self.log(job)[-2000:]}"

    def stop(self, job: Job, *, hard: bool) -> None:
        if job.holder is not None and job.holder.gone() is False:
            with suppress(ProcessLookupError, PermissionError):
                if hard:
                    os.killpg(job.holder.pid, signal.SIGKILL)  # its session is its own
                else:
                    os.kill(job.holder.pid, signal.SIGTERM)

    def log(self, job: Job) -> str:
        try:
            with self._log_path(job).open("rb") as log:
                log.seek(0, os.SEEK_END)
                log.seek(max(0, log.tell() - LOG_BYTES))
                return log.read().decode(errors="replace")
        except OSError:
            return ""

    def tidy(self) -> None:
        for process in self._started.values():
            process.poll()  # else they would stay as zombies

    def _log_path(self, job: Job) -> Path:
        return self.logs / f"{job.submission_id(1)}.log"


class RayLauncher(Launcher):
    """One Ray Job per job, through the Jobs API of a cluster's dashboard. Ray's token stays here."""

    def __init__(self, address: str, *, token: str, options: Sequence[str], python: str = "python") -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._address, self._options, self._python = dashboard(address), options, python
        self._http = httpx.Client(base_url=self._address, headers=headers, timeout=10.0)

    def launch(self, job: Job) -> str:
        submission = job.submission_id(job.attempts + 1)
        known = self._call("GET", f"/api/jobs/{submission}", may_fail=(404,))
        if known is None:
            body = {
                "entrypoint": shlex.join(job_command(job, self._python, [*self._options, "--address", "auto"])),
                "submission_id": submission,
                "metadata": {"bnsweep_sweep": job.sweep, "bnsweep_user": job.by},
            }
            self._call("POST", "/api/jobs/", json=body, may_fail=(400, 409, 500))
            if self._call("GET", f"/api/jobs/{submission}", may_fail=(404,)) is None:
                return "Ray did not take the job: see the cluster's dashboard"
            return ""
        if known.get("status") in ("FAILED", "STOPPED", "SUCCEEDED"):
            return f"Ray Job {submission} ended ({known['status']}) before it began: {known.get('message', '')}"
        return ""

    def stop(self, job: Job, *, hard: bool) -> None:
        with suppress(EngineError):
            self._call("POST", f"/api/jobs/{job.submission_id(job.attempts)}/stop", may_fail=(400, 404, 500))

    def log(self, job: Job) -> str:
        with suppress(EngineError):
            found = self._call("GET", f"/api/jobs/{job.submission_id(max(1, job.attempts))}/logs", may_fail=(404, 500))
            return str((found or {}).get("logs", ""))[-LOG_BYTES:]
        return ""

    def _call(
        self, method: str, path: str, *, json: dict[str, Any] | None = None, may_fail: Sequence[int] = ()
    ) -> dict[str, Any] | None:
        """An answer of the Jobs API; None for a status that may be. Raises EngineError."""
        try:
            response = self._http.request(method, path, json=json)
        except httpx.HTTPError as error:
            raise EngineError(f"the Ray cluster at {self._address} does not answer: {error}") from None
        if response.status_code in may_fail:
            return None
        if response.status_code in (401, 403):
            raise EngineError(f"the Ray cluster at {self._address} refuses our token: is RAY_AUTH_TOKEN the cluster's?")
        if response.is_error:
            raise EngineError(f"the Ray cluster at {self._address} says {response.status_code}: {response.text[:500]}")
        answer: dict[str, Any] = response.json()
        return answer
