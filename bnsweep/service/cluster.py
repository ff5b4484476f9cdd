"""Where Ray Jobs go: a cluster by its address, or one on this machine that is started when the first job comes.

The latter belongs to a store and to who runs the service. It is kept by a process of its own (service/keeper.py), so it
outlives the service and is found again by the next one; without a service and without a job it ends.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from time import monotonic, sleep
from typing import IO

from bnsweep.errors import BnsweepError, EngineError, InputError
from bnsweep.service.keeper import END_S, versions
from bnsweep.store.filesystem import Files, LocalFiles

__all__ = ["LOG_BYTES", "Cluster", "Head", "LocalCluster", "RemoteCluster", "dashboard"]

DASHBOARD_PORT = 8265
RETRY_S = 30.0  # before Ray is started again that did not start
LONGEST_TEMP = 30  # characters: sockets lie below, and the system takes 107
LOG_BYTES = 16_000  # shown of a job's log
# What processes of Ray and of jobs may know of the service's environment. Nothing that is not needed: secrets stay out.
PASSED = {
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTP_PROXY",
    "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy",
}  # fmt: skip
PASSED_BY = (
    "LC_",
    "XDG_",
    "PYTHON",
    "OMP_",
    "MKL_",
    "OPENBLAS_",
    "KMP_",
    "CUDA_",
    "NVIDIA_",
    "HIP_",
    "ROCR_",
    "TORCH_",
    "RAY_worker_",
    "RAY_memory_",
    "RAY_health_check_",
)
STORE_KEYS = {"s3": ("AWS_",), "gs": ("GOOGLE_", "CLOUDSDK_", "STORAGE_EMULATOR_HOST"), "abfss": ("AZURE_",)}


@dataclass(frozen=True, slots=True)
class Head:
    """Who takes Ray Jobs, and the token for it, which stays with the service."""

    address: str
    token: str = field(repr=False)


class Cluster(ABC):
    """Where Ray Jobs go."""

    @abstractmethod
    def ready(self) -> Head | None:
        """Where to send a job; None: it starts, ask again. Raises EngineError if it cannot."""

    @abstractmethod
    def known(self) -> Head | None:
        """The same without starting anything."""

    def old_log(self, submission: str) -> str:
        """The end of a job's log that the cluster itself has forgotten."""
        return ""

    @property
    def missing(self) -> str:
        """What has to be installed first; empty: nothing."""
        return ""


@dataclass
class RemoteCluster(Cluster):
    """A cluster that somebody else runs."""

    head: Head

    def ready(self) -> Head:
        return self.head

    def known(self) -> Head:
        return self.head


class LocalCluster(Cluster):
    """This machine, for one store: one Ray head that takes work, on loopback, with a token."""

    def __init__(self, files: Files, *, cpus: int | None = None) -> None:
        self._wanted = str(cpus or "")
        self._scheme = files.location.partition("://")[0] if "://" in files.location else ""
        place = str(Path(files.root).resolve()) if isinstance(files, LocalFiles) else files.location
        self.folder = _private(hashlib.sha256(place.encode()).hexdigest()[:12])
        self._held: IO[str] | None = None
        self._keeper: subprocess.Popen[bytes] | None = None
        self._again = float("-inf")

    @property
    def missing(self) -> str:
        for package in ("ray", "aiohttp_cors"):
            if find_spec(package) is None:
                return (
                    f"Submitted sweeps run as Ray Jobs, but {package} is not installed: pip install 'bnsweep[service]'"
                )
        return ""

    def hold(self) -> None:
        """Say that a service is here, until this process ends."""
        self._held = (self.folder / "services.lock").open("a")
        fcntl.flock(self._held, fcntl.LOCK_SH)

    def ready(self) -> Head | None:
        if self.missing:
            raise EngineError(self.missing)
        if self.is_kept():
            return self._matching()
        if self._keeper is not None and self._keeper.poll() is None:
            return None
        if monotonic() < self._again:
            raise EngineError(f"Ray does not start on this machine: {self._why()}")
        self._again = monotonic() + RETRY_S
        self._keeper = subprocess.Popen(  # noqa: S603 (our own module)
            [sys.executable, "-m", "bnsweep.service.keeper", str(self.folder), self._wanted],
            env=self._environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C at the service's terminal is not meant for it
        )  # fmt: skip
        return None

    def known(self) -> Head | None:
        said = self._said()
        return Head(said["address"], said["token"]) if said and self.is_kept() else None

    def _matching(self) -> Head | None:
        """The cluster that runs; it is ended, to be started anew, if jobs of this service cannot run there."""
        said = self._said()
        if said is None:
            return None
        if {key: said.get(key) for key in ("cpus", "ray", "python")} != {"cpus": self._wanted, **versions()}:
            self._signal()
            return None
        return Head(said["address"], said["token"])

    def is_kept(self) -> bool:
        """Whether a keeper lives."""
        return self._is_locked("keeper.lock")

    def is_served(self) -> bool:
        """Whether another service over this store lives on this machine."""
        return self._is_locked("services.lock")

    def stop(self) -> bool:
        """End the cluster, whoever left it; whether there was one. Raises InputError, EngineError."""
        if self.is_served():
            raise InputError("a service over this store is running: end that first, with Ctrl-C or SIGTERM")
        if not self.is_kept():
            return False
        self._signal()
        deadline = monotonic() + END_S + 10
        while self.is_kept():
            if monotonic() > deadline:
                raise EngineError(f"the Ray cluster kept by process {self._pid()} does not end")
            sleep(0.2)
        return True

    def old_log(self, submission: str) -> str:
        try:
            with (self.folder / "logs" / f"job-driver-{submission}.log").open("rb") as log:
                log.seek(0, os.SEEK_END)
                log.seek(max(0, log.tell() - LOG_BYTES))
                return log.read().decode(errors="replace")
        except OSError:
            return ""

    def _said(self) -> dict[str, str] | None:
        try:
            said: dict[str, str] = json.loads((self.folder / "head.json").read_text(encoding="utf-8"))
            return said
        except (OSError, ValueError):
            return None

    def _why(self) -> str:
        try:
            lines = (self.folder / "head.log").read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return " ".join(lines[-3:])[-500:] or f"see {self.folder / 'head.log'}"

    def _pid(self) -> int:
        return int((self.folder / "keeper.lock").read_text() or 0)

    def _signal(self) -> None:
        pid = self._pid()
        if pid and self.is_kept():
            os.kill(pid, signal.SIGTERM)

    def _is_locked(self, name: str) -> bool:
        with (self.folder / name).open("a") as lock:
            kind = fcntl.LOCK_EX if name == "services.lock" else fcntl.LOCK_SH
            try:
                fcntl.flock(lock, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def _environment(self) -> dict[str, str]:
        by = (*PASSED_BY, *STORE_KEYS.get(self._scheme, ()))
        return {name: value for name, value in os.environ.items() if name in PASSED or name.startswith(by)}


def dashboard(address: str) -> str:
    """The address of a cluster's dashboard: as given, or for HOST:PORT of the cluster itself, Ray's usual port."""
    if "://" in address:
        return address.rstrip("/")
    host, _, port = address.rpartition(":")
    return f"http://{host or port}:{DASHBOARD_PORT}"


def _private(name: str) -> Path:
    """A folder of this user's own. Raises BnsweepError if somebody else has put something in its place."""
    base = Path(tempfile.gettempdir())
    if len(str(base)) > LONGEST_TEMP:
        base = Path("/tmp")  # noqa: S108 (what lies there is checked)
    ours = base / f"bnsweep-{os.getuid()}"
    for folder in (ours, ours / name):
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise BnsweepError(f"{folder} must be a folder that is yours alone (mode 700): remove it, or set TMPDIR")
    return ours / name
