"""A submitted sweep as one Ray Job of a real cluster, through its dashboard's Jobs API, under a token."""

import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
import served as helpers

from bnsweep.errors import EngineError
from bnsweep.service.client import Client
from bnsweep.service.jobs import Jobs
from bnsweep.service.launcher import RayLauncher, dashboard
from bnsweep.service.records import Records
from bnsweep.store.store import Store


def free_ports(count):
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


@contextmanager
def cluster(folder):
    """A head with one core; its dashboard's address, Ray's environment."""
    port, board, agent, grpc = free_ports(4)
    temporary = tempfile.mkdtemp(prefix="bns", dir="/tmp")
    token = secrets.token_hex(32)
    environment = {
        **helpers.environment(), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "120",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # a job is run by the cluster's `python`
    }  # fmt: skip
    words = ["start", "--head", f"--port={port}", f"--temp-dir={temporary}", "--block", "--num-cpus=1"]
    words += ["--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={board}"]
    words += [f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={grpc}"]
    words += ["--node-ip-address=127.0.0.1", "--object-store-memory=100000000", "--disable-usage-stats"]
    with (folder / "head.log").open("w") as log:
        command = [sys.executable, "-m", "ray.scripts.scripts", *words]
        head = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{board}"
        headers = {"authorization": f"Bearer {token}"}

        def up():
            assert head.poll() is None, (folder / "head.log").read_text()
            try:
                return httpx.get(f"{address}/api/jobs/", headers=headers, timeout=10).status_code == 200
            except httpx.HTTPError:
                return False

        helpers.wait_until(up, 150, every_s=1)
        yield address, token
    finally:
        from signal import SIGKILL

        head.terminate()
        time.sleep(3)
        os.killpg(head.pid, SIGKILL)
        head.wait()
        shutil.rmtree(temporary, ignore_errors=True)


@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.skipif(not os.environ.get("BNSWEEP_FAULTS"), reason="takes minutes: set BNSWEEP_FAULTS=1")
@pytest.mark.skipif(importlib.util.find_spec("aiohttp_cors") is None, reason="needs ray[default]: the Jobs API")
def test_a_sweep_is_one_ray_job(tmp_path, monkeypatch):
    store = tmp_path / "store"
    with ExitStack() as stack, cluster(tmp_path) as (address, token):
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
        with helpers.service(store, "--address", address, "--engine", "auto") as running:
            client = stack.enter_context(Client(running.address))
            client.submit(helpers.TINY)
            ended = client.wait("tiny", timeout_s=300)
            assert ended["state"] == "done", (ended, client.sweep("tiny"))
            headers = {"authorization": f"Bearer {token}"}
            jobs = httpx.get(f"{address}/api/jobs/", headers=headers, timeout=30).json()
            assert [job["submission_id"] for job in jobs if job["submission_id"]] == ["bnsweep-tiny-1-1"]
            assert token not in running.log.read_text()
            # Launching once more is the same job.
            job = Jobs(Records(Store.open(store).files)).get("tiny", 1)
            launcher = RayLauncher(address, token=token, options=[])
            fresh = type(job)(**{**{name: getattr(job, name) for name in job.__slots__}, "attempts": 0})
            assert "ended" in launcher.launch(fresh)
            assert "trials scored" in launcher.log(job)
        with pytest.raises(EngineError, match="refuses our token"):
            RayLauncher(address, token="0" * 64, options=[]).launch(fresh)
    assert Store.open(store).rows("trials") == 4 * 2 * (1 + 2 * 4)
    with pytest.raises(EngineError, match="does not answer"):
        RayLauncher(address, token=token, options=[]).launch(fresh)


def test_the_dashboard_of_a_cluster():
    assert dashboard("head:6379") == "http://head:8265"
    assert dashboard("head") == "http://head:8265"
    assert dashboard("https://ray.example/") == "https://ray.example"
