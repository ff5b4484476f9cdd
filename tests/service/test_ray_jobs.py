"""A submitted sweep is one Ray Job: on this machine, in a cluster that outlives the service, or wherever one runs."""

import os
import signal
import stat
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import served as helpers

from bnsweep.errors import BnsweepError, EngineError
from bnsweep.service.client import Client
from bnsweep.service.cluster import Head, LocalCluster, RemoteCluster, dashboard
from bnsweep.service.jobs import Jobs
from bnsweep.service.launcher import Launcher
from bnsweep.service.records import Records
from bnsweep.store.store import Store

FIRST = helpers.TINY.replace("name: tiny", "name: first").replace("batch_size: 50", "batch_size: 40")
pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")


@pytest.fixture(scope="module")
def job(client, work):
    """A finished job of the service's, as its records say; its cluster runs."""
    client.submit(FIRST)
    ended = client.wait("first", timeout_s=240)
    assert ended["state"] == "done", (ended, client.sweep("first"))
    return Jobs(Records(Store.open(work[1]).files)).get("first", 1)


@pytest.fixture(scope="module")
def cluster(job, work):
    """As another process sees it."""
    return LocalCluster(Store.open(work[1]).files, cpus=2)


def ray_jobs(head):
    headers = {"authorization": f"Bearer {head.token}"}
    found = httpx.get(f"{head.address}/api/jobs/", headers=headers, timeout=30).json()
    return {each["submission_id"]: each for each in found if each["submission_id"]}


def test_a_sweep_is_one_ray_job_of_this_machine(job, cluster, running):
    head = cluster.known()
    # The job has its say before its process ends.
    helpers.wait_until(lambda: ray_jobs(head)["bnsweep-first-1-1"]["status"] == "SUCCEEDED")
    jobs = ray_jobs(head)
    assert jobs["bnsweep-first-1-1"]["metadata"] == {"bnsweep_sweep": "first", "bnsweep_user": "runner"}
    assert " --wait-for-nodes 3600 " in jobs["bnsweep-first-1-1"]["entrypoint"]
    assert head.token not in running.log.read_text()
    # Launching once more is the same job; its log is there.
    fresh = replace(job, attempts=0)
    with closing(Launcher(cluster, options=[])) as launcher:
        assert "ended (SUCCEEDED) before it began" in launcher.launch(fresh)
        assert set(ray_jobs(head)) == set(jobs)
        assert "trials scored" in launcher.log(job)
    for token, answer in (("", 401), ("0" * 64, 403)):
        headers = {"authorization": f"Bearer {token}"} if token else {}
        assert httpx.get(f"{head.address}/api/jobs/", headers=headers, timeout=30).status_code == answer
    stranger = RemoteCluster(Head(head.address, "0" * 64))
    with closing(Launcher(stranger, options=[])) as launcher, pytest.raises(EngineError, match="refuses our token"):
        launcher.launch(fresh)


@needs_proc
def test_the_cluster_is_private(cluster, job, running):
    """Its folder is ours alone, it listens on loopback, and knows no secret of the service's environment."""
    assert stat.S_IMODE(cluster.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((cluster.folder / "token").stat().st_mode) == 0o600
    keeper = int((cluster.folder / "keeper.lock").read_text())
    below = helpers.children(keeper)
    assert any("gcs_server" in words for words in below.values())
    for pid in (keeper, *below):
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        assert b"canary" not in environment, below.get(pid)
    assert b"canary" in Path(f"/proc/{running.process.pid}/environ").read_bytes()
    assert not exposed({keeper, *below})


def exposed(pids):
    """Processes that listen on TCP beyond loopback, by their sockets."""
    sockets = {}
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                name = str(entry.readlink())
            except OSError:
                continue
            if name.startswith("socket:["):
                sockets[name[8:-1]] = pid
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            loopback = words[1].startswith(("0100007F:", "0000000000000000FFFF00000100007F:", "0" * 24 + "01000000:"))
            if words[3] == "0A" and words[9] in sockets and not loopback:
                found.append((sockets[words[9]], words[1]))
    return found


def test_the_same_cluster_by_its_address(job, cluster, tmp_path):
    """Another service, over a store of its own, sends its jobs there by address and token."""
    head = cluster.known()
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": head.token}
    store = tmp_path / "store"
    with helpers.service(store, "--address", head.address, **token) as other, Client(other.address) as client:
        client.submit(helpers.TINY.replace("name: tiny", "name: far"))
        ended = client.wait("far", timeout_s=240)
        assert ended["state"] == "done", (ended, client.sweep("far"))
        assert "far/1" in ended["id"]
        assert head.token not in other.log.read_text()
    assert Store.open(store).rows("trials") == 4 * 2 * (1 + 2 * 4)
    assert "bnsweep-far-1-1" in ray_jobs(head)


def test_a_cluster_that_is_not_there(job, tmp_path):
    nowhere, why = (
        RemoteCluster(Head("http://127.0.0.1:9", "x")),
        "the Ray cluster at http://127.0.0.1:9 does not answer",
    )
    with closing(Launcher(nowhere, options=[])) as launcher, pytest.raises(EngineError, match=why):
        launcher.launch(job)


def test_it_is_not_stopped_under_a_service(cluster, work):
    refused = helpers.bnsweep("serve", "--stop", "--store", work[1])
    assert refused.returncode == 2
    assert "a service over this store is running: end that first" in refused.stderr
    assert cluster.is_kept()


def test_nothing_is_started_for_who_only_reads(tmp_path):
    store = tmp_path / "store"
    with helpers.service(store) as served, served.client() as client:
        assert client.get("/sweeps.json").status_code == 200
        assert not LocalCluster(Store.open(store).files).is_kept()
    none = helpers.bnsweep("serve", "--stop", "--store", store)
    assert (none.returncode, none.stdout) == (0, "There is no Ray cluster of this store's on this machine.\n")


@needs_proc
def test_a_keeper_ends_with_what_it_started(tmp_path):
    """Without a service and without a job; SIGKILLed, it leaves no process of Ray; and one store has one keeper."""
    files = Store.create(tmp_path / "store").files
    cluster = LocalCluster(files, cpus=1)
    assert cluster.ready() is None
    helpers.wait_until(cluster.is_kept, 60)
    other = LocalCluster(files, cpus=1)
    assert other.ready() is None  # it is found, not started twice
    assert other._keeper is None
    keeper = int((cluster.folder / "keeper.lock").read_text())
    below = helpers.wait_until(lambda: helpers.children(keeper), 60)
    os.kill(keeper, signal.SIGKILL)
    helpers.wait_until(lambda: not [pid for pid in below if Path(f"/proc/{pid}/cmdline").exists()], 60)
    cluster._keeper.wait()
    assert not cluster.is_kept()


def test_somebody_else_s_folder_is_refused(tmp_path, monkeypatch):
    import tempfile

    files = Store.create(tmp_path / "store").files
    monkeypatch.setattr(tempfile, "tempdir", str(short := Path(tempfile.mkdtemp(prefix="b", dir="/tmp"))))
    (short / f"bnsweep-{os.getuid()}").mkdir(mode=0o755)
    (short / f"bnsweep-{os.getuid()}").chmod(0o755)
    with pytest.raises(BnsweepError, match=r"must be a folder that is yours alone \(mode 700\)"):
        LocalCluster(files)


def test_the_dashboard_of_a_cluster():
    assert dashboard("head:6379") == "http://head:8265"
    assert dashboard("head") == "http://head:8265"
    assert dashboard("https://ray.example/") == "https://ray.example"
