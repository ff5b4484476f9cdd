"""Keeps a Ray cluster of this machine's while it is needed: a process of its own that outlives the service.

    python -m bnsweep.service.keeper FOLDER [CPUS]

FOLDER is the private folder of service/cluster.py. While this process lives it holds FOLDER/keeper.lock; once Ray takes
jobs, FOLDER/head.json says where. It ends Ray, and itself, on SIGTERM, and when no service has held
FOLDER/services.lock and no job has run for a while. Ray listens on loopback only and wants a token that only this
folder holds; the environment is what service/cluster.py lets through.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from time import monotonic, sleep
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

__all__ = ["END_S", "main", "versions"]

LOCK_S = 5.0  # somebody may be looking whether the lock is held
START_S = 240.0  # for Ray to take jobs
LOOK_S = 1.0
LINGER_S = 15.0  # without a service and without a job
END_S = 45.0  # Ray drains a node for up to 30 s
SHARED_MEMORY = "/dev/shm"  # noqa: S108 (Ray's own place)
STORE_BYTES = 1_000_000_000  # of shared memory, for data sets: used as far as it is needed
PARENT_DEATH_SIGNAL = 1
DIRECTLY = build_opener(ProxyHandler({}))  # a proxy must not see the token, and does not know our loopback


def main(folder: Path, cpus: str) -> int:
    """Keep a cluster; 0 if it was not needed any more, or if another process keeps one."""
    with (folder / "keeper.lock").open("a+") as lock:
        if not _locked(lock):
            return 0
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        ended = Event()
        signal.signal(signal.SIGTERM, lambda *_: ended.set())
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _clear(folder)
        try:
            return _keep(folder, cpus, ended)
        finally:
            _clear(folder)


def _keep(folder: Path, cpus: str, ended: Event) -> int:
    token = secrets.token_hex(32)
    path = folder / "token"
    path.touch(mode=0o600)
    path.write_text(token, encoding="ascii")
    ports = _free_ports(5)
    head = Head(f"http://127.0.0.1:{ports[1]}", token)
    with _ray(folder, cpus, ports, path) as ray:
        began = monotonic()
        while not head.takes_jobs():
            if ray.poll() is not None or monotonic() - began > START_S:
                return 1
            if ended.wait(LOOK_S):
                return 0
        told = folder / "head.json.new"
        told.touch(mode=0o600)
        told.write_text(json.dumps({"address": head.address, "token": token, "cpus": cpus, **versions()}))
        told.replace(folder / "head.json")
        needed = monotonic()
        while not ended.wait(LOOK_S):
            if ray.poll() is not None:
                return 1
            if _served(folder) or head.busy():
                needed = monotonic()
            elif monotonic() - needed > LINGER_S:
                break
        (folder / "head.json").unlink(missing_ok=True)  # from now on nobody sends a job here
    return 0


def versions() -> dict[str, str]:
    """What a job must have in common with its cluster."""
    from importlib.metadata import version

    return {"ray": version("ray"), "python": sys.executable}


class Head:
    """A cluster's dashboard, which takes its jobs."""

    def __init__(self, address: str, token: str) -> None:
        self.address, self._token = address, token

    def takes_jobs(self) -> bool:
        """Whether it answers."""
        return self._jobs() is not None

    def busy(self) -> bool:
        """Whether a job waits or runs; as long as it does not answer, one might."""
        jobs = self._jobs()
        return jobs is None or any(job.get("status") in ("PENDING", "RUNNING") for job in jobs)

    def _jobs(self) -> list[dict[str, Any]] | None:
        request = Request(f"{self.address}/api/jobs/", headers={"Authorization": f"Bearer {self._token}"})  # noqa: S310
        try:
            with DIRECTLY.open(request, timeout=10) as answer:
                jobs: list[dict[str, Any]] = json.load(answer)
                return jobs
        except (URLError, OSError, ValueError):
            return None


@contextmanager
def _ray(folder: Path, cpus: str, ports: list[int], token: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`ray start --block`, which ends its own processes when it is ended."""
    options = {
        "port": ports[0], "dashboard-port": ports[1], "dashboard-agent-listen-port": ports[2],
        "dashboard-agent-grpc-port": ports[3], "ray-client-server-port": ports[4], "node-ip-address": "127.0.0.1",
        "dashboard-host": "127.0.0.1", "include-dashboard": "true", "temp-dir": folder / "ray",
    }  # fmt: skip
    if cpus:
        options["num-cpus"] = cpus
    with suppress(OSError):  # more than there is would be an error; without a word Ray takes what there is
        if shutil.disk_usage(SHARED_MEMORY).free > 1.2 * STORE_BYTES:
            options["object-store-memory"] = STORE_BYTES
    words = [f"--{name}={value}" for name, value in options.items()]
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's word for: this machine is the cluster, listen on loopback
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "120",  # a busy machine takes longer than the usual 30 s
    }
    with (folder / "head.log").open("wb") as log:
        ray = subprocess.Popen(  # noqa: S603 (our own command)
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *words],
            env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            preexec_fn=_end_with_parent,  # noqa: PLW1509 (there is one thread)
        )  # fmt: skip
    try:
        yield ray
    finally:
        ray.terminate()
        try:
            ray.wait(END_S)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(ray.pid, signal.SIGKILL)
            ray.wait()


def _end_with_parent() -> None:
    """In the child: where the kernel can tell, it is ended when the keeper is killed."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGTERM)


def _clear(folder: Path) -> None:
    """What an earlier cluster left; the logs of its jobs are kept."""
    for name in ("head.json", "head.json.new", "token"):
        (folder / name).unlink(missing_ok=True)
    logs = folder / "logs"
    logs.mkdir(exist_ok=True)
    for log in (folder / "ray").glob("session_2*/logs/job-driver-*.log"):
        with suppress(OSError):
            log.replace(logs / log.name)
    shutil.rmtree(folder / "ray", ignore_errors=True)


def _locked(lock: Any) -> bool:
    deadline = monotonic() + LOCK_S
    while monotonic() < deadline:
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        sleep(0.1)
    return False


def _served(folder: Path) -> bool:
    """Whether a service is there."""
    with (folder / "services.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
